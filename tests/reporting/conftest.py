"""Synthetic runs: stores with invented numbers, made with the store's own writers, for every test of the reports."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifact.evaluation.metrics import GROUPS
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Plan, Unit
from artifact.runs.describe import RunInfo
from artifact.runs.record import Record
from artifact.runs.store import Store, begin, reading, writing

LAYERS = 6
ROME = Plan(
    name="tables",
    title="ROME from both perspectives",
    units=(
        Unit("unedited", "unedited", batch=8),
        Unit("rome-entity", "edit", batch=8, method="rome", perspective="entity"),
        Unit("rome-relation", "edit", batch=8, method="rome", perspective="relation"),
    ),
)
HIDDEN = Plan(
    name="smoke",
    title=SMOKE.title,
    units=tuple(
        unit
        for unit in SMOKE.units
        if unit.method in ("none", "rome") and (unit.does != "trace" or unit.trace_kind.name == "hidden")
    ),
)
"""The smoke plan with one kind of trace: figures take most of a report's time."""
Shares = dict[tuple[str, str], float]
"""Success in percent by (perspective, group)."""

UNEDITED: Shares = {
    ("entity", "reliability"): 22.2,
    ("entity", "generality"): 24.7,
    ("entity", "specificity"): 78.1,
    ("relation", "reliability"): 97.0,
    ("relation", "generality"): 76.0,
}
EDITED: dict[str, Shares] = {
    "rome-entity": {
        ("entity", "reliability"): 99.93,
        ("entity", "generality"): 96.6,
        ("entity", "specificity"): 75.4,
        ("relation", "reliability"): 96.12,
        ("relation", "generality"): 74.46,
    },
    "rome-relation": {
        ("entity", "reliability"): 27.92,
        ("entity", "generality"): 28.12,
        ("entity", "specificity"): 77.0,
        ("relation", "reliability"): 99.99,
        ("relation", "generality"): 84.47,
    },
}
"""What the paper prints for ROME on GPT-2 XL, so that a store of these shares is reproduced everywhere."""


@dataclass
class Synthetic:
    """What a synthetic run is made of; tests change what they are about."""

    plan: Plan = HIDDEN
    model: str = "world"
    evidence: bool = False
    cases: int = 24
    planned: int | None = None
    """Cases of the plan where the run is unfinished."""
    limit: int | None = None
    data_source: str = "embedded world, 256 made-up facts"
    reconstructed: bool | None = False
    shares: dict[str, Shares] = field(default_factory=lambda: {"unedited": UNEDITED, **EDITED})
    odd_cases: bool = True
    """A failed and an excluded case in every unit but the unedited one."""
    relations: int = 0
    """Relations among which the cases take turns; none by default, as in runs of earlier versions."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Units that leave out every case, with the reason."""


Build = Callable[..., Store]


def run_info(synthetic: Synthetic) -> RunInfo:
    """The info of a synthetic run."""
    relations = {f"P{r}": list(range(r, synthetic.cases, synthetic.relations)) for r in range(synthetic.relations)}
    return RunInfo(
        plan=synthetic.plan,
        model=synthetic.model,
        model_reason="no hub can be reached and the embedded model needs none",
        revision="embedded, version 1",
        weights_sha256="ab" * 32,
        layers=LAYERS,
        device="cpu, 1 thread",
        dtype="float32",
        protocol="released",
        switches={"removal_without_space": True, "severed_fresh_noise": True, "tf32": True},
        data_source=synthetic.data_source,
        reconstructed=synthetic.reconstructed,
        data_sha256="cd" * 32,
        data_note="facts, relation names and rephrasings are made up",
        evidence=synthetic.evidence,
        evidence_note=""
        if synthetic.evidence
        else "the model was trained on made-up facts, its editing site by design",
        settings={"rome": {"hparams": {"layers": [1], "v_lr": 0.2}, "hash": "0123456789ab", "prefixes": ["{}"] * 21}},
        noise_level=0.12,
        samples=10,
        cases=list(range(synthetic.planned or synthetic.cases)),
        limit=synthetic.limit,
        relations=relations,
        traced_relations=relations,
        by_relation=False,
    )


def views(shares: Shares, case: int, cases: int) -> dict[str, Any]:
    """One case's views: the first cases of a column succeed, as many as its share asks for."""
    found: dict[str, Any] = {}
    for view in ("entity", "relation"):
        metrics: dict[str, Any] = {}
        prompts: dict[str, Any] = {}
        for group in GROUPS:
            share = shares.get((view, group))
            # Cases beyond the share fail; a generator spreads the magnitudes without a seed to keep.
            right = share is not None and case < round(share / 100 * cases)
            prompts[group] = [] if share is None else [_prompt(view, group, case, right)]
            metrics[group] = {
                "success": None if share is None else float(right),
                "accuracy": None if share is None else float(right and case % 3 > 0),
                "magnitude": None if share is None else (0.4 if right else -0.3) + 0.01 * (case * 7 % 11),
            }
        found[view] = {"prompts": prompts, "metrics": metrics, "foil": None, "another": {}}
        if view == "relation":
            # The harder foil: what is right against "None" is right against it in two of three cases.
            against = {
                group: {"success": float(one["success"] and case % 3 > 0), "magnitude": one["magnitude"] / 2}
                for group, one in metrics.items()
                if one["success"] is not None
            }
            found[view] |= {"foil": "another", "another": against}
    return found


