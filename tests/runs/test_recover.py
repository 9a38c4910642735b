"""Damaged journals: refused in one line by everything, and saved by `kloc recover` down to the last whole record."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cheap import PLAN, contents, description, made_up, record, refusing, run

from artifact.cli import call
from artifact.errors import RunError
from artifact.runs.lock import locked
from artifact.runs.record import Record
from artifact.runs.recover import recover
from artifact.runs.salvage import Pages
from artifact.runs.store import begin, reading, writing

PAGE = 4096
UNITS = {unit.name: unit for unit in PLAN.units}
INFO = description()
PLANNED = sum(map(len, made_up(INFO).values()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A finished run for a test to damage."""
    return shutil.copytree(whole, tmp_path / "run")


def overwrite(folder: Path, page: int, content: bytes = bytes(PAGE)) -> None:
    """Damage a page, counted from 1."""
    with (folder / "run.sqlite").open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def pages(folder: Path) -> int:
    return (folder / "run.sqlite").stat().st_size // PAGE


def root(folder: Path, table: str) -> int:
    return sql(folder, "select rootpage from sqlite_master where name = ?", table)[0][0]


def sql(folder: Path, statement: str, *values: object) -> list[tuple]:
    connection = sqlite3.connect(folder / "run.sqlite")
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def saved(folder: Path, out: Path) -> int:
    """Recover a run, look at every record that was saved, and finish the run; how many were saved."""
    before = (folder / "run.sqlite").read_bytes()
    told = recover(folder, out)
    assert (folder / "run.sqlite").read_bytes() == before
    kept = contents(out)
    for one in told:
        unit = UNITS[one.unit]
        assert kept[one.unit] == [record(unit, case.case_id) for case in kept[one.unit]]
        assert one.saved == len(kept[one.unit])
        assert one.left == len(made_up(INFO)[one.unit]) - one.saved
        assert 0 <= one.lost <= one.left
    assert contents(run(out)) == made_up(INFO)
    with reading(out) as store:
        assert store.info() == INFO
        for unit in PLAN.units:
            assert len(store.numbers(unit)[0]) == store.counts()[unit.name]["done"]
    return sum(one.saved for one in told)


def test_rows_are_those_that_sqlite_reads(folder: Path, tmp_path: Path) -> None:
    sql(folder, "create table more (a, b integer, c real)")
    odd = [
        (None, 0, 1.5), (b"\x00" * 5000, 1, -2.0), ("é" * 2500, -1, 3.0), ("", 127, 0.1), (b"", -(2**15), 1e300),
        ("x", 2**23, None), ("y", -(2**31), 0.0), ("z", 2**47 - 1, -0.5), (2**62, -(2**63), 7.0),
    ]  # fmt: skip
    for row in odd:
        sql(folder, "insert into more values (?, ?, ?)", *row)
    wanted = {(n, row) for n, row in enumerate(odd, 1)}
    for table, key in (("meta", "rowid"), ("times", "rowid"), ("records", "null"), ("numbers", "null")):
        wanted |= {(rowid, tuple(row)) for rowid, *row in sql(folder, f"select {key}, * from {table}")}
    wanted = {(rowid, _cut(row)) for rowid, row in wanted}
    found = list(Pages(folder / "run.sqlite", tmp_path / "scratch").rows())
    assert wanted <= set(found)
    assert len([row for row in found if row in wanted]) == len(wanted)


def _cut(row: tuple) -> tuple:
    """A row up to its last value that is not NULL."""
    return row[: max(n for n, value in enumerate(row, 1) if value is not None)]


