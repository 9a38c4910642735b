"""Whether what was fetched is still what it was: every file's size and sha256 against what it must have, offline.

Covers plain files, what was taken out of archives, models in the hub's cache, and converted weights. A file without a
known hash is checked to be of the kind that its name says.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from artifact.errors import ModelError
from artifact.io import NOT_JSON, reason, sha256_of
from artifact.reading import read_bytes
from artifact.sources.cache import converted_file, converted_folder, hub_file, source_folder
from artifact.sources.catalogue import HubModel, PlainFile, PlainSource, Source
from artifact.sources.kinds import not_such
from artifact.sources.lock import Expected, expected_of, recorded, recorded_keys, unusable

SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Finding:
    """One file: whole, damaged, missing, or there with no hash known yet (`new`) or of no use. `words` say why."""

    key: str
    path: Path | None
    state: Literal["whole", "damaged", "missing", "new", "unusable"]
    sha256: str | None = None
    words: str = ""


@dataclass(frozen=True)
class _CachedFile:
    """A file that a source has in the cache, and what it must be: `size` exactly, or at most `most` bytes."""

    key: str
    path: Path | None
    pinned: str | None = None
    size: int | None = None
    most: int | None = None


def examine(source: Source) -> Iterator[Finding]:
    """Hash every file of a source that is there, and name those that are not."""
    return (_finding(wanted) for wanted in _files(source))


def wrong_sizes(source: Source) -> Iterator[Finding]:
    """The files that are not as large as they must be, by the pinned or the recorded size; nothing is read.

    Of a converted model also those that are missing.
    """
    for wanted in _files(source):
        if wanted.path and wanted.path.is_file():
            if words := _wrong_size(wanted, wanted.path):
                yield Finding(wanted.key, wanted.path, "damaged", words=words)
        elif wanted.key.startswith("converted/"):
            yield Finding(wanted.key, wanted.path, "damaged", words="is missing")


def examine_file(source: PlainSource, file: PlainFile) -> Finding:
    """What `examine` says of one plain file."""
    return _finding(_plain(source, file))


def _files(source: Source) -> Iterator[_CachedFile]:
    return _files_of_model(source) if isinstance(source, HubModel) else _files_of_plain(source)


def _plain(source: PlainSource, file: PlainFile) -> _CachedFile:
    size = file.size if file.exact else None
    path = source_folder(source) / file.name
    return _CachedFile(f"{source.name}/{file.name}", path, file.sha256, size, file.most)


def _files_of_plain(source: PlainSource) -> Iterator[_CachedFile]:
    folder = source_folder(source)
    for file in source.files:
        yield _plain(source, file)
        made = converted_file(folder / file.name)
        if made.is_file() and made.suffix != (folder / file.name).suffix:
            yield _CachedFile(f"{source.name}/{made.name}", made)
    for member in source.members:
        if not member.optional or (folder / member.name).is_file():
            yield _CachedFile(f"{source.name}/{member.name}", folder / member.name, most=member.limit)


def _files_of_model(model: HubModel) -> Iterator[_CachedFile]:
    made = converted_folder(model)
    if made.is_dir():
        of_it = f"converted/{made.name}/"
        names = {key.removeprefix(of_it) for key in recorded_keys() if key.startswith(of_it)}
        for name in sorted(names | {file.name for file in made.iterdir()} | _needed(model, made)):
            yield _CachedFile(f"{of_it}{name}", made / name, model.hashes.get(name))
        return
    for name in model.files:
        path = hub_file(model, name)
        if path is None and name not in model.needed:
            continue
        if name == model.weights:
            size = model.size if model.exact else None
            yield _CachedFile(f"hub/{model.name}/{name}", path, model.sha256, size, model.most)
        else:
            yield _CachedFile(f"hub/{model.name}/{name}", path, model.hashes.get(name))


def _needed(model: HubModel, made: Path) -> set[str]:
    """What a converted model does not load without: its small files, and its weights, whole or in shards."""
    small = {name for name in model.needed if name != model.weights}
    index = made / "model.safetensors.index.json"
    if not index.is_file():
        return {*small, "model.safetensors"}
    try:
        return small | set(msgspec.json.decode(read_bytes(index, ModelError), type=_Index).weight_map.values())
    except (ModelError, *NOT_JSON):  # which its hash says, too
        return small


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _finding(wanted: _CachedFile) -> Finding:
    key, path = wanted.key, wanted.path
    if path is None or not path.is_file():
        return Finding(key, path, "missing")
    if words := _wrong_size(wanted, path):
        return Finding(key, path, "damaged", words=words)
    expected = expected_of(key, wanted.pinned)
    blob = path.resolve().name
    if expected is None and key.startswith("hub/") and SHA256.fullmatch(blob):  # the hub names large files by it
        expected = Expected(blob, "told by the hub")
    try:
        digest = sha256_of(path)
        if expected is not None and digest != expected.sha256:
            words = f"expected sha256 {expected.sha256} ({expected.by}), got {digest}"
            return Finding(key, path, "damaged", digest, words)
        known = expected is not None and not expected.by.startswith("told")
        # An archive is read through where its files are taken out; one that nobody needs may be damaged.
        if not known and (why := not_such(path, whole=path.suffix == ".npz")):
            return Finding(key, path, "damaged", digest, f"it is {why}")
    except OSError as error:
        return Finding(key, path, "damaged", words=f"it cannot be read ({reason(error)})")
    if expected is None and (why := unusable(key, path, digest)):
        return Finding(key, path, "unusable", digest, why)
    return Finding(key, path, "new" if expected is None else "whole", digest)


def _wrong_size(wanted: _CachedFile, path: Path) -> str | None:
    size = path.stat().st_size
    if wanted.size is not None:
        return None if size == wanted.size else f"expected {wanted.size} bytes, got {size}"
    if wanted.most is not None and size > wanted.most:
        return f"expected at most {wanted.most} bytes, got {size}"
    entry, expected = recorded(wanted.key), expected_of(wanted.key, wanted.pinned)
    if entry and expected and entry.sha256 == expected.sha256 and size != entry.size:
        return f"expected {entry.size} bytes, got {size}"
    return None
