"""A rehearsal computes every unit with a run's own code, adds up, says what does not fit, and is kept for later runs.

Shapes are tiny, so that it takes seconds. No time is tested.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cheap
import msgspec
import pytest
import torch

from artifact.bench import rehearse as module
from artifact.bench import shapes
from artifact.bench.estimate import planned_facts, unit_work
from artifact.bench.facts import paper_facts, paper_statements, word_tokens
from artifact.bench.planned import planned
from artifact.bench.rehearse import Rehearsal, rehearse
from artifact.bench.work import with_steps
from artifact.cli import call
from artifact.editing import value
from artifact.editing.methods import METHODS
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import DeviceError
from artifact.facts.fact import PERSPECTIVES
from artifact.facts.lengths import PAPER_LENGTHS
from artifact.lm import device
from artifact.plans.paper import SMOKE_FEW_FACTS
from artifact.plans.unit import Unit
from artifact.reporting.report import render
from artifact.runs import local
from artifact.runs.describe import RunInfo
from artifact.runs.engine import Batch
from artifact.runs.environment import environment
from artifact.runs.rehearsed import Rehearsed as Kept
from artifact.runs.rehearsed import keep, rehearsed_seconds
from artifact.runs.store import reading
from artifact.tracing.corruption import corrupted_tokens

TINY = {
    "model_type": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 2, "vocab_size": 997, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip

TO_JSON = ["--device", "cpu", "--json", "found/rehearsal.json"]


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny shapes under the names of the paper's models, and a cache of one's own."""
    monkeypatch.setitem(shapes.SHAPES, "gpt2", TINY)
    monkeypatch.setitem(shapes.SHAPES, "gpt2-xl", TINY | {"n_layer": 48, "n_embd": 16})
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_unit_is_computed_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: dict[str, list[Any]] = {}

    def spy(unit: Unit, items: Sequence[Any], context: Any) -> list[Any]:
        computed[unit.name] = records = local.compute(unit, items, context)
        return records

    monkeypatch.setattr(module, "compute", spy)
    said: list[str] = []
    (one,) = rehearse("smoke", "released", said.append, device="cpu")
    assert [unit.name for unit in one.units] == [unit.name for unit in SMOKE_FEW_FACTS.units] == [*computed]
    for unit, asked in zip(one.units, SMOKE_FEW_FACTS.units, strict=True):
        assert unit.facts == planned_facts(asked) == asked.most
        assert unit.batch == len(computed[unit.name]) == min(asked.batch, unit.facts)
        assert all(record.status == "done" for record in computed[unit.name])
        assert unit.seconds > 0 and unit.peak > 0 and 0 < unit.expected <= unit.most
        assert sum(line.split()[:2] == [unit.name, str(unit.batch)] for line in said) == 1
    for unit in (unit for unit in one.units if unit.name.startswith(("kn", "mend", "trace"))):
        assert unit.most == unit.expected == pytest.approx(unit.seconds * unit.facts / unit.batch)
    assert one.most == pytest.approx(one.factoring + sum(unit.most for unit in one.units))
    assert one.expected == pytest.approx(one.factoring + sum(unit.expected for unit in one.units))
    assert any(line.startswith("memory suffices: ") and "the process's peak" in line for line in said)
    assert re.match(r"smoke: at most \d.*, expected \d.*, measured on the CPU; ", said[-1])


def test_at_most_and_expected_follow_the_steps_that_were_taken() -> None:
    """Half the steps measured: all of them take more, and the expected share of them lies between."""
    hparams = SimpleNamespace(v_num_grad_steps=20)
    context: Any = SimpleNamespace(editor=lambda method: SimpleNamespace(hparams=hparams))
    records: list[Any] = [SimpleNamespace(payload={"steps": taken}) for taken in (5, 15)]
    unit = Unit("rome-entity", "edit", batch=2, method="rome")
    assert module._share(unit, context, records) == 0.5
    assert module._share(Unit("kn-entity", "edit", batch=2, method="kn"), context, records) == 1.0
    half, whole = (unit_work(unit, planned("gpt2"), PROTOCOLS["released"], share).products for share in (0.5, 1.0))
    assert half < whole
    assert with_steps(METHODS["kn"], "as it is", 0.5) == "as it is"


def test_a_cpu_takes_one_fact_of_what_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "matrix_rate", lambda *_: 1e6)
    monkeypatch.setattr(module, "compute", lambda unit, items, context: [record(unit, item) for item in items])
    said: list[str] = []
    monkeypatch.setattr(device, "_cards", lambda: 0)
    monkeypatch.setattr(device, "unusable_card", lambda: None)
    with pytest.raises(DeviceError, match="takes days on a CPU"):
        rehearse("sample", "corrected", lambda line: None)
    found = rehearse("sample", "corrected", said.append, limit=8, device="cpu")
    assert {unit.batch for one in found for unit in one.units} == {1}
    assert {unit.facts for one in found for unit in one.units} == {8}
    assert any("without a GPU a unit takes 3 s or one fact" in line for line in said)


