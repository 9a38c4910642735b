"""The package on stand-in CUDA devices: the processor's numbers, no device mixed, bounded memory, waits and copies.

With batches cut alike every unit's records are the processor's bit for bit. A batch that is cut otherwise rounds
otherwise: there numbers agree to 1e-5.
"""

import dataclasses
import gc
import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import standin
import torch
from safetensors.torch import load_file

from artifact.bench import shapes
from artifact.cli import call
from artifact.editing.method import Default
from artifact.editing.methods import METHODS, moment_layers
from artifact.editing.moments.files import Moments
from artifact.editing.prefixes import draw_groups, draw_prefixes
from artifact.errors import SettingError
from artifact.lm.load import LanguageModel, load
from artifact.plans.paper import SMOKE
from artifact.runs import editors
from artifact.runs.editors import default_moments
from artifact.runs.engine import Batch
from artifact.runs.local import compute
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare
from artifact.runs.worker import Worker

REFERENCE = Path(__file__).parent / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"


@dataclass
class Ran:
    """Finished commands: the highest exit code, what they printed, and what each device held and did."""

    code: int
    out: str
    err: str
    ledgers: list[standin.Ledger]

    def waits(self, place: str) -> int:
        return self.ledgers[0].waits[place]


def kloc(*commands: tuple[object, ...], megabytes: float = 80_000) -> Ran:
    """Commands on the stand-in, one after the other."""
    out, err = StringIO(), StringIO()
    with standin.devices(int(megabytes * 1e6)) as ledgers, redirect_stdout(out), redirect_stderr(err):
        code = max(call([str(word) for word in command]) for command in commands)
        gc.collect()
    return Ran(code, out.getvalue(), err.getvalue(), list(ledgers))


def records(folder: Path) -> dict[tuple[str, int], tuple[str, Any]]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        rows = connection.execute("select unit, case_id, status, payload from records").fetchall()
    return {(unit, case): (status, json.loads(payload)) for unit, case, status, payload in rows}


def assert_close(one: Any, other: Any, path: tuple[object, ...] = ()) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], (*path, key))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, (*path, number))
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-5), (path, one, other)
    else:
        assert one == other, (path, one, other)


@pytest.fixture(scope="module")
def world() -> LanguageModel:
    return load("world")


@pytest.fixture(scope="module")
def made(world: LanguageModel) -> dict[int, torch.Tensor]:
    """The world's second moments by layer, made once."""
    layers = moment_layers(METHODS, "world", world.decoder.layers)
    return default_moments(world, sorted(layers)).given_MM


