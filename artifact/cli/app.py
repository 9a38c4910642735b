"""What all commands share: the app, the parameters that mean the same everywhere, and checks of files.

Imports that load torch happen inside the functions that need it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from artifact import __version__
from artifact.cli.bounds import size
from artifact.editing import protocol as protocols
from artifact.errors import RunError, SettingError
from artifact.io import FULL, check_writable, is_device, open_regular, place_of, reason, write_atomically
from artifact.lm.dtype import DtypeName, torch_dtype
from artifact.terminal import complain

if TYPE_CHECKING:
    from artifact.lm.device import Memory as Budget
    from artifact.lm.load import LanguageModel


def _default(value: Any) -> str | None:
    """A default as the help shows it: not at all where it is nothing, off or none of a list."""
    if value is None or value is False or value == []:
        return None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


app = App(
    name="kloc",
    version=__version__,
    help="Re-run, measure and judge 'Does Knowledge Localization Hold True?' (CIKM 2024).",
    help_format="plaintext",
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    # A flag that is off by default needs no --no-... beside it, and no word that it is off.
    default_parameter=Parameter(negative="", show_default=_default),
)

Model = Annotated[
    str,
    Parameter(
        help="world, world-masked, gpt2, gpt2-xl, gpt-j, smollm2, a model of the hub (org/name, org/name@revision), or "
        "the folder of a transformers model."
    ),
]
RunModel = Annotated[
    str,
    Parameter(
        help="auto: the plan's own (for smoke: GPT-2 small where it can be fetched, else the embedded world); or a "
        "model's name (of the hub too: org/name, org/name@revision) or folder."
    ),
]
Protocol = Annotated[
    protocols.ProtocolName, Parameter(help="Do as the released code does, or with its defects corrected.")
]
Device = Annotated[str | None, Parameter(help="cpu, cuda, or one GPU such as cuda:1 (default: a GPU, else the CPU).")]
Dtype = Annotated[DtypeName, Parameter(help="Type of the weights. What an edit computes stays in float32 and float64.")]
Correct = Annotated[
    list[str],
    Parameter(
        help="Correct only these defects of the released code: names in docs/protocol.md, such as "
        "kn_undone,mend_steps_swapped."
    ),
]
Out = Annotated[Path | None, Parameter(help="Run folder (default: results/PLAN-MODEL, with what else sets it apart).")]
Memory = Annotated[
    str | None,
    Parameter(help="Most memory of a batch, such as 8GB (default: a share of what is free).", validator=size),
]
AnyModel = Annotated[bool, Parameter(help="Use files made for another model, too; the output and records say so.")]
Edits = Annotated[
    list[Path],
    Parameter(name="--edit", consume_multiple=1, help="Weight changes written by kloc edit, one or more; they add up."),
]
NO_FILES: list[Path] = []
NO_WORDS: list[str] = []
"""Defaults of options that may be given several times."""
Limit = Annotated[int | None, Parameter(help="Take at most this many facts in each unit.")]


def words(texts: Sequence[str]) -> list[str]:
    """Names given one by one or with commas between."""
    return [word for text in texts for word in text.split(",") if word]


@Parameter(name="*")
@dataclass(frozen=True)
class Following:
    """Whether the released code's defects are followed."""

    protocol: Protocol = "released"
    correct: Correct = field(default_factory=list)

    @property
    def followed(self) -> protocols.Protocol:
        """The protocol with all its switches; SettingError as `protocol_of` raises it."""
        return protocols.protocol_of(self.protocol, words(self.correct))


@Parameter(name="*")
@dataclass(frozen=True)
class Machine:
    """Where a model computes, in which type, and in how much memory."""

    device: Device = None
    dtype: Dtype = "float32"
    memory: Memory = None

    def load(self, model: str, tf32: bool = False) -> "tuple[LanguageModel, Budget]":
        """The model, ready to compute, and what its batches may take; on a GPU products in TF32 if asked for."""
        from artifact.lm.device import use_tf32

        loaded = load_model(model, self.device, self.dtype)
        use_tf32(tf32)
        return loaded, memory_budget(self.memory, str(loaded.decoder.device))


AS_RELEASED, ANY_MACHINE = Following(), Machine()
"""Defaults of these two groups of options."""


def memory_budget(asked: str | None, device: str) -> "Budget":
    """The memory budget asked for, or the device's own."""
    import torch

    from artifact.lm.device import Memory, default_memory, parse_bytes

    limit = default_memory(torch.device(device)) if asked is None else parse_bytes(asked)
    return Memory(limit, complain)


def load_model(model: str, device: str | None = None, dtype: DtypeName = "float32") -> "LanguageModel":
    """The model, on the device asked for or the one that is chosen (lm/device.py)."""
    from artifact.lm.device import choose_device
    from artifact.lm.load import load

    loaded = load(model, choose_device(device)[0], torch_dtype(dtype))
    for line in loaded.tokens.notes:
        complain(line)
    return loaded


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuse, before any work, files that could not be written after it: `outputs` by option, None where not given.

    Raises RunError for a place that cannot be written, and SettingError for one file under two options and for a file
    that would take the place of one of the `inputs`, of a file in a folder among them, or of any run's own.
    """
    from artifact.runs.journal import belongs_to_a_run

    places: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        with writing(path):
            check_writable(path)
        place = place_of(path)
        if belongs_to_a_run(place):
            raise SettingError(f"{option} {path}: would take the place of a file of the run there; give another")
        if place in places and not is_device(path):
            raise SettingError(f"{option} {path}: is the file of {places[place]}, too; give each its own file")
        places[place] = option
        for given in inputs:
            if given is not None and _destroys(place, Path(given)):
                raise SettingError(f"{option} {path}: would take the place of what {given} is read from; give another")


def _destroys(place: Path, given: Path) -> bool:
    """Whether a file written at `place` takes the place of `given`, or of what a folder `given` holds."""
    if not os.path.lexists(given):
        return False
    if place in (place_of(given), Path(os.path.realpath(given))):
        return True
    return given.is_dir() and os.path.lexists(place) and place.parent == Path(os.path.realpath(given))


def check_inputs(inputs: Mapping[str, Path | Sequence[Path] | None]) -> None:
    """SettingError for a file, by option, that is missing or not a regular file: a folder, a pipe that nobody fills."""
    for option, given in inputs.items():
        for path in (given,) if isinstance(given, Path) else given or ():
            try:
                open_regular(path).close()
            except (OSError, ValueError) as error:
                raise SettingError(f"{option} {path}: cannot be read ({reason(error)}); give a readable file") from None


def by_option(files: object, *folders: str) -> dict[str, Path | None]:
    """Files that a dataclass holds by name, by the option that gives each; without the fields that are `folders`."""
    return {f"--{name.replace('_', '-')}": path for name, path in vars(files).items() if name not in folders}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong when a file is written into one line."""
    try:
        yield
    except OSError as error:
        remedy = "free disk space" if error.errno in FULL else "name a file in a folder you own"
        raise RunError(f"{path}: cannot be written ({reason(error)}); {remedy}") from None


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        with writing(path):
            write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")
