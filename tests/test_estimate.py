"""Every formula of the work of a unit equals what torch counts on tiny models; sums and words follow from it.

No rate is tested: what is measured here is that operations, memory and time add up.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from artifact.bench import estimate, shapes
from artifact.bench.facts import synthetic_facts, word_tokens
from artifact.bench.given import random_given
from artifact.bench.machine import Machine, other_machine, this_machine
from artifact.bench.planned import planned
from artifact.bench.shapes import SHAPES, random_module
from artifact.bench.work import knocked, scored, traced
from artifact.cli import call
from artifact.editing.edit import Edited
from artifact.editing.editor import Editor
from artifact.editing.methods import METHODS, MethodName
from artifact.editing.moments.files import Moments
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import SettingError
from artifact.evaluation.metrics import GROUPS
from artifact.evaluation.score import score_cases
from artifact.facts.fact import PERSPECTIVES, Fact, View
from artifact.facts.lengths import PAPER_LENGTHS, Lengths, Prompt, Traced
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, from_module
from artifact.lm.work import Shape
from artifact.plans import PLANS
from artifact.tracing.cut import Cut, knock_out
from artifact.tracing.edges import EDGES, places
from artifact.tracing.kinds import TRACE_KINDS
from artifact.tracing.sweep import sweep
from artifact.tracing.trace import TraceSettings
from artifact.tracing.windows import around

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"
LAYERS, FACTS, BOUND = 4, 2, 0.1
_SIZE = {"n_layer": LAYERS, "n_embd": 64, "n_head": 2, "vocab_size": 997, "initializer_range": 0.2}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **_SIZE, **_ENDS},
    "gpt-j": {"model_type": "gptj", "rotary_dim": 8, "tie_word_embeddings": False, **_SIZE, **_ENDS},
}
GIVEN = ["--rate", "494.7TFLOPS", "--bandwidth", "3350GB/s", "--gpu-memory", "80GB"]


Tiny = Callable[[str], tuple[LanguageModel, Shape]]


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    """A family's model at a tiny size, with words of its own, made once."""

    @cache
    def make(family: str) -> tuple[LanguageModel, Shape]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(shapes.SHAPES, family, TINY[family])
            decoder = from_module(random_module(family, "cpu", torch.float32).requires_grad_(False))
        model = LanguageModel("tiny", "random weights", decoder, word_tokens(997, decoder.positions))
        return model, Shape.of(TINY[family])

    return make


def operations(work: Callable[[], object]) -> int:
    """Counted operations, attention's among them: torch's counter knows only the plain kernel on a CPU."""
    with sdpa_kernel(SDPBackend.MATH):
        return shapes.operations(work)


def lengths_of(model: LanguageModel, facts: list[Fact], view: View, target: int) -> Prompt:
    """The lengths of one batch's prompts, `view` being any of its views."""
    ids = [model.tokens.encode(fact.view(view.perspective).reliability[0]) for fact in facts]
    lookup = [encoded.find(fact.subject)[-1] for encoded, fact in zip(ids, facts, strict=True)]
    tokens = [len(encoded.ids) for encoded in ids]
    onward = max(count - at for count, at in zip(tokens, lookup, strict=True))
    return Prompt(sum(tokens) / len(tokens), max(tokens), max(lookup), onward, target)


def case_of(model: LanguageModel, fact: Fact) -> tuple[int, int]:
    """Tokens of all that is asked of a case with shared beginnings once, and positions read: counted independently."""
    fed: set[tuple[int, ...]] = set()
    read: set[tuple[int, ...]] = set()
    for view in fact.views():
        foils = [view.foil] if view.harder_foil is None else [view.foil, view.harder_foil]
        for prompt in (prompt for group in GROUPS for prompt in getattr(view, group)):
            start = model.tokens.encode(prompt).ids
            for text in (view.target, *foils):
                ids = (*start, *model.tokens.ids(f" {text}")[:-1])
                fed.update(ids[: n + 1] for n in range(len(ids)))
                read.update(ids[: n + 1] for n in range(len(start) - 1, len(ids)))
    return len(fed), len(read)