def record(unit: Unit, item: Any, reason: str = "") -> Any:
    payload = {"reason": reason} if reason else {"steps": 20}
    return local.Record(item.case_id, "failed" if reason else "done", payload)


def test_what_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def says() -> str:
        assert call(["doctor", "--rehearse", "smoke", "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("kloc: ") and said.count("\n") == 1
        return said

    def outcome(what: Callable[[Unit, Any], Any]) -> None:
        monkeypatch.setattr(module, "compute", lambda unit, items, context: [what(unit, item) for item in items])

    def out_of_memory(unit: Unit, item: Any) -> Any:
        if unit.method == "kn":
            raise torch.OutOfMemoryError
        return record(unit, item)

    outcome(out_of_memory)
    assert "smoke on gpt2: kn-relation does not fit the CPU" in says()
    outcome(lambda unit, item: record(unit, item, "one fact of 9 tokens does not fit the device's memory; take"))
    assert "smoke on gpt2: unedited does not fit" in says()
    outcome(lambda unit, item: record(unit, item, "the loss is nan"))
    assert "unedited: 48 of 48 facts failed in the rehearsal (the loss is nan)" in says()
    monkeypatch.setattr(device, "host_memory", lambda: 1_000_000)
    assert "gpt2: needs about 0.7 GB of host memory" in says()


def test_batches_that_are_halved_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = value._optimise

    def small(model: Any, layer: int, objectives: Sequence[Any], *rest: Any) -> Any:
        if len(objectives) > 2:
            raise torch.OutOfMemoryError
        return real(model, layer, objectives, *rest)

    monkeypatch.setattr(value, "_optimise", small)
    monkeypatch.setattr(value, "together", lambda *given: min(len(given[2]), given[4].limit // 500_000_000))
    said: list[str] = []
    (one,) = rehearse("smoke", "released", said.append, device="cpu")
    assert set(one.said) == {"out of memory: going on with batches for 1.00 GB"}
    assert one.said[0] in said and all(unit.seconds > 0 for unit in one.units)


def test_a_rehearsal_is_written_and_kept_for_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor", "--rehearse", "smoke", "--limit", "2", *TO_JSON]) == 0
    said = capsys.readouterr().out
    assert "kept for the report of a run on this machine: " in said
    (content,) = json.loads((tiny / "found" / "rehearsal.json").read_text())["rehearsals"]
    one = msgspec.convert(content, Rehearsal)
    assert {unit.facts for unit in one.units} == {2} and one.environment == environment("cpu")

    info = msgspec.structs.replace(cheap.description(), plan=SMOKE_FEW_FACTS, model="gpt2", limit=3)
    found = rehearsed_seconds(info, environment("cpu"))
    assert found is not None
    each = {unit.name: (unit.most / unit.facts, unit.expected / unit.facts) for unit in one.units}
    facts = {unit.name: sum(map(len, info.batches(unit))) for unit in SMOKE_FEW_FACTS.units}
    assert set(facts.values()) == {2, 3}
    for at, name in enumerate(("most", "expected")):
        assert found[name] == pytest.approx(sum(facts[unit] * pair[at] for unit, pair in each.items()), abs=1e-3)
    more = Unit("a unit that was not rehearsed", "unedited", batch=2)
    for other in (
        msgspec.structs.replace(info, model="world"),
        msgspec.structs.replace(info, protocol="corrected"),
        msgspec.structs.replace(info, switches=info.switches | {"kn_undone": False}),
        msgspec.structs.replace(info, plan=msgspec.structs.replace(SMOKE_FEW_FACTS, units=(more,))),
    ):
        assert rehearsed_seconds(other, environment("cpu")) is None
    assert rehearsed_seconds(info, environment("cpu") | {"threads": -1}) is None


def test_a_kept_rehearsal_is_of_this_model_and_says_what_can_be() -> None:
    """Its file's name holds the last part of the model's; and one that was changed takes no run's journal with it."""
    info = msgspec.structs.replace(cheap.description(), plan=SMOKE_FEW_FACTS, model="gpt2", protocol="released")
    info = msgspec.structs.replace(info, switches=PROTOCOLS["released"].switches())
    one = Kept("smoke", "gpt2", "released", environment("cpu"), {u.name: (1.0, 1.0) for u in info.plan.units})
    path = keep(one)
    assert rehearsed_seconds(info, environment("cpu"))
    for model in ("/models/gpt2", "someone/gpt2"):
        assert rehearsed_seconds(msgspec.structs.replace(info, model=model), environment("cpu")) is None
    for seconds in ((-5.0, -7.0), (1e308, 1e308), (1.0, 1e300)):
        content = msgspec.json.decode(path.read_bytes())
        content["seconds"] = {unit.name: seconds for unit in info.plan.units}
        path.write_bytes(msgspec.json.encode(content))
        assert rehearsed_seconds(info, environment("cpu")) is None, seconds


def test_rehearsals_are_kept_by_their_switches() -> None:
    """One with corrected switches is another run's, and does not take the place of that without."""
    info = msgspec.structs.replace(cheap.description(), plan=SMOKE_FEW_FACTS, model="gpt2", protocol="released")
    info = msgspec.structs.replace(info, switches=PROTOCOLS["released"].switches())
    corrected = msgspec.structs.replace(info, switches=info.switches | {"kn_undone": False})
    one = Kept("smoke", "gpt2", "released", environment("cpu"), {u.name: (1.0, 1.0) for u in info.plan.units})
    keep(one)
    assert rehearsed_seconds(info, environment("cpu")) and not rehearsed_seconds(corrected, environment("cpu"))
    twice = {unit.name: (2.0, 2.0) for unit in info.plan.units}
    keep(msgspec.structs.replace(one, seconds=twice, corrected=("kn_undone",)))
    first, other = (rehearsed_seconds(each, environment("cpu")) for each in (info, corrected))
    assert first and other and other["most"] == pytest.approx(2 * first["most"])


def test_a_run_keeps_what_was_rehearsed_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "compute", lambda unit, items, context: [])
    info = msgspec.structs.replace(cheap.description(), plan=SMOKE_FEW_FACTS, model="gpt2")

    def kept(one: RunInfo) -> dict[str, Any]:
        context: Any = SimpleNamespace(items=lambda unit: [])
        (computed,) = local.Local(context, one).compute([Batch(one.plan.units[0], ())])
        return computed.environment

    here = environment("cpu") | {"memory": info.memory}
    assert kept(info) == here
    module.keep_rehearsals(rehearse("smoke", "released", lambda line: None, limit=1, device="cpu"))
    assert kept(info) == here | {"rehearsed": rehearsed_seconds(info, environment("cpu"))}


def test_a_cache_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    (tiny / "cache").write_text("a file")
    one = Rehearsal("smoke", "gpt2", "released", None, "cpu", {}, 1, 0.0, [], [])
    (line,) = module.keep_rehearsals([one])
    assert line.startswith("not kept for later runs: ") and "is not a folder; set KLOC_CACHE" in line


class Rehearsed(cheap.Cheap):
    """An engine whose machine was rehearsed on."""

    def compute(self, *given: Any) -> Any:
        for one in super().compute(*given):
            rehearsed = {"most": 7200, "expected": 5400}
            yield replace(one, environment={"device": "none", "rehearsed": rehearsed})


def test_the_page_sets_the_rehearsal_beside_what_it_took(tiny: Path) -> None:
    folders = {engine: cheap.run(tiny / engine.__name__, engine()) for engine in (Rehearsed, cheap.Cheap)}
    for engine, folder in folders.items():
        with reading(folder) as store:
            first, again = (render(store, folder=tiny / name)[0].parent for name in ("first", "again"))
        for name in ("report.md", "report.html"):
            text = (first / name).read_text()
            assert (again / name).read_text() == text
            assert ("2.00 h at most, 1.50 h expected; took 0.01 h" in text) == (engine is Rehearsed), name


def test_made_up_facts_have_the_lengths_of_the_papers() -> None:
    tokens = word_tokens(997, 1024)
    for count in (16, 32):
        facts = paper_facts(997, count)
        for view in PERSPECTIVES:
            paper = PAPER_LENGTHS.prompts[view]
            asked = [tokens.encode(fact.view(view).reliability[0]) for fact in facts]
            subjects = [encoded.find(fact.subject) for encoded, fact in zip(asked, facts, strict=True)]
            lengths = [len(encoded.ids) for encoded in asked]
            assert sum(lengths) / count == pytest.approx(paper.mean, rel=0.1)
            assert max(lengths) == pytest.approx(paper.tokens, rel=0.1)
            onward = max(n - subject[-1] for n, subject in zip(lengths, subjects, strict=True))
            assert onward == pytest.approx(paper.onward, rel=0.1)
            targets = [len(tokens.ids(f" {fact.view(view).target}")) for fact in facts]
            assert max(targets) == pytest.approx(paper.target, rel=0.1)
    statements = paper_statements(997, 16)
    for view in PERSPECTIVES:
        traced, restored, onward = PAPER_LENGTHS.traced[view], 0, 0
        for statement in statements:
            encoded = tokens.encode(statement.prompt)
            left = len(encoded.ids) - corrupted_tokens(encoded, statement, view)[0]
            restored, onward = restored + left, onward + left * (left + 1) // 2
        assert (restored / 16, onward / 16) == pytest.approx((traced.restored, traced.onward), rel=0.1)
        assert len({len(tokens.encode(statement.prompt).ids) for statement in statements}) == round(traced.sweeps)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rehearse", "everything"], "plan 'everything' is unknown"),
        (["--rehearse", "smoke", "--estimate", "smoke"], "give one of them"),
        (["--rehearse", "smoke", "--limit", "0"], "must be at least 1"),
        (["--rehearse", "smoke", "--rate", "1TFLOPS"], "need --estimate"),
        (["--json", "f.json"], "--json and --device need --rehearse"),
        (["--rehearse", "smoke", "--device", "tpu"], "--device 'tpu' is unknown"),
    ],
)
def test_what_cannot_be_rehearsed(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor", *arguments]) == 2
    assert says in capsys.readouterr().err
