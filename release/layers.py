"""Two images, layer by layer: are they equal, and if not, which files differ?

    python release/layers.py ONE OTHER          (exit 0 if equal, 1 if not)
    python release/layers.py ONE --read PATH    (prints a file of the image)

Each image is a folder as buildah and skopeo write it (`dir:FOLDER`, uncompressed): a manifest, and every layer and the
image's configuration as files that are named by their sha256. Equal images have equal manifests. A layer whose bytes
have another hash than its name is an error. Needs the standard library alone.
"""

import json
import sys
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

_SHOWN = 40
_APART = ("path", "linkpath", "size", "mtime")
"""Extended fields of an entry that are compared by themselves."""


def layers(image: Path) -> list[Path]:
    """The layers' files, lowest first; raises ValueError for one whose bytes have another hash than its name."""
    found = [_blob(image, layer["digest"]) for layer in _manifest(image)["layers"]]
    for file in found:
        with file.open("rb") as stream:
            digest = _hash(stream)
        if digest != file.name:
            raise ValueError(f"{file}: has the sha256 {digest}, not that of its name")
    return found


def _blob(image: Path, digest: str) -> Path:
    return image / digest.removeprefix("sha256:")


def _hash(stream: Any) -> str:
    digest = sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def files(layer: Path) -> dict[str, str]:
    """Every entry of a layer by path: its type, rights, owner, time, size and contents."""
    entries = {}
    with tarfile.open(layer) as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.isfile() else None
            contents = f"sha256 {_hash(stream)[:16]}" if stream else entry.linkname
            more = {name: value for name, value in sorted(entry.pax_headers.items()) if name not in _APART}
            entries[entry.name] = (
                f"type {entry.type.decode()} mode {entry.mode:o} owner {entry.uid}:{entry.gid} "
                f"time {entry.mtime} size {entry.size} {contents} {more or ''}".rstrip()
            )
    return entries


def differences(one: Path, other: Path) -> Iterator[str]:
    """A line for each file of a layer, and each field of the image's description, that differs."""
    pair = layers(one), layers(other)
    if len(pair[0]) != len(pair[1]):
        yield f"{one.name} has {len(pair[0])} layers, {other.name} {len(pair[1])}"
    for place, (here, there) in enumerate(zip(*pair, strict=False), 1):
        if here.name != there.name:
            yield from _unequal(f"layer {place}", files(here), files(there))
    yield from _unequal("description", _fields(one), _fields(other))


def _manifest(image: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((image / "manifest.json").read_bytes())
    return fields


def _fields(image: Path) -> dict[str, str]:
    """What manifest and configuration say, without the digests of layers and configuration."""
    manifest = _manifest(image)
    configuration = json.loads(_blob(image, manifest.pop("config")["digest"]).read_bytes())
    del manifest["layers"], configuration["rootfs"]
    return {name: json.dumps(value, sort_keys=True) for name, value in {**manifest, **configuration}.items()}


def _unequal(what: str, here: dict[str, str], there: dict[str, str]) -> Iterator[str]:
    found = False
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            found = True
            yield f"{what}: {name}: {here.get(name, 'missing')} | {there.get(name, 'missing')}"
    if not found and list(here) != list(there):
        yield f"{what}: the same entries in another order"


def read(image: Path, path: str) -> bytes:
    """A file of the image, from the topmost layer that has it; raises ValueError where none has."""
    for layer in reversed(layers(image)):
        with tarfile.open(layer) as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == path.lstrip("/") and (stream := tar.extractfile(entry)):
                    return stream.read()
    raise ValueError(f"{image}: no layer holds the file {path}")


def main(one: str, *rest: str) -> int:
    if rest[0] == "--read":
        sys.stdout.buffer.write(read(Path(one), rest[1]))
        return 0
    (other,) = rest
    manifests = [Path(image, "manifest.json").read_bytes() for image in (one, other)]
    here, _ = layers(Path(one)), layers(Path(other))
    if manifests[0] == manifests[1]:
        size = sum(layer.stat().st_size for layer in here) / 1e6
        print(f"equal: image {sha256(manifests[0]).hexdigest()}, {size:.0f} MB in {len(here)} layers:")
        print("".join(f"  sha256:{layer.name}\n" for layer in here), end="")
        return 0
    found = list(differences(Path(one), Path(other)))
    for line in found[:_SHOWN]:
        print(line)
    print(f"not equal: {len(found)} differences" + (f", the first {_SHOWN} above" if len(found) > _SHOWN else ""))
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