@pytest.fixture
def moments(made: dict[int, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Moments:
    """Those of every run of this test, for what is not about making them; not factored yet."""
    monkeypatch.setattr("artifact.runs.context.default_moments", lambda *_, **__: Moments("given", given_MM=made))
    return Moments("given", given_MM=made)


@pytest.fixture
def prefixes(world: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The world's prefixes are drawn on the processor, for what is not about drawing: it takes many small steps."""
    for name, draw in (("draw_prefixes", draw_prefixes), ("draw_groups", draw_groups)):
        monkeypatch.setattr(editors, name, lambda _, *given, draw=draw: draw(world, *given))


RUN = ("run", "smoke", "--model", "world")


def on_cpu(folder: Path, *options: str) -> dict[tuple[str, int], tuple[str, Any]]:
    """The records of the same run on the processor."""
    assert call([*RUN, *options, "--device", "cpu", "--out", str(folder / "cpu")]) == 0
    return records(folder / "cpu")


def test_the_whole_smoke_plan_has_the_processors_numbers(tmp_path, moments: Moments, few_steps: int) -> None:
    """Bit for bit, every unit. And the host waits a bounded number of times: per step of a batch, not of a fact."""
    limit = ("--limit", "1")
    ran = kloc((*RUN, *limit, "--out", tmp_path / "run"))
    assert ran.code == 0, ran.err[-2000:]
    assert "device: cuda (a GPU is there (stand-in))" in ran.out
    found = records(tmp_path / "run")
    assert len(found) == 21
    for key, record in on_cpu(tmp_path, *limit).items():
        assert found[key] == record, key
    steps = 2 * 2 * few_steps  # ROME and MEMIT, from two perspectives
    assert 0 < ran.waits("editing/value.py:_optimise") <= 7 * steps
    assert 0 < ran.waits("editing/ft.py:step") <= 4 * 2 * few_steps
    assert 0 < ran.waits("evaluation/score.py:_read_batch") <= 2 * 11  # one batch of each unit that scores
    assert 0 < ran.waits("editing/mend_gradients.py:_pass") <= 4
    assert ran.ledgers[0].uploads < 1200
    assert ran.ledgers[0].live == 0 and ran.ledgers[1].peak == 0


@pytest.mark.parametrize(
    ("narrowed", "megabytes"),
    [
        (("--limit", "3", "--methods", "ft,rome,memit,mend", "--only", "table2"), 18),
        (("--limit", "1", "--only", "figure2"), 7.2),
    ],
    ids=["edits", "traces"],
)
def test_little_memory_gives_the_same_numbers(
    narrowed: tuple[str, ...], megabytes: float, tmp_path, moments: Moments, few_steps: int
) -> None:
    """With a budget that promises more than there is, batches halve and say so, and every unit goes on."""
    ran = kloc((*RUN, *narrowed, "--memory", "400MB", "--out", tmp_path / "run"), megabytes=megabytes)
    assert ran.code == 0, ran.err[-2000:]
    assert "out of memory: going on with batches for" in ran.out and "not computed" not in ran.out
    assert ran.ledgers[0].peak <= 1e6 * megabytes
    assert_close(records(tmp_path / "run"), on_cpu(tmp_path, *narrowed))


def test_too_little_memory_is_one_line(tmp_path, moments: Moments) -> None:
    """Here for the factors of second moments, which cannot be cut."""
    ran = kloc((*RUN, "--methods", "rome", "--limit", "1", "--out", tmp_path / "run"), megabytes=11)
    assert ran.code == 2 and ran.err.count("\n") == 1 and "does not fit the device's memory" in ran.err


def test_everything_on_the_second_device(tmp_path) -> None:
    """Edits by every method, a trace and scores: the processor's changes, and no byte on the first device."""
    request, flat, groups = (tmp_path / f"{name}.json" for name in ("request", "flat", "groups"))
    request.write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[15]))
    flat.write_text(json.dumps(["{}", "Yesterday, {}"]))
    groups.write_text(json.dumps([["{}"], ["Yesterday, {}"]]))
    moments = ("--moments", REFERENCE / "moments" / "tiny-gpt2")
    needs: dict[str, tuple[object, ...]] = {
        "ft": (),
        "kn": (),
        "mend": ("--mend-weights", REFERENCE / "mend" / "mend_network.npz"),
        "rome": (*moments, "--prefixes", flat),
        "memit": (*moments, "--prefixes", groups),
    }

    def edit(method: str, device: str) -> tuple[object, ...]:
        out = tmp_path / f"{method}-{device}.safetensors"
        command = ("edit", "--model", TINY, "--method", method, "--request", request, *needs[method])
        return (*command, "--device", device, "--out", out)

    on = ("--model", TINY, "--device", "cuda:1")
    traced = ("--prompt", "The capital of France is", "--subject", "France", "--kind", "mlp", "--window", "3")
    trace = ("trace", *on, *traced)
    score = ("score", *on, "--cases", REFERENCE / "facts.json")
    ran = kloc(*(edit(method, "cuda:1") for method in needs), trace, score)
    assert ran.code == 0, ran.err[-2000:]
    assert ran.ledgers[0].peak == 0 < ran.ledgers[1].peak
    assert kloc(score).out == kloc(("score", "--model", TINY, "--device", "cpu", *score[5:])).out != ""
    for method in needs:
        assert call([str(word) for word in edit(method, "cpu")]) == 0
        here, there = (load_file(tmp_path / f"{method}-{device}.safetensors") for device in ("cpu", "cuda:1"))
        for name, change in here.items():
            assert float((there[name] - change).norm()) <= 1e-6 * float(change.norm()), (method, name)


def test_moments_and_mend_train(tmp_path) -> None:
    """The processor's sums, and its trained network."""
    texts = tmp_path / "texts.txt"
    texts.write_text("The capital of France is Paris\n" * 40)
    for device in ("cuda", "cpu"):
        on, out = ("--model", TINY, "--device", device), tmp_path / device
        moments = ("moments", *on, "--texts", texts, "--layers", "1", "--out", out / "m")
        train = ("mend-train", *on, "--facts", REFERENCE / "facts.json", "--steps", "2", "--out", out / "n.safetensors")
        ran = kloc(moments, train)
        assert ran.code == 0, ran.err[-2000:]
        assert (ran.ledgers[0].peak > 0) == (device == "cuda")
    (summed,) = (tmp_path / "cpu" / "m").glob("*.npz")
    here, there = (np.load(tmp_path / device / "m" / summed.name)["mom2.mom2"] for device in ("cpu", "cuda"))
    assert np.array_equal(here, there)
    here, there = (load_file(tmp_path / device / "n.safetensors") for device in ("cpu", "cuda"))
    assert here.keys() == there.keys()
    for name, part in here.items():
        assert float((there[name] - part).norm()) <= 1e-6 * float(part.norm()), name


def test_devices_do_not_mix() -> None:
    """The stand-in itself: as CUDA, it refuses what a GPU would refuse, and counts what it holds."""
    with standin.devices() as ledgers:
        a, b = torch.ones(4, device="cuda"), torch.ones(4, device="cuda:1")
        for one, two in ((a, b), (a, torch.ones(4)), (torch.ones(4), b)):
            with pytest.raises(RuntimeError, match="same device"):
                one + two
        assert (a * 2 + torch.tensor(1.0)).tolist() == [3.0] * 4 and str(a.device) == "cuda:0"
        assert [ledger.live for ledger in ledgers] == [16, 16]
        with pytest.raises(TypeError):
            a.numpy()
        seeded = torch.Generator("cuda:1").manual_seed(3)
        drawn = torch.randn(4, device="cuda:1", generator=seeded)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(4, device="cuda", generator=seeded)
        assert drawn.tolist() == torch.randn(4, generator=torch.Generator().manual_seed(3)).tolist()
    with standin.devices(1000), pytest.raises(torch.OutOfMemoryError):
        torch.empty(1001, device="cuda", dtype=torch.int8)


def test_a_ray_workers_code_on_the_second_device(tmp_path, monkeypatch) -> None:
    """Ray itself is left out: the worker's own class in one process, the processor's records, no byte on cuda:0."""
    context = SimpleNamespace(get_node_id=lambda: "one")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    units = tuple(u for u in SMOKE.units if u.name in ("unedited", "mend-entity", "trace-hidden-relation"))
    plan = msgspec.structs.replace(SMOKE, units=units)

    def computed(device: str) -> list[Record]:
        worker = Worker(str(tmp_path), {})
        info = worker.prepare(plan, Asked("world", limit=1, device=device), None, {}).info
        batches = [Batch(unit, info.batches(unit)[0]) for unit in units]
        found = [record for batch in batches for record in worker.compute(batch)[0].records]
        assert worker.weights_hash() == info.weights_sha256 and info.device == device
        return found

    with standin.devices() as ledgers:
        there = computed("cuda:1")
    assert there == computed("cpu") and {record.status for record in there} == {"done"}
    assert ledgers[0].peak == 0 < ledgers[1].peak


SHAPE = {
    "model_type": "gpt2", "n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 997, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
FEWER = {"rome": {"v_num_grad_steps": 6}, "memit": {"v_num_grad_steps": 6, "layers": (0, 1)}, "ft": {"num_steps": 6}}


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.loop])
def test_the_benches_of_edits(method: str, monkeypatch) -> None:
    """A tiny shape takes the place of GPT-2 small's, and a slow product's rate is not measured."""

    tiny = msgspec.structs.replace(METHODS[method].hparams_for("tiny", 3), **FEWER.get(method, {}))
    monkeypatch.setitem(METHODS, method, dataclasses.replace(METHODS[method], defaults={"gpt2": Default(tiny)}))
    command = ("bench", "edit", "--method", method, "--facts", "2", "--loop-facts", "1", "--no-operations")
    there, here = benched(monkeypatch, command)
    assert there.our_steps == here.our_steps and there.loop_steps == here.loop_steps
    assert there.difference < 1e-4 and here.difference < 1e-4


