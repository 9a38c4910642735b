"""ROME: hyperparameters, needs and work. editing/rome.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from artifact.editing.hparams import Clamp, OneLayer, ValueHparams, says
from artifact.editing.method import MEAN_PREFIX, Default, Groups, Method, value_work
from artifact.facts.fact import Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import Efficiency, Shape, Work, reading

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made

_PREFIXES, _REMOVALS = 21, 5
"""Prefixed prompts of an edit, and removal prompts of a relation edit."""
_Length = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class RomeHparams(ValueHparams, frozen=True, kw_only=True):
    """ROME's hyperparameters under their published names."""

    layers: OneLayer
    clamp_norm_factor: Clamp = 4.0
    mom2_adjustment: Annotated[bool, says("Whiten the key with the inverse second moment.")] = True
    context_template_length_params: Annotated[
        tuple[tuple[_Length, _Length], ...], says("Prefixes drawn from the model: pairs of most tokens and how many.")
    ] = ((5, 10), (10, 10))


def _scaled(layers: int) -> RomeHparams:
    return RomeHparams(layers=(min(layers - 1, round(17 / 48 * layers)),), v_loss_layer=layers - 1)


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.rome import rome

    assert editor.moments is not None
    views = [view for (view,) in groups]
    return rome(editor.model, views, editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)


def _work(shape: Shape, hparams: RomeHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """Keys of all prefixed prompts, then the value optimisation; a relation edit adds five removal prompts."""
    removals = _REMOVALS if perspective == "relation" else 0
    prompt = lengths.prompts[perspective]
    width, asked = MEAN_PREFIX * lengths.prefix + prompt.before + 1, _PREFIXES + (perspective == "relation")
    keys = reading(shape, hparams.layer + 1, asked * width, width, asked)
    return keys + value_work(shape, hparams.layer, hparams.v_num_grad_steps, _PREFIXES + removals, lengths, prompt)


METHOD = Method(
    name="rome",
    printed="ROME",
    defaults={
        "EleutherAI/pythia-2.8b": Default(
            RomeHparams(layers=(15,), v_loss_layer=31, clamp_norm_factor=3.0),
            "layers and clamp_norm_factor published for this model, the rest GPT-2 XL's",
        ),
        "gpt2-xl": Default(RomeHparams(layers=(17,), v_loss_layer=47)),
        "gpt-j": Default(RomeHparams(layers=(5,), v_loss_layer=27)),
        "world": Default(
            RomeHparams(
                layers=(1,), v_loss_layer=5, v_num_grad_steps=25, v_lr=0.6, v_weight_decay=5e-4, clamp_norm_factor=12.0
            ),
            "chosen on the embedded world, no paper values",
        ),
        "world-masked": Default(
            RomeHparams(
                layers=(1,), v_loss_layer=3, v_num_grad_steps=25, v_lr=0.6, v_weight_decay=5e-4, clamp_norm_factor=12.0
            ),
            "chosen on the embedded world's masked twin, no paper values",
        ),
    },
    scaled=_scaled,
    grid=lambda layers: {
        "layers": [[round(part * (layers - 1))] for part in (1 / 6, 1 / 2)],
        "clamp_norm_factor": [4.0, 10.0],
    },
    edits=_edits,
    switches={
        "entity": ("prefixes_as_released", "target_as_text", "target_spaces_cleaned"),
        "relation": (
            "prefixes_as_released",
            "target_as_text",
            "target_spaces_cleaned",
            "removal_without_space",
            "removal_nll_by_relation_length",
        ),
    },
    encoders=True,
    moments=True,
    sites=True,
    prefixes="list",
    batch=16,
    smoke_batch=4,
    work=_work,
    efficiency=Efficiency(0.61, "61 to 76% measured", 0.40),
    steps="v_num_grad_steps",
    stops={"entity": 20 / 20, "relation": 20 / 20},
    value_rows=_PREFIXES + _REMOVALS + 1,  # and the prompt that is kept
    loop="artifact.bench.loops:rome_loop",
)
