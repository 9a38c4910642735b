"""The plan `encoders`: its records are what the parts give by themselves, and its findings what the records hold."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from artifact.cli import call
from artifact.editing.edit import Edited
from artifact.evaluation.metrics import ANOTHER_RELATION, VALUES, Column, case_values
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Perspective
from artifact.plans import PLANS
from artifact.plans.encoders import LEFT, RIGHT
from artifact.plans.unit import CONTROLS, Unit
from artifact.reporting.findings import findings_of
from artifact.reporting.findings.encoders import arm_words, measured, views_of
from artifact.runs.context import SAMPLES, Context
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare
from artifact.runs.store import Store, reading_all
from artifact.runs.tasks.encoders import compute, refuses
from artifact.sizes import count_of
from artifact.sources.catalogue import MASKED_WORLD
from artifact.tracing.kinds import TRACE_KINDS
from artifact.tracing.trace import TraceSettings, trace

(PLAN,) = PLANS["encoders"]
FACTS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A run on the embedded world, whose masked twin is taken."""
    out = tmp_path_factory.mktemp("encoders") / "run"
    assert call(["run", "encoders", "--model", "world", "--limit", str(FACTS), "--out", str(out)]) == 0
    with reading_all(out) as (store,):
        yield store


@pytest.fixture(scope="module")
def twin() -> Context:
    context, _ = prepare(PLAN, Asked("world-masked", limit=FACTS), lambda line: None)
    return context


def payloads(run: Store, perspective: str) -> dict[int, Any]:
    (unit,) = [unit for unit in PLAN.units if unit.perspective == perspective]
    return {record.case_id: record.payload for record in run.records(unit)}


def test_a_run_on_the_world_is_one_on_its_twin(run: Store, twin: Context) -> None:
    for unit in PLAN.units:
        facts = [fact for fact in twin.inputs.edited.facts if fact.case_id in payloads(run, unit.perspective)]
        assert len(facts) == FACTS
        for record in compute(unit, facts, twin):
            stored = payloads(run, unit.perspective)[record.case_id]
            assert (stored["model"], stored["layers"]) == (MASKED_WORLD.name, twin.model.decoder.layers)
            assert stored["weights"] == twin.model.weights_sha256
            np.testing.assert_allclose(_numbers(record.payload), _numbers(stored), rtol=0, atol=1e-4)


def _numbers(payload: Any) -> list[float]:
    """Every number of a record, in order."""
    if isinstance(payload, dict):
        return [x for one in payload.values() for x in _numbers(one)]
    if isinstance(payload, list | tuple):
        return [x for one in payload for x in _numbers(one)]
    return [] if isinstance(payload, str) else [np.nan if payload is None else float(payload)]


def test_records_hold_what_the_parts_give(run: Store, twin: Context) -> None:
    stored = payloads(run, "relation")
    fact = next(fact for fact in twin.inputs.edited.facts if fact.case_id in stored)
    record = stored[fact.case_id]
    found = trace(
        twin.model,
        fact.statement,
        TraceSettings(twin.noise_level, "attn", window=1, samples=SAMPLES, perspective="relation"),
    )
    assert found.mask is not None
    effects = np.array(found.scores) - found.corrupted
    assert record["trace"]["clean"] == pytest.approx(found.clean, abs=1e-5)
    np.testing.assert_allclose(record["trace"]["effects"]["attn"]["last token"], effects[found.mask], atol=1e-5)
    right = effects[found.mask + 1 :].mean(0)
    np.testing.assert_allclose(record["trace"]["effects"]["attn"][RIGHT], right, atol=1e-5)
    assert set(record["trace"]["effects"]) == {kind.name for kind in TRACE_KINDS.values() if kind.figures}
    entity = payloads(run, "entity")[fact.case_id]["trace"]["effects"]["hidden"]
    assert (LEFT in entity) == (found.subject[0] > 0)
    assert set(record["arms"]) == {"rome", "kn", *(f"rome {control}" for control in CONTROLS)}
    for arm in ("rome", "kn"):
        (made,) = twin.editor(arm).edits([[fact.view("relation")]])
        if isinstance(made, Edited):
            (score,) = score_cases(twin.model, [fact], [made.edit])
            values = case_values(msgspec.to_builtins(score.views))
            np.testing.assert_allclose(_numbers(record["arms"][arm]["values"]), values, atol=1e-4)
        else:
            assert record["arms"][arm]["reason"] == str(made)