@pytest.mark.parametrize("target", [1, 2])
def test_scoring(tiny: Tiny, target: int) -> None:
    model, shape = tiny("gpt2")
    facts = synthetic_facts(997, FACTS, target)
    case, read = (sum(counts) / FACTS for counts in zip(*(case_of(model, fact) for fact in facts), strict=True))
    counted = operations(lambda: score_cases(model, facts)) / FACTS
    assert scored(shape, Lengths({}, 0, case, read, {}, {})).products == pytest.approx(counted, rel=BOUND)


@pytest.mark.parametrize(
    ("method", "family", "target"),
    [*((method, "gpt2", 2) for method in METHODS), ("rome", "gpt-j", 1), ("kn", "gpt-j", 1)],
)
def test_edits(tiny: Tiny, method: MethodName, family: str, target: int) -> None:
    model, shape = tiny(family)
    facts = synthetic_facts(997, FACTS, target)
    asked = METHODS[method]
    hparams = asked.hparams_for("tiny", LAYERS)
    if asked.steps:  # fewer, to save time
        hparams = msgspec.structs.replace(hparams, **{asked.steps: 4})
    given = random_given(asked, model.decoder, hparams)
    moments = Moments("random", given_MM=dict(given.moments_MM))
    needs: dict[str, Any] = {"prefixes": given.prefixes, "moments": moments, "network": given.network}
    editor = Editor(model, asked, hparams, PROTOCOLS["released"], Memory(10**10), **needs)
    for perspective in PERSPECTIVES:
        views = [fact.view(perspective) for fact in facts]
        edits: list[object] = []
        counted = operations(lambda views=views, edits=edits: edits.extend(editor.edits([[v] for v in views]))) / FACTS
        assert all(isinstance(edit, Edited) for edit in edits)
        if asked.stops:  # the formula has every step taken
            assert {len(edit.losses) for edit in edits if isinstance(edit, Edited)} == {4}
        prompts = {perspective: lengths_of(model, facts, views[0], target)}
        found = asked.work(shape, hparams, Lengths(prompts, 11, 0, 0, {}, {}), perspective)
        assert found.products == pytest.approx(counted, rel=BOUND)


@pytest.mark.parametrize(
    ("kind", "sever", "fresh", "first"),
    [
        ("hidden", None, True, 0),
        ("hidden", None, True, 2),
        ("mlp", None, True, 2),
        ("attn", None, True, 0),
        ("hidden", "mlp", True, 2),
        ("hidden", "attn", False, 0),
    ],
)
def test_tracing(tiny: Tiny, kind: Any, sever: Any, fresh: bool, first: int) -> None:
    model, shape = tiny("gpt-j")
    settings = TraceSettings(0.1, kind=kind, sever=sever, samples=2, window=3, fresh_noise=fresh)
    cells = settings.cells(LAYERS)
    ids, spans = [list(range(20, 28)), list(range(50, 58))], [[first, first + 1]] * 2
    counted = operations(lambda: sweep(model.decoder, ids, spans, cells, Memory(10**10))) / 2
    lengths = Traced(8, 8 - first, sum(range(1, 9 - first)))
    found = traced(shape, settings.trace_kind, 3, lengths, 2, fresh)
    assert found.products == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("name", TINY)
def test_knockouts(tiny: Tiny, name: str) -> None:
    model, shape = tiny(name)
    where = places(8, (2, 3))
    pairs = [edge.pairs(where) for edge in EDGES.values()]
    cuts = [Cut(fact, one) for fact in range(2) for one in pairs]
    ids, windows = [list(range(20, 28)), list(range(50, 58))], around(LAYERS, 2)
    with sdpa_kernel(SDPBackend.MATH):
        counted = operations(lambda: knock_out(model.decoder, ids, cuts, windows, Memory(10**10), extraction=True)) / 2
    found = knocked(shape, 2, 8, [8 - min(reading for reading, _ in one) for one in pairs])
    assert found.products == pytest.approx(counted, rel=0.05)


