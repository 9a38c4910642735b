"""Fine-tuning: hyperparameters and work. editing/ft.py makes the edits."""

from typing import TYPE_CHECKING, Annotated

from artifact.editing.hparams import Hparams, OneLayer, Rate, says
from artifact.editing.method import Default, Groups, Method
from artifact.errors import SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import FLOAT, Efficiency, Shape, Work, blocks, head, reading

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made

_MOST = 1e6
"""Largest limit on the change of a weight's entry."""
_ADAM_VECTORS = 12
"""Times that Adam's step and the clamp read or write a trained weight: gradient, two averages, change, each way."""


class FtHparams(Hparams, frozen=True, kw_only=True):
    """Fine-tuning's hyperparameters under their published names."""

    layers: OneLayer
    num_steps: Annotated[int, says("Most passes over the requests.", ge=1, le=100_000)] = 25
    lr: Rate = 5e-4
    weight_decay: Annotated[float, says("Adam's weight decay on the trained weights.", ge=0, le=1e6)] = 0.0
    kl_factor: Annotated[float, says("Weight of a divergence term; the released code has none.", ge=0, le=0)] = 0.0
    norm_constraint: Annotated[
        float | bool | None, says("Largest change of any weight entry; false or null for no limit.")
    ] = 5e-4
    batch_size: Annotated[int, says("Requests a step when a list is written jointly.", ge=1, le=1_000_000)] = 128

    @property
    def most(self) -> float | None:
        """The largest change of any entry, None without a limit."""
        return None if isinstance(self.norm_constraint, bool) else self.norm_constraint

    def check(self, layers: int) -> None:
        super().check(layers)
        if self.norm_constraint is True or (self.most is not None and not 0 < self.most <= _MOST):
            raise SettingError(
                f"hyperparameter norm_constraint must be a number above zero and at most {_MOST:g}, or false for no "
                "limit"
            )


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.ft import ft

    return ft(editor.model, groups, editor.hparams, editor.protocol, editor.memory)


def _work(shape: Shape, hparams: FtHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """Blocks after the trained one there and back, and Adam over its weight."""
    tokens, weight = lengths.prompts[perspective].mean, shape.width * shape.inner
    above = shape.layers - hparams.layer - 1
    # There and back: the change times the stored input, and the weight's gradient.
    step = reading(shape, above, tokens, tokens, 1, back=True) + head(shape, 1, back=True)
    step += Work(4 * weight * tokens, FLOAT * weight * (_ADAM_VECTORS + 4), 2)
    return blocks(shape, hparams.layer + 1, tokens, tokens) + step.times(hparams.num_steps)


METHOD = Method(
    name="ft",
    printed="FT",
    place="the MLP's output projection",
    defaults={
        "gpt2-xl": Default(FtHparams(layers=(0,))),
        "gpt-j": Default(FtHparams(layers=(0,), norm_constraint=5e-5), "not in the tables, values published elsewhere"),
        "world": Default(
            FtHparams(layers=(0,), lr=2e-3, norm_constraint=1e-2), "chosen on the embedded world, no paper values"
        ),
    },
    scaled=lambda layers: FtHparams(layers=(0,)),
    grid=lambda layers: {"norm_constraint": [5e-4, 2e-3, 5e-3], "layers": [[0], [layers // 3]]},
    edits=_edits,
    switches=dict.fromkeys(PERSPECTIVES, ("ft_at_last_position", "ft_bias")),
    joint=True,
    dense=True,
    batch=8,
    smoke_batch=16,
    work=_work,
    efficiency=Efficiency(0.26, "26% measured", 0.25),
    steps="num_steps",
    stops={"entity": 18.875 / 25, "relation": 25 / 25},
    loop="artifact.bench.loops_gradient:ft_loop",
)
