"""Parts of a run put together: the records of the run in one piece, and what is no part of it refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.cli import call
from artifact.errors import RunError
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Plan, Unit
from artifact.progress import Display
from artifact.runs import merge as module
from artifact.runs.describe import RunInfo
from artifact.runs.merge import merge
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_plan
from artifact.runs.store import Store, begin, reading, writing

PLAN = Plan("parts", "scores and traces", (Unit("unedited", "unedited", 2), Unit("trace", "trace", 2, most=3)))
TABLES = ("select * from records", "select * from numbers")


def run(folder: Path, shard: tuple[int, int] | None = None, limit: int = 5) -> Path:
    return run_plan(PLAN, Asked("world", limit=limit, memory="1GB", shard=shard), show=Display(), out=folder)


def rows(folder: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [run(tmp_path_factory.mktemp("part") / "run", shard=(number, 2)) for number in (1, 2)]


def test_the_parts_make_the_run(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    (made,) = merge(parts[::-1], tmp_path / "run")
    assert (made.folder, made.cases, made.planned, made.parts) == (tmp_path / "run", 8, 8, (2, 2))
    assert all(0 < len(rows(part, TABLES[0])) < 8 for part in parts)
    for table in TABLES:
        assert rows(tmp_path / "run", table) == rows(whole, table)
    assert (tmp_path / "run" / "run.json").read_bytes() == (whole / "run.json").read_bytes()


def test_times_and_environments_are_kept(parts: list[Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(parts[1], tmp_path / "part"))
    with writing(copied) as store:
        store.add_environment({"python": "another machine's"})
    merge([parts[0], copied], tmp_path / "run")
    times = [rows(folder, "select * from times") for folder in (*parts, tmp_path / "run")]
    assert sorted(times[2]) == sorted([*times[0], *times[1]])
    assert [clock for *_, clock in times[2]] == sorted(clock for *_, clock in times[2])
    with reading(tmp_path / "run") as store, reading(parts[0]) as first:
        assert store.environments() == [*first.environments(), {"python": "another machine's"}]


def test_a_missing_part_is_said_and_computed_by_the_same_command(whole, parts, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    assert call(["merge", str(parts[1]), "--out", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{folder}: 1 of 2 parts are there, 3 of 8 cases"
    assert "without --shard and with --out" in said[1] and said[-1] == str(folder)
    run(folder)
    for table in TABLES:
        assert rows(folder, table) == rows(whole, table)


def test_folders_of_several_runs_are_put_together_by_name(whole, parts, tmp_path, capsys) -> None:
    for part in parts:
        shutil.copytree(part, tmp_path / part.parent.name / "gpt-j")
    shutil.copytree(parts[0], tmp_path / parts[0].parent.name / "gpt2-xl")
    given = [str(tmp_path / part.parent.name) for part in parts]
    assert call(["merge", *given, "--out", str(tmp_path / "full")]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'full' / 'gpt-j'}: 2 of 2 parts are there, 8 of 8 cases" in said
    assert f"{tmp_path / 'full' / 'gpt2-xl'}: 1 of 2 parts are there, 5 of 8 cases" in said
    assert rows(tmp_path / "full" / "gpt-j", TABLES[0]) == rows(whole, TABLES[0])


def changed(part: Path, folder: Path, **changes: object) -> Path:
    """A copy of a part whose description says something else."""
    shutil.copytree(part, folder)
    with writing(folder) as store:
        store.put("info", msgspec.json.encode(msgspec.structs.replace(store.info(), **changes)).decode())
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocol": "corrected"}, r'another protocol \("corrected", there "released"\)'),
        ({"plan": SMOKE}, r'another plan \("smoke", there "parts"\)'),
        ({"model": "gpt2"}, "another model "),
        ({"data_sha256": "0"}, "another data sha256 "),
        ({"limit": 4}, r"another limit \(4, there 5\)"),
        ({"settings": {"rome": {"hash": "x"}}}, "another settings "),
        ({"weights_sha256": "0"}, "another weights sha256 "),
    ],
)
def test_another_runs_part_is_refused_and_nothing_is_written(change: dict, says: str, parts, tmp_path) -> None:
    other = changed(parts[1], tmp_path / "other", **change)
    with pytest.raises(RunError, match=f"other: is not a part of the run in .*{says}"):
        merge([parts[0], other], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_setting_is_named_to_its_last_word(parts, tmp_path) -> None:
    drawn = [{"rome": {"hash": "x", "prefixes": [text]}} for text in ("The. {}", "A. {}")]
    both = [changed(part, tmp_path / f"{i}", settings=drawn[i]) for i, part in enumerate(parts)]
    with pytest.raises(RunError, match=r'another settings rome prefixes 1 \("A. {}", there "The. {}"\)'):
        merge(both, tmp_path / "run")


def test_the_same_cases_twice_are_refused(whole, parts, tmp_path, capsys) -> None:
    for folders in ([parts[0], parts[0]], [whole, parts[1]]):
        assert call(["merge", *map(str, folders), "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert "of unedited, and so does" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_never_written_to(parts, tmp_path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    assert call(["merge", *map(str, parts), "--out", str(tmp_path / "run")]) == 2
    assert "is there already and is never overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes"]
    assert call(["merge", *map(str, parts), "--out", "/proc/nothing/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert call(["merge", "--out", str(tmp_path / "none")]) == 2
    assert "got none" in capsys.readouterr().err


def test_a_failure_on_the_way_leaves_nothing(parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("artifact.runs.store.write_atomically", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge(parts, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    shards=st.integers(1, 7),
    cases=st.integers(0, 40),
    batch=st.integers(1, 9),
    most=st.none() | st.integers(0, 30),
    limit=st.none() | st.integers(1, 30),
)
def test_shards_are_the_whole_and_share_nothing(shards, cases, batch, most, limit) -> None:
    unit = Unit("u", "unedited", batch, most=most)
    info = RunInfo(
        plan=Plan("p", "", (unit,)), model="m", model_reason="", revision="", weights_sha256="", layers=1, device="cpu",
        dtype="float32", protocol="released", switches={}, data_source="", data_sha256="", data_note="", evidence=False,
        evidence_note="", settings={}, noise_level=0.1, samples=10, cases=list(range(cases)), limit=limit,
    )  # fmt: skip
    found = [msgspec.structs.replace(info, shard=(i, shards)).batches(unit) for i in range(1, shards + 1)]
    assert sorted(one for part in found for one in part) == info.batches(unit)
    # Each in the whole's order, the first ones first: all parts stopped early hold about the same beginning.
    assert all(part == sorted(part) for part in found)
    assert [part[0] for part in found if part] == info.batches(unit)[:shards]


def test_a_run_that_another_process_put_there_meanwhile_stays(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither written to nor removed, whether it is finished or that process still writes it."""
    out, whole_of = tmp_path / "run", module._whole
    merge(parts, tmp_path / "other")

    def slow(stores: list[Store]) -> RunInfo:
        if not out.exists():
            shutil.copytree(tmp_path / "other", out)
        return whole_of(stores)

    monkeypatch.setattr(module, "_whole", slow)
    with pytest.raises(RunError, match=f"^{out}: is there already"):
        merge(parts, out)
    assert rows(out, TABLES[0]) == rows(tmp_path / "other", TABLES[0])
    shutil.rmtree(out)
    with writing(out), pytest.raises(RunError, match=f"^{out}: is in use by"):
        monkeypatch.setattr(module, "refuse_existing", lambda out: None)
        merge(parts, out)
    assert (out / "run.sqlite").is_file()


