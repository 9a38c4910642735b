"""Adam's steps over named tensors, by torch's own function.

torch.optim's classes call the same function. They are not used: the first object of one loads torch's compiler, which
takes seconds of every process that edits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam

_AVERAGES = ("exp_avg", "exp_avg_sq", "step")


class Adam:
    """Adam (Kingma and Ba, 2015) over leaf tensors with gradients, updated in place, epsilon 1e-8.

    `decay` is AdamW's: of the weight itself, not of its gradient. `averages` are those of an Adam whose training goes
    on. The steps equal torch.optim.Adam's and AdamW's bit for bit.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float = 0.0,
        averages: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.lr = lr
        self._tensors, self._betas, self._decay = dict(tensors), betas, decay
        self.averages: dict[str, Tensor] = {}
        """By name, `exp_avg NAME`: the gradient's and its square's running averages, and the count of steps."""
        for name, tensor in self._tensors.items():
            for average, begin in zip(_AVERAGES, (tensor, tensor, torch.zeros(())), strict=True):
                key = f"{average} {name}"
                self.averages[key] = averages[key].clone() if averages else torch.zeros_like(begin.detach())

    def step(self) -> None:
        """Take a step along the gradients, which are used up; a tensor without one stays as it is."""
        gradients = {name: tensor.grad for name, tensor in self._tensors.items() if tensor.grad is not None}
        moved = [self._tensors[name] for name in gradients]
        first, second, steps = ([self.averages[f"{of} {name}"] for name in gradients] for of in _AVERAGES)
        with torch.no_grad():
            adam(
                moved, list(gradients.values()), first, second, [], steps, amsgrad=False, beta1=self._betas[0],
                beta2=self._betas[1], lr=self.lr, weight_decay=self._decay, decoupled_weight_decay=True, eps=1e-8,
                maximize=False,
            )  # fmt: skip
        for tensor in moved:
            tensor.grad = None
