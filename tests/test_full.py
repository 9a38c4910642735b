"""`kloc full` and `kloc run` the whole way on both models of the paper, small, everything fetched from loopback."""

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from smallpaper import FACTS, House, known_facts, plain_facts, small_paper

from artifact.cli import call
from artifact.plans import find_plans
from artifact.plans.paper import PAPER_METHODS, PAPER_MODELS
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES, SOURCES


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The small paper."""
    with small_paper(tmp_path_factory.mktemp("full")) as found:
        yield found


@dataclass(frozen=True)
class Done:
    """A command's exit code and what it printed."""

    code: int
    out: list[str]
    err: str


def kloc(command: str) -> Done:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        on = ["--device", "cpu"] if command.startswith(("full", "run ")) else []  # a paper plan asks for it there
        code = call([*command.split(), *on])
    return Done(code, out.getvalue().splitlines(), err.getvalue())


@pytest.fixture(scope="module")
def full(house: House) -> Done:
    """`kloc full` from nothing."""
    return kloc("full --limit 1")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, house: House) -> Iterator[None]:
    """The hub's switch is set, and no host was asked when the test is over."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = house.asked
    yield
    assert house.asked == before


def statuses(folder: Path) -> dict[str, list[tuple[str, dict]]]:
    """Every record's status and payload by unit."""
    found: dict[str, list[tuple[str, dict]]] = {}
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        for unit, status, payload in connection.execute("select unit, status, payload from records order by case_id"):
            found.setdefault(unit, []).append((status, json.loads(payload)))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verdict(folder: Path) -> dict:
    return json.loads((folder / "report" / "verdict.json").read_text())


def test_it_fetches_converts_and_runs_both_models(full: Done, house: House) -> None:
    assert full.code in (0, 1) and full.err == ""
    assert full.out[-1] == "results/full/report/report.html" and full.out[-2].startswith("verdict: 48 of 48 published")
    last_fetch = max(number for number, line in enumerate(full.out) if line.startswith("fetching"))
    assert last_fetch < full.out.index("model: gpt2-xl (the plan full is for it)"), "all is fetched before days of work"
    assert "gpt-j: converting the pickle to safetensors" in full.out
    assert list((house.folder / "cache" / "converted").glob("gpt-j-*/*.safetensors"))
    for model in PAPER_MODELS:
        assert f"mend-{model}: converting the pickle to safetensors" in full.out
        (plan,) = (plan for plan in find_plans("full") if plan.models == (model,))
        found = statuses(house.folder / "results" / "full" / model)
        assert set(found) == {unit.name for unit in plan.units}
        assert {unit: [status for status, _ in records] for unit, records in found.items()} == dict.fromkeys(
            found, ["done"]
        )
        info = json.loads((house.folder / "results" / "full" / model / "run.json").read_text())
        assert info["evidence"] and info["data_source"] == "CounterFact with the authors' relation data"
        assert info["data_sha256"] == hashlib.sha256(json.dumps(FACTS).encode()).hexdigest()
        assert info["traced"]["source"].startswith("known facts") and info["revision"] == HUB_MODELS[model].revision
        for method in set(PAPER_METHODS[model]) & {"rome", "memit"}:
            assert info["settings"][method]["moments"] == f"folder moments-{model}"
            assert info["settings"][method]["hparams_source"] == "published for this model"
        published = f"mend-10tok-{'gpt2-xl' if model == 'gpt2-xl' else 'gpt-j-6b'}.pt"
        assert published in json.dumps(info["settings"]["mend"])


def test_one_report_judges_both_models(full: Done, house: House) -> None:
    root = house.folder / "results" / "full"
    found = verdict(root)
    assert {run["model"] for run in found["runs"]} == set(PAPER_MODELS) and found["exit_code"] == full.code
    assert {cell["status"].split(" (")[1] for cell in found["cells"]} == {"partial)"}
    assert all(re.match("(holds|does not hold|undecided|not run)", claim["status"]) for claim in found["claims"])
    tables = [claim for claim in found["claims"] if claim["id"].startswith("T")]
    assert tables and all("for gpt2-xl" in c["status"] and "for gpt-j" in c["status"] for c in tables)
    assert not [claim["id"] for claim in found["claims"] if "not run" in claim["status"]]
    # No file of a report on the first model alone is left beside those of both.
    tables = {path.name for path in (root / "report" / "tables").iterdir()}
    assert {"gpt2-xl-run.csv", "gpt-j-run.csv"} <= tables and "run.csv" not in tables
    figures = {path.name.split("-")[0] for path in (root / "report" / "figures").iterdir()}
    assert figures == {"gpt2", "gpt", "drawn.json"}
    page = (root / "report" / "report.md").read_text()
    assert "- Traced: known facts" in page and "kloc full --model gpt-j --device cpu --limit 1" in page
    for model in PAPER_MODELS:
        assert not (root / model / "report").exists()


