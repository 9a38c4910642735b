"""The plans of the paper's tables and figures: every stage once on a small model, and both of its models.

Units stand in the order in which an early stop leaves the most useful report.
"""

from collections.abc import Mapping

from artifact.editing.methods import METHODS
from artifact.plans.unit import Plan, edit_units, trace_units, unedited

PAPER_MODELS = ("gpt2-xl", "gpt-j")
PAPER_METHODS: Mapping[str, tuple[str, ...]] = {
    "gpt2-xl": ("rome", "memit", "mend", "ft", "kn"),
    "gpt-j": ("rome", "memit", "mend"),
}
"""Methods of Tables 1 and 2 by model, the ones that most claims rest on first."""
_BEFORE_WINDOWS = 2
"""How many of them a paper's plan edits by before it traces."""


def _smoke(title: str, edits: int, traces: int) -> Plan:
    return Plan(
        name="smoke",
        title=title,
        units=(
            unedited(batch=48, most=48),
            *edit_units({name: one.smoke_batch for name, one in METHODS.items() if one.smoke_batch}, most=edits),
            *trace_units(16, traces, severed=False, window=3),  # the paper's ten layers would span a small model
            *trace_units(16, traces, severed=True),
        ),
    )


def _paper(name: str, title: str, model: str, most: int | None = None, traced: int | None = None) -> Plan:
    """The paper's units on one of its models: what most claims rest on first, what decides least last."""
    batches = {method: METHODS[method].batch for method in PAPER_METHODS[model]}
    edits = edit_units(batches, most)
    first = tuple(unit for unit in edits if unit.method in PAPER_METHODS[model][:_BEFORE_WINDOWS])
    last = edits[len(first) :]
    return Plan(
        name=name,
        title=title,
        units=(
            unedited(64, most),
            *first,
            *trace_units(16, traced, severed=False),
            *last,
            *trace_units(16, traced, severed=True),
        ),
        models=(model,),
    )


SMOKE = _smoke("every stage once, on a small model", edits=48, traces=64)
SMOKE_FEW_FACTS = _smoke("every stage once, on few facts", edits=4, traces=2)
"""The smoke plan where every fact takes seconds: GPT-2 without a GPU."""
_TABLES_AND_FIGURES = "both tables and both figures"
PLANS: Mapping[str, tuple[Plan, ...]] = {
    "smoke": (SMOKE,),
    "sample": (_paper("sample", f"{_TABLES_AND_FIGURES} from 200 facts each", "gpt2-xl", most=200, traced=200),),
    "gpt2-xl": (_paper("gpt2-xl", f"{_TABLES_AND_FIGURES} on GPT-2 XL", "gpt2-xl"),),
    "gpt-j": (_paper("gpt-j", f"{_TABLES_AND_FIGURES} on GPT-J", "gpt-j"),),
    "full": tuple(_paper("full", f"{_TABLES_AND_FIGURES}, both models", model) for model in PAPER_MODELS),
}
