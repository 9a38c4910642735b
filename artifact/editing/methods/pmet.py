"""PMET: hyperparameters and work. editing/pmet.py makes the edits."""

from typing import TYPE_CHECKING, Annotated, Any

from artifact.editing.hparams import Layer, Rate, ValueHparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.memit import AS_MEMIT
from artifact.editing.methods.memit import METHOD as MEMIT
from artifact.editing.site import MODULES, Module
from artifact.errors import SettingError

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class PmetHparams(ValueHparams, frozen=True, kw_only=True):
    """PMET's hyperparameters under their published names; `modules` is their rewrite_module_tmps."""

    layers: Annotated[tuple[Layer, ...], says("Layers whose projections share the change, lowest first.", min_length=1)]
    modules: Annotated[
        tuple[Module, ...], says("The modules whose output projections are rewritten.", min_length=1)
    ] = ("mlp",)
    v_num_grad_steps: Annotated[int, says("Forward passes of the value optimisation.", ge=1, le=100_000)] = 30
    v_lr: Rate = 0.2
    clamp_norm_factor: Annotated[float, says("Largest |delta| as a multiple of its own vector's.", gt=0, le=1e6)] = 0.75
    kl_factor: Annotated[float, says("Weight of the divergence on '{subject} is a'.", ge=0, le=1e6)] = 1.0
    nll_loss_factor: Annotated[float, says("Weight of the targets' loss at first.", gt=0, le=1e6)] = 1.0
    mom2_update_weight: Annotated[
        float, says("How much the second moments weigh against the new keys.", gt=0, le=1e15)
    ] = 20000.0
    mom2_adjustment: Annotated[bool, says("In the published files; the second moments are always used.")] = True

    @property
    def moment_sites(self) -> tuple[Module, ...]:
        return self.modules

    def check(self, layers: int) -> None:
        super().check(layers)
        if list(self.modules) != [module for module in reversed(MODULES) if module in self.modules]:
            raise SettingError(
                f"hyperparameter modules: {list(self.modules)} is not attn, mlp, or both so; give one of these"
            )


def _scaled(layers: int) -> PmetHparams:
    return PmetHparams(layers=MEMIT.scaled(layers).edited, v_loss_layer=layers - 1)


def _of(hparams: Any) -> PmetHparams:
    """MEMIT's layers and lambda, the rest PMET's."""
    return PmetHparams(**{name: getattr(hparams, name) for name in ("layers", "v_loss_layer", "mom2_update_weight")})


def _as_memit(hparams: Any) -> Default:
    """Where MEMIT's layers were published for a model."""
    return Default(_of(hparams), "layers and lambda published for MEMIT on this model, the rest PMET's")


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.pmet import pmet

    moments = {module: editor.moments_of(module) for module in editor.hparams.modules}
    return pmet(editor.model, groups, editor.hparams, editor.prefixes, moments, editor.protocol, editor.memory)


METHOD = Method(
    name="pmet",
    printed="PMET",
    defaults={
        **{name: _as_memit(one.hparams) for name, one in MEMIT.defaults.items() if "/" in name},  # the hub's
        "gpt-j": Default(PmetHparams(layers=(3, 4, 5, 6, 7, 8), v_loss_layer=27, mom2_update_weight=6000.0)),
        "world": Default(
            PmetHparams(
                layers=(0, 1),
                v_loss_layer=5,
                mom2_update_weight=50.0,
                v_lr=0.3,
                v_weight_decay=5e-4,
                clamp_norm_factor=20.0,
            ),
            "chosen on the embedded world, no paper values",
        ),
    },
    scaled=_scaled,
    variant_of=(MEMIT, _of),
    grid=lambda layers: {
        "clamp_norm_factor": [0.75, 4.0],
        "mom2_update_weight": [1000.0, 100.0, 10.0],
        "v_lr": [0.2, 0.5],
    },
    edits=_edits,
    **AS_MEMIT,
)
