"""Whether a file is of the kind that its name says, told by its bytes, before a hash of it is recorded.

Covers archives, safetensors, torch's weights, JSON and plain text, and the web page that stands in for any of them. It
reads no more than it must and runs nothing. Whether it is the right content is checked by its hash (lock.py).
"""

import json
import lzma
import os
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import msgspec

from artifact.io import fit, reason

DAMAGED_ARCHIVE = (
    BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError, struct.error,
    OverflowError, OSError,
)  # fmt: skip
"""What zipfile raises for an archive that is damaged, encrypted, or compressed in a way it does not know."""
MOST_MEMBERS = 10_000
"""Most files of an archive."""
MOST_TIMES = 100
"""An archive unpacks to at most so many times its own bytes; ten million more are let pass, for small ones."""
_HEADER_LIMIT = 100_000_000
"""Most bytes of a safetensors header, as the library has it."""
_JSON_LIMIT = 300_000_000
"""JSON up to this size is parsed whole; of a larger one the beginning is looked at."""
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch before 1.6 begins: a pickle of its magic number."""


def not_such(path: Path, name: str | None = None, whole: bool = True) -> str | None:
    """Why the file is not what its name (or `name`) says, in words that follow "is"; None when nothing speaks
    against it.

    `whole` reads an archive through, against its members' checksums; without it the directory alone is read. Raises
    OSError when the file cannot be read.
    """
    suffix = Path(name or path.name).suffix
    with path.open("rb") as stream:
        head = stream.read(4096)
    if not head:
        return "an empty file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page"
    if suffix in (".zip", ".npz"):
        return _not_an_archive(path, whole)
    if suffix in (".pt", ".bin"):
        return None if head.startswith(_LEGACY) else _not_an_archive(path, whole=False, kind="a file of torch weights")
    if suffix == ".safetensors":
        return _not_safetensors(path)
    if suffix == ".json":
        return _not_json(path, head)
    if suffix == ".txt":
        return "not text" if b"\0" in head else None
    return None


def too_large_inside(archive: ZipFile, size: int) -> str | None:
    """Why an archive of `size` bytes is not looked into: too many files, or far more bytes than it has itself."""
    entries = archive.infolist()
    if len(entries) > MOST_MEMBERS:
        return f"an archive of {len(entries)} files, more than {MOST_MEMBERS}"
    if (inside := sum(entry.file_size for entry in entries)) > MOST_TIMES * size + 10_000_000:
        return f"an archive that unpacks to {inside} bytes, more than {MOST_TIMES} times its own {size}"
    return None


def _not_an_archive(path: Path, whole: bool, kind: str = "a whole archive") -> str | None:
    try:
        with ZipFile(path) as archive:
            if not archive.infolist():
                return "an archive of nothing"
            if why := too_large_inside(archive, path.stat().st_size):
                return why
            if whole and (damaged := archive.testzip()):
                return f"an archive with a damaged member ({fit(damaged, 80)})"
    except DAMAGED_ARCHIVE as error:
        return f"not {kind} ({reason(error)})"
    return None


def _not_safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 10 or length > min(_HEADER_LIMIT, size - 8):
            return "not a safetensors file (its header does not fit into it)"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            return f"not a safetensors file (its header cannot be read: {reason(error, 60)})"
    if not ends or not all(type(end) is int for end in ends) or max(ends) != size - 8 - length:
        return "not a whole safetensors file (its tensors do not end where it does)"
    return None


def _not_json(path: Path, head: bytes) -> str | None:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return "not a JSON object or list"
    if os.path.getsize(path) > _JSON_LIMIT:
        return None
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        content.decode()  # what is left raw is not looked at as text
        msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not JSON ({reason(error)})"
    except RecursionError:
        return "JSON that is nested too deeply"
    return None
