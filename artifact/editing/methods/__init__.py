"""The editing methods by name: one file each, and this table of them, in the order in which they are listed.

A new method is one file and its name here (docs/extend.md). Whoever needs a list of methods, a printed name, a need or
a cost asks this table.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from artifact.editing.method import Method

_FILES = ("ft", "kn", "mend", "rome", "memit", "rrome", "emmet", "alphaedit", "memit_merge", "pmet", "rets", "ike")
METHODS: dict[str, Method] = {file: import_module(f"{__name__}.{file}").METHOD for file in _FILES}

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
"""A method's name, where a command line or a stored plan is read."""


def printed_name(method: str) -> str:
    """How tables print a method; "none" is the unedited model, and a name that is not known here stays as it is."""
    if method == "none":
        return "unedited"
    return METHODS[method].printed if method in METHODS else method


def moment_layers(
    methods: Iterable[str], model: str, layers: int, file_of: Callable[[str], Path | None] = lambda name: None
) -> list[int]:
    """The layers whose second moments these methods read on a model of that name and depth, lowest first; with
    `file_of` by the hyperparameters that a file has for a method.
    """
    chosen = (METHODS[name].hparams_for(model, layers, file_of(name)) for name in methods if METHODS[name].moments)
    return sorted({layer for hparams in chosen for layer in hparams.edited})
