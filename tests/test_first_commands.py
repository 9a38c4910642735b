"""What a reviewer types first: free folders, refusals before anything is fetched, failures said aloud, sizes."""

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from itertools import product
from pathlib import Path

import cheap
import pytest

from artifact.cli import call
from artifact.editing.protocol import SWITCHES
from artifact.plans import PLANS
from artifact.plans.unit import PARTS
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_name
from artifact.sizes import size_words
from artifact.sources.catalogue import GROUPS, SOURCES, WORLD
from artifact.sources.fetch import remaining, to_fetch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODELS = ("auto", "world", "gpt2", "smollm2", "gpt2-xl", "gpt-j")


def test_no_plans_default_folder_is_in_the_repository() -> None:
    """Else its first run would be refused as another run's."""
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True)
    shipped = {Path(line).parts[1] for line in listed.stdout.splitlines()} or {"example-world"}
    asked = [
        Asked(protocol=protocol, shard=shard, correct=correct)
        for protocol, shard in product(("released", "corrected"), (None, (2, 4)))
        for correct in ((), SWITCHES[:1])
        if not (correct and protocol == "corrected")
    ]
    names = {
        run_name(plan, model, one, narrowed)
        for plans in PLANS.values()
        for plan in plans
        for model in (*MODELS, *plan.models)
        for one in asked
        for narrowed in ((), PARTS[:1], ("rome",))
    }
    assert "sample" in names and "smoke-world" in names
    assert shipped and not shipped & names


