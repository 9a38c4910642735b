"""MEMIT-Merge: MEMIT whose facts of one key share one value. editing/memit.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.memit import AS_MEMIT, MemitHparams
from artifact.editing.methods.memit import METHOD as MEMIT

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


SAME_KEY = 0.99
"""The cosine from which two keys are one."""


class MemitMergeHparams(MemitHparams, frozen=True, kw_only=True):
    """MEMIT's hyperparameters, and when keys are one."""

    merge_cosine: Annotated[
        float, says("Facts of a group whose keys have at least this cosine share a value.", gt=0, le=1)
    ] = SAME_KEY


def _of(hparams: Hparams) -> MemitMergeHparams:
    return MemitMergeHparams(**msgspec.structs.asdict(hparams))


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.memit import memit

    assert editor.moments is not None
    settings = (editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)
    return memit(editor.model, groups, *settings, merge=editor.hparams.merge_cosine)


METHOD = Method(
    name="memit_merge",
    printed="MEMIT-Merge",
    defaults={name: Default(_of(one.hparams), one.source) for name, one in MEMIT.defaults.items()},
    scaled=lambda layers: _of(MEMIT.scaled(layers)),
    variant_of=(MEMIT, _of),
    edits=_edits,
    alone_as="memit",
    spreads=True,
    **AS_MEMIT,
)
