"""What a run of another model, or on other data, measured for Q2 and N1: whether the paper's differences hold.

Covers the differences that T3 and F1 to F4 are about, on runs of pretrained models that are no evidence on the paper
itself: how much more the entity's prompts say the new object after an entity edit than after a relation edit, for the
methods that most claims rest on, and of each claim about the figures the difference that decides it.
"""

from collections.abc import Iterator

from artifact.editing.methods import printed_name
from artifact.evaluation.metrics import Column, Metric
from artifact.facts.fact import PERSPECTIVES
from artifact.plans.modern import FIRST
from artifact.plans.paper import PAPER_MODELS
from artifact.plans.unit import Plan
from artifact.reporting.elsewhere import FEWEST
from artifact.reporting.expected import load_expected
from artifact.reporting.figure_claims import deciding, traced_effects
from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.intervals import Estimate, estimates
from artifact.reporting.tables import scored_cases
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store
from artifact.sources.catalogue import WORLDS

_ASKED: tuple[Metric, Column] = ("success", Column("entity", "reliability"))


def measured(store: Store) -> Findings | None:
    """The findings of a run; None on the embedded world, on the paper's models and data, and without edits from both
    perspectives or the traces of every figure.
    """
    info = store.info()
    if info.model in WORLDS or (info.model in PAPER_MODELS and _of_the_papers_data(info)):
        return None
    claims = [claim for claim in load_expected().claims if claim.kinds]
    found: dict[str, Estimate | None] = dict(_edits(store))
    if not found or not {kind for claim in claims for kind in claim.kinds} <= _traced_kinds(info.plan):
        return None
    traced = traced_effects(store)
    for claim in claims:
        found[f"{claim.id}, smallest difference"] = deciding(claim, traced)
    return Findings({name: _quantity(one) for name, one in found.items()}, parameters=info.parameters)


def _of_the_papers_data(info: RunInfo) -> bool:
    """Whether a run takes CounterFact, because it was asked for or is its plan's own."""
    facts = info.given.get("--facts", info.plan.facts)
    return facts == "counterfact" or (not facts and info.plan.of_the_paper)


def _quantity(one: Estimate | None) -> Quantity:
    """The number, which decides nothing where it rests on fewer facts than a claim on another model (elsewhere.py)."""
    return Quantity(one, why=f"fewer than {FEWEST} facts" if one is not None and one.n < FEWEST else "")


def _traced_kinds(plan: Plan) -> set[str]:
    """The kinds of trace that a plan makes from both perspectives."""
    units = {(unit.trace_kind.name, unit.perspective) for unit in plan.units if unit.does == "trace"}
    return {kind for kind, _ in units if all((kind, one) in units for one in PERSPECTIVES)}


def _edits(store: Store) -> Iterator[tuple[str, Estimate | None]]:
    info = store.info()
    units = {
        (unit.method, unit.perspective): unit
        for unit in info.plan.units
        if unit.does == "edit" and not unit.correct and unit.control is None
    }
    for method in FIRST:
        if all((method, one) in units for one in PERSPECTIVES):
            entity, relation = (scored_cases(store, units[method, one]).get(_ASKED) for one in PERSPECTIVES)
            apart = None
            if entity is not None and relation is not None:
                (apart,) = estimates([entity.minus(relation)], rates=False, relations=info.relations)
            yield f"T3, entity reliability after entity minus after relation edits, {printed_name(method)}", apart
