"""Runs that cost nothing: the real runner and journal, on an engine that makes records up from the number of the case.

As a program, `cheap.py FOLDER ROUNDS SEED`: that many processes in turn work on the run in FOLDER, each killed at a
random moment; after each every stored record is looked at. The last line says how many were killed. It finishes no run.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from artifact.cli import call
from artifact.evaluation.metrics import GROUPS
from artifact.plans.unit import Plan, Unit
from artifact.progress import Display
from artifact.runs.describe import RunInfo
from artifact.runs.engine import Batch, Computed
from artifact.runs.record import Record
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_plan
from artifact.runs.store import reading

PLAN = Plan(
    name="smoke",
    title="records that are made up",
    units=(
        Unit("unedited", "unedited", batch=4),
        Unit("rome-entity", "edit", batch=4, method="rome", perspective="entity"),
        Unit("rome-relation", "edit", batch=4, method="rome", perspective="relation", most=14),
        Unit("trace-hidden-entity", "trace", batch=4),
    ),
)
CASES, MANY_CASES = 20, 60


class Cheap:
    """Computes from nothing; `pipe` hears of every batch, and after `stop` batches the user's Ctrl-C comes twice."""

    def __init__(self, info: RunInfo | None = None, pipe: int | None = None, stop: int | None = None) -> None:
        self.info = info or description()
        self._pipe, self._stop = pipe, stop

    def compute(self, batches: Sequence[Batch], stop: Callable[[], bool]) -> Generator[Computed, None, None]:
        for batch in batches:
            if stop():
                return
            if self._stop is not None:
                if self._stop == 0:
                    raise KeyboardInterrupt
                self._stop -= 1
            if self._pipe is not None:
                os.write(self._pipe, b".")
            made = [record(batch.unit, case_id) for case_id in batch.cases]
            yield Computed(batch, made, 0.5 * len(made), {"device": "none"})

    def weights_hash(self) -> str:
        return self.info.weights_sha256

    def close(self) -> None:
        pass


def description(cases: int = CASES) -> RunInfo:
    return RunInfo(
        plan=PLAN, model="world", model_reason="--model world", revision="r", weights_sha256="w", layers=6,
        device="cpu", dtype="float32", protocol="released", switches={}, data_source="made up", data_sha256="s",
        data_note="n", evidence=False, evidence_note="made up",
        settings={"rome": {"hparams": {"layers": [1]}, "hash": "0123456789ab", "prefixes": ["{}"] * 21}},
        noise_level=0.1, samples=10, cases=list(range(100, 100 + cases)),
    )  # fmt: skip


def record(unit: Unit, case_id: int) -> Record:
    """The record of a case: the same whenever it is made; some fail, most need more than a page of the journal."""
    if unit.does == "edit" and case_id % 7 == 3:
        return Record(case_id, "failed", {"reason": f"case {case_id}: not finite"})
    draw = random.Random(f"{unit.name} {case_id}")
    if unit.does == "trace":
        scores = [[draw.random() for _ in range(6)] for _ in range(8)]
        return Record(
            case_id,
            "done",
            {
                "tokens": [f"token{t}" for t in range(8)], "subject": [1, 2, 3], "span": [1, 2, 3], "answer": " Lyon",
                "clean": 0.9, "corrupted": 0.1, "scores": scores,
            },
        )  # fmt: skip
    views: dict[str, Any] = {}
    for view in ("entity", "relation"):
        metrics = {g: {"success": 1.0, "accuracy": 0.0, "magnitude": draw.uniform(-1, 1)} for g in GROUPS}
        prompts = {g: [{"prompt": f"a long prompt {n} " * 6} for n in range(draw.randrange(1, 40))] for g in GROUPS}
        views[view] = {"prompts": prompts, "metrics": metrics, "foil": None, "another": {}}
    return Record(case_id, "done", {"views": views} | ({"hparams": "0123456789ab"} if unit.does == "edit" else {}))


def run(folder: Path, engine: Cheap | None = None) -> Path:
    """Run or resume the plan in `folder`."""
    working = engine or Cheap()
    return run_plan(PLAN, Asked("world"), show=Display(), out=folder, engine=lambda *_: working)


def contents(folder: Path) -> dict[str, list[Record]]:
    """All records of a run, by unit."""
    with reading(folder) as store:
        return {unit.name: store.records(unit) for unit in PLAN.units}


def made_up(info: RunInfo) -> dict[str, list[Record]]:
    """All records that a run of that description ends with."""
    return {
        unit.name: [record(unit, case_id) for batch in info.batches(unit) for case_id in batch]
        for unit in info.plan.units
    }


def check(folder: Path) -> int:
    """How many records the run has; AssertionError when one is not what it should be."""
    found = contents(folder)
    for unit in PLAN.units:
        assert found[unit.name] == [record(unit, one.case_id) for one in found[unit.name]], unit.name
    return sum(map(len, found.values()))


def _killed(folder: Path, draw: random.Random) -> bool:
    """Start a process on the run and kill it after some batches and an instant; False when it had ended."""
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hears)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        exit_code = 1
        try:
            run(folder, Cheap(description(MANY_CASES), pipe=says))
            exit_code = 0
        finally:
            os._exit(exit_code)
    os.close(says)
    for _ in range(draw.randrange(1, 4)):
        os.read(hears, 1)
    time.sleep(draw.uniform(0, 0.004))
    os.kill(child, signal.SIGKILL)
    os.close(hears)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL), "the run failed"
    return ended != 0


def _rounds(folder: Path, rounds: int, seed: int) -> None:
    draw, killed, before = random.Random(seed), 0, 0
    for _ in range(rounds):
        killed += _killed(folder, draw)
        now = check(folder)
        assert now >= before, "a stored record is gone"
        before = now
    print(f"killed {killed} times, {before} records")


def refusing(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command that ends with exit code 2 says, which is one line."""

    def refused(*arguments: object) -> str:
        capsys.readouterr()
        assert call([str(one) for one in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("kloc: ") and said.count("\n") == 1
        return said

    return refused


if __name__ == "__main__":
    _rounds(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
