"""What the plan `mechanism` measured: at which depth each edge of attention carries what the answer needs.

Covers Q3's quantities and one table, a line an edge of each kind of prompt. The figures are flow_charts.py's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import Cell, Grid, Line, Scale
from artifact.reporting.findings import Findings, Number, Quantity, tests_of
from artifact.reporting.flow_charts import finished_flows
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.store import NOT_ANSWERED, Store
from artifact.tracing.flow import EdgeFlow, Flows, drop_depth

_DEPTH = Scale(1, 100)
"""Percent of the depth."""
_PERCENT = Scale(1, 100)


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it has no finished knockout."""
    flows = finished_flows(store)
    if not flows:
        return None
    quantities = {
        f"depth at which the last token reads, subject minus relation, {perspective} prompt": Quantity(
            _later(flows.get(perspective), store.info().relations), _DEPTH.of_change, _missing(store, perspective)
        )
        for perspective in PERSPECTIVES
    }
    tests = tests_of([*_numbers(flows)], store.info().relations)
    return Findings(quantities, (_grid(flows),), shown="knockout", tests=tests)


def _numbers(flows: Mapping[Perspective, Flows]) -> Iterator[Number]:
    """By how much each edge's knockout changes the answer's probability, mean over the windows about all layers."""
    for perspective, one in flows.items():
        for edge in one.edges:
            has_F = edge.removed_F > 0
            change = Series(one.cases_F[has_F], edge.change_FL[has_F].mean(1))
            yield Number(f"{perspective} prompt", f"change, {edge.edge.printed}", change, _PERCENT.of_change)


def _missing(store: Store, perspective: Perspective) -> str:
    """Why a kind of prompt has no knockout, in words; empty where it has some, or was not asked for."""
    for unit in store.info().plan.units:
        if unit.does == "knockout" and unit.perspective == perspective:
            counts = store.counts().get(unit.name, Counter())
            if counts["excluded"] and not counts["done"]:
                reasons = Counter(one.reason for one in store.records(unit) if one.status == "excluded")
                (reason, count), *_ = reasons.most_common(1)
                unanswered = sum(many for one, many in reasons.items() if one.startswith(NOT_ANSWERED))
                if unanswered == reasons.total():
                    return f"the model answers none of {unanswered} {perspective} prompts as the data say"
                return f"{count} of {counts.total()} {perspective} prompts: {reason}"
    return ""


def _later(flows: Flows | None, relations: Mapping[str, Sequence[int]]) -> Estimate | None:
    """By how much deeper the last token reads the subject than the relation, over facts where both matter."""
    subject, relation = (flows.edge(name) if flows else None for name in ("last-subject", "last-relation"))
    if flows is None or subject is None or relation is None:
        return None
    deeper = _depths(flows, subject).minus(_depths(flows, relation))
    return estimates([deeper], rates=False, relations=relations)[0]


def _depths(flows: Flows, edge: EdgeFlow) -> Series:
    """The depth of the drop of each fact that has the edge and a drop."""
    depth_F = drop_depth(edge.change_FL)
    has_F = (edge.removed_F > 0) & np.isfinite(depth_F)
    return Series(flows.cases_F[has_F], depth_F[has_F])


def _grid(flows: Mapping[Perspective, Flows]) -> Grid:
    lines = []
    for perspective, one in flows.items():
        for edge in one.edges:
            has_F = edge.removed_F > 0
            if not has_F.any():
                continue
            layer = int(edge.change_FL[has_F].mean(0).argmin())
            change = Series(one.cases_F[has_F], edge.change_FL[has_F, layer])
            found = estimates([change, _depths(one, edge)], rates=False)
            cells = Cell.of(found[0], _PERCENT.of_change), Cell.of(found[1], _DEPTH)
            lines.append(Line((perspective, edge.edge.printed, str(layer), str(int(has_F.sum()))), cells))
    caption = (
        "Attention knocked out, by prompt and edge: the layer about which the answer's probability falls most, by how "
        "much (percent of the probability before), and where it falls, as the mean layer weighted by the falls "
        "(percent of the depth). 95% intervals over facts."
    )
    heads = ("prompt", "edge", "layer", "facts")
    return Grid(
        "knockouts", "Attention knockouts", caption, heads, ("change there", "depth of the falls"), tuple(lines)
    )
