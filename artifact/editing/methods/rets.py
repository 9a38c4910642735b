"""RETS: hyperparameters. editing/rets.py makes the edits."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.rome import METHOD as ROME
from artifact.editing.methods.rome import RomeHparams
from artifact.facts.fact import Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import Efficiency, Shape, Work

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class RetsHparams(RomeHparams, frozen=True, kw_only=True):
    """ROME's hyperparameters, and the published code's own."""

    fact_token: Annotated[
        Literal["subject_last"], says("The last token of the whole prompt, which the published code calls the subject.")
    ] = "subject_last"
    nll_loss_factor: Annotated[Literal[1], says("Weight of the targets' loss; only 1 is known here.")] = 1
    origin_mom: Annotated[Literal[True], says("The second moments are always part of what whitens the key.")] = True
    subject_const: Annotated[bool, says("The keys of all facts of the data are another part of it.")] = True


_LAYER = 0.5
"""The edited layer as a share of the depth; the published layers are not known here."""


def _of(hparams: Hparams, layers: int) -> RetsHparams:
    values = msgspec.structs.asdict(hparams)
    return RetsHparams(**values | {"layers": (min(layers - 1, round(_LAYER * layers)),)})


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.rets import rets

    assert editor.moments is not None
    settings = (editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.facts, editor.memory)
    return rets(editor.model, [view for (view,) in groups], *settings)


def _work(shape: Shape, hparams: RetsHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """ROME's, of prompts that end with the edited token."""
    prompt = lengths.prompts[perspective]
    at_end = replace(prompt, before=prompt.tokens - 1, onward=1)
    return ROME.work(shape, hparams, replace(lengths, prompts={**lengths.prompts, perspective: at_end}), perspective)


METHOD = Method(
    name="rets",
    printed="RETS",
    place="MLP, the prompt's last token",
    defaults={
        name: Default(_of(ROME.defaults[name].hparams, layers), f"ROME's {source}, at half of the depth")
        for name, layers, source in (("gpt2-xl", 48, "published"), ("gpt-j", 28, "published"), ("world", 6, "own"))
    },
    scaled=lambda layers: _of(ROME.scaled(layers), layers),
    variant_of=(ROME, lambda hparams: _of(hparams, hparams.v_loss_layer + 1)),
    edits=_edits,
    moments=True,
    prefixes="list",
    facts=True,
    batch=ROME.batch,
    work=_work,
    efficiency=Efficiency(0.61, "as ROME", 0.40),
    steps="v_num_grad_steps",
    value_rows=ROME.value_rows,
)