@pytest.fixture
def nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Anything that would be fetched or loaded fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched or loaded before the refusal")

    for place in ("artifact.cli.fetch.obtain", "artifact.runs.resolve.fetch", "artifact.runs.resolve.load"):
        monkeypatch.setattr(place, refuse)
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert call(["run", *command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1
    return error


def test_a_folder_of_another_run_is_refused_before_anything_is_fetched(nothing_fetched, capsys) -> None:
    there = ("--out", str(ROOT / "results" / "example-world"))
    world = ("smoke", "--model", "world")
    assert "was made with another plan" in refused(capsys, "sample", "--device", "cpu", *there)
    assert "another model" in refused(capsys, "smoke", "--model", "gpt2", *there)
    assert "another limit" in refused(capsys, *world, "--limit", "3", *there)
    assert "another shard" in refused(capsys, *world, "--shard", "1/2", *there)
    assert "another units" in refused(capsys, *world, "--only", "table1", *there)
    assert "another protocol" in refused(capsys, *world, "--protocol", "corrected", *there)


def test_what_cannot_be_used_is_refused_before_anything_is_fetched(nothing_fetched, capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("[]")
    for options, says in (
        (("--out", str(tmp_path / "file" / "run")), "cannot be written"),
        (("--facts", str(tmp_path / "absent.json")), "is neither a file nor one of"),
        (("--facts", str(tmp_path / "file")), "holds no record"),
        (("--moments", str(tmp_path / "absent")), "is not a folder; give --moments"),
        (("--mend-weights", str(tmp_path / "absent")), "is not a file; give --mend-weights"),
        (("--memory", "lots"), "is not a size"),
        (("--limit", "0"), "--limit must be at least 1"),
    ):
        assert says in refused(capsys, "sample", "--device", "cpu", *options), options
    assert "is unknown; expected cpu, cuda" in refused(capsys, "sample", "--device", "cuda:x")
    assert not (tmp_path / "results").exists()


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(nothing_fetched, monkeypatch, capsys) -> None:
    monkeypatch.setattr("artifact.lm.device.host_memory", lambda: 10 * 10**9)
    assert "gpt-j: needs about 31.5 GB of host memory" in refused(capsys, "full", "--device", "cpu")
    monkeypatch.setattr("artifact.lm.device.host_memory", lambda: 5 * 10**9)
    assert "gpt2-xl: needs about 8.4 GB of host memory" in refused(capsys, "sample", "--device", "cpu")


def smoke(capsys, tmp_path: Path, records: list, *options: str) -> tuple[int, list[str]]:
    (tmp_path / "facts.json").write_text(json.dumps(records))
    command = ["run", "smoke", "--model", "world", "--facts", str(tmp_path / "facts.json"), *options]
    code = call([*command, "--out", str(tmp_path / "run")])
    return code, capsys.readouterr().out.splitlines()


def test_failed_and_excluded_cases_are_said_and_not_counted_as_done(capsys, tmp_path) -> None:
    records = json.loads((WORLD / "facts.json").read_text())[:3]
    records[1]["requested_rewrite"]["target_new"]["str"] = "xylophone"
    for field in ("relation", "add_rel_prompt", "rm_rel_prompt"):
        del records[2]["requested_rewrite"][field]
    narrowed = ("--methods", "ft", "--only", "table1", "--only", "table2")
    code, out = smoke(capsys, tmp_path, records, *narrowed)
    assert code == 0
    assert "ft-entity: 3/3 cases (1 failed)" in out
    assert "ft-relation: 3/3 cases (1 failed, 1 excluded)" in out
    (reason,) = [line for line in out if line.startswith("ft-entity: 1 failed: ")]
    assert "xylophone" in reason
    assert out[-3].startswith("not computed: 3 of 9 cases failed, 1 are excluded; kloc status ")
    assert call(["verify", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == out[-2] and lines[0].startswith("verdict: ") and lines[1] == out[-3]


def test_a_unit_of_which_nothing_could_be_computed_is_no_success(capsys, tmp_path) -> None:
    records = json.loads((WORLD / "facts.json").read_text())[:1]
    records[0]["requested_rewrite"]["target_new"]["str"] = "xylophone"
    code, out = smoke(capsys, tmp_path, records, "--methods", "ft", "--only", "table2")
    assert code == 2
    assert "no case of ft-entity, unedited could be computed" in out[-3]
    assert out[-1].endswith("report.html") and Path(out[-1]).is_file()


def test_a_file_without_an_edit_case_is_refused(capsys, tmp_path) -> None:
    statements = [{"known_id": 0, "subject": "Velmora", "prompt": "the capital of Velmora is"}]
    (tmp_path / "facts.json").write_text(json.dumps(statements))
    command = ["run", "smoke", "--model", "world", "--facts", str(tmp_path / "facts.json")]
    assert call([*command, "--out", str(tmp_path / "run")]) == 2
    assert "no edit case in it" in capsys.readouterr().err


def test_readme_doctor_and_fetch_name_the_same_sizes(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    full = [SOURCES[name] for name in GROUPS["full"] if name != "counterfact"]  # the authors' file holds its records
    coming, disk = (size_words(sum(map(count, full))) for count in (to_fetch, remaining))
    assert call(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"plan full: about {coming} to fetch ({disk} of disk): ") for line in lines)
    assert re.search(rf"^kloc fetch full +{re.escape(coming)} to fetch, {re.escape(disk)} of disk", README, re.M)
    assert f"GPT-2 small ({size_words(SOURCES['gpt2'].size)}, fetched once)" in " ".join(README.split())


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0.0 MB"), (45_108_470, "45.1 MB"), (99_999_999, "100.0 MB"), (10**8, "0.1 GB"), (6_431_829_964, "6.4 GB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert size_words(size) == words


def test_a_window_that_spans_the_model_is_said(capsys) -> None:
    """With a window that fits the depth, and for hidden states, nothing is said."""
    trace = ["trace", "--model", "world", "--samples", "1", "--noise", "0.3"]
    fact = json.loads((WORLD / "facts.json").read_text())[0]["requested_rewrite"]
    trace += ["--prompt", fact["prompt"].replace("{}", fact["subject"]), "--subject", fact["subject"]]
    for options, said in ((["--kind", "mlp"], True), (["--kind", "attn", "--window", "3"], False), ([], False)):
        assert call([*trace, *options]) == 0
        assert ("spans most of this model's 6" in capsys.readouterr().out) == said


def test_a_failed_case_of_a_batch_that_is_computed_again_is_counted_once(capsys, tmp_path) -> None:
    folder = cheap.run(tmp_path / "run")
    assert "rome-entity: 20/20 cases (3 failed)" in capsys.readouterr().out.splitlines()
    # Killed between two records of the batch 100 to 103.
    with closing(sqlite3.connect(folder / "run.sqlite")) as journal, journal:
        for table in ("records", "numbers"):
            journal.execute(f"delete from {table} where unit = 'rome-entity' and case_id = 103")
    cheap.run(folder)
    assert "rome-entity: 20/20 cases (3 failed)" in capsys.readouterr().out.splitlines()
