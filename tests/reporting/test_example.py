"""The committed example is a finished smoke run of this version: it renders, and its numbers are our measured ones.

These come from another processor, whose last bits differ: by less than a ten-thousandth of a point.
"""

from pathlib import Path

from artifact.plans.paper import SMOKE
from artifact.reporting.expected import load_expected
from artifact.reporting.report import make_report
from artifact.runs.numbers import LAYOUT
from artifact.runs.store import reading

EXAMPLE = Path(__file__).parents[2] / "results" / "example-world"


def test_the_example_renders_without_a_model(tmp_path: Path) -> None:
    with reading(EXAMPLE) as store:
        info = store.info()
        assert (info.plan, info.model, info.limit, info.evidence) == (SMOKE, "world", None, False)
        assert store.meta("numbers") == LAYOUT
        assert all(store.counts()[unit.name].total() == info.planned(unit) for unit in SMOKE.units)
        report = make_report([store], load_expected(), tmp_path)
    (before,) = report.before
    assert before.same == before.compared > 200 and before.largest < 1e-4
    assert "no evidence for or against the paper" in report.files["report.html"].decode()
