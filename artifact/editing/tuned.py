"""Hyperparameters that `kloc tune` chose: the form of its file, and the files that come with the package, by model.

Such a file holds every method that was tuned. `--hparams` takes it, and picks the method's own.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from artifact.errors import SettingError
from artifact.io import sha256_of
from artifact.sizes import count_of

FOLDER = Path(__file__).with_name("tuned_files")
"""A file a model, by its name: the values that the model takes without --hparams."""


Share = Annotated[float, Meta(ge=0, le=1)]


class Tried(msgspec.Struct, frozen=True):
    """One candidate: the hyperparameters that differ from the start, and what it scored (shares, from 0 to 1)."""

    values: dict[str, Any]
    success: Share
    specificity: Share
    failed: Annotated[int, Meta(ge=0)]
    """Edits that could not be made or scored; they count as no success and no specificity."""

    @property
    def words(self) -> str:
        """The candidate in words."""
        values = ", ".join(f"{key} {value}" for key, value in self.values.items()) or "the values it began with"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{values}: success {self.success:.3f}, specificity {self.specificity:.3f}{failed}"


class Chosen(msgspec.Struct, frozen=True):
    """What was chosen for one method, of what, on a grid."""

    hparams: dict[str, Any]
    hash: str
    values: dict[str, Any]
    """Those of the hyperparameters that differ from the start."""
    grid: dict[str, list[Any]]
    tried: list[Tried]

    @property
    def words(self) -> str:
        """What was chosen, and what it scored."""
        return next(one.words for one in self.tried if one.values == self.values)


class Tuned(msgspec.Struct, frozen=True):
    """A file of `kloc tune`: the model, the facts, how was chosen, and what by method."""

    model: str
    revision: str
    weights_sha256: str
    protocol: str
    facts: str
    facts_sha256: str
    cases: list[int]
    criterion: str
    methods: dict[str, Chosen]
    moments: str = ""
    tuned: bool = True
    """Marks the file's kind."""


def is_tuned(content: object) -> bool:
    """Whether decoded JSON is a file of `kloc tune`."""
    return isinstance(content, dict) and content.get("tuned") is True and "methods" in content


def tuned_of(content: object, path: Path) -> Tuned:
    """The tuned file of decoded JSON; SettingError where a field is missing or of another type."""
    try:
        return msgspec.convert(content, Tuned)
    except msgspec.ValidationError as error:
        raise SettingError(f"{path}: {error}; expected a file that kloc tune wrote") from None


def read_tuned(path: Path) -> Tuned:
    """The file at `path`; SettingError for any other one."""
    from artifact.reading import read_json

    content = read_json(path)
    if not is_tuned(content):
        raise SettingError(f"{path}: is not a file of kloc tune, which holds hyperparameters by method; give one")
    return tuned_of(content, path)


def words(tuned: Tuned, path: Path) -> str:
    """Where values of a tuned file come from, in words, with its name and hash."""
    named = f"{path.name}, sha256 {sha256_of(path)[:12]}"
    return f"chosen by kloc tune on {count_of(len(tuned.cases), 'fact')} of {tuned.model} set aside ({named})"


@cache
def shipped(model: str) -> Mapping[str, tuple[dict[str, Any], str]]:
    """By method, the values tuned for a model of that name that come with the package, and their source in words."""
    path = FOLDER / f"{model}.json"
    if not model.isidentifier() or not path.is_file():
        return {}
    tuned = read_tuned(path)
    return {name: (one.hparams, words(tuned, path)) for name, one in tuned.methods.items()}
