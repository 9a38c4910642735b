"""The journal: what is committed stays, what is foreign or damaged is refused in one line."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from artifact.errors import RunError
from artifact.plans.paper import SMOKE
from artifact.runs.describe import RunInfo
from artifact.runs.record import Record
from artifact.runs.store import begin, reading, writing

UNIT = SMOKE.units[0]


def info(**changes: object) -> RunInfo:
    made = RunInfo(
        plan=SMOKE, model="world", model_reason="--model world", revision="r", weights_sha256="w", layers=6,
        device="cpu", dtype="float32", protocol="released", switches={}, data_source="d", data_sha256="s",
        data_note="n", evidence=False, evidence_note="none", settings={}, noise_level=0.1, samples=10, cases=[0, 1],
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    with writing(tmp_path / "run") as store:
        begin(store, info())
        store.add(UNIT, Record(3, "failed", {"reason": "too long"}))
        store.add(UNIT, Record(1, "done", {"x": 0.1 + 0.2}))
        store.add(UNIT, Record(1, "done", {"x": 9.0}))  # a case that is there stays as it is
        store.add_time(UNIT, 1.5, 2)
        store.add_time(UNIT, 0.5, 1)
    with reading(tmp_path / "run") as store:
        assert store.info() == info()
        assert store.records(UNIT) == [Record(1, "done", {"x": 0.1 + 0.2}), Record(3, "failed", {"reason": "too long"})]
        assert store.records(UNIT)[1].reason == "too long"
        assert store.done(UNIT) == {1, 3}
        assert store.times() == [(UNIT.name, 2.0, 3)]


@pytest.mark.parametrize("setting", ["0123456789ab", {"hash": 5}, {"hparams": []}], ids=str)
def test_settings_of_another_type_are_damage(tmp_path: Path, setting: object) -> None:
    """Found as a page's AttributeError; whatever else stands in a setting is shown and not read."""
    given = json.loads(msgspec.json.encode(info(settings={"rome": {"hash": "0123456789ab", "seen": [{}]}})))
    with writing(tmp_path) as store:
        store.put("info", json.dumps(given))
        assert store.info().settings == given["settings"]
        store.put("info", json.dumps(given | {"settings": {"rome": setting}}))
        with pytest.raises(RunError, match="its description cannot be read"):
            store.info()


def test_what_no_run_can_be_is_damage(tmp_path: Path) -> None:
    """Such as batches of no facts, which would end in an error of Python's own."""
    given = json.loads(msgspec.json.encode(info()))
    (unit, *_) = given["plan"]["units"]
    wrong = [{"plan": given["plan"] | {"units": [unit | one]}} for one in ({"batch": 0}, {"most": 0}, {"batch": -1})]
    with writing(tmp_path) as store:
        for one in (*wrong, {"limit": 0}, {"shard": [1, 0]}, {"shard": [0, 2]}, {"shard": [3, 2]}):
            store.put("info", json.dumps(given | one))
            with pytest.raises(RunError, match="its description cannot be read"):
                store.info()


@pytest.mark.parametrize(
    "one", [{"packages": True}, {"packages": {"torch": 2}}, {"rehearsed": "1 h"}, {"rehearsed": {"most": 1.0}}], ids=str
)
def test_environments_of_another_type_are_damage(tmp_path: Path, one: object) -> None:
    whole = {"packages": {"torch": "2"}, "rehearsed": {"most": 2, "expected": 1.5}, "seen": [{}]}
    with writing(tmp_path) as store:
        store.put("environments", json.dumps([whole]))
        assert store.environments() == [whole]
        store.put("environments", json.dumps([whole, one]))
        with pytest.raises(RunError, match="its environments cannot be read"):
            store.environments()


def test_environments_nested_without_end_are_damage(tmp_path: Path) -> None:
    with writing(tmp_path) as store:
        store.put("environments", '[{"torch":' + "[" * 100_000 + "]" * 100_000 + "}]")
        with pytest.raises(RunError, match="its environments cannot be read"):
            store.environments()


