"""R-ROME and p-ROME: ROME with one key everywhere. editing/rome.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from artifact.editing.hparams import Hparams, says
from artifact.editing.method import Default, Groups, Method
from artifact.editing.methods.rome import METHOD as ROME
from artifact.editing.methods.rome import RomeHparams
from artifact.errors import SettingError
from artifact.lm.work import Efficiency

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


class RRomeHparams(RomeHparams, frozen=True, kw_only=True):
    """ROME's hyperparameters, and the published code's three flags."""

    original_implementation: Annotated[bool, says("With the prompt's keys ROME itself, which is refused.")] = False
    enable_prompt_keys: Annotated[bool, says("p-ROME: every key is that of the bare prompt.")] = False
    enable_random_prefix_keys: Annotated[bool, says("R-ROME: every key is the mean over the context prefixes.")] = True

    def check(self, layers: int) -> None:
        super().check(layers)
        # The published code reads this flag only where prefix keys are off; with them it is R-ROME all the same.
        if self.original_implementation and self.enable_prompt_keys and not self.enable_random_prefix_keys:
            raise SettingError(
                "hyperparameters original_implementation and enable_prompt_keys are both true, which is ROME; take the "
                "method rome"
            )
        if self.enable_prompt_keys == self.enable_random_prefix_keys:
            both = str(self.enable_prompt_keys).lower()
            raise SettingError(
                f"hyperparameters enable_prompt_keys and enable_random_prefix_keys are both {both}; give one as true "
                "and the other as false"
            )


def _of(hparams: Hparams) -> RRomeHparams:
    return RRomeHparams(**msgspec.structs.asdict(hparams))


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.rome import BARE, Variant, rome

    assert editor.moments is not None
    views = [view for (view,) in groups]
    everywhere = BARE if editor.hparams.enable_prompt_keys else editor.prefixes
    settings = (editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)
    return rome(editor.model, views, *settings, Variant(keyed=everywhere, measured=everywhere))


METHOD = Method(
    name="rrome",
    printed="R-ROME",
    defaults={name: Default(_of(one.hparams), one.source) for name, one in ROME.defaults.items()},
    scaled=lambda layers: _of(ROME.scaled(layers)),
    variant_of=(ROME, _of),
    grid=lambda layers: {"clamp_norm_factor": [4.0, 10.0]},
    edits=_edits,
    moments=True,
    prefixes="list",
    batch=ROME.batch,
    work=ROME.work,  # the prompts that are measured are those of the keys, up to the subject
    efficiency=Efficiency(0.61, "as ROME", 0.40),
    steps="v_num_grad_steps",
    value_rows=ROME.value_rows,
)
