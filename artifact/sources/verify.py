"""Whether what was fetched is still what it was: every file's sha256 against the hash it must have, without a network.

Covers plain files, what was taken out of archives, models in the hub's cache, and converted weights. It mends nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from artifact.io import sha256_of
from artifact.sources.cache import converted_file, converted_folder, hub_file, source_folder
from artifact.sources.catalogue import HubModel, PlainSource, Source
from artifact.sources.lock import Expected, expected_of, recorded, unusable

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Finding:
    """One file: whole, damaged, missing, or there with no hash known yet (`new`) or of no use. `words` say why."""

    key: str
    path: Path | None
    state: Literal["whole", "damaged", "missing", "new", "unusable"]
    sha256: str | None = None
    words: str = ""


def examine(source: Source) -> Iterator[Finding]:
    """Hash every file of a source that is there, and name those that are not."""
    return _examine_model(source) if isinstance(source, HubModel) else _examine_plain(source)


def _examine_plain(source: PlainSource) -> Iterator[Finding]:
    folder = source_folder(source)
    for file in source.files:
        key = f"{source.name}/{file.name}"
        yield _finding(key, folder / file.name, expected_of(key, file.sha256))
        made = converted_file(folder / file.name)
        if made.is_file() and made.suffix != (folder / file.name).suffix:
            yield _finding(f"{source.name}/{made.name}", made, expected_of(f"{source.name}/{made.name}"))
    for member in source.members:
        key = f"{source.name}/{member.name}"
        if member.optional and not (folder / member.name).is_file():
            continue
        yield _finding(key, folder / member.name, expected_of(key))


def _examine_model(model: HubModel) -> Iterator[Finding]:
    made = converted_folder(model)
    if made.is_dir():
        for file in sorted(made.iterdir()):
            key = f"converted/{made.name}/{file.name}"
            yield _finding(key, file, expected_of(key))
        return
    for name in model.files:
        key = f"hub/{model.name}/{name}"
        path = hub_file(model, name)
        if path is None:
            if name in model.needed:
                yield Finding(key, None, "missing")
            continue
        expected = expected_of(key, model.sha256 if name == model.weights else None)
        blob = path.resolve().name
        if expected is None and _SHA256.fullmatch(blob):  # the hub names large files by their hash
            expected = Expected(blob, "told by the hub")
        yield _finding(key, path, expected)


def _finding(key: str, path: Path, expected: Expected | None) -> Finding:
    if not path.is_file():
        return Finding(key, path, "missing")
    entry = recorded(key)
    if expected and entry and entry.sha256 == expected.sha256 and path.stat().st_size != entry.size:
        return Finding(key, path, "damaged", words=f"expected {entry.size} bytes, got {path.stat().st_size}")
    digest = sha256_of(path)
    if expected is None:
        why = unusable(key, path, digest)
        return Finding(key, path, "unusable" if why else "new", digest, why or "")
    if digest != expected.sha256:
        words = f"expected sha256 {expected.sha256} ({expected.by}), got {digest}"
        return Finding(key, path, "damaged", digest, words)
    return Finding(key, path, "whole", digest)