def test_again_it_changes_nothing_and_fetches_nothing(full: Done, house: House, offline: None) -> None:
    root = house.folder / "results" / "full"
    before = contents(root)
    again = kloc("full --limit 1")
    assert (again.code, again.out[-2:], again.err) == (full.code, full.out[-2:], "")
    # One model by name is the same run, in the same place.
    assert kloc("full --limit 1 --model gpt-j").out[-2:] == full.out[-2:]
    assert contents(root) == before


def test_verify_and_report_of_both(full: Done, house: House) -> None:
    root = house.folder / "results" / "full"
    verified = kloc("verify results/full")
    assert verified.code == full.code and verified.out[0] == full.out[-2]
    assert kloc("report results/full --out elsewhere").code == 0
    assert contents(house.folder / "elsewhere") == contents(root / "report")
    examined = kloc("doctor")
    assert examined.code == 0 and any(line.startswith("plan full: nothing is missing") for line in examined.out)


def test_one_table_and_one_method(full: Done, house: House, offline: None) -> None:
    done = kloc("run gpt2-xl --only table1 --methods rome --limit 1")
    assert done.code in (0, 1), done.err
    folder = house.folder / "results" / "gpt2-xl-table1-rome"
    assert done.out[-1] == "results/gpt2-xl-table1-rome/report/report.html"
    assert set(statuses(folder)) == {"unedited", "rome-relation"}
    page = (folder / "report" / "report.md").read_text()
    assert "`kloc run gpt2-xl --model gpt2-xl --device cpu --only table1 --methods rome --limit 1`" in page
    compared = [cell["id"] for cell in verdict(folder)["cells"] if cell["state"] in ("reproduced", "outside tolerance")]
    assert len(compared) == 4 and all(name.startswith("t1/gpt2-xl/rome/") for name in compared)


def lose(monkeypatch: pytest.MonkeyPatch, house: House, name: str) -> None:
    """A source is neither in the cache nor on its host."""
    monkeypatch.setenv("KLOC_CACHE", str(house.folder / f"without-{name}"))
    shutil.copytree(house.folder / "cache", house.folder / f"without-{name}", ignore=lambda *_: [name])
    lost = replace(PLAIN_SOURCES[name].files[0], urls=(f"{house.host.url}/gone",))
    for table in (SOURCES, PLAIN_SOURCES):
        monkeypatch.setitem(table, name, replace(table[name], files=(lost,)))


def test_mend_s_weights_gone_is_a_row_and_no_crash(full: Done, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, house, "mend-gpt2-xl")
    done = kloc("run gpt2-xl --only table1 --methods mend --limit 1")
    assert done.code in (0, 1) and done.err == ""
    assert any(line.startswith("mend-gpt2-xl: left out (mend-gpt2-xl/") for line in done.out)
    folder = house.folder / "results" / "gpt2-xl-table1-mend"
    ((status, payload),) = statuses(folder)["mend-relation"]
    assert status == "excluded" and "run kloc fetch mend-gpt2-xl" in payload["reason"]
    cells = [cell for cell in verdict(folder)["cells"] if cell["id"].startswith("t1/gpt2-xl/mend/")]
    assert len(cells) == 4 and {cell["state"] for cell in cells} == {"skipped"}
    assert all("run kloc fetch mend-gpt2-xl" in cell["status"] for cell in cells)
    assert "skipped: MEND's published weights are unavailable" in (folder / "report" / "report.md").read_text()


