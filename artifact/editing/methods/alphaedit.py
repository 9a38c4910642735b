"""AlphaEdit: hyperparameters. editing/alphaedit.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.memit import AS_MEMIT, MemitHparams
from artifact.editing.methods.memit import METHOD as MEMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from artifact.editing.edit import Edited
    from artifact.editing.method import Editor, History, Made
    from artifact.facts.fact import View


class AlphaEditHparams(MemitHparams, frozen=True, kw_only=True):
    """MEMIT's hyperparameters, and AlphaEdit's two, under their published names."""

    mom2_update_weight: Annotated[float, says("In the published files, and not used.", gt=0, le=1e15)] = 20000.0
    nullspace_threshold: Annotated[
        float, says("Directions whose second moment is below this may be changed.", gt=0, le=1e15)
    ] = 0.02
    l2: Annotated[float, says("Added to the diagonal of the solve.", gt=0, le=1e15)] = msgspec.field(
        default=10.0, name="L2"
    )


def _of(hparams: Hparams) -> AlphaEditHparams:
    return AlphaEditHparams(**msgspec.structs.asdict(hparams))


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.alphaedit import alphaedit

    assert editor.moments is not None
    settings = (editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)
    return alphaedit(editor.model, groups, *settings, editor.kept)


def _keeps(editor: "Editor", views: "Sequence[View]", edited: "Edited") -> object:
    from artifact.editing.alphaedit import kept

    return kept(editor.model, views, editor.hparams.layers, editor.prefixes, editor.kept)


METHOD = Method(
    name="alphaedit",
    printed="AlphaEdit",
    defaults={
        **{name: Default(_of(one.hparams), one.source) for name, one in MEMIT.defaults.items()},
        "world": Default(
            msgspec.structs.replace(_of(MEMIT.defaults["world"].hparams), l2=0.1),
            "chosen on the embedded world, no paper values",
        ),
    },
    scaled=lambda layers: _of(MEMIT.scaled(layers)),
    variant_of=(MEMIT, _of),
    grid=lambda layers: {"nullspace_threshold": [0.02, 0.1], "L2": [10.0, 1.0]},
    edits=_edits,
    keeps=_keeps,
    spreads=True,
    **AS_MEMIT,
    loop="artifact.bench.loops:alphaedit_loop",
)