def test_folders_of_several_runs_are_merged_all_or_not_at_all(parts: list[Path], tmp_path: Path) -> None:
    for number, part in enumerate(parts):
        shutil.copytree(part, tmp_path / f"{number}" / "a")
        shutil.copytree(part, tmp_path / f"{number}" / "b")
    folders, out = [tmp_path / "0", tmp_path / "1"], tmp_path / "out"
    (out / "b").parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "begin", lambda store, info: 1 / 0 if store.folder.name == "b" else begin(store, info))
        with pytest.raises(ZeroDivisionError):
            merge(folders, out)
    assert list(out.iterdir()) == []
    assert [one.folder.name for one in merge(folders, out)] == ["a", "b"]


def test_a_time_of_another_unit_is_left_out(parts: list[Path], tmp_path: Path) -> None:
    """No checksum confirms a time."""
    copied = Path(shutil.copytree(parts[0], tmp_path / "part"))
    with closing(sqlite3.connect(copied / "run.sqlite")) as connection, connection:
        connection.execute("update times set unit = 'unedites' where unit = 'unedited'")
    merge([copied, parts[1]], tmp_path / "run")
    kept = rows(copied, "select unit from times where unit = 'trace'") + rows(parts[1], "select unit from times")
    assert kept and sorted(rows(tmp_path / "run", "select unit from times")) == sorted(kept)
