"""What a rehearsal measured, kept in the cache folder by machine, and what it says of a run on the same machine.

Covers one file a machine, plan, model and protocol, and the seconds that a run's own facts take by it.
bench/rehearse.py measures them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from artifact.editing.protocol import corrected_switches, protocol_part
from artifact.io import NOT_JSON, write_atomically
from artifact.runs.describe import RunInfo
from artifact.sources.cache import cache_folder

REHEARSED = "rehearsed"
"""Key of a run's environment that holds `rehearsed_seconds`."""


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Rehearsed(msgspec.Struct, frozen=True):
    """Seconds a fact of every unit by name, at most and expected, on the machine that `environment` describes."""

    plan: str
    model: str
    protocol: str
    environment: dict[str, Any]
    seconds: dict[str, tuple[_Seconds, _Seconds]]
    corrected: tuple[str, ...] = ()
    """Switches of the released protocol that were corrected one by one, sorted."""


def keep(rehearsed: Rehearsed) -> Path:
    """Write it to the cache folder, over an earlier one of the same kind; OSError where it cannot be written."""
    path = _path(rehearsed.plan, rehearsed.model, rehearsed.protocol, rehearsed.corrected, rehearsed.environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(rehearsed), indent=1) + b"\n")
    return path


def rehearsed_seconds(info: RunInfo, environment: dict[str, Any]) -> dict[str, float] | None:
    """Seconds that the run's cases take by a rehearsal on this very machine with these versions: `most`, `expected`.

    None where there was none, or where it did not have all of the run's units.
    """
    asked = info.plan.name, info.model, info.protocol
    try:
        corrected = corrected_switches(info.protocol, info.switches)
        content = _path(info.plan.name, info.model, info.protocol, corrected, environment).read_bytes()
        kept = msgspec.json.decode(content, type=Rehearsed)
        if (kept.plan, kept.model, kept.protocol, kept.corrected) != (*asked, tuple(corrected)):
            return None  # of a model of the same last name, or a file that was moved
        each = [(sum(map(len, info.batches(unit))), kept.seconds[unit.name]) for unit in info.plan.units]
    except (OSError, *NOT_JSON, KeyError):  # a run needs no rehearsal
        return None
    most, expected = (sum(facts * pair[which] for facts, pair in each) for which in (0, 1))
    return {"most": round(most, 3), "expected": round(expected, 3)}


def _path(plan: str, model: str, protocol: str, corrected: Sequence[str], environment: dict[str, Any]) -> Path:
    machine = hashlib.sha256(msgspec.json.encode(environment, order="sorted")).hexdigest()[:12]
    followed = f"{protocol}-{protocol_part(corrected)}" if corrected else protocol
    return cache_folder() / "rehearsals" / f"{plan}-{Path(model).name}-{followed}-{machine}.json"
