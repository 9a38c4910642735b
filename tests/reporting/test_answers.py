"""A reviewer's questions are answered by the run's own numbers, and intervals over seeds are the textbook's."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from scipy import stats

from artifact.cli import call
from artifact.errors import ExpectedError, SettingError
from artifact.evaluation.metrics import Column
from artifact.reporting import answers as module
from artifact.reporting.answers import Answer, answers, load_questions, prediction_interval, seeds_json, seeds_of
from artifact.reporting.charts import charts
from artifact.reporting.verdict import MeasuredRun, measured_run
from artifact.runs.store import Store, reading

Build = Callable[..., Store]
EXAMPLE = Path(__file__).parents[2] / "results" / "example-world"


def by_id(runs: list[MeasuredRun]) -> dict[str, Answer]:
    return {answer.question.id: answer for _, answer in answers(runs)}


@pytest.fixture(scope="module")
def run(shared_smoke: Store) -> MeasuredRun:
    return measured_run(shared_smoke)


@pytest.fixture(scope="module")
def answered(run: MeasuredRun) -> dict[str, Answer]:
    return by_id([run])


def test_every_question_has_an_answer(answered: dict[str, Answer]) -> None:
    assert [question.id for question in load_questions()] == list(answered)
    assert all(answer.text and "\n" not in answer.text for answer in answered.values())


def test_methods_are_named_with_the_rows_own_numbers(run: MeasuredRun, answered: dict[str, Answer]) -> None:
    (row,) = [row for row in run.rows if row.unit == "rome-entity"]
    values = {name: row.values["success", Column(name, "reliability")] for name in ("entity", "relation")}
    assert answered["edits-entity"].text.startswith(f"ROME: {values['entity'].mean.mean * 100:.1f} percent")
    change = values["relation"].change
    assert change is not None
    assert answered["transfers-entity"].numbers == {"rome": change.mean * 100}
    assert f"{change.low * 100:.1f} to {change.high * 100:.1f}, n = {change.n}" in answered["transfers-entity"].text


def test_undone_edits_answer_nothing(run: MeasuredRun) -> None:
    rows = tuple(replace(row, undone=row.edited is not None) for row in run.rows)
    assert by_id([replace(run, rows=rows)])["edits-entity"].text.startswith("not run: needs entity edits")


def test_the_rest_is_answered_from_description_journal_and_verdict(answered: dict[str, Answer]) -> None:
    assert answered["reproduced"].text.startswith("0 of 48. nothing was compared")
    assert "T1: not run" in answered["claims"].text
    assert answered["not-computed"].text.startswith("4 failed and 4 left out, of ")
    assert "ROME 0123456789ab; no evidence about the paper" in answered["settings"].text
    assert "at the last subject token, layer 1 of 6" in answered["where-entity"].text


def test_published_values_are_counted_from_the_verdict(build: Build, full_size: dict) -> None:
    found = by_id([measured_run(build(**full_size))])
    assert found["reproduced"].text.startswith("8 of 48. 8 of 48 published values were compared")


def test_prediction_intervals_are_the_textbook_s() -> None:
    values = [48.0, 50.5, 51.0, 46.5, 50.0]
    low, high = prediction_interval(values)
    spread = stats.tstd(values) * (1 + 1 / 5) ** 0.5
    expected = stats.t.interval(0.95, 4, loc=49.2, scale=spread)
    assert (low, high) == pytest.approx(expected, rel=1e-3)
    for n, quantile in module._T.items():
        assert quantile == pytest.approx(stats.t.ppf(0.975, n - 1), abs=6e-4)


def seeded(run: MeasuredRun, seed: int, **changes: object) -> MeasuredRun:
    return replace(run, info=msgspec.structs.replace(run.info, given={"--seed": str(seed)}, **changes))


def test_runs_of_other_seeds_give_intervals(run: MeasuredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = seeds_of([seeded(run, seed) for seed in (1, 2, 3)])
    number = kept.runs["1"]["transfers-entity"]["rome"]
    for seed, moved in (("1", -2.0), ("3", 2.0)):
        kept.runs[seed]["transfers-entity"]["rome"] = number + moved
    (tmp_path / "measured" / "seeds").mkdir(parents=True)
    (tmp_path / "reviewer.json").write_bytes((module.expected_folder() / "reviewer.json").read_bytes())
    file = tmp_path / "measured" / "seeds" / "any.json"
    file.write_bytes(seeds_json(kept))
    real = module.expected_folder
    monkeypatch.setattr(module, "expected_folder", lambda: tmp_path)
    monkeypatch.setattr("artifact.reporting.expected.expected_folder", real)
    half = stats.t.ppf(0.975, 2) * 2 * (4 / 3) ** 0.5
    said = by_id([run])["transfers-entity"].over_seeds
    assert said.startswith(
        f"ROME, 95% prediction interval over 3 other seeds: {number - half:.1f} to {number + half:.1f};"
    )
    assert said.endswith("lies inside")
    own = by_id([seeded(run, 3)])["transfers-entity"].over_seeds
    assert own.startswith("ROME, 95% prediction interval over 2 other seeds: "), "its own number is none of them"
    other = seeded(run, 9, weights_sha256="ef" * 32)
    assert by_id([other])["transfers-entity"].over_seeds == ""
    file.write_text("{}")
    with pytest.raises(ExpectedError, match="any.json: cannot be read"):
        by_id([run])


def test_seeds_are_kept_of_runs_that_differ_by_them_alone(run: MeasuredRun) -> None:
    with pytest.raises(SettingError, match="2 runs are given"):
        seeds_of([seeded(run, 1), seeded(run, 2)])
    with pytest.raises(SettingError, match="has the seed 1, as another run"):
        seeds_of([seeded(run, 1), seeded(run, 2), seeded(run, 1)])
    with pytest.raises(SettingError, match="in more than its seed"):
        seeds_of([seeded(run, 1), seeded(run, 2), seeded(run, 3, limit=4)])


def test_the_command_writes_the_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["answer", str(EXAMPLE), "--json", str(tmp_path / "answers.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = json.loads((tmp_path / "answers.json").read_bytes())["answers"]
    assert [one["question"] for one in kept] == [line for line in lines if not line.startswith(" ")]
    assert call(["answer", str(EXAMPLE), str(EXAMPLE)]) == 2


def test_an_effect_is_over_the_facts_that_have_such_a_token() -> None:
    with reading(EXAMPLE.with_name("smollm2")) as store:
        run = measured_run(store)
        (panel,) = (
            panel
            for chart in charts(store, run.traced.traces)
            for panel in chart.panels
            if panel.unit == "trace-hidden-relation"
        )
        found = by_id([run])["where-relation"].text
    effect = panel.effects[panel.peak[0]]
    assert effect.facts < panel.facts and found.endswith(f" over {effect.facts} facts")


def test_our_seeds_answer_for_the_example() -> None:
    with reading(EXAMPLE) as store:
        found = by_id([measured_run(store)])
    for question in ("transfers-entity", "transfers-relation"):
        assert "95% prediction interval over 5 other seeds" in found[question].over_seeds
    assert found["harms"].over_seeds == "FT reads no context prefixes: another seed changes none of its numbers"
