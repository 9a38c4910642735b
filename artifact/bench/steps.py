"""How many steps an optimisation takes where it may stop early: means of one stated run, for what an estimate expects.

The shares stand with the methods that stop at a loss (Method.stops): ROME and MEMIT below 0.05 (editing/value.py), FT
below 0.01 (editing/ft.py). Without early stops every step is taken ("at most"). The run's command: docs/scaling.md.
"""

from typing import Any

import msgspec

from artifact.editing.method import Method

SOURCE = "SmolLM2 135M on 16 known facts"
"""The stated run: a small real language model, as no run on GPT-2 XL or GPT-J has been made."""


def with_steps(method: Method, hparams: Any, share: float) -> Any:
    """The hyperparameters with that share of the most steps, at least one; a mean over facts need not be whole."""
    if not method.stops:
        return hparams
    return msgspec.structs.replace(hparams, **{method.steps: max(1.0, share * getattr(hparams, method.steps))})
