"""A run packed on one machine is verified on another; what is changed, hostile or unfinished is refused in one line."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import msgspec
import pytest
from cheap import refusing, run

from artifact.cli import call
from artifact.errors import RunError
from artifact.plans.unit import Unit
from artifact.runs.describe import RunInfo
from artifact.runs.pack import MANIFEST, pack, unpacked
from artifact.runs.store import begin, reading, writing

EXAMPLE = Path(__file__).parents[2] / "results" / "example-world"
Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    shutil.copytree(EXAMPLE, folder / "run", ignore=shutil.ignore_patterns("report", "run.lock", "ro-crate*"))
    pack(folder / "run", folder / "run.zip")
    return folder / "run.zip"


@pytest.fixture(scope="module")
def contents(packed: Path) -> Contents:
    with ZipFile(packed) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, contents: Contents, links: tuple[str, ...] = ()) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = ZipInfo(name)
            entry.compress_type = ZIP_DEFLATED
            entry.external_attr = ((stat.S_IFLNK if name in links else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(RunError) as caught, unpacked(path):
        pass
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_a_pack_gives_back_the_run_and_its_verdict(packed: Path, capsys) -> None:
    with unpacked(packed) as (folder, manifest):
        assert (folder / "run.sqlite").read_bytes() == (EXAMPLE / "run.sqlite").read_bytes()
        packed_run, kept = ((place / "run.json").read_bytes() for place in (folder, EXAMPLE))
        assert msgspec.json.decode(packed_run, type=RunInfo) == msgspec.json.decode(kept, type=RunInfo)
        assert manifest.machines[""][0]["packages"]["torch"]
    assert not folder.exists()
    assert call(["verify", str(EXAMPLE)]) == 0
    verdict = capsys.readouterr().out
    assert call(["verify", str(packed)]) == 0
    said = capsys.readouterr().out
    assert said.endswith(verdict) and "was computed on: " in said and "torch 2.13.0" in said


def test_failed_cases_are_looked_up_in_no_folder_that_is_gone(tmp_path: Path, capsys) -> None:
    pack(run(tmp_path / "run"), tmp_path / "run.zip")
    capsys.readouterr()
    assert call(["verify", str(tmp_path / "run.zip")]) == 0
    assert "kloc status on the unpacked folder lists the reasons" in capsys.readouterr().out


def test_equal_runs_give_equal_packs(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed.parent / "run", tmp_path / "again")
    pack(tmp_path / "again", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_runs_of_several_models_are_packed_together(packed: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(packed.parent / "run", tmp_path / "runs" / name)
    manifest = pack(tmp_path / "runs", tmp_path / "runs.zip")
    assert set(manifest.files) == {f"{run}/{file}" for run in ("one", "two") for file in ("run.json", "run.sqlite")}
    with unpacked(tmp_path / "runs.zip") as (folder, _):
        assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


def test_a_changed_byte_is_refused(packed: Path, contents: Contents, tmp_path: Path) -> None:
    content = bytearray(contents["run.sqlite"])
    content[len(content) // 2] ^= 1
    assert "'run.sqlite' has sha256" in refusal(zipped(tmp_path / "a.zip", {**contents, "run.sqlite": bytes(content)}))
    whole = bytearray(packed.read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "b.zip").write_bytes(whole)
    assert "is not a whole pack" in refusal(tmp_path / "b.zip")


def changed_manifest(contents: Contents, change: Callable[[dict], object]) -> Contents:
    manifest = json.loads(contents[MANIFEST])
    change(manifest)
    return {**contents, MANIFEST: json.dumps(manifest).encode()}


def test_hostile_packs_are_refused(contents: Contents, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("../outside", str(outside), "run/../../outside", "C:\\outside"):
        assert "names a path outside itself" in refusal(zipped(tmp_path / "p.zip", {**contents, name: b"x"}))
    assert not outside.exists()
    assert "holds a link" in refusal(
        zipped(tmp_path / "l.zip", {**contents, "run.json": b"/etc/passwd"}, ("run.json",))
    )
    bomb = {**contents, "run.sqlite": bytes(200_000_000)}
    assert "unpacks to" in refusal(zipped(tmp_path / "z.zip", bomb))
    assert "manifest and content differ ('more')" in refusal(zipped(tmp_path / "m.zip", {**contents, "more": b"x"}))
    assert "manifest and content differ ('')" in refusal(zipped(tmp_path / "n.zip", {**contents, "": b"x"}))


def test_a_manifest_that_lies_is_refused(contents: Contents, tmp_path: Path) -> None:
    def told(change: Callable[[dict], object]) -> str:
        return refusal(zipped(tmp_path / "t.zip", changed_manifest(contents, change)))

    assert "expected 1" in told(lambda manifest: manifest["files"]["run.json"].update(size=1))
    assert "other machines" in told(lambda manifest: manifest["machines"][""][0].update(gpu="NVIDIA H100"))
    assert "has format 2, expected 1" in told(lambda manifest: manifest.update(format=2))
    assert "cannot be read" in told(lambda manifest: manifest.update(more=1))
    assert "holds no run" in told(lambda manifest: manifest.update(machines={}))
    extra = changed_manifest(contents, lambda m: m["files"].update({"a.py": m["files"]["run.json"]}))
    assert "'a.py', which is no file of a run" in refusal(zipped(tmp_path / "e.zip", {**extra, "a.py": b"x"}))
    assert "holds no manifest.json" in refusal(zipped(tmp_path / "n.zip", {"run.json": b"{}"}))
    (tmp_path / "text.zip").write_text("no archive")
    assert "is not a whole pack" in refusal(tmp_path / "text.zip")


def test_a_description_of_another_run_is_refused(contents: Contents, tmp_path: Path) -> None:

    other = contents["run.json"].replace(b'"protocol": "released"', b'"protocol": "mine"')
    told = {"size": len(other), "sha256": sha256(other).hexdigest()}
    forged = changed_manifest(contents, lambda manifest: manifest["files"].update({"run.json": told}))
    assert "is not what the journal says" in refusal(zipped(tmp_path / "d.zip", {**forged, "run.json": other}))


def test_an_unfinished_run_is_packed_where_that_is_asked_for_alone(tmp_path: Path, capsys) -> None:
    """Cases that do not fit the device are left, whatever one does: others get what there is."""
    with reading(EXAMPLE) as whole, writing(tmp_path / "run") as store:
        info = begin(store, whole.info())
        store.add_environment({"machine": "a small one"})
        for unit in info.plan.units:
            for record in whole.records(unit):
                if (unit.name, record.case_id) != ("rome-entity", info.cases[0]):
                    store.add(unit, record)
    assert call(["contribute", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert not (tmp_path / "run.zip").exists() and "1 cases are left" in error and "give --partial" in error
    assert call(["contribute", str(tmp_path / "run"), "--partial"]) == 0
    assert call(["verify", str(tmp_path / "run.zip")]) == 0
    with unpacked(tmp_path / "run.zip") as (folder, _), reading(folder) as store:
        assert store.counts()["rome-entity"]["done"] == info.planned(unit_named(info, "rome-entity")) - 1


def unit_named(info: RunInfo, name: str) -> Unit:
    return next(unit for unit in info.plan.units if unit.name == name)


def test_a_finished_run_is_packed_under_a_name_of_ones_own(packed: Path, tmp_path: Path, capsys) -> None:
    assert call(["contribute", str(packed.parent / "run"), "--out", str(tmp_path / "ok.zip")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "ok.zip")


def test_no_output_takes_the_place_of_a_run_s_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of a run in a folder of runs either, nor of one that the command does not read."""
    monkeypatch.chdir(tmp_path)
    refused, run_folder = refusing(capsys), Path("runs") / "a"
    shutil.copytree(EXAMPLE, run_folder, ignore=shutil.ignore_patterns("report"))
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    readers = (("contribute", "runs", "--out"), ("contribute", run_folder, "--out"), ("answer", "runs", "--json"))
    other = ("trace", "--model", "world", "--prompt", "a b", "--subject", "a", "--json")
    for name in ("run.sqlite", "run.json", "run.lock"):
        for command in (*readers, other):
            assert "would take the place of" in refused(*command, run_folder / name)
    assert {path.name: path.read_bytes() for path in run_folder.iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_not_the_pack_s_fault(code: int, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(archive: ZipFile, *_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("artifact.runs.pack._write", full)
    said = refusal(packed)
    assert os.strerror(code) in said and said.endswith("set TMPDIR to a folder on another disk") and "again" not in said