def test_tracing_counts_what_was_measured() -> None:
    """BENCHMARKS.md's counts of GPT-2 small: 574 GFLOP a fact with hidden states, 697 with windows of ten layers."""
    shape = Shape.of(SHAPES["gpt2"])
    measured: dict[Any, int] = {"hidden": 574, "mlp": 697}
    for kind, gigaflop in measured.items():
        found = traced(shape, TRACE_KINDS[kind], 10, Traced(10, 10, 55))
        assert found.products == pytest.approx(gigaflop * 1e9, rel=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_the_models(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[name]))
    entries = sum(weight.numel() for weight in module.parameters())
    assert Shape.of(SHAPES[name]).weights == pytest.approx(4 * entries, rel=0.01)


def test_sums() -> None:
    """A unit's time is its products', its traffic's and its starts'; twice the rate takes less, but not half."""
    machine = Machine("a GPU", True, 1e14, 1e12, 80e9, "invented")
    (one,) = estimate.estimate("gpt-j", machine, "released")
    assert {unit.facts for unit in one.units} == {7500, 1209}
    assert one.seconds == sum(unit.seconds for unit in one.units)
    assert all(unit.seconds > unit.facts * unit.work.products / (unit.efficiency * 1e14) for unit in one.units)
    (fast,) = estimate.estimate("gpt-j", Machine("a GPU", True, 2e14, 1e12, 80e9, "invented"), "released")
    assert 0.5 < fast.seconds / one.seconds < 0.7
    (mended,) = estimate.estimate("gpt-j", machine, "corrected")  # severed tracing without a second run for every token
    assert mended.seconds < one.seconds and mended.units[0] == one.units[0]
    (few,) = estimate.estimate("gpt-j", machine, "released", limit=75)
    assert few.units[1].work == one.units[1].work and {unit.facts for unit in few.units} == {75}
    assert one.device["weights"] == pytest.approx(24.2e9, rel=0.01)
    assert one.device["factors of 6 layers' second moments"] == 6 * 8 * 16384**2
    assert one.least < 48e9 < one.least + 10e9


def test_a_cpu_takes_the_measured_shares() -> None:
    machine = Machine("CPU", False, 2e11, 1e10, 64e9, "invented")
    (one,) = estimate.estimate("sample", machine, "released")
    rome = next(unit for unit in one.units if unit.name == "rome-entity")
    assert rome.facts == 200 and rome.seconds == pytest.approx(200 * rome.work.products / (0.61 * 2e11))
    said = "\n".join(estimate.lines(estimate.estimate("full", machine, "released"), machine))
    assert re.search(r"full: at most \d+ days, expected \d+ days, on CPU", said) and "kloc run sample --limit" in said
    assert "does not fit" not in said
    (smoke,) = estimate.estimate("smoke", machine, "released")
    assert smoke.model == "gpt2" and {unit.facts for unit in smoke.units} == {48, 4, 2}


@pytest.mark.parametrize(
    ("memory", "says"),
    [(24e9, "does not fit 24.0 GB"), (48e9, "fits 48.0 GB: batches of 5.9 GB"), (80e9, "fits 80.0 GB: batches of")],
)
def test_memory_is_said(memory: float, says: str) -> None:
    machine = Machine("a GPU", True, 1e14, 1e12, memory, "invented")
    assert any(says in line for line in estimate.lines(estimate.estimate("gpt-j", machine, "released"), machine))


STOPPING = {name: method for name, method in METHODS.items() if method.stops}


