"""Archives that are damaged, lie, or are odd: each ends in the records or in one line, with nothing left of it."""

import json
import random
import struct
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from filehost import hosting

from artifact.cli import call
from artifact.errors import FactError
from artifact.sources import download, kinds
from artifact.sources.catalogue import PLAIN_SOURCES
from artifact.sources.download import Patience
from artifact.sources.kinds import not_such
from artifact.sources.lock import recorded
from artifact.sources.unpack import Unusable, records_of, unpack

RECORDS = json.loads((Path(__file__).parents[1] / "reference" / "facts.json").read_text())[:3]
CONTENT = json.dumps(RECORDS).encode()
MEMBER, KNOWN = PLAIN_SOURCES["relation"].members


def archive(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_DEFLATED) -> bytearray:
    out = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", kind) as made:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in members:
            made.writestr(name, content)
    return bytearray(out.getvalue())


def patched(content: bytearray, field: int, form: str, value: int, local: int | None = None) -> bytes:
    """One number of the central directory's first entry changed, and the same one of the local header."""
    struct.pack_into(form, content, content.index(b"PK\x01\x02") + field, value)
    if local is not None:
        struct.pack_into(form, content, local, value)
    return bytes(content)


def plain() -> bytearray:
    return archive([("rel_counterfact.json", CONTENT)])


def bad_deflate() -> bytes:
    """The compressed bytes are no deflate stream."""
    content = plain()
    at = 30 + len("rel_counterfact.json")
    content[at : at + 40] = b"\xff" * 40
    return bytes(content)


