"""MEND: hyperparameters, needs and work. editing/mend.py makes the edits."""

from typing import TYPE_CHECKING, Annotated, Literal

from artifact.editing.hparams import Hparams, Layer, says
from artifact.editing.method import Default, Groups, Method
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import FLOAT, Efficiency, Shape, Work, blocks, head

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made

RANK = 1920
"""Rank of the published networks, capped by the width of their input."""
_LAYERS = 2
"""Low-rank layers of the published networks, for each shape of a weight."""


class MendHparams(Hparams, frozen=True, kw_only=True):
    """MEND's hyperparameters: which weights it edits and how far; the network's own come with its weights."""

    layers: Annotated[tuple[Layer, ...], says("Layers whose MLP is edited, lowest first.", min_length=1)]
    inner_order: Annotated[
        tuple[Literal["mlp_down", "mlp_up"], Literal["mlp_down", "mlp_up"]],
        says("The two weights of a layer in the order in which step sizes were learned."),
    ] = ("mlp_down", "mlp_up")
    lr_scale: Annotated[float, says("Factor on every learned step size.", gt=0, le=1e6)] = 1.0


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.mend import mend

    assert editor.network is not None
    return mend(editor.model, groups, editor.hparams, editor.network, editor.protocol, history, editor.memory)


def _count_rows(editor: "Editor", groups: Groups, history: "History", most: int | None) -> None:
    from artifact.editing.mend import count_rows

    assert editor.network is not None
    count_rows(editor.model, groups, editor.hparams, editor.network, history, most, editor.memory)


def _work(shape: Shape, hparams: MendHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """A whole pass over prompt and target, back to its lowest layer, and the network's own layers."""
    prompt, edited = lengths.prompts[perspective], len(hparams.layers)
    tokens, both = prompt.tokens + prompt.target, shape.width + shape.inner
    lowest = hparams.layers[0]
    model = blocks(shape, lowest + 1, tokens, tokens)
    model += blocks(shape, shape.layers - lowest - 1, tokens, tokens, back=True)
    # The way back ends at the lowest layer's MLP.
    model += Work(2 * shape.width * shape.inner * tokens) + head(shape, prompt.target, back=True)
    # Two weights a layer; in the model's last layer only the scored tokens have a gradient.
    top = hparams.layers[-1] == shape.layers - 1
    rows = 2 * ((edited - top) * (prompt.mean + prompt.target) + top * prompt.target)
    return model + Work(_LAYERS * 4 * both * min(RANK, both) * rows, 0, 2.0 * edited)


def _network_bytes(shape: Shape) -> int:
    """For both shapes of a weight its low-rank layers, two factors each."""
    both = shape.width + shape.inner
    return FLOAT * 2 * _LAYERS * 2 * both * min(RANK, both)


METHOD = Method(
    name="mend",
    printed="MEND",
    place="both projections of the MLP",
    defaults={
        "gpt2-xl": Default(MendHparams(layers=(45, 46, 47))),
        "gpt-j": Default(MendHparams(layers=(25, 26, 27), inner_order=("mlp_up", "mlp_down"))),
        "world": Default(MendHparams(layers=(3, 4, 5)), "chosen on the embedded world, no paper values"),
    },
    scaled=lambda layers: MendHparams(layers=tuple(range(max(0, layers - 3), layers))),
    grid=lambda layers: {"lr_scale": [0.5, 1.0, 2.0]},
    edits=_edits,
    switches=dict.fromkeys(PERSPECTIVES, ("mend_steps_swapped", "mend_training_mode")),
    joint=True,
    network=True,
    ordered_by="mend_training_mode",
    count_rows=_count_rows,
    batch=32,
    smoke_batch=16,
    work=_work,
    efficiency=Efficiency(0.38, "from 0.064 s a fact measured", 0.25),
    network_bytes=_network_bytes,
    loop="artifact.bench.loops_gradient:mend_loop",
)