def stop_at(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every optimisation stops early after that share of its steps."""
    for name, method in STOPPING.items():
        stops = {view: share for view in PERSPECTIVES}
        monkeypatch.setitem(METHODS, name, dataclasses.replace(method, stops=stops))


def test_expected_is_at_most_and_less_where_optimisations_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in (
        Machine("CPU", False, 2e11, 1e10, 64e9, "invented"),
        other_machine("77.4TFLOPS", "768GB/s", "48GB"),
    ):
        for share in (1.0, 0.5):
            stop_at(share, monkeypatch)
            for one in estimate.estimate("full", machine, "released"):
                for unit in one.units:
                    stops = share < 1 and unit.name.partition("-")[0] in STOPPING
                    assert unit.expected < unit.seconds if stops else unit.expected == unit.seconds, unit.name
                assert (
                    one.expected == pytest.approx(sum(unit.expected for unit in one.units))
                    and one.expected <= one.seconds
                )


def test_what_early_stops_are_worth_on_the_smaller_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/scaling.md: 24 hours on the card of 48 GB need half of the steps."""
    card = other_machine("77.4TFLOPS", "768GB/s", "48GB")
    for share, reached in ((0.6, False), (0.5, True)):
        stop_at(share, monkeypatch)
        found = estimate.estimate("full", card, "released")
        assert (sum(one.expected + one.load for one in found) < 24 * 3600) == reached


def test_the_document_has_the_steps_of_the_stated_run() -> None:
    text = DOCUMENT.read_text()
    assert set(STOPPING) == {"ft", "rome", "memit"}
    for method in STOPPING:
        entity, relation, most = (float(n) for n in re.search(rf"\| {method.upper()} \| (.*) \|", text)[1].split(" | "))
        for view, taken in (("entity", entity), ("relation", relation)):
            assert taken == pytest.approx(STOPPING[method].stops[view] * most, abs=0.05)


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.bench.machine._SIDE", 1 << 20)
    machine = this_machine("corrected")
    assert machine.rate > 1e9 and machine.bandwidth > 1e8 and machine.memory > 1e8
    assert machine.known.endswith("measured now") and "GB/s" in machine.words


@pytest.mark.parametrize("rate", ["fast", "0TFLOPS", "100", "-3TFLOPS"])
def test_what_is_no_rate(rate: str) -> None:
    with pytest.raises(SettingError, match="such as 150TFLOPS"):
        other_machine(rate, "1TB/s", "48GB")


def test_every_unit_of_every_plan_is_known() -> None:
    kinds = {
        unit.method if unit.does == "edit" else unit.does for plans in PLANS.values() for p in plans for unit in p.units
    }
    assert kinds - {"task"} == {*estimate.EFFICIENCY, *METHODS} - {"memit_merge"}
    assert set(PAPER_LENGTHS.prompts) == set(PAPER_LENGTHS.traced) == set(PERSPECTIVES)


def operations_of(plan: str, unit: str) -> float:
    """What the estimate of a plan has for one fact of a unit, in operations."""
    (found,) = estimate.estimate(plan, other_machine(*GIVEN[1::2]), "released")
    return next(one.work.products for one in found.units if one.name == unit)


@pytest.mark.parametrize("plan", ["where", "both", "mechanism", "multiverse", "modern", "beyond"])
def test_every_question_s_plan_is_estimated(plan: str) -> None:
    (found,) = estimate.estimate(plan, other_machine(*GIVEN[1::2]), "released")
    assert all(0 < unit.expected <= unit.seconds for unit in found.units)
    assert [unit.name for unit in found.units] == [unit.name for one in PLANS[plan] for unit in one.units]


@pytest.mark.parametrize(("plan", "layers"), [("where", 12), ("both", 10)])
def test_second_moments_that_a_run_computes_stay_in_main_memory(plan: str, layers: int) -> None:
    """GPT-2 XL at every fourth layer; MEMIT's five layers and five late ones."""
    machine, model = Machine("a GPU", True, 1e14, 1e12, 80e9, "invented"), planned("gpt2-xl")
    (found,) = estimate.estimate(plan, machine, "released", model=model)
    matrices = found.host - model.shape.weights - 4 * 6400**2 - 1e9
    assert matrices == layers * 8 * 6400**2


def test_a_task_takes_what_its_parts_take() -> None:
    """In operations: traces of the multiverse are so many of the paper's, arms so many of MEMIT's edits."""
    samples = 3 * 10 + 5 + 1  # three levels of noise, five donors, one mean
    one = operations_of("real", "trace-hidden-relation")
    # Twelve layers without windows: three spans, two directions.
    assert operations_of("multiverse", "multiverse-hidden-relation") == pytest.approx(6 * one * samples / 10, rel=0.1)
    mlp = [operations_of("multiverse", f"multiverse-mlp-{perspective}") for perspective in PERSPECTIVES]
    # One token is restored, in windows of 1, 2 and 3 layers: the subject's last, and in three spans the prompt's.
    assert mlp[0] < mlp[1] < 3 * mlp[0]
    whole = operations_of("real", "trace-mlp-relation")
    assert mlp[1] < 3 * 6 * whole * samples / 10 / 2, "half of what restoring every token takes"
    edits = sum(operations_of("real", f"memit-{perspective}") for perspective in PERSPECTIVES)
    assert 4 * edits < operations_of("both", "both") < 6 * edits
    where, rome = operations_of("where", "where-mlp-entity"), operations_of("real", "rome-entity")
    assert 12 * rome < where < 3 * 12 * 2 * rome  # twelve layers, three tokens; an edit of an early layer costs more
    assert operations_of("multiverse", "rome-entity-corrected") == rome


def test_the_document_says_what_its_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCUMENT.read_text()
    blocks = re.findall(r"```\n\$ kloc (.*?)\n(.*?)```", text, re.S)
    assert len(blocks) == text.count("$ kloc") >= 4
    for command, printed in blocks:
        assert call(shlex.split(command)) == 0
        # What is still to be fetched depends on the machine.
        left = iter([line.partition(", disk ")[0] for line in capsys.readouterr().out.splitlines()])
        for line in printed.splitlines():  # in this order
            assert line == "..." or line in left, line


def test_readme_has_the_hours_of_its_commands() -> None:
    """Of a table's or a figure's units on an H100; the numbers of whole plans are docs/scaling.md's."""
    models = estimate.estimate("full", other_machine(*GIVEN[1::2]), "released")
    parts = {unit.name: unit.parts for plan in PLANS["full"] for unit in plan.units}
    readme = (DOCUMENT.parent.parent / "README.md").read_text()
    rows = re.findall(r"`kloc full ((?:--only \w+ ?)+)` .*? min \+ ([\d.]+) h \|", readme)
    assert len(rows) == 5
    for only, hours in rows:
        asked = set(only.split()[1::2])
        took = sum(unit.seconds for one in models for unit in one.units if asked & set(parts[unit.name]))
        assert f"{took / 3600:.1f}" == hours, only


def test_corrected_switches_change_what_they_change() -> None:
    """A shard counts the rows of the others' MEND edits anew, as released; severed traces run once a token anew."""
    machine = Machine("a GPU", True, 2e14, 1e12, 80e9, "invented")

    def total(*correct: str, gpus: int = 1) -> str:
        found = estimate.estimate("gpt2-xl", machine, "released", correct=correct)
        return next(line for line in estimate.lines(found, machine, gpus) if line.startswith("gpt2-xl: at most"))

    (released,) = estimate.estimate("gpt2-xl", machine, "released")
    (by_file,) = estimate.estimate("gpt2-xl", machine, "released", correct=["mend_training_mode"])
    (same_noise,) = estimate.estimate("gpt2-xl", machine, "released", correct=["severed_fresh_noise"])
    assert released.ahead > 0 == by_file.ahead and released.seconds == by_file.seconds
    assert {unit.name for unit in released.units if unit.ahead} == {"mend-relation", "mend-entity"}
    assert same_noise.seconds < released.seconds
    assert total(gpus=64) != total("mend_training_mode", gpus=64) and total() == total("mend_training_mode")
    with pytest.raises(SettingError, match="is not a switch"):
        estimate.estimate("gpt2-xl", machine, "released", correct=["nothing"])
