"""How many steps an optimisation takes where it may stop early: means of one stated run, for what an estimate expects.

Covers the methods that stop at a loss: ROME and MEMIT below 0.05 (editing/value.py), FT below 0.01 (editing/ft.py).
Without early stops every step is taken ("at most"). It measures nothing; docs/scaling.md has the run's command.
"""

from typing import Any

import msgspec

from artifact.facts.fact import Perspective

MOST = {"rome": "v_num_grad_steps", "memit": "v_num_grad_steps", "ft": "num_steps"}
"""The hyperparameter that says how many steps are taken at most, for the methods that stop early."""
SOURCE = "SmolLM2 135M on 16 known facts"
"""The stated run, in docs/scaling.md with its command: a small real language model, as no run on GPT-2 XL or GPT-J has
been made."""
TAKEN: dict[tuple[str, Perspective], float] = {
    ("rome", "entity"): 20 / 20,
    ("rome", "relation"): 20 / 20,
    ("memit", "entity"): 18.5 / 20,
    ("memit", "relation"): 20 / 20,
    ("ft", "entity"): 18.875 / 25,
    ("ft", "relation"): 25 / 25,
}
"""The mean steps that an edit took in that run, as a share of the most."""


def with_steps(method: str, hparams: Any, share: float) -> Any:
    """The hyperparameters with that share of the most steps, at least one; a mean over facts need not be whole."""
    if method not in MOST:
        return hparams
    steps = max(1.0, share * getattr(hparams, MOST[method]))
    return msgspec.structs.replace(hparams, **{MOST[method]: steps})


def expected_share(method: str, view: Perspective) -> float:
    """The share of the most steps that an edit of that view is expected to take: 1 where nothing stops early."""
    return TAKEN.get((method, view), 1.0)
