"""IKE, editing in context: hyperparameters. editing/ike.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.lm.work import Efficiency, Work

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class IkeHparams(Hparams, frozen=True, kw_only=True):
    """How the context is put together."""

    demonstrations: Annotated[int, says("Most other facts that are shown before the new one.", ge=0, le=32)] = 32
    seed: Annotated[int, says("Seed of the kinds' order and of the prompts drawn, anew for every fact.", ge=0)] = 42


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.ike import ike

    return ike(editor.model, [view for (view,) in groups], editor.hparams, editor.facts)


METHOD = Method(
    name="ike",
    printed="IKE",
    place="other facts and the new one before the prompt",
    defaults={name: Default(IkeHparams()) for name in ("gpt2-xl", "gpt-j")},
    scaled=lambda layers: IkeHparams(),
    edits=_edits,
    facts=True,
    carries=False,
    wording="New Fact: Prompt:",
    batch=8,
    work=lambda shape, hparams, lengths, perspective: Work(0),
    efficiency=Efficiency(0.5, "nothing is computed", 0.4),
)