def _prompt(view: str, group: str, case: int, right: bool) -> dict[str, Any]:
    return {
        "prompt": f"{view} {group} {case}",
        "target_new": 0.5 if right else 2.0,
        "target_true": 1.0,
        "new_right": right,
        "true_right": False,
    }


def trace(perspective: str, case: int) -> dict[str, Any]:
    """One fact's trace: a smooth early site, and recovery at the last token."""
    subject, tokens = [1, 2, 3], 8
    span = subject if perspective == "entity" else [0, 4, 5, 6, 7]
    layer, token = np.meshgrid(np.arange(LAYERS), np.arange(tokens))
    site = 0.5 * np.exp(-((layer - 1) ** 2) / 3 - (token - 3) ** 2 / 2)
    late = 0.7 * np.exp(-((layer - LAYERS) ** 2) / 4 - (token - tokens + 1) ** 2)
    scores = 0.1 + (site if perspective == "entity" else site / 5) + late + 0.01 * (case % 5)
    return {
        "tokens": ["The", "Ada", " Love", "lace", " was", " born", " in", " town"],
        "subject": subject,
        "span": span,
        "answer": " Lyon",
        "clean": 0.9,
        "corrupted": 0.1,
        "scores": scores.tolist(),
    }


def payload(unit: Unit, case: int, synthetic: Synthetic) -> dict[str, Any]:
    """The payload of one finished case."""
    if unit.does == "trace":
        return trace(unit.perspective, case)
    scored = {"views": views(synthetic.shares.get(unit.name, UNEDITED), case, synthetic.cases)}
    return scored if unit.does == "unedited" else {"norm": 1.5, "loss": 0.04, "steps": 20, **scored}


def write_run(folder: Path, synthetic: Synthetic) -> Path:
    """Write a synthetic run and return its folder."""
    with writing(folder) as store:
        # Thousands of one-case transactions need no disk here.
        store.connection.execute("pragma synchronous = off")
        store.connection.execute("pragma journal_mode = memory")
        info = begin(store, run_info(synthetic))
        store.add_environment(
            {"python": "3.11.7", "machine": "x86_64, 2 cores, <no GPU>", "packages": {"torch": "2.13.0"}}
        )
        for unit in info.plan.units:
            taken: Sequence[int] = info.cases[: min(synthetic.cases, unit.most or synthetic.cases)]
            for case in taken:
                store.add(unit, _record(unit, case, synthetic))
            store.add_time(unit, 1.25, len(taken))
    return folder


def _record(unit: Unit, case: int, synthetic: Synthetic) -> Record:
    if unit.name in synthetic.excluded:
        return Record(case, "excluded", {"reason": synthetic.excluded[unit.name]})
    if synthetic.odd_cases and unit.does != "unedited" and case in (5, 11):
        if case == 5:
            return Record(case, "failed", {"reason": f"case {case}: the value's loss is <nan> & 100% lost"})
        return Record(case, "excluded", {"reason": "the greedy answer is not the fact's object"})
    return Record(case, "done", payload(unit, case, synthetic))


@contextmanager
def opened(folder: Path, synthetic: Synthetic) -> Iterator[Store]:
    """A synthetic run, written and open for reading."""
    with reading(write_run(folder, synthetic)) as store:
        yield store


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Write and open synthetic runs; keywords change what they are made of."""
    with ExitStack() as stack:
        numbers = count()
        yield lambda **changes: stack.enter_context(opened(tmp_path / f"run{next(numbers)}", Synthetic(**changes)))


@pytest.fixture
def shares() -> dict[str, Shares]:
    """Success in percent by unit, perspective and group, for a test to change."""
    return deepcopy({"unedited": UNEDITED, **EDITED})


@pytest.fixture
def full_size() -> dict[str, Any]:
    """Keywords of a run that counts as evidence: ROME on GPT-2 XL, by default at exactly the paper's numbers."""
    return {"plan": ROME, "model": "gpt2-xl", "evidence": True, "cases": 200, "odd_cases": False}


@pytest.fixture
def smoke(build: Build) -> Store:
    """A smoke run on the embedded world, with a failed and an excluded case."""
    return build()


@pytest.fixture(scope="module")
def shared_smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The same run for all tests of a module that only read it."""
    with opened(tmp_path_factory.mktemp("shared"), Synthetic()) as store:
        yield store


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    """ROME on both of the paper's models: GPT-2 XL in full and partly out of tolerance, GPT-J in part, with traces."""
    shares = deepcopy({"unedited": UNEDITED, **EDITED})
    shares["rome-entity"]["entity", "reliability"] = 60.0
    severed = tuple(
        unit
        for unit in SMOKE.units
        if unit.method in ("none", "rome")
        and (unit.does != "trace" or unit.trace_kind.name in ("hidden", "severed-mlp"))
    )
    with ExitStack() as stack:
        yield [
            stack.enter_context(opened(tmp_path_factory.mktemp("models"), synthetic))
            for synthetic in (
                Synthetic(ROME, "gpt2-xl", evidence=True, cases=200, shares=shares, odd_cases=False),
                Synthetic(Plan("smoke", SMOKE.title, severed), "gpt-j", evidence=True, planned=40),
            )
        ]
