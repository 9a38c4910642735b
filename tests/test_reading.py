"""Files that a user names: regular ones of a bounded size, and JSON that says one thing."""

import os
from pathlib import Path

import pytest

from artifact.errors import FactError, SettingError
from artifact.reading import decode_json, read_bytes, read_json


def test_what_a_shell_connects_is_taken(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"[1]")
    os.close(write)
    try:
        assert read_json(f"/dev/fd/{read}") == [1]
    finally:
        os.close(read)


def test_a_size_is_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr("artifact.reading.FILE_LIMIT", 5)
    assert read_bytes(tmp_path / "file") == b"12345"
    monkeypatch.setattr("artifact.reading.FILE_LIMIT", 4)
    with pytest.raises(SettingError, match="is larger than 4 bytes; name another"):
        read_bytes(tmp_path / "file", SettingError, "name another")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[NaN]", "is not valid JSON"),
        (b"[1e999]", "is not valid JSON"),
        (b"9" * 5000, "is not valid JSON"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "is nested too deeply"),
        (b'[{"a": 1, "b": {"c": 2, "c": 2}}]', "holds 'c' twice in one object"),
    ],
)
def test_json_that_is_none(content: bytes, says: str) -> None:
    with pytest.raises(FactError, match=says) as caught:
        decode_json(content, "file")
    assert str(caught.value).startswith("file: ")


def test_json_that_is_one() -> None:
    assert decode_json(b'\xef\xbb\xbf[{"a": 1}, {"a": 2}]', "file") == [{"a": 1}, {"a": 2}]
    assert decode_json(b"[-" + b"9" * 400 + b"]", "file") == [-int("9" * 400)]
