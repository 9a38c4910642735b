"""EMMET: hyperparameters. editing/emmet.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from artifact.editing.hparams import says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.memit import AS_MEMIT, MemitHparams
from artifact.editing.methods.memit import METHOD as MEMIT

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class EmmetHparams(MemitHparams, frozen=True, kw_only=True):
    """MEMIT's hyperparameters, and EMMET's two lambdas, under their published names."""

    mom2_update_weight: Annotated[float, says("Weight of the second moments.", gt=0, le=1e15)] = 1000.0
    update_norm_lambda: Annotated[float, says("Added to their weighted diagonal.", ge=0, le=1e15)] = 0.0
    emmet_lambda: Annotated[float, says("Added to D's diagonal where a group has several facts.", ge=0, le=1e15)] = 0.1


def _scaled(layers: int) -> EmmetHparams:
    return EmmetHparams(layers=(min(layers - 1, round(17 / 48 * layers)),), v_loss_layer=layers - 1)


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.emmet import emmet

    assert editor.moments is not None
    return emmet(editor.model, groups, editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)


METHOD = Method(
    name="emmet",
    printed="EMMET",
    defaults={
        "gpt2-xl": Default(EmmetHparams(layers=(17,), v_loss_layer=47)),
        "gpt-j": Default(EmmetHparams(layers=(5,), v_loss_layer=27, v_num_grad_steps=25, mom2_update_weight=1.0)),
        "world": Default(
            EmmetHparams(**msgspec.structs.asdict(MEMIT.defaults["world"].hparams) | {"layers": (1,)}),
            "MEMIT's, chosen on the embedded world, no paper values",
        ),
    },
    scaled=_scaled,
    grid=lambda layers: {
        "layers": [[round(part * (layers - 1))] for part in (1 / 6, 1 / 2)],
        "mom2_update_weight": [1000.0, 10.0],
    },
    edits=_edits,
    spreads=True,
    **AS_MEMIT,
    loop="artifact.bench.loops:emmet_loop",
)
