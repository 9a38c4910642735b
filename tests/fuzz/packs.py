"""Damage to the packs of `kloc contribute`: by bytes, by their manifest, and by files that a pack never holds."""

import io
import json
import random
import stat
from hashlib import sha256
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from .box import Box, Case, written
from .damage import ANSI, MARKUP, byte_damage, json_damage

_MANIFEST = "manifest.json"
_WAYS = ("bytes", "bytes", "manifest", "manifest", "file", "file", "told file", "drop", "name", "link", "more", "large")
_NAMES = (
    *("../precious", "/etc/precious", "run/../../precious", "a/b/run.sqlite", "run.sqlite.", "con:", "x" * 5000, ANSI),
    *(MARKUP, "run.sqlite/", "RUN.SQLITE", ".", "", "\\run.sqlite", "C:\\run.sqlite"),
)
Files = dict[str, bytes]


def case(draw: random.Random, box: Box) -> Case:
    content = (box.material / "pack.zip").read_bytes()
    way = draw.choice(_WAYS)
    if way == "bytes":
        made, said, _ = byte_damage(draw, content)
        expect = "equal"
    else:
        said, expect, made = _rewritten(draw, way, content)
    return Case(
        "packs", f"pack, {way}: {said}", box.command("verify in/pack.zip"), expect, {"pack.zip": "pack.zip"},
        damage=written("pack.zip", made), stdout_counts=True,
    )  # fmt: skip


def _rewritten(draw: random.Random, way: str, content: bytes) -> tuple[str, str, bytes]:
    """Words, what is right, and the pack written again with one of its files otherwise."""
    with ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    run = draw.choice([name for name in sorted(files) if name != _MANIFEST])
    if way == "manifest":
        made, said, path, how = json_damage(draw, files[_MANIFEST])
        free = how == "order" or path[:1] == ("package",)
        return said, "free" if free else "equal", _zip({**files, _MANIFEST: made})
    if way in ("file", "told file"):
        before = files[run]
        made, said, _ = byte_damage(draw, before)
        files[run] = made
        if way == "file":
            return f"{run}, {said}", "equal" if made == before else "refused", _zip(files)
        manifest = json.loads(files[_MANIFEST])
        manifest["files"][run] = {"size": len(made), "sha256": sha256(made).hexdigest()}
        # Whoever can compute hashes can forge a pack; its journal is then judged as another run's is.
        return f"{run}, {said}", "free", _zip({**files, _MANIFEST: json.dumps(manifest).encode()})
    if way == "drop":
        del files[(name := draw.choice(sorted(files)))]
        return name, "refused", _zip(files)
    if way == "name":
        name = draw.choice(_NAMES)
        manifest = json.loads(files[_MANIFEST])
        manifest["files"][name] = manifest["files"].pop(run)
        return (
            f"{run} as {name[:40]!r}",
            "refused",
            _zip(
                {
                    _MANIFEST: json.dumps(manifest).encode(),
                    **{name if n == run else n: f for n, f in files.items() if n != _MANIFEST},
                }
            ),
        )
    if way == "link":
        return run, "refused", _zip(files, link=run)
    if way == "more":
        name = draw.choice((run, _MANIFEST, "readme.txt", f"{run}x"))
        return name[:40], "refused", _zip(files, [(name, draw.choice((b"", b"more", files[run])))])
    return run, "refused", _zip({**files, run: bytes(1 << 27)}, level=9)


def _zip(files: Files, more: list[tuple[str, bytes]] | None = None, link: str = "", level: int = 1) -> bytes:
    """A pack of these files; one of them as a link, with `more` after them."""
    stream = io.BytesIO()
    with ZipFile(stream, "w", ZIP_DEFLATED, compresslevel=level) as archive:
        for name, content in [*files.items(), *(more or [])]:
            entry = ZipInfo(name)
            entry.compress_type = ZIP_STORED if name == link else ZIP_DEFLATED
            entry.external_attr = ((stat.S_IFLNK if name == link else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, b"../../elsewhere/precious" if name == link else content)
    return stream.getvalue()
