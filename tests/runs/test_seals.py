"""Checksums of records: what is changed, mixed or gone is said and left out, and no number changes without a word."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cheap import PLAN, Cheap, contents, description, made_up, record, refusing, run

from artifact.cli import call
from artifact.errors import Interrupted, RunError
from artifact.runs.merge import merge
from artifact.runs.recover import recover
from artifact.runs.store import begin, reading, writing

UNITS = {unit.name: unit for unit in PLAN.units}
PLANNED = sum(map(len, made_up(description()).values()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of another description."""

    engine = Cheap(msgspec.structs.replace(description(), revision="r2"))
    return run(tmp_path_factory.mktemp("other") / "run", engine)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def kloc(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return refusing(capsys)


def sql(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "run.sqlite")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def unsealed(folder: Path) -> Path:
    """As an earlier version wrote it."""
    tables = ("alter table records drop column seal", "alter table numbers drop column seal")
    sql(folder, *tables, "delete from meta where key = 'seals'")
    return folder


FORGED = {
    "a payload": "update records set payload = replace(payload, '0.9', '0.8') "
    "where unit like 'trace%' and case_id = 104",
    "a status": "update records set status = 'done' where unit = 'rome-entity' and case_id = 101",
    "a row of numbers": "update numbers set row = (select row from numbers where unit = 'unedited' and case_id = 105) "
    "where unit = 'unedited' and case_id = 104",
    "a row and its seal": "update numbers set row = x'00', seal = x'00' where unit = 'unedited' and case_id = 104",
    "no seal": "update records set seal = null where unit = 'unedited' and case_id = 104",
    "a case of another number": "update records set case_id = 350 where unit = 'unedited' and case_id = 104",
    "another unit": "update records set unit = 'rome-relation' where unit = 'unedited' and case_id = 119",
    "bytes": "update records set payload = cast(x'ff' as text) where unit = 'unedited' and case_id = 104",
    "a blob for a number": "update records set case_id = x'00' where unit = 'unedited' and case_id = 104",
}  # fmt: skip


def test_every_command_says_what_is_damaged(folder: Path, tmp_path: Path, kloc: Callable[..., str]) -> None:
    sql(folder, FORGED["a payload"])
    out = tmp_path / "measured.json"
    commands: list[tuple[object, ...]] = [
        ("report", folder), ("verify", folder), ("status", folder), ("compare", folder, folder),
        ("baseline", folder, "--hardware", "none", "--out", out),
    ]  # fmt: skip
    words = "damaged: 1 record left out that no checksum confirms, the first trace-hidden-entity case 104"
    for command in commands:
        said = kloc(*command)
        assert words in said and said.endswith(f"kloc recover {folder} --out NEW\n")
    values = msgspec.json.decode(out.read_bytes())["values"]
    assert {one["n"] for one in values if one["unit"] == "trace-hidden-entity"} == {19}
    for page in ("report.html", "report.md"):
        assert f"The journal is {words}" in (folder / "report" / page).read_text()
    verdict = msgspec.json.decode((folder / "report" / "verdict.json").read_bytes())
    assert (verdict["exit_code"], verdict["runs"][0]["damaged"]) == (2, 1) and words in verdict["verdict"]


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_record_is_said_and_left_out(how: str, folder: Path, tmp_path: Path, kloc: Callable[..., str]) -> None:
    sql(folder, FORGED[how])
    assert "damaged: 1 record left out that no checksum confirms, the first " in kloc("verify", folder)
    for refused in (lambda: run(folder), lambda: merge([folder], tmp_path / "merged")):
        with pytest.raises(RunError, match="damaged: 1 record .*kloc recover"):
            refused()
    assert not (tmp_path / "merged").exists()
    with reading(folder) as store:
        assert sum(count.total() for count in store.counts().values()) == PLANNED - 1
        for unit in PLAN.units:
            kept = store.records(unit)
            assert kept == [record(unit, one.case_id) for one in kept]
    # A row of numbers is made again from its record.
    saved = sum(one.saved for one in recover(folder, tmp_path / "new"))
    assert saved == (PLANNED if "row" in how else PLANNED - 1)
    assert contents(run(tmp_path / "new")) == made_up(description())


def test_a_record_of_another_run_is_left_out(folder: Path, other: Path, kloc: Callable[..., str]) -> None:
    """With its seal and its row, as they were sealed there."""
    connection = sqlite3.connect(folder / "run.sqlite")
    connection.execute("attach ? as other", (str(other / "run.sqlite"),))
    with connection:
        for table in ("records", "numbers"):
            connection.execute(f"delete from {table} where case_id = 104")
            connection.execute(f"insert into {table} select * from other.{table} where case_id = 104")
    connection.close()
    assert "damaged: 4 records left out that no checksum confirms, the first rome-entity case 104;" in kloc(
        "verify", folder
    )


def test_another_description_leaves_nothing(folder: Path, other: Path, kloc: Callable[..., str]) -> None:
    connection = sqlite3.connect(folder / "run.sqlite")
    connection.execute("attach ? as other", (str(other / "run.sqlite"),))
    with connection:
        connection.execute(
            "update meta set value = (select value from other.meta where key = 'info') where key = 'info'"
        )
    connection.close()
    assert f"damaged: {PLANNED} records left out" in kloc("verify", folder)
    # run.json still tells what it was.
    assert sum(one.saved for one in recover(folder, folder.parent / "new")) == PLANNED


@pytest.mark.parametrize("tables", [("records", "numbers"), ("records",)], ids=len)
def test_records_that_are_gone_are_missed_and_computed_again(
    tables: tuple[str, ...], folder: Path, kloc: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With their rows of numbers, and alone, as someone deletes them who wants them computed again."""
    sql(folder, *(f"delete from {table} where case_id = 104" for table in tables))
    assert "damaged: 4 missing;" in kloc("verify", folder)
    with pytest.raises(RunError, match="4 missing"):
        merge([folder], folder.parent / "merged")
    run(folder)
    assert "4 records are missing from the journal and are computed again" in capsys.readouterr().out
    assert contents(folder) == made_up(description()) and call(["verify", str(folder)]) == 0


def test_a_lost_tally_is_said(folder: Path, kloc: Callable[..., str]) -> None:
    sql(folder, "update meta set value = 'many' where key = 'seals'")
    assert "the tally of records cannot be read" in kloc("report", folder)
    sql(folder, "delete from meta where key = 'seals'")
    assert "the tally of records cannot be read" in kloc("report", folder)


def test_an_earlier_versions_journal_is_read_called_unsealed_and_goes_on(
    folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsealed(folder)
    assert call(["verify", str(folder)]) == 0
    line = f"{PLANNED} records are unsealed: an earlier version made them, without checksums"
    assert line in capsys.readouterr().out.splitlines()
    assert call(["report", str(folder)]) == 0
    assert (folder / "report" / "report.html").read_text().count(line) == 1
    with reading(folder) as old, reading(whole) as new:
        for unit in PLAN.units:
            for found, expected in zip(old.numbers(unit), new.numbers(unit), strict=True):
                assert np.array_equal(found, expected, equal_nan=True)
    half = tmp_path / "half"
    with pytest.raises(Interrupted):
        run(half, Cheap(stop=7))
    stored = sum(map(len, contents(half).values()))
    assert contents(run(unsealed(half))) == made_up(description())
    with reading(half) as store:
        assert (store.checked().unsealed, store.checked().damage) == (stored, "")
    sql(half, "delete from records where seal is null and case_id = 101")
    with reading(half) as store:
        assert "missing" in store.checked().damage


def test_what_is_merged_or_recovered_stays_sealed_or_unsealed(folder: Path, tmp_path: Path) -> None:
    """No checksum says of a record that it is whole which nothing confirms."""
    some = tmp_path / "some"
    with pytest.raises(Interrupted):
        run(some, Cheap(stop=7))
    before = sum(map(len, contents(some).values()))
    run(unsealed(some))
    for old, count in ((some, before), (unsealed(folder), PLANNED)):
        made = [tmp_path / f"{old.name}-{how}" for how in ("recovered", "merged")]
        recover(old, made[0])
        merge([old], made[1])
        for one in made:
            with reading(one) as store:
                assert (store.checked().unsealed, store.checked().damage) == (count, "")
            assert contents(one) == made_up(description())


def test_words_may_differ_when_a_run_goes_on(tmp_path: Path) -> None:
    """The stored description counts, not that of the process that goes on."""
    with pytest.raises(Interrupted):
        run(tmp_path, Cheap(stop=5))
    run(tmp_path, Cheap(msgspec.structs.replace(description(), model_reason="auto", given={"--facts": "f.json"})))
    with reading(tmp_path) as store:
        assert store.checked().damage == "" and store.info().model_reason == "--model world"


@pytest.mark.parametrize("left", ["run.sqlite-wal", "run.sqlite-journal"])
def test_files_of_another_database_are_not_taken_in(
    left: str, folder: Path, other: Path, tmp_path: Path, kloc: Callable[..., str]
) -> None:
    strange = shutil.copytree(other, tmp_path / "strange")
    connection = sqlite3.connect(strange / "run.sqlite", isolation_level=None)
    connection.execute(f"pragma journal_mode = {'wal' if left.endswith('wal') else 'delete'}")
    connection.execute("pragma cache_size = 1")
    connection.execute("update meta set value = value || ' ' where key = 'numbers'")  # one change more than there
    connection.execute("begin")
    connection.execute("update records set payload = 'gone'")
    if left.endswith("wal"):
        connection.execute("commit")
    shutil.copy(strange / left, folder / left)
    connection.close()
    before = (folder / "run.sqlite").read_bytes()
    for command in ("report", "verify", "status"):
        assert f"{left} beside it is" in kloc(command, folder)
    with pytest.raises(RunError, match=f"{left} beside it is"):
        run(folder)
    assert (folder / "run.sqlite").read_bytes() == before
    assert sum(one.saved for one in recover(folder, tmp_path / "new")) == PLANNED


@pytest.mark.parametrize("change", [-1, -4096, -100, 1, 4096])
def test_a_file_of_another_length_than_its_pages_is_damaged(
    change: int, folder: Path, kloc: Callable[..., str]
) -> None:
    with (folder / "run.sqlite").open("r+b") as file:
        file.truncate((folder / "run.sqlite").stat().st_size + change)
    for command in ("report", "verify", "status"):
        said = kloc(command, folder)
        assert "cannot be used as a run's journal (" in said and "kloc recover" in said
    with pytest.raises(RunError, match="kloc recover"):
        run(folder)


def test_a_wrong_page_count_is_damage(folder: Path, kloc: Callable[..., str]) -> None:
    pages = (folder / "run.sqlite").stat().st_size // 4096
    for told in (pages - 1, pages + 1, 1):
        with (folder / "run.sqlite").open("r+b") as file:
            file.seek(28)
            file.write(told.to_bytes(4))
        assert "cannot be used as a run's journal" in kloc("verify", folder)


def told(folder: Path) -> dict[str, list[list[float]]]:
    """All numbers that a report averages."""
    with reading(folder) as store:
        found = {unit.name: [array.tolist() for array in store.numbers(unit)] for unit in PLAN.units}
        store.records(PLAN.units[0])
        assert not store.checked().damage
        return found


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_is_said_or_harmless(
    seed: int, folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random bytes at random places, or cut off anywhere: the same numbers, or a word and exit code 2."""
    draw, path = random.Random(seed), folder / "run.sqlite"
    size = path.stat().st_size
    with path.open("r+b") as file:
        if seed % 4 == 3:
            file.truncate(draw.randrange(1, size))
        else:
            for _ in range(draw.choice([1, 3, 20])):
                # Heads of pages as often as the rest: there a byte can hide rows.
                start = draw.randrange(size // 4096) * 4096 + draw.randrange(16) if seed % 2 else draw.randrange(size)
                file.seek(start)
                file.write(draw.randbytes(draw.choice([1, 1, 2, 8])))
    try:
        same = repr(told(folder)) == repr(told(whole))
    except (RunError, AssertionError):
        same = None
    assert same is not False
    for command in ("verify", "status"):
        capsys.readouterr()
        code = call([command, str(folder)])
        said = capsys.readouterr()
        assert code == 2 if same is None and command == "verify" else code in (0, 2)
        assert said.err.count("\n") == (code == 2)
    if seed % 6 == 0:
        saved = recover(folder, tmp_path / "new")
        kept = contents(tmp_path / "new")
        assert sum(one.saved for one in saved) == sum(map(len, kept.values()))
        for name, records in kept.items():
            assert records == [record(UNITS[name], one.case_id) for one in records]


def test_odd_things_in_the_folder_are_one_line(tmp_path: Path, whole: Path, kloc: Callable[..., str]) -> None:
    os.mkfifo(tmp_path / "run.sqlite")
    (tmp_path / "file").write_text("")
    for command in ("report", "verify", "status"):
        assert "is not a regular file" in kloc(command, tmp_path)
        assert "File name too long" in kloc(command, tmp_path / ("x" * 5000))
        said = "give a run's folder" if command == "verify" else "is a file, and a run is a folder"
        assert said in kloc(command, tmp_path / "file")
        assert "cannot be looked into" in kloc(command, f"{tmp_path}/a\0b")
    for path in (tmp_path / ("x" * 5000), f"{tmp_path}/a\0b"):
        kloc("compare", whole, path)
        kloc("recover", path, "--out", tmp_path / "new")
        kloc("recover", whole, "--out", path)
        kloc("merge", path, "--out", tmp_path / "new")
        kloc("merge", whole, "--out", path)
        kloc("baseline", path, "--hardware", "x", "--out", tmp_path / "new")
        kloc("smoke", "--model", "world", "--out", path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["run.lock", "run.sqlite", "run.json"])
def test_a_pipe_or_a_link_is_not_written_to(name: str, folder: Path, kloc: Callable[..., str]) -> None:
    (folder / name).rename(folder.parent / "there")
    before = (folder.parent / "there").read_bytes()
    (folder / name).symlink_to(folder.parent / "there")
    if name == "run.json":  # it is replaced, and what it led to stays
        run(folder)
        assert not (folder / name).is_symlink()
    else:
        with pytest.raises(RunError, match=f"{name}: is"):
            run(folder)
    assert (folder.parent / "there").read_bytes() == before
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(RunError, match=f"{name}: is not a regular file"):
        run(folder)
    if name != "run.sqlite":
        assert call(["status", str(folder)]) == 0


def test_run_json_is_a_copy_and_the_journal_decides(
    folder: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = (folder / "run.json").read_bytes()
    another = (other / "run.json").read_bytes()
    told = {b"": "cannot be read", b"\xff{": "cannot be read", another: "tells of another run", None: "is missing"}
    for content, said in told.items():
        (folder / "run.json").unlink()
        if content is not None:
            (folder / "run.json").write_bytes(content)
        assert call(["verify", str(folder)]) == 0
        capsys.readouterr()
        assert call(["status", str(folder)]) == 0
        assert f"{folder}/run.json: {said}; the journal counts" in capsys.readouterr().out
        with writing(folder) as store:
            begin(store, description())
            store.write_description()
        assert (folder / "run.json").read_bytes() == wanted
        assert call(["status", str(folder)]) == 0 and "the journal counts" not in capsys.readouterr().out