def test_environments_are_kept_once_each(tmp_path: Path) -> None:
    with writing(tmp_path) as store:
        for python in ("3.11", "3.12", "3.11"):
            store.add_environment({"python": python})
        assert store.environments() == [{"python": "3.11"}, {"python": "3.12"}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocol": "corrected"}, r"another protocol \(\"released\", now \"corrected\"\)"),
        ({"plan": msgspec.structs.replace(SMOKE, name="other")}, r"another plan \(\"smoke\", now \"other\"\)"),
        ({"model": "gpt2"}, "another model"),
        ({"limit": 5}, r"another limit \(null, now 5\)"),
        ({"settings": {"rome": {"hash": "x"}}}, "another settings"),
    ],
)
def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path, change: dict, says: str) -> None:
    with writing(tmp_path) as store:
        begin(store, info())
        store.add(UNIT, Record(1, "done", {}))
    with writing(tmp_path) as store, pytest.raises(RunError, match=says):
        begin(store, info(**change))
    with reading(tmp_path) as store:
        assert store.info() == info() and store.done(UNIT) == {1}


def test_another_value_of_a_field_that_now_has_its_default_is_refused(tmp_path: Path) -> None:
    """run.json leaves out what has its default: the comparison does not."""
    one = msgspec.structs.replace(SMOKE, units=(msgspec.structs.replace(UNIT, window=3),))
    with writing(tmp_path) as store:
        begin(store, info(plan=one))
        with pytest.raises(RunError, match=r"another plan units 1 window \(3, now 10\)"):
            begin(store, info(plan=msgspec.structs.replace(SMOKE, units=(UNIT,))))


def test_another_tokenizer_is_refused_where_it_is_known(tmp_path: Path) -> None:
    for name, before in (("new", "one"), ("old", "")):
        with writing(tmp_path / name) as store:
            begin(store, info(tokenizer_sha256=before))
    with writing(tmp_path / "new") as store, pytest.raises(RunError, match="another tokenizer sha256"):
        begin(store, info(tokenizer_sha256="other"))
    with writing(tmp_path / "old") as store:  # an earlier version's run, which does not say
        assert begin(store, info(tokenizer_sha256="other")).tokenizer_sha256 == ""


def test_a_run_that_does_not_say_whether_relations_were_rebuilt_goes_on(tmp_path: Path) -> None:
    with writing(tmp_path / "old") as store:
        begin(store, info())
    with writing(tmp_path / "old") as store:
        assert begin(store, info(reconstructed=True)).reconstructed is None


def test_the_first_reason_is_kept(tmp_path: Path) -> None:
    with writing(tmp_path) as store:
        begin(store, info())
        assert begin(store, info(model_reason="auto: cached")).model_reason == "--model world"


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from artifact.runs.store import writing\n"
    code += "with writing(Path(sys.argv[1])): pass"
    with writing(tmp_path):
        second = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"is in use by process {os.getpid()} on " in second.stderr
    with writing(tmp_path):
        pass


def test_bad_bytes(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(RunError, match=r"run.sqlite: cannot be used as a run's journal"), writing(tmp_path):
        pass
    with pytest.raises(RunError, match="cannot be used"), reading(tmp_path):
        pass


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run.sqlite"), reading(tmp_path):
        pass
    with writing(tmp_path):
        pass
    with reading(tmp_path) as store, pytest.raises(RunError, match="never started"):
        store.info()


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with writing(tmp_path) as store:
        begin(store, info())
        store.add(UNIT, Record(1, "done", {}))
        pages = store.connection.execute("pragma page_count").fetchone()[0]
        store.connection.execute(f"pragma max_page_count = {pages}")
        with pytest.raises(RunError, match=r"cannot be written \(database or disk is full\)"):
            for case_id in range(2, 200):
                store.add(UNIT, Record(case_id, "done", {"text": "x" * 4000}))
    with reading(tmp_path) as store:
        assert 1 in store.done(UNIT)
        assert store.info() == info()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RunError, match=r"cannot be written .*name a folder you own"),
        writing(tmp_path / "file" / "run"),
    ):
        pass


def test_a_read_only_folder_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path) as store:
        begin(store, info())
    monkeypatch.setattr(os, "access", lambda *_: False)
    with reading(tmp_path) as store:
        assert store.info() == info()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.connection.execute("delete from meta")
