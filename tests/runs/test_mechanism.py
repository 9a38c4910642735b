"""The plan mechanism, from the command line to the page, on facts of the embedded world."""

import json
from pathlib import Path

from artifact import WORLD
from artifact.cli import call
from artifact.facts.datasets.world import world
from artifact.plans.mechanism import MECHANISM
from artifact.runs.store import reading


def test_the_plan_runs_and_its_page_shows_it(tmp_path: Path, capsys) -> None:
    folder, facts = tmp_path / "run", {fact.case_id: fact for fact in world().facts}
    assert call(["run", "mechanism", "--model", "world", "--limit", "2", "--out", str(folder)]) == 0
    with reading(folder) as store:
        for unit in MECHANISM.units:
            records = store.records(unit)
            assert [record.status for record in records] == ["done", "done"]
            if unit.does == "knockout":
                told = records[0].payload
                assert [cut["edge"] for cut in told["cuts"]] == [
                    "last-subject", "last-relation", "last-last", "relation-subject", "subject-relation",
                ]  # fmt: skip
                answer = facts[records[0].case_id].statement_of(unit.perspective).answer
                assert told["answer"].strip() == answer.split()[0]
        info = store.info()
    assert {unit.window_of(info.layers) for unit in info.plan.units} == {1}
    page = (folder / "report" / "report.html").read_text()
    assert "information travels" in page and "Gini" in page and "MLP window of 1 layer:" in page
    names = {path.name for path in (folder / "report").rglob("*")}
    assert {"knockout.pdf", "extraction.png", "lens.csv", "extraction.csv", "gini.csv"} <= names
    questions = json.loads((folder / "report" / "verdict.json").read_text())["questions"]
    (found,) = [answer for one in questions if one["id"] == "Q3" for answer in one["answers"]]
    # The world was trained to read the subject in the upper half, and reads the relation below.
    for condition in found["conditions"]:
        assert condition["measured"]["mean"] > 0.2


def test_prompts_that_no_fact_has_are_not_called_unanswered(tmp_path: Path) -> None:
    folder, facts = tmp_path / "run", json.loads((WORLD / "facts.json").read_text())[:2]
    for fact in facts:
        for field in ("relation", "add_rel_prompt", "rm_rel_prompt"):
            del fact["requested_rewrite"][field]
        del fact["rel_prompts"]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    words = ("run", "mechanism", "--model", "world", "--facts", tmp_path / "facts.json", "--out", folder)
    assert call([str(word) for word in words]) == 0
    verdict = json.loads((folder / "report" / "verdict.json").read_text())
    (found,) = [answer for one in verdict["questions"] if one["id"] == "Q3" for answer in one["answers"]]
    reason = found["conditions"][1]["reason"]
    assert reason.startswith("2 of 2 relation prompts: the record has no relation fields"), reason


def test_prompts_that_no_fact_answers_are_the_reason_why_half_of_the_question_is_open(tmp_path: Path, capsys) -> None:
    """A model trained on other facts answers no relation prompt: the page says so beside the condition."""
    folder = tmp_path / "run"
    facts = json.loads((WORLD / "facts.json").read_text())[:2]
    for fact in facts:
        fact["requested_rewrite"]["relation"]["strs"] = ["unheard of"]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    words = ("run", "mechanism", "--model", "world", "--facts", tmp_path / "facts.json", "--out", folder)
    assert call([str(word) for word in words]) == 0
    verdict = json.loads((folder / "report" / "verdict.json").read_text())
    (found,) = [answer for one in verdict["questions"] if one["id"] == "Q3" for answer in one["answers"]]
    reason = "the model answers none of 2 relation prompts as the data say"
    assert (found["conditions"][1]["answer"], found["conditions"][1]["reason"]) == ("not run", reason)
    assert reason in (folder / "report" / "report.md").read_text()
