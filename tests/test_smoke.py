"""`kloc smoke`: the whole way on the embedded world, repeated; and in processes, killed, interrupted and resumed."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from artifact.cli import call

KLOC = [sys.executable, "-W", "error", "-c", "from artifact.cli import main; main()"]
LIMIT = "5"  # two batches in the units of batch 4
SMALL = "2"
TABLES = ("--only", "table1", "--only", "table2")


def environment(**more: str) -> dict[str, str]:
    """No hub, one thread: the world everywhere, and the same last bits."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", **more}


def kloc(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*KLOC, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(**more))


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [*KLOC, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def records(folder: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as connection, connection:
            return connection.execute("select count(*) from records").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def contents(folder: Path) -> dict[str, bytes]:
    """All that a report holds, but the times."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert found.pop("timings.json")
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A small run in this process, with no hub to ask, and the lines it printed."""
    folder, out, err = tmp_path_factory.mktemp("smoke") / "run", StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
        code = call(["smoke", "--limit", SMALL, "--out", str(folder)])
    assert (code, err.getvalue()) == (0, "")
    return folder, out.getvalue().splitlines()


def test_first_and_last_line(finished) -> None:
    folder, lines = finished
    assert re.match(r"model: world \(auto: HF_HUB_OFFLINE is set .* the embedded world stands in\)", lines[0])
    (ready,) = (line for line in lines if line.startswith("ready after "))
    assert re.search(r"s: .*second moments \d+\.\d", ready)
    assert lines[-1] == str(folder / "report" / "report.html")
    assert Path(lines[-1]).is_file()


def test_report_says_what_it_is(finished) -> None:
    folder, _ = finished
    for page in ("report.html", "report.md"):
        head = (folder / "report" / page).read_text().replace("\\_", "_")  # Markdown escapes underscores
        assert "no evidence for or against the paper" in head
        assert "HF_HUB_OFFLINE is set" in head
        assert "not run: needs gpt2-xl" in head
    verdict = json.loads((folder / "report" / "verdict.json").read_text())
    assert "not run: needs gpt2-xl" in json.dumps(verdict)
    info = json.loads((folder / "run.json").read_text())
    assert info["model"] == "world" and info["protocol"] == "released" and info["limit"] == int(SMALL)
    assert len(info["settings"]["rome"]["prefixes"]) == 21
    assert [len(group) for group in info["settings"]["memit"]["prefixes"]] == [1, 5]
    hashes = {method: info["settings"][method]["hash"] for method in ("ft", "kn", "mend", "rome", "memit")}
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        for unit, payload in connection.execute("select unit, payload from records where unit not like 'trace%'"):
            if unit != "unedited":
                assert json.loads(payload)["hparams"] == hashes[unit.split("-")[0]]


def test_every_unit_has_its_cases(finished) -> None:
    folder, _ = finished
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        found = dict(connection.execute("select unit, count(*) from records where status = 'done' group by unit"))
    kinds = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")
    traces = {f"trace-{kind}-{corrupt}" for kind in kinds for corrupt in ("entity", "relation")}
    edits = {f"{method}-{view}" for method in ("ft", "kn", "mend", "rome", "memit") for view in ("entity", "relation")}
    assert set(found) == {"unedited"} | edits | traces
    assert all(count >= int(SMALL) for count in found.values()), found


def test_kn_is_scored_unedited_as_released_and_says_so(finished) -> None:
    folder, _ = finished
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        rows = connection.execute("select unit, case_id, payload from records where unit in ('unedited', 'kn-entity')")
        found = {(unit, case): json.loads(payload) for unit, case, payload in rows}
    for (unit, case), payload in found.items():
        if unit == "kn-entity":
            assert payload["undone"] and payload["norm"] > 0
            assert payload["views"] == found["unedited", case]["views"]
    assert "KN, undone" in (folder / "report" / "report.md").read_text()


def test_killed_and_stopped_it_resumes_to_the_same_report(tmp_path: Path) -> None:
    """Killed at once, then stopped by Ctrl-C, which ends with exit code 3 and one line. Without figures."""
    part = ["run", "smoke", "--model", "world", "--limit", LIMIT, "--methods", "ft,mend", *TABLES]
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert call([*part, "--out", str(reference)]) == 0
    for wanted, sent in ((1, signal.SIGKILL), (7, signal.SIGINT)):
        process = start(*part, "--out", folder)
        while process.poll() is None and records(folder) < wanted:
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be ended; the test no longer covers it"
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, (out, err)
    assert err.count("\n") == 1 and "goes on from there" in err
    assert 0 < records(folder) < records(reference) == 25
    assert call([*part, "--out", str(folder)]) == 0
    assert contents(folder / "report") == contents(reference / "report")
    assert (folder / "run.json").read_bytes() == (reference / "run.json").read_bytes()


def test_repeated_it_changes_nothing(finished, capsys) -> None:
    folder, _ = finished
    before, journal = contents(folder / "report"), (folder / "run.sqlite").read_bytes()
    assert call(["smoke", "--limit", SMALL, "--out", str(folder)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "model: world (auto: the run in this folder was begun with it)"
    assert contents(folder / "report") == before
    assert (folder / "run.sqlite").read_bytes() == journal


def test_another_protocol_or_plan_in_its_folder_is_refused(finished, capsys) -> None:
    folder, _ = finished
    before = records(folder)
    for arguments in (["--limit", SMALL, "--protocol", "corrected"], ["--limit", "4"]):
        assert call(["smoke", *arguments, "--out", str(folder)]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(r"kloc: .*was made with another (protocol|limit) .*\n", said)
    assert records(folder) == before


def test_report_and_verify_need_no_torch(finished, tmp_path: Path) -> None:
    folder, _ = finished
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    page = folder / "report" / "report.html"
    before = page.read_bytes()
    done = kloc("report", folder, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{page}\n", "")
    assert page.read_bytes() == before
    done = kloc("verify", folder, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0 and "not run" in done.stdout and done.stderr == ""


def test_corrected_protocol_gives_other_relation_edits(finished, tmp_path: Path) -> None:
    folder, _ = finished
    corrected = [
        "--model",
        "world",
        "--limit",
        "1",
        "--protocol",
        "corrected",
        "--methods",
        "ft,kn,rome,memit",
        *TABLES,
    ]
    assert call(["run", "smoke", *corrected, "--methods", "ft,kn,rome,memit", "--out", str(tmp_path / "run")]) == 0
    edits = []
    for run in (folder, tmp_path / "run"):
        with closing(sqlite3.connect(run / "run.sqlite")) as connection, connection:
            query = "select payload from records where unit = ? and case_id = 0"
            edits.append(
                [
                    json.loads(connection.execute(query, (unit,)).fetchone()[0])
                    for unit in ("rome-entity", "rome-relation", "memit-relation", "kn-relation", "ft-entity")
                ]
            )
    # Of an entity edit with ROME the prefixes alone differ.
    assert edits[0][0]["loss"] == pytest.approx(edits[1][0]["loss"], rel=5e-2)
    assert edits[0][1]["loss"] != pytest.approx(edits[1][1]["loss"], rel=1e-1)
    assert edits[0][2]["norm"] != pytest.approx(edits[1][2]["norm"], rel=1e-3)
    assert "undone" in edits[0][3] and "undone" not in edits[1][3]
    assert edits[0][4]["norm"] != edits[1][4]["norm"]  # the bias is not trained
