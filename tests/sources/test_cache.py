"""The cache's folders and the addresses in the environment: what cannot be used is one line, no link is followed."""

import os
from pathlib import Path

import pytest
from samplefile import source, whole

from artifact.cli import call
from artifact.errors import FactError
from artifact.sources.cache import cache_folder, source_folder

pytestmark = pytest.mark.usefixtures("host")


def test_a_link_as_the_unfinished_file_is_not_followed(host, told, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    wanted = source(host)
    folder = source_folder(wanted)
    folder.mkdir(parents=True)
    for name in ("facts.data", "facts.data.part", "facts.data.part.json"):
        (folder / name).symlink_to(tmp_path / "mine")
    told.fetch(wanted)
    for name in ("facts.data.part", "facts.data.part.json"):
        (folder / name).symlink_to(tmp_path / "not there")
    (folder / "facts.data").unlink()
    told.fetch(wanted)
    whole(wanted)
    assert (tmp_path / "mine").read_bytes() == b"mine" and not (tmp_path / "not there").exists()
    assert not (folder / "facts.data").is_symlink()
    assert {file.name for file in folder.iterdir()} == {"facts.data", ".lock"}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", ["facts.data.part", "facts.data.part.json", "facts.data", ".lock"])
def test_what_is_not_a_file_is_refused_before_anything_is_asked(name: str, kind: str, host, told) -> None:
    wanted = source(host)
    other = source_folder(wanted) / name
    other.parent.mkdir(parents=True)
    os.mkfifo(other) if kind == "pipe" else other.mkdir()
    with pytest.raises(FactError, match=r"(?i)is not a regular file"):
        told.fetch(wanted)
    assert host.asked == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", ["fetched.lock.json", ".lock"])
def test_the_caches_own_files_are_files(name: str, kind: str, host, told, tmp_path: Path) -> None:
    own = cache_folder() / name
    own.parent.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    if kind == "link":
        own.symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(own) if kind == "pipe" else own.mkdir()
    with pytest.raises(FactError) as error:
        told.fetch(source(host))
    assert str(error.value).isprintable() and str(cache_folder()) in str(error.value)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_without_a_home_the_remedy_is_a_folder(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in ("KLOC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # as in a job of a user whom the machine does not know
    assert call(["fetch", "known"]) == 2
    assert capsys.readouterr().err.endswith("no home folder is known, in which to cache; set KLOC_CACHE to a folder\n")


ASKED = [["fetch"], ["fetch", "gpt2"], ["fetch", "--check"]]


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [*(("HF_HUB_CACHE", one) for one in ASKED), *(("KLOC_CACHE", one) for one in (*ASKED, ["fetch", "known"]))],
)
@pytest.mark.parametrize("kind", ["5,000 characters", "a long name", "a file", "below a file", "a link to nothing"])
def test_a_cache_that_is_no_folder_is_one_line(
    setting: str, kind: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("KLOC_MIRROR", "http://127.0.0.1:9")
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    place = {
        "5,000 characters": tmp_path / "/".join(["x" * 99] * 50),
        "a long name": tmp_path / ("x" * 300),
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "a link to nothing": tmp_path / "link",
    }[kind]
    if setting == "KLOC_CACHE":
        monkeypatch.setenv("KLOC_CACHE", str(place))
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and "folder of your own" in error


@pytest.mark.parametrize("given", ["hub", "file:///etc", "http://", "https://[::1", "http://host:port", ""])
def test_an_endpoint_that_is_no_address_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_ENDPOINT", given)
    assert call(["fetch", "gpt2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kloc: HF_ENDPOINT={given!r} is not an address") and error.count("\n") == 1


def test_an_endpoint_with_which_the_client_cannot_be_imported_is_refused_by_all(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Others harm no command that asks no hub."""
    command = ["trace", "--model", "world", "--prompt", "a", "--subject", "a"]
    monkeypatch.setenv("HF_ENDPOINT", "https://[::1")
    assert call(command) == 2
    assert capsys.readouterr().err.startswith("kloc: HF_ENDPOINT='https://[::1' is not an address")
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert call(command) == 2 and "HF_ENDPOINT" not in capsys.readouterr().err


NO_ADDRESSES = ["mirror", "http://[::1", "http://", "http://h:x", "http://a b", "http://h\x7f", "ftp://h"]


@pytest.mark.parametrize("given", NO_ADDRESSES)
def test_a_mirror_that_is_no_address_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("KLOC_MIRROR", given)
    assert call(["fetch", "known"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: KLOC_MIRROR=") and "is not a URL" in error and error[:-1].isprintable()