def test_an_undamaged_run_is_copied_whole(folder: Path, tmp_path: Path) -> None:
    assert saved(folder, tmp_path / "new") == PLANNED
    for run_folder in (folder, tmp_path / "new"):
        with reading(run_folder) as store:
            assert store.environments() == [{"device": "none"}]
    times = "select unit, seconds, cases, ended from times"
    assert sql(tmp_path / "new", times) == sql(folder, times)
    assert (tmp_path / "new" / "run.json").read_bytes() == (folder / "run.json").read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_damaged_pages(seed: int, folder: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    hit = draw.sample(range(1, pages(folder) + 1), 3)
    for page in hit:
        overwrite(folder, page, bytes(PAGE) if draw.random() < 0.5 else draw.randbytes(PAGE))
    kept = saved(folder, tmp_path / "new")
    # A page of the tree holds parts of some ten records at most, a page behind it of one.
    assert PLANNED - 3 * 10 <= kept <= PLANNED


def test_what_lies_beneath_a_damaged_page_is_saved(folder: Path, tmp_path: Path) -> None:
    top = root(folder, "records")
    with (folder / "run.sqlite").open("rb") as file:
        file.seek((top - 1) * PAGE)
        head = file.read(5)
    assert head[0] == 0x02, "the table has one page: the test no longer covers an inner one"
    overwrite(folder, top)
    with pytest.raises(sqlite3.DatabaseError):
        sql(folder, "select count(payload) from records")
    assert saved(folder, tmp_path / "new") == PLANNED - int.from_bytes(head[3:5])


def test_the_first_page_is_lost(folder: Path, tmp_path: Path) -> None:
    overwrite(folder, 1)
    assert saved(folder, tmp_path / "new") == PLANNED


@pytest.mark.parametrize("length", [1 << 32, 1 << 43])
def test_a_file_of_a_damaged_length_is_mostly_a_hole(length: int, folder: Path, tmp_path: Path) -> None:
    """It is neither read nor written where it has no bytes, and may count more pages than SQLite can."""
    path, scratch = folder / "run.sqlite", tmp_path / "scratch"
    with path.open("r+b") as file:
        file.seek(16)
        file.write((512).to_bytes(2))
        file.seek(length - 1)
        file.write(b"x")
    if path.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("this file system has no holes")
    rows = list(Pages(path, scratch).rows())
    assert scratch.stat().st_blocks * 512 < 1 << 24
    os.truncate(path, 1 << 24)
    assert rows == list(Pages(path, tmp_path / "shorter").rows()) != []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_file(share: float, folder: Path, tmp_path: Path) -> None:
    size = (folder / "run.sqlite").stat().st_size
    with (folder / "run.sqlite").open("r+b") as file:
        file.truncate(int(share * size) + 100 * (share > 0))
    kept = saved(folder, tmp_path / "new")
    # Rows move to later pages as the tree grows, and need the pages behind theirs.
    assert kept == 0 if share == 0 else 0 < kept < PLANNED


def test_the_description_is_lost(folder: Path, tmp_path: Path) -> None:
    overwrite(folder, root(folder, "meta"))
    assert saved(folder, tmp_path / "new") == PLANNED
    (folder / "run.json").write_bytes(b"{}")
    with pytest.raises(RunError, match="neither run.sqlite nor run.json tells what the run is"):
        recover(folder, tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


@pytest.mark.parametrize(
    "change",
    [
        "set payload = '{\"views\": '",
        "set payload = '[]'",
        "set payload = '{}'",
        "set payload = '{\"views\": {}}'",
        "set payload = (select payload from records where unit = 'trace-hidden-entity' limit 1)",
        "set payload = replace(payload, '\"magnitude\":', '\"magnitude\":1')",
        "set payload = replace(payload, '0123456789ab', '0123456789ac')",
        "set payload = cast(x'ff' as text)",
        "set status = 'failed'",
        "set status = 'dine'",
    ],
)
def test_a_payload_that_does_not_fit_its_unit_is_lost(change: str, folder: Path, tmp_path: Path) -> None:
    sql(folder, f"update records {change} where unit = 'rome-entity' and case_id = 105")
    told = {one.unit: one for one in recover(folder, tmp_path / "new")}
    assert (told["rome-entity"].saved, told["rome-entity"].lost, told["rome-entity"].left) == (19, 1, 1)
    assert sum(one.saved for one in told.values()) == PLANNED - 1
    assert contents(run(tmp_path / "new")) == made_up(INFO)


def test_a_trace_without_its_scores_is_lost(folder: Path, tmp_path: Path) -> None:
    sql(folder, "update records set payload = '{\"tokens\": []}' where unit like 'trace%' and case_id = 105")
    assert saved(folder, tmp_path / "new") == PLANNED - 1


def test_cases_and_units_of_another_run_are_left_out(folder: Path, tmp_path: Path) -> None:
    sql(folder, "insert into records select unit, 7, status, payload, seal from records where case_id = 105")
    sql(
        folder, "insert into records select 'rome', case_id, status, payload, seal from records where unit = 'unedited'"
    )
    assert saved(folder, tmp_path / "new") == PLANNED


@pytest.fixture
def kloc(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command that ends with exit code 2 says, which is one line."""
    return refusing(capsys)


def _first_page(folder: Path) -> None:
    overwrite(folder, 1)


def _inner_page(folder: Path) -> None:
    for table in ("records", "numbers", "states"):
        overwrite(folder, root(folder, table))


def _truncated(folder: Path) -> None:
    with (folder / "run.sqlite").open("r+b") as file:
        file.truncate(5 * PAGE)


def _no_json(folder: Path) -> None:
    """In a journal of an earlier version: a seal says more than that (test_seals.py)."""
    sql(folder, "update records set seal = null")
    sql(folder, "delete from meta where key = 'seals'")
    sql(folder, "update records set payload = '{' where status = 'failed'")
    sql(folder, "update meta set value = '2' where key = 'numbers'")
    sql(folder, "update records set payload = '{' where case_id = 105")


def _description(folder: Path) -> None:
    sql(folder, "update meta set value = cast(x'ff' as text) where key = 'info'")


@pytest.mark.parametrize("damage", [_first_page, _inner_page, _truncated, _no_json, _description])
def test_everything_says_so_in_one_line(
    damage: Callable[[Path], None], folder: Path, kloc: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder)
    wanted = f"save what is whole in it with: kloc recover {folder} --out NEW\n"
    for command in ("status", "report", "verify"):
        said = kloc(command, folder)
        assert f"{folder}/run.sqlite: cannot be used as a run's journal (" in said and said.endswith(wanted)
    with pytest.raises(RunError, match="kloc recover"):
        run(folder)


@pytest.mark.parametrize("page", range(2, 60, 9))
def test_a_run_does_not_go_on_upon_a_damaged_page(page: int, folder: Path) -> None:
    overwrite(folder, page)
    with pytest.raises(RunError, match="kloc recover"), writing(folder):
        pass


def test_numbers_that_no_case_can_have(folder: Path, kloc: Callable[..., str]) -> None:
    sql(folder, "update records set seal = null")
    sql(folder, "delete from meta where key = 'seals'")
    sql(folder, "update numbers set row = x'00' where case_id = 105")
    assert "does not fit its unit" in kloc("verify", folder)


def test_as_typed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kloc: Callable[..., str]) -> None:
    sql(folder, "update records set payload = '{' where unit = 'unedited' and case_id = 105")
    sql(folder, "delete from records where unit = 'rome-relation'")
    sql(folder, "delete from numbers where unit = 'rome-relation'")
    assert call(["recover", str(folder), "--out", str(tmp_path / "new")]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [
        "unedited: 19 saved, 1 lost, 1 to compute",
        "rome-entity: 20 saved, 0 lost, 0 to compute",
        "rome-relation: 0 saved, 0 lost, 14 to compute",
        "trace-hidden-entity: 20 saved, 0 lost, 0 to compute",
    ]
    assert last == f"in all: 59 saved, 1 lost, 15 to compute: run the same command again with --out {tmp_path / 'new'}"
    before = (tmp_path / "new" / "run.sqlite").read_bytes()
    assert "is there already and is never overwritten" in kloc("recover", folder, "--out", tmp_path / "new")
    assert "is there already" in kloc("recover", folder, "--out", folder)
    assert (tmp_path / "new" / "run.sqlite").read_bytes() == before
    assert "holds no run.sqlite" in kloc("recover", tmp_path, "--out", tmp_path / "newer")
    (tmp_path / "file").touch()
    assert "cannot be written" in kloc("recover", folder, "--out", tmp_path / "file" / "new")
    with locked(folder):
        assert "is in use by process" in kloc("recover", folder, "--out", tmp_path / "newer")


def test_what_fails_half_way_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("artifact.runs.recover._whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recover(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_transaction_that_a_kill_left_is_taken_back_in_a_copy(folder: Path, tmp_path: Path) -> None:
    journal = sqlite3.connect(folder / "run.sqlite")
    journal.execute("pragma cache_size = 1")
    journal.execute("begin")
    journal.execute("update records set payload = 'gone'")
    torn = shutil.copytree(folder, tmp_path / "torn")
    journal.close()
    assert (torn / "run.sqlite-journal").stat().st_size > 0
    left = sorted(path.name for path in torn.iterdir())
    assert saved(torn, tmp_path / "new") == PLANNED
    assert sorted(path.name for path in torn.iterdir()) == left
    assert not list(tmp_path.glob("new-*"))


def test_a_larger_payload_than_a_page(tmp_path: Path) -> None:
    reason = "ü" * 300_000
    with writing(tmp_path / "run") as store:
        begin(store, INFO)
        store.add(PLAN.units[0], Record(101, "failed", {"reason": reason}))
    recover(tmp_path / "run", tmp_path / "new")
    assert contents(tmp_path / "new")["unedited"] == [Record(101, "failed", {"reason": reason})]
    assert msgspec.json.decode((tmp_path / "new" / "run.json").read_bytes())["plan"]["name"] == "smoke"