def test_findings_are_means_of_the_records(run: Store) -> None:
    found = measured(run)
    assert found is not None and found is not findings_of(run) and "encoders" in findings_of(run)
    stored = payloads(run, "entity").values()

    def mean_effect(kind: str) -> float:
        return float(np.mean([np.mean(one["trace"]["effects"][kind]["last subject token"]) for one in stored]))

    estimate = found.quantities["entity effect, MLP minus attention, subject's last token"].estimate
    assert estimate is not None and estimate.mean == pytest.approx(mean_effect("mlp") - mean_effect("attn"), abs=1e-6)

    def change(perspective: Perspective, foil: str = "") -> float:
        at = VALUES.index(("success", Column(perspective, "reliability", foil)))
        return float(np.mean([one["arms"]["rome"]["values"][at] - one["before"][at] for one in stored]))

    gap = found.quantities["transfer gap against another relation, entity edit, ROME"].estimate
    assert gap is not None and gap.mean == pytest.approx(change("entity") - change("relation", ANOTHER_RELATION))
    tested = {(one.of, one.name): one.estimate for one in found.tests}
    assert len(tested) == len(found.tests)
    assert tested["ROME, entity edit", "change, entity reliability"].mean == pytest.approx(change("entity"))
    effect = tested[f"{TRACE_KINDS['mlp'].printed}, entity corrupted", "indirect effect, last subject token"]
    assert effect.mean == pytest.approx(mean_effect("mlp"), abs=1e-6)
    edits, *traces = found.grids
    assert [line.heads[1] for line in edits.lines[:3]] == ["unedited", "KN", "ROME"]
    assert arm_words("rome random_layer") == "ROME, another layer"
    assert [grid.name for grid in traces] == ["encoder-traces-relation", "encoder-traces-entity"]
    assert traces[1].columns[:1] == ("first subject token",) and traces[1].columns[-1] == RIGHT
    assert len(traces[0].lines) == sum(bool(kind.figures) for kind in TRACE_KINDS.values())
    assert len(found.charts[0].panels) == 6 and found.figure == "encoders"
    assert set(views_of(run)) == {"entity", "relation"}


def test_the_page_counts_what_its_numbers_rest_on(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts that the model does not answer are not traced, and a KN edit without a neuron leaves the model as it is."""
    records = Store.records

    def changed(self: Store, unit: Unit) -> list[Record]:
        first, *others = records(self, unit)
        payload = copy.deepcopy(first.payload)
        payload["trace"] = {"reason": "the model does not answer its prompt"}
        payload["arms"]["kn"]["unedited"] = True
        return [msgspec.structs.replace(first, payload=payload), *others]

    facts = len(views_of(run)["entity"].cases_F)
    monkeypatch.setattr(Store, "records", changed)
    found = measured(run)
    assert found is not None and {one.traced for one in views_of(run).values()} == {facts - 1}
    edits, *traces = found.grids
    assert [line.heads[1] for line in edits.lines[:2]] == ["unedited", "KN, 1 without a neuron"]
    assert all(f"{count_of(facts - 1, 'fact')}; 95% intervals" in grid.caption for grid in traces)
    assert (
        f"{facts} facts (entity edits)" in edits.caption
        and f"on {count_of(facts - 1, 'fact')}" in found.charts[0].summary
    )


def test_another_decoder_is_refused(twin: Context, tiny: Any) -> None:
    assert "is not an encoder; name a BERT or RoBERTa" in refuses(tiny("tiny-gpt2").kind) and not refuses(
        twin.model.kind
    )


def test_the_page_has_its_section(run: Store, tmp_path: Path) -> None:
    assert call(["report", str(run.folder), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Edits of an encoder" in page and "Traces of an encoder, relation" in page and "| N3 |" in page
    assert (tmp_path / "report" / "figures").is_dir()
