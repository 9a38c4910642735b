"""How long a report takes: `kloc report` on a run of the paper's size, made of invented numbers.

Covers the store (every unit of the paper's run on GPT-2 XL, records of the usual size) and the timing of the command as
a user types it, the interpreter's start included: first with all figures to draw, then again.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from artifact.plans.paper import SMOKE
from artifact.plans.unit import Plan, Unit
from artifact.runs.describe import RunInfo
from artifact.runs.record import Record
from artifact.runs.store import DATABASE, begin, writing

_EDITS, _TRACES = 7500, 1207
_LAYERS, _TOKENS = 48, 10
_PROMPTS = {"reliability": 1, "generality": 2, "specificity": 10}
"""Of a CounterFact record, which has no prompts of other relations."""
_SEED = 5


class Took(NamedTuple):
    """Seconds of one command: by the clock, and of processors in all of its processes."""

    clock: float
    processors: float


@dataclass(frozen=True)
class ReportTiming:
    """What `kloc report` takes the first time and again, and what it had to read."""

    records: int
    bytes: int
    first: Took
    again: tuple[Took, ...]
    peak: int

    def lines(self) -> Iterator[str]:
        """The timing in words and figures."""
        yield f"journal: {self.records} records, {self.bytes / 1e6:.0f} MB"
        yield f"kloc report, every figure drawn: {self.first.clock:.2f} s, {self.first.processors:.2f} s of processors"
        best, every = min(self.again), ", ".join(f"{took.clock:.2f}" for took in self.again)
        yield f"kloc report again: {best.clock:.2f} s (of {every}), {best.processors:.2f} s of processors"
        yield f"peak memory: {self.peak / 1e9:.2f} GB"


def bench_report(folder: Path, records: int, repeats: int = 3) -> ReportTiming:
    """Write a run of about so many records into `folder` and time `kloc report` on it."""
    written = write_run(folder, records)
    took = [_report(folder) for _ in range(1 + repeats)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return ReportTiming(written, (folder / DATABASE).stat().st_size, took[0], tuple(took[1:]), peak)


def write_run(folder: Path, records: int) -> int:
    """A finished run of invented numbers, in the paper's proportions; returns how many records it has."""
    edits = sum(unit.does != "trace" for unit in SMOKE.units)
    share = records / (edits * _EDITS + (len(SMOKE.units) - edits) * _TRACES)
    cases, traces = max(2, round(_EDITS * share)), max(2, round(_TRACES * share))
    units = tuple(
        msgspec.structs.replace(unit, most=traces if unit.does == "trace" else None, window=10) for unit in SMOKE.units
    )
    draw = np.random.default_rng(_SEED)
    written = 0
    with writing(folder) as store:
        info = begin(store, _info(Plan("bench", "invented numbers, for timing", units), cases))
        with store.together():
            for unit in units:
                for case in info.cases[: unit.most]:
                    # One case in a thousand fails, so that units rest on different facts.
                    failed = unit.does == "edit" and draw.random() < 1e-3
                    payload = {"reason": f"case {case}: not finite"} if failed else _payload(unit, case, draw)
                    store.add(unit, Record(case, "failed" if failed else "done", payload))
                    written += 1
    return written


def _report(folder: Path) -> Took:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "from artifact.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - began, processors)


def _payload(unit: Unit, case: int, draw: np.random.Generator) -> dict[str, Any]:
    if unit.does == "trace":
        subject = [1, 2]
        return {
            "tokens": [f"token{t}" for t in range(_TOKENS)],
            "subject": subject,
            "span": subject if unit.perspective == "entity" else [0, *range(3, _TOKENS)],
            "answer": " Paris",
            "clean": float(draw.random()),
            "corrupted": float(draw.random()) / 10,
            "scores": draw.random((_TOKENS, _LAYERS)).tolist(),
            "metrics": {name: _metric(draw) for name in ("logp", "ld")},
        }
    views = {}
    for perspective in ("entity", "relation"):
        prompts, metrics, another = {}, {}, {}
        for group, prompts_each in _PROMPTS.items():
            count = 0 if perspective == "relation" and group == "specificity" else prompts_each
            new_P, true_P, other_P = draw.random((3, count))
            prompts[group] = [
                {
                    "prompt": f"{perspective} {group} {case} {p}: a prompt of usual length stands here, with subject",
                    "target_new": float(new_P[p]),
                    "target_true": float(true_P[p]),
                    "new_right": bool(new_P[p] < 0.5),
                    "true_right": False,
                    "another": float(other_P[p]),
                }
                for p in range(count)
            ]
            if count:
                right = {"success": float((new_P < true_P).mean()), "magnitude": float((true_P - new_P).mean())}
                metrics[group] = {**right, "accuracy": float((new_P < 0.5).mean())}
                another[group] = right
        views[perspective] = {"prompts": prompts, "metrics": metrics, "foil": "another", "another": another}
    return {"hparams": "0" * 12, "norm": 1.0, "views": views}


def _info(plan: Plan, cases: int) -> RunInfo:
    return RunInfo(
        plan=plan,
        model="invented",
        model_reason="made for timing a report",
        revision="none",
        weights_sha256="0" * 64,
        layers=_LAYERS,
        device="none",
        dtype="float32",
        protocol="released",
        switches={},
        data_source="invented numbers",
        data_sha256="0" * 64,
        data_note="not made from facts",
        evidence=False,
        evidence_note="Every number is invented",
        settings={},
        noise_level=0.1,
        samples=10,
        cases=list(range(cases)),
    )


def _metric(draw: np.random.Generator) -> dict[str, Any]:
    """Another metric of a trace, to six digits as records have it."""
    clean, corrupted, *scores = draw.random(2 + _TOKENS * _LAYERS).round(6).tolist()
    return {"clean": clean, "corrupted": corrupted, "scores": [scores[t::_TOKENS] for t in range(_TOKENS)]}
