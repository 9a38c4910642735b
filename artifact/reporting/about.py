"""What the page says of a run besides its numbers: its progress, settings, and times beside those of a rehearsal."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from artifact.plans.tasks import TASKS
from artifact.runs.describe import RunInfo
from artifact.runs.rehearsed import REHEARSED
from artifact.runs.store import Store


def progress(store: Store, info: RunInfo) -> list[dict[str, Any]]:
    """Per unit: what it does in words, planned cases, and how many finished, failed or were excluded."""
    progress, recorded = [], store.counts()
    for unit in info.plan.units:
        counted = recorded.get(unit.name, Counter())
        planned = info.asked(unit)
        does = {
            "trace": f"trace the {unit.trace_kind.printed}, {unit.perspective} perspective",
            "edit": f"edit with {unit.printed_method}, {unit.perspective} perspective",
            "unedited": "score the unedited model",
            "knockout": f"knock out attention, {unit.perspective} prompt",
            "task": TASKS[unit.task].words if unit.task in TASKS else unit.task,
        }[unit.does]
        counts = {status: counted[status] for status in ("done", "failed", "excluded")}
        progress.append({"unit": unit.name, "does": does, "planned": planned, "recorded": counted.total(), **counts})
    return progress


def facts_each(progress: list[dict[str, Any]], info: RunInfo) -> str:
    """How many of the facts the units take, where that is not all of them; traces of other data are left out."""
    traced = {unit.name for unit in info.plan.units if unit.does == "trace"}
    own = traced if info.traced is not None and info.traced.sha256 != info.data_sha256 else set()
    planned = [unit["planned"] for unit in progress if unit["unit"] not in own]
    if not planned or min(planned) == len(info.cases):
        return ""
    fewest, most = min(planned), max(planned)
    return f", of which each unit takes {fewest}" + (f" to {most}" if most > fewest else "")


def setting(method: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A method's resolved hyperparameters as (name, value) texts, and their hash where it is recorded."""
    shown = {**value.get("hparams", {}), **{key: one for key, one in value.items() if key not in ("hparams", "hash")}}
    values = [(key, in_a_line(one)) for key, one in shown.items()]
    return {"method": method, "hash": value.get("hash", "not recorded"), "values": values}


def in_a_line(value: Any) -> str:
    """A recorded value in one line; a long list of texts (prefixes) by its length, since the run's journal holds it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_a_line(inner)}" for key, inner in value.items())
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} entries, kept in the run's journal"
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def rehearsed(store: Store) -> str:
    """What a rehearsal on the run's machine said it takes, and what it took; empty unless one machine did it all."""
    environments = store.environments()
    if len(environments) != 1 or REHEARSED not in environments[0]:
        return ""
    hours = {name: f"{seconds / 3600:.2f}" for name, seconds in environments[0][REHEARSED].items()}
    took = sum(seconds for _, seconds, _ in store.times()) / 3600
    return f"{hours['most']} h at most, {hours['expected']} h expected; took {took:.2f} h"
