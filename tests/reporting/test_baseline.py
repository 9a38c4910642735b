"""Our own earlier measurements: found for the same run alone, deciding nothing, never among the expected values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from artifact.cli import call
from artifact.errors import ExpectedError
from artifact.plans.paper import SMOKE
from artifact.reporting.baseline import POINTS, Baseline, MeasuredValue, measured_before
from artifact.reporting.charts import charts
from artifact.reporting.expected import load_expected
from artifact.reporting.resources import expected_folder
from artifact.reporting.verdict import measured_run
from artifact.runs.store import Store

Build = Callable[..., Store]
HIDDEN = msgspec.structs.replace(
    SMOKE,
    units=tuple(u for u in SMOKE.units if u.method in ("none", "rome") and u.does != "trace"),
)


def written(store: Store, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "measured.json"
    assert call(["baseline", str(store.folder), "--hardware", "a test", "--out", str(path)]) == 0
    return path


def before(store: Store, folder: Path):
    return measured_before(measured_run(store), charts(store), folder)


def test_the_same_run_is_found_and_equal(smoke: Store, build: Build, tmp_path: Path) -> None:
    written(smoke, tmp_path / "m")
    found = before(build(planned=30), tmp_path / "m")
    assert found is not None and (found.same, found.largest, found.others) == (found.compared, 0.0, ())
    # Three rows of 7 + 5 + 7 numbers, two traces of three.
    assert found.compared == 3 * 19 + 2 * 3
    assert found.sentence.startswith(f"63 of 63 numbers lie within {POINTS:g} points of our own measurement on a test")


def test_a_run_is_not_compared_with_itself(smoke: Store, build: Build, tmp_path: Path) -> None:
    path = written(smoke, tmp_path / "m")
    found = before(smoke, tmp_path / "m")
    assert found is not None and found.itself
    assert found.sentence == "this is our own run: later ones are compared with its 63 numbers, measured on a test"
    known = msgspec.json.decode(path.read_bytes(), type=Baseline)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, records="")))  # of an earlier version
    found = before(smoke, tmp_path / "m")
    assert found is not None and not found.itself and found.sentence.startswith("63 of 63 numbers lie within")


def test_a_changed_number_is_named(smoke: Store, build: Build, shares: dict[str, Any], tmp_path: Path) -> None:
    written(smoke, tmp_path / "m")
    shares["rome-entity"]["entity", "reliability"] = 50.0
    found = before(build(shares=shares), tmp_path / "m")
    assert found is not None and found.same < found.compared
    assert "rome-entity, success, entity reliability: 45.5, was 100.0" in found.others
    assert all("rome-relation" not in text for text in found.others)


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "corrected"},
        {"limit": 3},
        {"weights_sha256": "0"},
        {"data_sha256": "0"},
        {"settings": {}},
        {"switches": {"tf32": False}},
    ],
)
def test_another_run_is_not_compared(smoke: Store, tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(smoke, tmp_path / "m")
    known = msgspec.json.decode(path.read_bytes(), type=Baseline)
    assert known.describes(smoke.info())
    assert not known.describes(msgspec.structs.replace(smoke.info(), **change))
    for option in ("--seed", "--moments", "--mend-weights"):
        assert not known.describes(msgspec.structs.replace(smoke.info(), given={option: "1"}))
    assert known.describes(msgspec.structs.replace(smoke.info(), given={"--facts": "world"}))
    corrected = msgspec.structs.replace(known, protocol="released, but for tf32 (corrected)")
    assert not corrected.describes(smoke.info())
    assert corrected.describes(msgspec.structs.replace(smoke.info(), switches={"tf32": False, "kn_undone": True}))


def test_numbers_over_other_facts_are_left_out(smoke: Store, build: Build, tmp_path: Path) -> None:
    written(smoke, tmp_path / "m")
    assert before(build(cases=20, planned=24), tmp_path / "m") is None


def test_a_damaged_file_is_named(smoke: Store, tmp_path: Path) -> None:
    path = written(smoke, tmp_path / "m")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExpectedError, match=r"measured.json: cannot be read as a measurement .* restore it"):
        before(smoke, tmp_path / "m")


def test_committed_measurements_are_whole_and_apart_from_the_expected_values() -> None:
    files = sorted((expected_folder() / "measured").glob("*.json"))
    assert files
    for file in files:
        known = msgspec.json.decode(file.read_bytes(), type=Baseline)
        assert known.hardware and known.values and known.model in file.name
    published = msgspec.to_builtins(load_expected())
    assert not any(word in str(published) for word in ("world", "smoke"))


def test_a_part_of_a_run_lies_within_the_intervals_for_so_many_facts(build, shares, tmp_path) -> None:
    """Of the plan real alone: its first facts may give other means, as far as a part of the whole may."""
    real = msgspec.structs.replace(HIDDEN, name="real", facts="real")
    written(build(plan=real, cases=100, odd_cases=False), tmp_path / "m")
    found = before(build(plan=real, cases=10, limit=10, odd_cases=False), tmp_path / "m")
    # Of traces the means alone: the largest effect of few facts is larger, so it has no interval.
    assert found is not None and found.part and 0 < found.same < found.compared == 3 * 19
    shown = msgspec.structs.replace(build().info().plan, name="real", facts="real")
    traced, whole = (build(plan=shown, cases=n, limit=most, odd_cases=False) for n, most in ((10, 10), (100, None)))
    written(whole, tmp_path / "traced")
    found = before(traced, tmp_path / "traced")
    assert found is not None and found.compared == 3 * 19 + 4
    assert before(whole, tmp_path / "traced").compared == 3 * 19 + 6
    assert "within 5 points, or the 95% intervals for so few facts, of our own measurement of more" in found.sentence
    shares["rome-entity"]["entity", "reliability"] = 0.0
    found = before(build(plan=real, cases=10, limit=10, odd_cases=False, shares=shares), tmp_path / "m")
    assert any(text.startswith("rome-entity, success, entity reliability: 0.0, was ") for text in found.others)
    assert before(build(plan=HIDDEN, cases=10, limit=10), tmp_path / "m") is None


@pytest.mark.parametrize(
    ("value", "n", "allowed"), [(55, 100, True), (56, 100, False), (68, 20, True), (71, 20, False)]
)
def test_fewer_facts_may_differ_by_more(value: float, n: int, allowed: bool) -> None:
    """Half of the interval is ten points: of a hundred facts twenty differ by twice as much in 19 of 20 draws."""
    whole = MeasuredValue("u", "w", 50.0, 100, 40.0, 60.0)
    assert whole.allows(MeasuredValue("u", "w", value, n)) is allowed
