"""The plan `beyond`: every question beyond the paper at a small size, for the embedded world in minutes."""

from collections.abc import Mapping
from importlib import import_module

from artifact.plans.unit import Plan

QUESTION_PLANS = ("modern", "where", "mechanism", "multiverse", "both", "encoders")
"""The files beside this one that end in BEYOND: their units at a small size."""
PLANS: Mapping[str, tuple[Plan, ...]] = {
    "beyond": (
        Plan(
            "beyond",
            "every question beyond the paper, small",
            tuple(unit for name in QUESTION_PLANS for unit in import_module(f"artifact.plans.{name}").BEYOND),
        ),
    )
}