DAMAGED = {
    "a bad deflate stream": bad_deflate(),
    "a wrong sum": patched(plain(), 16, "<I", 7, 14),
    "encrypted": patched(plain(), 8, "<H", 1, 6),
    "an unknown compression": patched(plain(), 10, "<H", 97, 8),
    "a size that is too small": patched(plain(), 24, "<I", 10, 22),
    "a header beyond the end": patched(plain(), 42, "<I", 2**31),
    "a version of the future": patched(plain(), 6, "<H", 255, 4),
    "strong encryption": patched(plain(), 8, "<H", 0x41, 6),
    "cut": bytes(plain()[:-30]),
    "nothing in it": bytes(archive([])),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("placed", [False, True])
def test_a_damaged_archive_is_one_line(name: str, placed: bool, tmp_path: Path, monkeypatch, capsys) -> None:
    """From the host, and put into the cache by hand; then the right one is fetched by the same command."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=5, tries=1, first_wait=0.01))
    folder = tmp_path / "cache" / "relation"
    with hosting() as host:
        monkeypatch.setenv("KLOC_MIRROR", host.url)
        address = f"/{PLAIN_SOURCES['relation'].files[0].urls[0].split('://')[1]}"
        host.files[address] = DAMAGED[name]
        if placed:
            folder.mkdir(parents=True)
            (folder / "rel_data.zip").write_bytes(DAMAGED[name])
        assert call(["fetch", "relation"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("kloc: ") and error.count("\n") == 1 and "--relation-source templates" in error
        kept = (
            {".lock", "rel_data.zip"} if placed else {".lock"}
        )  # what the user put there stays until the right one is
        assert {path.name for path in folder.iterdir()} <= kept and recorded("relation/rel_data.zip") is None
        host.files[address] = bytes(plain())
        assert call(["fetch", "relation"]) == 0
    assert json.loads((folder / "rel_counterfact.json").read_bytes()) == RECORDS


def written(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "a.zip").write_bytes(content)
    return tmp_path / "a.zip"


def test_sizes_that_are_too_large_do_no_harm(tmp_path: Path) -> None:
    """The stream and its sum say what the content is; some Pythons refuse a packed size beyond the archive's end."""
    unpack(written(tmp_path, patched(plain(), 24, "<I", len(CONTENT) + 10, 22)), MEMBER, tmp_path / "out")
    assert json.loads((tmp_path / "out").read_bytes()) == RECORDS
    lies = written(tmp_path, patched(plain(), 20, "<I", 2**31, 18))
    if hasattr(zipfile.ZipInfo("a"), "_end_offset"):  # Python 3.11.8, 3.12.2 and 3.13 on
        with pytest.raises(Unusable, match="Overlapped entries"):
            unpack(lies, MEMBER, tmp_path / "out")
    else:
        unpack(lies, MEMBER, tmp_path / "out")
        assert json.loads((tmp_path / "out").read_bytes()) == RECORDS


def test_two_members_of_one_name_and_deep_folders(tmp_path: Path) -> None:
    other = json.dumps(RECORDS[:1]).encode()
    content = archive([("x.json", other), ("x.json", CONTENT), ("/".join(["d"] * 300) + "/y.json", other), ("d/", b"")])
    assert unpack(written(tmp_path, content), MEMBER, tmp_path / "out") == "x.json"
    assert json.loads((tmp_path / "out").read_bytes()) == RECORDS


def test_thousands_of_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive([(f"{number}.txt", b"") for number in range(3000)], zipfile.ZIP_STORED)
    path = written(tmp_path, many)
    with pytest.raises(FactError, match=r"no file in it has records.*and 2992 more; it is kept") as error:
        unpack(path, MEMBER, tmp_path / "out")
    assert str(error.value).isprintable()
    monkeypatch.setattr(kinds, "MOST_MEMBERS", 2999)
    with pytest.raises(Unusable, match="is an archive of 3000 files, more than 2999"):
        unpack(path, MEMBER, tmp_path / "out")
    assert not_such(path) == "an archive of 3000 files, more than 2999"


def test_what_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    path = written(tmp_path, archive([("x.json", b" " * 30_000_000)]))
    assert "unpacks to 30000000 bytes, more than 100 times its own" in (not_such(path) or "")
    with pytest.raises(Unusable, match="unpacks to 30000000 bytes"):
        unpack(path, MEMBER, tmp_path / "out")


def test_names_from_an_archive_are_fit_for_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, archive([("a\x1b[2J\n" + "x" * 5000, b'[{"\\u001b[2J": 1}]'), ("../\x1b]0;", b"")]))
    with pytest.raises(Unusable, match="names a path outside itself") as error:
        unpack(path, MEMBER, tmp_path / "out")
    assert str(error.value).isprintable()
    path = written(tmp_path, archive([("a\x1b[2J\n" + "x" * 5000, b'[{"\\u001b[2J": 1}]')]))
    with pytest.raises(FactError, match="no file in it has records") as error:
        unpack(path, MEMBER, tmp_path / "out")
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize("member", [MEMBER, KNOWN], ids=["needed", "optional"])
def test_any_damage_ends_in_the_records_or_in_one_line(member, tmp_path: Path) -> None:
    """Bytes changed, cut out and put in at random places; what comes out is what went in, or nothing."""
    whole = archive([("a/rel.json", CONTENT), ("b.json", b'[{"subject": "s", "prompt": "p"}]'), ("c", b"text")])
    drawn = random.Random(13)
    for _ in range(250):
        content = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            at, count = drawn.randrange(len(content)), drawn.choice((1, 2, 4, 40))
            noise = drawn.choice((b"\0", b"\xff", drawn.randbytes(1))) * count
            content[at : at + drawn.choice((0, count))] = noise if drawn.random() < 0.8 else b""
        path = written(tmp_path, content)
        words = not_such(path)
        assert words is None or words.isprintable()
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        try:
            taken = unpack(path, member, out)
        except FactError as error:
            assert str(error).isprintable() and not out.exists()
        else:
            assert (taken is not None) == out.exists()
            if taken is not None and member is MEMBER:
                assert json.loads(out.read_bytes()) == RECORDS
        assert {file.name for file in tmp_path.iterdir()} <= {"a.zip", "out"}


DEEP = 200_000


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": "\\ud800"}]',
        b'{"\\udfff": {"x": 1}}',
        b"[NaN]",
        b"[Infinity]",
        b"[1e400]",
        b"[1e99999999999999999999]",
        b"[" + b"1" * 5000 + b"]",
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b"[1]\n" + b"[" * DEEP,
        b'[{"a": "\xff"}]',
        b"\xef\xbb\xbf",
        b"\0\0\0\0",
    ],
    ids=range(14),
)
def test_what_is_no_json_of_records(content: bytes, tmp_path: Path) -> None:
    assert not records_of(content)
    path = written(tmp_path, archive([("x.json", content)]))
    with pytest.raises(FactError, match="no file in it has records"):
        unpack(path, MEMBER, tmp_path / "out")
