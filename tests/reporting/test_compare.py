"""Two runs side by side: shared cases alone are paired, signs and names are right, other data is refused."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from artifact.cli import call
from artifact.errors import RunError
from artifact.evaluation.metrics import COLUMNS, OPTIONAL, VALUES, Column, Metric
from artifact.plans.unit import Plan, Unit
from artifact.reporting.compare import Comparison, PairedUnit, compare, comparison_csv, comparison_text
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.store import Store, writing

SHOWN = [column for column in COLUMNS if column.group not in OPTIONAL]
HELD = {value for value in VALUES if value[1] in SHOWN}
Build = Callable[..., Store]
Shares = dict[str, dict[tuple[str, str], float]]
CALL = "import sys; from artifact.cli import call; sys.exit(call(sys.argv[1:]))"
ENTITY = Column("entity", "reliability")
UNEDITED = Unit("unedited", "unedited", batch=8)
ROME_ENTITY = Unit("rome-entity", "edit", batch=8, method="rome", perspective="entity")
ROME_RELATION = Unit("rome-relation", "edit", batch=8, method="rome", perspective="relation")
KN = Unit("kn-entity", "edit", batch=8, method="kn", perspective="entity")


def plan(*units: Unit) -> Plan:
    return Plan("tables", "made for a test", units)


def unit_of(found: Comparison, edited: str | None) -> PairedUnit:
    (unit,) = [unit for unit in found.units if unit.edited == edited]
    return unit


def printed_of(found: Comparison, metric: Metric = "success") -> str:
    return comparison_text(found, metric)


def redescribed(store: Store, **changes: Any) -> Store:
    """The same run with another description."""
    info = msgspec.structs.replace(store.info(), **changes)
    with writing(store.folder) as other:
        other.put("info", msgspec.json.encode(info).decode())
    return store


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def test_the_same_run_twice_differs_in_nothing(smoke: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(smoke, smoke)
    assert (found.differences, found.only_first, found.only_second) == ((), (), ())
    assert [(unit.edited, unit.printed_method) for unit in found.units] == [
        (None, "unedited"),
        ("relation", "ROME"),
        ("entity", "ROME"),
    ]
    for unit in found.units:
        assert set(unit.values) == HELD
        for value in unit.values.values():
            assert value.first == value.second
            assert value.change == Estimate(0.0, 0.0, 0.0, 24 if unit.edited is None else 22)
    assert call(["compare", str(smoke.folder), str(smoke.folder)]) == 0
    printed = capsys.readouterr().out
    assert "Nothing differs between the descriptions of the two runs." in printed
    scores, traces = printed.split("**Two runs: traces.**")
    lines = [cells(line) for line in scores.splitlines() if line.startswith("|")]
    assert lines[0] == ["edited", "method", "column", "first", "second", "second - first", "n"]
    assert [line[:3] for line in lines[2 : 2 + len(SHOWN)]] == [
        ["no edit", "unedited", column.name] for column in SHOWN
    ]
    assert len(lines) == 2 + 3 * len(SHOWN)
    assert {line[5] for line in lines[2:]} == {"0.0 [0.0, 0.0]"}
    assert "Only in" not in printed
    lines = [cells(line) for line in traces.splitlines() if line.startswith("|")]
    assert [line[2].partition(",")[0] for line in lines[2:]] == ["clean", "corrupted", "effect"] * 2
    assert {line[5] for line in lines[2:]} == {"0.000 [0.000, 0.000]"}
    assert re.search(
        r"^Case by case: (\d+) of \1 scored cases .* magnitude: 0\); in \d+ traces .* effect is 0\.$", printed, re.M
    )


def test_a_shifted_column_shows_its_shift_alone_and_its_sign(build: Build, shares: Shares) -> None:
    shares["rome-entity"]["entity", "reliability"] = 50.0
    low = build(cases=20, odd_cases=False, shares=shares)
    shares["rome-entity"]["entity", "reliability"] = 75.0
    high = build(cases=20, odd_cases=False, shares=shares)
    value = unit_of(compare(low, high), "entity").values["success", ENTITY]
    gained = {case: float(10 <= case < 15) for case in range(20)}
    assert (value.first, value.second) == (0.5, 0.75)
    assert value.change == estimates([Series(np.arange(20), np.array([*gained.values()]))], rates=False)[0]
    assert value.change.low < 0.25 < value.change.high
    back = unit_of(compare(high, low), "entity").values["success", ENTITY]
    assert (back.first, back.second, back.change.mean) == (0.75, 0.5, -0.25)
    found = compare(low, high)
    shifted = {
        (unit.edited, column)
        for unit in found.units
        for (_, column), one in unit.values.items()
        if one.change != Estimate(0.0, 0.0, 0.0, 20)
    }
    assert shifted == {("entity", ENTITY)}
    assert re.search(r"\| entity edit \| ROME \| entity reliability \| 50.0 \| 75.0 \| \+25.0 \[\+", printed_of(found))
    # A prompt gained moves the magnitude from -0.3 to 0.4, a probability.
    assert "| +0.175 [+" in printed_of(found, "magnitude")


def test_only_shared_cases_are_paired(build: Build, shares: Shares) -> None:
    shares["rome-entity"]["entity", "reliability"] = 50.0
    whole = build(cases=24, odd_cases=False, shares=shares)
    # Its cases 0 to 5 succeed, and 5 and 11 of the edits did not finish.
    part = build(cases=12, planned=24, shares=shares)
    found = compare(whole, part)
    value = unit_of(found, "entity").values["success", ENTITY]
    assert (value.first, value.second, value.change.mean, value.change.n) == (1.0, 0.5, -0.5, 10)
    assert {one.change.n for one in unit_of(found, None).values.values()} == {12}


def test_cases_that_differ_are_counted_and_traces_paired(build: Build, shares: Shares) -> None:
    """One prompt of ten cases is another; every trace of one run has a lower probability in the corrupted run."""
    shares["rome-entity"]["entity", "reliability"] = 50.0
    low = build(cases=20, odd_cases=False, shares=shares)
    shares["rome-entity"]["entity", "reliability"] = 100.0
    high = build(cases=20, odd_cases=False, shares=shares)
    found = compare(low, high).alike
    assert (found.scored, found.same) == (60, 50) and found.farthest > 0.3
    assert found.traced == 40 and found.trace_farthest == 0

    def lowered(self: Store, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        cases, rows = numbers(self, unit)
        if self is high and unit.does == "trace":
            rows = rows.copy()
            rows[:, 1] -= 0.01
            cases, rows = cases[5:], rows[5:]
        return cases, rows

    numbers = Store.numbers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "numbers", lowered)
        apart = compare(low, high)
    assert (apart.alike.traced, round(apart.alike.trace_farthest, 9)) == (30, 0.01)
    named = apart.traces[0].numbers
    assert named["corrupted"].change.mean == pytest.approx(-0.01) and named["clean"].change.mean == 0
    assert "| corrupted | " in printed_of(apart) and "-0.010 [-0.010, -0.010] | 15 |" in printed_of(apart)


def test_traces_in_other_windows_are_not_paired(build: Build) -> None:
    ten, three = (Unit("trace-mlp-entity", "trace", batch=8, kind="mlp", window=window) for window in (10, 3))
    assert compare(build(plan=plan(ten)), build(plan=plan(ten))).traces
    assert not compare(build(plan=plan(ten)), build(plan=plan(three))).traces


def test_columns_and_units_without_shared_cases_say_so(build: Build, shares: Shares) -> None:
    del shares["rome-entity"]["relation", "generality"]
    some, none = build(shares=shares), build(cases=0, planned=24)
    unit = unit_of(compare(some, build()), "entity")
    assert ("success", Column("relation", "generality")) not in unit.values and len(unit.values) == len(HELD) - 3 - 2
    assert "| entity edit | ROME | relation generality | n/a | n/a | n/a | 0 |" in printed_of(compare(some, build()))
    found = compare(some, none)
    assert len(found.units) == 3 and not any(unit.values for unit in found.units)
    assert comparison_csv(found).count(b"\n") == 1


def test_units_that_only_one_run_has_are_named(build: Build) -> None:
    first, second = build(plan=plan(UNEDITED, ROME_ENTITY)), build(plan=plan(UNEDITED, ROME_RELATION, KN))
    found = compare(first, second)
    assert [unit.edited for unit in found.units] == [None]
    assert (found.only_first, found.only_second) == (("rome-entity",), ("rome-relation", "kn-entity"))
    printed = printed_of(found)
    assert "Only in the first run: rome-entity.\n" in printed
    assert "Only in the second run: rome-relation, kn-entity.\n" in printed
    assert "Two runs: traces" not in printed
    # The settings of a method that only one run has are no difference of their own.
    assert found.differences == ()
    apart = compare(build(plan=plan(ROME_ENTITY)), build(plan=plan(KN)))
    assert "No unit that scores a model is in both runs.\n" in printed_of(apart)


def test_units_are_matched_by_what_they_do(build: Build, shares: Shares) -> None:
    renamed = Unit("other-name", "edit", batch=4, method="rome", perspective="entity")
    found = compare(build(plan=plan(ROME_RELATION, ROME_ENTITY)), build(plan=plan(renamed, ROME_RELATION)))
    assert [unit.edited for unit in found.units] == ["relation", "entity"]
    assert not found.only_first and not found.only_second
    # The store of the renamed unit holds the unedited shares: its own records were read.
    value = found.units[1].values["success", Column("relation", "reliability")]
    assert value.first == pytest.approx(21 / 22) and value.second == pytest.approx(21 / 22)
    assert found.units[1].values["success", ENTITY].change.mean < 0


def test_what_differs_is_named_and_the_rest_left_out(build: Build) -> None:
    first, second = build(), build(model="tiny_gpt2", limit=12, data_source="the same facts, renamed")
    switches = {**second.info().switches, "tf32": False, "kn_undone": True}
    rome = second.info().settings["rome"]
    redescribed(
        second,
        revision="main",
        weights_sha256="ef" * 32,
        dtype="bfloat16",
        protocol="corrected",
        switches=switches,
        noise_level=0.25,
        settings={"rome": {**rome, "hash": "ba9876543210", "prefixes": ["{}"]}, "ft": {"hash": "0"}},
        model_reason="asked for",
    )
    found = compare(first, second)
    words = {one.name: (one.first, one.second) for one in found.differences}
    prefixes = words.pop("ROME prefixes")
    assert all(re.fullmatch("sha256 [0-9a-f]{12}", one) for one in prefixes) and prefixes[0] != prefixes[1]
    assert words == {
        "model": ("world", "tiny_gpt2"),
        "revision": ("embedded, version 1", "main"),
        "weights sha256": ("ab" * 32, "ef" * 32),
        "dtype": ("float32", "bfloat16"),
        "protocol": ("released", "corrected"),
        "switch tf32": ("yes", "no"),
        "switch kn_undone": ("not recorded", "yes"),
        "ROME hyperparameters": ("0123456789ab", "ba9876543210"),
        "data source": ("embedded world, 256 made-up facts", "the same facts, renamed"),
        "limit": ("none", "12"),
        "noise level": ("0.12", "0.25"),
    }
    printed = printed_of(found).splitlines()
    assert r"| model | world | tiny\_gpt2 |" in printed and "| limit | none | 12 |" in printed
    assert "Nothing differs" not in printed_of(found)


def test_an_edit_undone_in_one_run_is_marked(build: Build) -> None:
    first, second = build(plan=plan(KN), cases=2), build(plan=plan(KN), cases=2)
    redescribed(second, switches={**second.info().switches, "kn_undone": True})
    assert compare(first, second).units[0].printed_method == "KN, undone in second"
    assert compare(second, first).units[0].printed_method == "KN, undone in first"
    assert compare(second, second).units[0].printed_method == "KN, undone"


def test_runs_on_other_data_are_refused(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = build(), redescribed(build(), data_sha256="ef" * 32)
    with pytest.raises(RunError, match="ran on other data"):
        compare(first, second)
    assert call(["compare", str(first.folder), str(second.folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert str(first.folder) in printed.err and str(second.folder) in printed.err


def test_bad_input_is_one_line(smoke: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(smoke.folder)
    for arguments, says in (
        ([run, str(tmp_path / "absent")], "absent: is not there; name a run folder"),
        ([str(tmp_path / "absent"), run], "absent: is not there; name a run folder"),
        ([run, run, "--metric", "speed"], "speed"),
        ([run, run, "--csv", "/proc/nothing/c.csv"], "cannot be written"),
        ([run], "second"),
    ):
        assert call(["compare", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and says.lower() in printed.err.lower()


def test_the_csv_holds_every_metric_as_printed(
    build: Build, shares: Shares, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build()
    shares["rome-entity"]["entity", "reliability"] = 50.0
    second, path = build(shares=shares), tmp_path / "new" / "compare.csv"
    command = ["compare", str(first.folder), str(second.folder), "--metric", "magnitude", "--csv", str(path)]
    assert call(command) == 0
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * len(HELD)
    printed = capsys.readouterr().out
    for line in lines:
        harder = " against another relation" if line["against"] == "another relation" else ""
        row = (
            f"| {line['edited']} | {line['method']} | {line['perspective']} {line['group']}{harder} | "
            f"{line['first']} | {line['second']} | "
            f"{line['change']} [{line['change_low']}, {line['change_high']}] | {line['n']} |"
        )
        assert (row in printed) == (line["metric"] == "magnitude")
    success = next(line for line in lines if line["metric"] == "success" and line["edited"] == "entity edit")
    # 12 of 24 cases succeed in the second run, of which 5 and 11 did not finish.
    assert (success["first"], success["second"], success["change"]) == ("100.0", "45.5", "-54.5")
    assert (success["unit"], success["n"]) == ("percent", "22")
    before = path.read_bytes()
    assert call(command) == 0 and path.read_bytes() == before


def test_no_torch_is_needed(smoke: Store, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    command = [sys.executable, "-c", CALL, "compare", str(smoke.folder), str(smoke.folder)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