def benched(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> list[Any]:
    """What a bench found on the stand-in and on the processor, from the same command."""
    monkeypatch.setitem(shapes.SHAPES, "gpt2", SHAPE)
    found: list[Any] = []
    module = import_module(f"artifact.bench.{command[1]}")
    compare = getattr(module, f"bench_{command[1]}")

    def kept(*given: Any, **named: Any) -> Any:
        made = compare(*given, **named)
        found.append(list(made) if isinstance(made, Iterator) else made)
        return iter(found[-1]) if isinstance(made, Iterator) else made

    monkeypatch.setattr(module, f"bench_{command[1]}", kept)
    ran = kloc((*command, "--device", "cuda:1"))
    assert ran.code == 0, ran.err[-2000:]
    assert ran.ledgers[0].peak == 0 < ran.ledgers[1].peak
    assert call([*command, "--device", "cpu"]) == 0
    monkeypatch.setattr(module, f"bench_{command[1]}", compare)
    return found


def test_the_benches_of_tracing_and_scoring(monkeypatch) -> None:
    monkeypatch.setattr("artifact.bench.trace.matrix_rate", lambda *given: 1e9)
    monkeypatch.setattr("artifact.bench.compare.matrix_rate", lambda *given: 1e9)
    monkeypatch.setitem(SHAPE, "vocab_size", 50257)  # traced prompts are drawn from all of GPT-2's words
    trace = ("bench", "trace", "--tokens", "4", "--samples", "2", "--loop-cells", "3", "--memory", "1GB")
    there, here = benched(monkeypatch, trace)
    assert [one.difference for one in there] == [one.difference for one in here] and there[0].difference < 1e-4
    assert [one.sweep_operations for one in there] == [one.sweep_operations for one in here]
    monkeypatch.setitem(SHAPE, "vocab_size", 997)
    there, here = benched(monkeypatch, ("bench", "evaluate", "--facts", "2", "--loop-facts", "1"))
    assert there.difference == here.difference < 1e-4 and there.timing.operations == here.timing.operations


@pytest.mark.parametrize("command", [("trace",), ("edit", "--method", "ft")], ids=["trace", "edit"])
def test_a_bench_budgets_what_its_weights_leave(command: tuple[str, ...], monkeypatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "gpt2", SHAPE)
    held: list[int] = []

    def asked(*_: object) -> int:
        held.append(standin.LEDGERS[0].live)
        raise SettingError("here it ends")

    monkeypatch.setattr(f"artifact.bench.{command[0]}.default_memory", asked)
    ran = kloc(("bench", *command))
    assert ran.code == 2 and "here it ends" in ran.err
    assert held[0] > 4 * (SHAPE["vocab_size"] * SHAPE["n_embd"])  # the embedding and more


def test_no_unit_takes_more_than_its_budget(moments: Moments, prefixes: None, few_steps: int) -> None:
    """Above what stays for the run: weights, factors of second moments, MEND's network. All steps take alike, and
    traces from either perspective.
    """
    limit, taken = 8_000_000, {}
    gc.collect()
    gc.freeze()  # what tests before have left need not be looked through for every unit
    with standin.devices() as ledgers:
        context, info = prepare(SMOKE, Asked("world", limit=2, memory="8MB"), lambda line: None)
        for layer in {layer for method in ("rome", "memit") for layer in context.editor(method).hparams.layers}:
            zeros_1M = torch.zeros(1, len(moments.given_MM[layer]), device="cuda")
            context.moments.solve(context.model.decoder, layer, zeros_1M)
        units = [unit for unit in SMOKE.units if unit.does != "trace" or unit.perspective == "relation"]
        for unit in units:
            items = {item.case_id: item for item in context.items(unit)}
            if unit.method == "mend":
                context.order(unit)
            gc.collect()
            before = ledgers[0].peak = ledgers[0].live
            for cases in info.batches(unit):
                assert {one.status for one in compute(unit, [items[case] for case in cases], context)} == {"done"}
            taken[unit.name] = (ledgers[0].peak - before) / limit
    assert len(taken) == 16 and min(taken.values()) > 0.05 and max(taken.values()) <= 1, taken
