"""The package on stand-in CUDA devices: the processor's numbers, no device mixed, bounded memory, waits and copies.

With batches cut alike every unit's records are the processor's bit for bit. FT's are those of the processor with the
fused Adam, which it takes on a GPU. A batch that is cut otherwise rounds otherwise: there numbers agree to 1e-5.
"""

import gc
import json
import math
import sqlite3
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import standin
import torch
from safetensors.torch import load_file

from artifact.cli import call
from artifact.plan import SMOKE
from artifact.runs.cluster import Worker
from artifact.runs.record import Record
from artifact.runs.setup import Asked

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


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of a small run's time is its figures', which need no device: they are empty files."""
    monkeypatch.setattr("artifact.reporting.figures.figure_bytes", lambda draw, *forms: [b""] * len(forms))


def records(folder: Path) -> dict[tuple[str, int], tuple[str, Any]]:
    with sqlite3.connect(folder / "run.sqlite") as connection:
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


RUN = ("run", "smoke", "--model", "world")


class Fused(torch.optim.Adam):
    """Adam with the fused step wherever the package says which it takes: what FT does on a GPU."""

    def __init__(self, params: Any, **given: Any) -> None:
        super().__init__(params, **(given | {"fused": True} if "fused" in given else given))


def on_cpu(folder: Path, *options: str) -> dict[tuple[str, int], tuple[str, Any]]:
    """The records of the same run on the processor."""
    assert call([*RUN, *options, "--device", "cpu", "--out", str(folder / "cpu")]) == 0
    return records(folder / "cpu")


def test_the_whole_smoke_plan_has_the_processors_numbers(tmp_path, monkeypatch) -> None:
    """Bit for bit, every unit. And the host waits a bounded number of times: per step of a batch, not of a fact."""
    limit = ("--limit", "1")
    ran = kloc((*RUN, *limit, "--out", tmp_path / "run"))
    assert ran.code == 0, ran.err[-2000:]
    assert "device: cuda (a GPU is there (stand-in))" in ran.out
    found = records(tmp_path / "run")
    assert len(found) == 21
    monkeypatch.setattr(torch.optim, "Adam", Fused)
    for key, record in on_cpu(tmp_path, *limit).items():
        assert found[key] == record, key
    steps = 2 * (25 + 30)  # ROME and MEMIT, from two views
    assert 0 < ran.waits("editing/value.py:_optimise") <= 7 * steps
    assert 0 < ran.waits("editing/ft.py:_tune") <= 4 * 2 * 25
    assert 0 < ran.waits("evaluation/score.py:compute") <= 2 * 11  # one batch of each unit that scores
    assert 0 < ran.waits("editing/mend_gradients.py:_pass") <= 4
    assert ran.ledgers[0].uploads < 1200
    assert ran.ledgers[0].live == 0 and ran.ledgers[1].peak == 0


def test_little_memory_gives_the_same_numbers(tmp_path) -> None:
    """With a budget that promises more than there is, batches halve and say so, and every unit goes on."""
    limit = ("--limit", "6", "--methods", "ft,rome,memit,mend", "--only", "table2", "--only", "figure2")
    ran = kloc((*RUN, *limit, "--memory", "400MB", "--out", tmp_path / "run"), megabytes=22)
    assert ran.code == 0, ran.err[-2000:]
    assert "out of memory: going on with batches for" in ran.out and "not computed" not in ran.out
    assert ran.ledgers[0].peak <= 22e6
    assert_close(records(tmp_path / "run"), on_cpu(tmp_path, *limit))


@pytest.mark.parametrize("megabytes", [17])
def test_too_little_memory_is_one_line(tmp_path, megabytes: int) -> None:
    """Here for second moments, which cannot be cut."""
    ran = kloc((*RUN, "--methods", "rome", "--out", tmp_path / "run"), megabytes=megabytes)
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
    for method in needs:
        assert call([str(word) for word in edit(method, "cpu")]) == 0
        here, there = (load_file(tmp_path / f"{method}-{device}.safetensors") for device in ("cpu", "cuda:1"))
        for name, change in here.items():
            assert float((there[name] - change).norm()) <= 1e-4 * float(change.norm()), (method, name)


def test_moments_and_mend_train(tmp_path) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "mend.safetensors"
    texts.write_text("The capital of France is Paris\n" * 40)
    moments = ("moments", "--model", TINY, "--texts", texts, "--layers", "1", "--out", tmp_path / "m")
    train = ("mend-train", "--model", TINY, "--facts", REFERENCE / "facts.json", "--steps", "2", "--out", out)
    ran = kloc(moments, train)
    assert ran.code == 0, ran.err[-2000:]
    assert out.is_file() and (tmp_path / "m" / "moments.json").is_file()


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
        found = [record for unit in units for record in worker.compute(unit, info.batches(unit)[0])[0].records]
        assert worker.weights_hash() == info.weights_sha256 and info.device == device
        return found

    with standin.devices() as ledgers:
        there = computed("cuda:1")
    assert there == computed("cpu") and {record.status for record in there} == {"done"}
    assert ledgers[0].peak == 0 < ledgers[1].peak
