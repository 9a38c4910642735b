"""A simulated run of the multiverse with a known effect and a known confounding choice gives the right curves."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from artifact.plans.multiverse import BEYOND
from artifact.reporting.findings.multiverse import measured
from artifact.tracing.averages import roles
from artifact.tracing.choices import METRICS, choices

LAYERS, FACTS = 6, 12


def simulated() -> Any:
    """Effects in probability at the last token's last layers alone: F1 holds, but not under replacement."""
    draw = np.random.default_rng(1)
    records: dict[str, list[Any]] = {}
    for unit in BEYOND:
        names = roles(unit.perspective)
        for case in range(FACTS):
            traces = {}
            for choice in choices(unit.perspective, LAYERS):
                effects_RL = 0.01 * draw.normal(size=(len(names), LAYERS))
                reached = 0.1 if choice.corruption == "replacement" else 0.7
                effects_RL[names.index("last token"), 4:] += reached + 0.05 * draw.normal()
                row = [1.0, 0.2, 0.0, *[1.0] * len(names), *effects_RL.ravel()]
                traces[choice.key] = [row for _ in METRICS]
            payload = {"layers": LAYERS, "traces": traces, "without": {}}
            records.setdefault(unit.name, []).append(SimpleNamespace(case_id=case, status="done", payload=payload))
    info = SimpleNamespace(layers=LAYERS, plan=SimpleNamespace(units=BEYOND))
    return SimpleNamespace(info=lambda: info, records=lambda unit: records[unit.name])


def test_a_simulated_store_gives_the_right_curve_share_and_choice() -> None:
    found = measured(simulated())
    curves = {curve.finding: curve for curve in found.charts}
    assert set(curves) == {"F1", "F2", "F3", "F4"}
    one = curves["F1"]
    # Five corruptions, three spans, one window on six layers, two directions, three metrics in two forms.
    assert len(one.entries) == 5 * 3 * 1 * 2 * 3 * 2
    assert one.agree == len(one.entries) * 4 / 5 and one.contradict == len(one.entries) / 5
    assert {e.specification.choices["corruption"] for e in one.entries if not e.agrees} == {"replacement"}
    assert next(iter(one.explained)) == "corruption" and one.explained["corruption"] > 0.8
    (own,) = [e for e in one.entries if e.specification.own]
    assert own.specification.choices == {
        "corruption": "noise, 3 sigma",
        "span": "all",
        "window": "1 layer",
        "direction": "restore",
        "metric": "p",
        "form": "as it is",
    }
    assert found.quantities["share of specifications that agree, F1"].estimate.mean == 0.8
    assert found.grids[0].lines[0].heads == ("F1", "180")
    assert "window" not in curves["F2"].levels and curves["F2"].agree < 20


def test_a_run_without_the_plan_has_no_findings() -> None:
    info = SimpleNamespace(layers=LAYERS, plan=SimpleNamespace(units=()))
    assert measured(SimpleNamespace(info=lambda: info)) is None
