"""Checks before anything is fetched or loaded: the run's folder, the user's files, the device, its memory.

A run that cannot begin ends here, in one line, before gigabytes are downloaded. What can only be compared once the
model is loaded (hashes, settings) is checked by store.py when the run begins.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from artifact.editing.protocol import all_switches, protocol_of
from artifact.errors import NotBegun, RunError
from artifact.lm.device import check_fits, parse_bytes
from artifact.lm.dtype import BYTES
from artifact.plans.unit import Plan
from artifact.runs.describe import first_difference
from artifact.runs.inputs import check_given
from artifact.runs.journal import DATABASE, journal_file
from artifact.runs.lock import check_path, locked, unwritable_folder
from artifact.runs.resolve import Asked, check_asked, run_device
from artifact.runs.store import reading
from artifact.sources.catalogue import HUB_MODELS


def check_ahead(plan: Plan, model: str, asked: Asked, folder: Path | None, local: bool = True) -> None:
    """Raise an ArtifactError for what would stop the run of `plan` on `model` in `folder` later.

    `model` may be `auto` and `folder` None, which leaves open what only the run can choose. Without `local` the device
    is that of Ray's machines, where it is checked.
    """
    check_asked(asked)
    if asked.memory is not None:
        parse_bytes(asked.memory)
    check_given(plan, model, asked.given)
    if folder is not None:
        check_folder(plan, model, asked, folder)
    if local:
        device, _ = run_device(plan, asked)
        if model in HUB_MODELS:
            check_fits(model, HUB_MODELS[model].size * BYTES[asked.dtype] // BYTES["float32"], device)


def check_folder(plan: Plan, model: str, asked: Asked, folder: Path) -> None:
    """Raise RunError when the folder cannot be written, is in use, damaged, or belongs to another run."""
    check_path(folder)
    if not folder.exists():
        there = next(parent for parent in folder.absolute().parents if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            reason = errno.EACCES if there.is_dir() else errno.ENOTDIR
            raise unwritable_folder(folder, OSError(reason, os.strerror(reason)))
        return
    with locked(folder):
        if not journal_file(folder / DATABASE):
            return
        with suppress(NotBegun), reading(folder) as store:
            info, protocol = store.info(), protocol_of(asked.protocol, asked.correct)
            before = _told(info.plan, info.model, info.protocol, all_switches(info.switches), info.limit, info.shard)
            now = _told(
                msgspec.structs.replace(
                    plan, units=tuple(one for one in plan.units if one.name not in info.left_out_units)
                ),
                info.model if model == "auto" else model,
                protocol.name,
                protocol.switches(),
                asked.limit,
                asked.shard,
            )
            if (difference := first_difference(before, now)) is not None:
                name, then, here = difference
                raise RunError(
                    f"{folder}: was made with another {name} ({then}, now {here}); name another folder with --out, or "
                    "run the command that made it"
                )


def _told(
    plan: Plan, model: str, protocol: str, switches: dict[str, bool], limit: int | None, shard: tuple[int, int] | None
) -> dict[str, Any]:
    """What two runs must share, as far as it is known without the model."""
    return {
        "plan": plan.name,
        "units": [unit.name for unit in plan.units],
        "model": model,
        "protocol": protocol,
        "switches": switches,
        "limit": limit,
        "shard": None if shard is None else list(shard),
    }
