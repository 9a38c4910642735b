"""A source of one small file on a loopback host, for tests of fetching: fetched, refused, and looked at afterwards."""

import hashlib
from pathlib import Path

import pytest
from filehost import FileHost

from artifact.errors import FactError
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PlainFile, PlainSource
from artifact.sources.fetch import fetch_source
from artifact.sources.lock import recorded

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/data/facts.data"


def source(host: FileHost, *paths: str, sha256: str | None = SHA256, exact: bool = True, **more) -> PlainSource:
    urls = tuple(host.url + path for path in paths or (PATH,))
    file = PlainFile(name=Path(urls[0]).name, urls=urls, size=len(CONTENT), exact=exact, sha256=sha256)
    return PlainSource(name="sample", files=(file,), licence="MIT", citation="none", purpose="tests", **more)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes: list[tuple[int, int | None]] = []

    def fetch(self, wanted: PlainSource) -> Path:
        return fetch_source(wanted, self.lines.append, lambda done, total: self.bytes.append((done, total)))

    def refused(self, wanted: PlainSource) -> str:
        with pytest.raises(FactError) as error:
            self.fetch(wanted)
        message = str(error.value)
        assert "\n" not in message and message.startswith("sample/"), "one line that names the file"
        return message


def whole(wanted: PlainSource, content: bytes = CONTENT) -> None:
    """The file is there, recorded, and nothing unfinished beside it."""
    folder, name = source_folder(wanted), wanted.files[0].name
    assert (folder / name).read_bytes() == content
    assert recorded(f"sample/{name}").sha256 == hashlib.sha256(content).hexdigest()
    assert not list(folder.glob("*.part*"))


def ranges(host: FileHost) -> list[str | None]:
    return [asked for _, asked in host.asked]