def test_without_the_authors_relation_data_the_remedy_is_named(
    full: Done, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, house, "relation")
    monkeypatch.chdir(tmp_path)
    for command in ("full --limit 1", "full --limit 1 --model gpt-j"):
        done = kloc(command)
        assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("kloc: relation/rel_data.zip: ")
        assert "--relation-source templates" in done.err
    assert not (tmp_path / "results").exists()
    templates = kloc("run gpt-j --only table2 --methods mend --limit 1 --relation-source templates")
    assert templates.code in (0, 1) and templates.err == ""
    folder = tmp_path / "results" / "gpt-j-table2-mend"
    found = verdict(folder)
    assert found["runs"][0]["evidence"] and "template" in found["runs"][0]["data_source"]
    page = (folder / "report" / "report.md").read_text()
    assert "relation prompts from templates, not the authors' relation data" in page
    assert "--relation-source templates" in page


def test_templates_are_judged_with_wide_tolerances(full: Done, house: House, tmp_path: Path) -> None:
    command = "run gpt2-xl --only table1 --methods mend --limit 1 --relation-source templates"
    done = kloc(f"{command} --out {tmp_path / 'wide'}")
    assert done.code in (0, 1) and done.err == ""
    cells = {cell["id"]: cell for cell in verdict(tmp_path / "wide")["cells"]}
    assert "wide tolerance" in cells["t1/gpt2-xl/mend/relation/reliability"]["status"]
    full_cells = {cell["id"]: cell for cell in verdict(house.folder / "results" / "full")["cells"]}
    name = "t1/gpt2-xl/mend/relation/reliability"
    assert cells[name]["tolerance"] > full_cells[name]["tolerance"]
    refused = kloc(f"{command.replace(' --relation-source templates', '')} --out {tmp_path / 'wide'}")
    assert refused.code == 2 and "was made with another data source" in refused.err


def test_known_facts_and_own_facts(full: Done, house: House, offline: None, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(FACTS[3:6]))
    (tmp_path / "plain.json").write_text(json.dumps(plain_facts()[3:6]))
    views = {"known": 2, "own": 2, "plain": 1}
    for name, facts in (("known", "known"), ("own", tmp_path / "own.json"), ("plain", tmp_path / "plain.json")):
        done = kloc(f"run gpt-j --only table1 --methods mend --limit 1 --facts {facts} --out {tmp_path / name}")
        assert (done.code, done.err) == (0, ""), name
        assert "nothing was compared with the paper" in done.out[-2]
        assert "no evidence for or against the paper" in (tmp_path / name / "report" / "report.md").read_text()
        found = statuses(tmp_path / name)
        ((status, payload),) = found["unedited"]
        assert status == "done" and len(payload["views"]) == views[name]
        ((status, payload),) = found["mend-relation"]
        assert status == ("excluded" if name == "plain" else "done")
        if name == "plain":
            assert "the record has no relation fields" in payload["reason"]
            (said,) = [line for line in done.out if "no record has the relation's fields" in line]
            assert "mend-relation are left out; give records that have them, or --relation-source templates" in said
            assert "not computed: 0 of 2 cases failed, 1 are excluded" in done.out[-3]
    wrong = kloc(f"run gpt-j --facts {tmp_path / 'absent.json'} --out {tmp_path / 'absent'}")
    assert wrong.code == 2 and "is neither a file nor one of counterfact, known" in wrong.err


def test_statements_that_the_model_does_not_answer_are_not_traced(
    full: Done, house: House, offline: None, tmp_path: Path
) -> None:
    """Under the paper's plans each is recorded with its reason; a smoke run takes those that count."""
    facts = known_facts()
    (tmp_path / "known.json").write_text(json.dumps([{**facts[0], "attribute": "Oslo"}, facts[1]]))
    command = f"run gpt-j --only figure2 --limit 2 --facts {tmp_path / 'known.json'} --out {tmp_path / 'paper'}"
    assert kloc(command).code == 0
    for unit, records in statuses(tmp_path / "paper").items():
        assert [status for status, _ in records] == ["excluded", "done"], unit
        assert records[0][1]["reason"] == "the model's greedy answer is 'Rome', not 'Oslo'"
    assert kloc(f"run smoke --model gpt-j --only figure2 --limit 1 --facts known --out {tmp_path / 'smoke'}").code == 0
    info = json.loads((tmp_path / "smoke" / "run.json").read_text())
    assert info["traced"]["cases"] == [number for number, one in enumerate(facts) if one["attribute"] == "Rome"]
    assert "traced are the first 3 that the model answers" in info["traced"]["note"]
