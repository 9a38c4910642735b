"""Cases that failed are computed again when that is asked for, and what does not fit the device is left undone."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cheap import PLAN, Cheap, contents, description, made_up, record, run

from artifact.plans.unit import Unit
from artifact.progress import Display
from artifact.runs.engine import Batch, Computed
from artifact.runs.record import Record
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_plan
from artifact.runs.store import reading

UNITS = {unit.name: unit for unit in PLAN.units}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run(tmp_path / "run")


class Changed(Cheap):
    """Gives other records for some cases."""

    def __init__(self, change: Callable[[Unit, Record], Record]) -> None:
        super().__init__()
        self._change = change

    def compute(self, batches: Sequence[Batch], stop: Callable[[], bool]) -> Generator[Computed, None, None]:
        for one in super().compute(batches, stop):
            yield replace(one, records=[self._change(one.batch.unit, record) for record in one.records])


def again(folder: Path, engine: Cheap) -> None:
    """The same command with --retry-failed."""
    run_plan(PLAN, Asked("world"), show=Display(), out=folder, engine=lambda *_: engine, retry_failed=True)


def test_failed_cases_are_tried_again_when_asked(folder: Path) -> None:
    def mended(unit: Unit, made: Record) -> Record:
        return msgspec.structs.replace(record(UNITS["unedited"], made.case_id), case_id=made.case_id)

    with reading(folder) as store:
        before, times = store.counts(), store.timed()
    assert before["rome-entity"]["failed"] == 3
    run(folder, Changed(mended))
    assert contents(folder) == made_up(description())  # unasked nothing is computed again
    again(folder, Changed(mended))
    for name, records in contents(folder).items():
        assert records == [
            mended(UNITS[name], one) if one.status == "failed" else one for one in made_up(description())[name]
        ]
    with reading(folder) as store:
        assert store.checked().damage == "" and store.timed()[: len(times)] == times
        assert {len(store.numbers(unit)[0]) for unit in PLAN.units} == {20, 14}


def test_a_failed_case_that_fails_again_keeps_its_new_reason(folder: Path) -> None:
    def other(unit: Unit, made: Record) -> Record:
        return msgspec.structs.replace(made, payload={"reason": "again"}) if made.status == "failed" else made

    again(folder, Changed(other))
    with reading(folder) as store:
        assert {one.reason for one in store.unfinished(UNITS["rome-entity"])} == {"again"}
        assert store.checked().damage == ""


def test_a_reader_beside_a_retry_reads_on(folder: Path) -> None:
    """A failed record that is computed again meanwhile is not missed."""

    def mended(unit: Unit, made: Record) -> Record:
        return msgspec.structs.replace(record(UNITS["unedited"], made.case_id), case_id=made.case_id)

    with reading(folder) as store:
        assert store.counts()["rome-entity"]["failed"] == 3
        again(folder, Changed(mended))
        assert store.unfinished(UNITS["rome-entity"]) == []
        assert store.counts()["rome-entity"]["done"] == 20


def test_a_round_counts_its_own_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first batch of each unit has a failed case, the others none: they neither count it nor repeat its reason."""

    def one(unit: Unit, made: Record) -> Record:
        whole = made.status == "done" or made.case_id < 104
        return made if whole else msgspec.structs.replace(record(UNITS["unedited"], made.case_id), case_id=made.case_id)

    rounds = msgspec.structs.replace(PLAN, rounds=5)
    engine = Changed(one)
    engine.info = msgspec.structs.replace(engine.info, plan=rounds)
    run_plan(rounds, Asked("world"), show=Display(), out=tmp_path / "run", engine=lambda *_: engine)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rome-entity: ")]
    assert len(lines) == 6 and [line for line in lines if "failed" in line] == [
        "rome-entity: 4/4 cases (1 failed)", "rome-entity: 1 failed: not finite",
    ]  # fmt: skip


def test_what_does_not_fit_the_device_is_left_undone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def small(unit: Unit, made: Record) -> Record:
        if made.case_id != 105:
            return made
        return Record(105, "undone", {"reason": "does not fit the device's memory"})

    run(tmp_path, Changed(small))
    said = capsys.readouterr().out
    assert "unedited: 1 cases cannot be computed here and are left undone: does not fit the device's memory" in said
    with reading(tmp_path) as store:
        assert all(105 not in store.done(unit) for unit in PLAN.units)
    assert contents(run(tmp_path)) == made_up(description())


class Waiting(Cheap):
    """Keeps what it is asked for, and gives the last batch first, as a worker that is fast would."""

    asked: Sequence[Batch] = ()

    def compute(self, batches: Sequence[Batch], stop: Callable[[], bool]) -> Generator[Computed, None, None]:
        assert not self.asked, "asked twice: workers wait for one another in between"
        self.asked = batches
        yield from super().compute(batches[::-1], stop)


def test_a_worker_waits_for_no_other_units_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All batches of all units and rounds are there to be taken, in the plan's order; they may come in any."""
    plan, engine = msgspec.structs.replace(PLAN, rounds=2), Waiting()
    engine.info = msgspec.structs.replace(engine.info, plan=plan)
    run_plan(plan, Asked("world"), show=Display(), out=tmp_path / "run", engine=lambda *_: engine)
    assert contents(tmp_path / "run") == made_up(description())
    assert engine.asked == [
        Batch(unit, cases)
        for number in range(2)
        for unit in plan.units
        for cases in plan.part(unit, engine.info.batches(unit), number)
    ]
    said = capsys.readouterr().out
    assert said.count("12/12 cases") == 3 and said.count("8/8 cases") == 4, said
