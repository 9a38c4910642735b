"""Knowledge Neurons: hyperparameters and work. editing/kn.py makes the edits."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import Efficiency, Shape, Work, blocks, head

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class KnHparams(Hparams, frozen=True, kw_only=True):
    """Knowledge Neurons' hyperparameters under their published names."""

    steps: Annotated[int, says("Points of the integrated gradient, from zero to the activation.", ge=2, le=100_000)] = (
        20
    )
    adaptive_threshold: Annotated[
        float, says("Share of the largest attribution above which a neuron counts.", ge=0, lt=1)
    ] = 0.2
    refine: Annotated[bool, says("Keep only neurons that enough rephrasings share.")] = False
    p: Annotated[float, says("Share of the prompts that must agree on a neuron, when refining.", ge=0, lt=1)] = 0.4
    batch_size: Annotated[
        int, says("Points a pass in the released code; no number depends on it.", ge=1, le=1_000_000)
    ] = 20
    lr_scale: Annotated[float, says("Published with the others and not used by the method.", ge=-1e6, le=1e6)] = 1.0


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.kn import kn

    return kn(editor.model, [view for (view,) in groups], editor.hparams, editor.protocol, editor.memory)


def _work(shape: Shape, hparams: KnHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """The prompt once, then its last token for each point of the integral, a row more at each layer."""
    tokens, layers = lengths.prompts[perspective].tokens, shape.layers
    point = blocks(shape, layers * (layers - 1) / 2, 1, tokens, back=True) + head(shape, layers, back=True)
    point += Work(4 * shape.width * shape.inner * layers)
    points = replace(point.times(hparams.steps), passes=3.0 * layers)  # all points go together
    return blocks(shape, layers, tokens, tokens) + head(shape, 1) + points


METHOD = Method(
    name="kn",
    printed="KN",
    place="the output weights of the fact's neurons, in any MLP",
    defaults={
        "gpt2-xl": Default(KnHparams()),
        "gpt-j": Default(KnHparams(adaptive_threshold=0.1), "not in the tables, threshold published elsewhere"),
        "world": Default(KnHparams(), "chosen on the embedded world, no paper values"),
    },
    scaled=lambda layers: KnHparams(),
    grid=lambda layers: {"adaptive_threshold": [0.1, 0.2]},
    edits=_edits,
    switches=dict.fromkeys(PERSPECTIVES, ("kn_without_space", "kn_undone", "kn_without_neuron_scored")),
    encoders=True,
    for_encoders=Default(KnHparams(refine=True), "refined over rephrasings as published for BERT, no paper values"),
    undone_by="kn_undone",
    unchanged="without a neuron",
    batch=16,
    smoke_batch=16,
    work=_work,
    efficiency=Efficiency(0.54, "from 0.73 s a fact measured", 0.35),
    steps="steps",
    loop="artifact.bench.loops_gradient:kn_loop",
)
