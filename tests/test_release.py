"""What is said of the package in several files is said alike, and its parts are listed as pip reports them."""

import fnmatch
import importlib.util
import io
import json
import re
import tarfile
import tomllib
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from artifact import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOI = "10.1145/3627673.3679900"


def script(name: str) -> ModuleType:
    """A script of release/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"release_{name}", ROOT / "release" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cited(field: str) -> str:
    """A field of CITATION.cff's first level."""
    (found,) = [
        line.partition(":")[2].strip().strip('"')
        for line in (ROOT / "CITATION.cff").read_text().splitlines()
        if line.startswith(f"{field}:")
    ]
    return found


def test_codemeta_says_what_pyproject_and_the_citation_say() -> None:
    meta = json.loads((ROOT / "codemeta.json").read_text())
    assert meta["name"] == PROJECT["name"]
    assert meta["version"] == __version__ == cited("version")
    for field in ("description", "keywords"):
        assert meta[field] == PROJECT[field]
    assert meta["license"] == f"https://spdx.org/licenses/{PROJECT['license']}" and cited("license") == "MIT"
    assert meta["runtimePlatform"] == f"Python {PROJECT['requires-python']}"
    assert meta["softwareRequirements"] == PROJECT["dependencies"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert [f'- name: "{author["name"]}"' in citation for author in meta["author"]] == [True]
    paper = meta["referencePublication"]
    assert paper["id"] == f"https://doi.org/{DOI}" and f'title: "{paper["name"]}"' in citation


def test_zenodo_says_what_the_citation_says() -> None:
    meta = json.loads((ROOT / ".zenodo.json").read_text())
    assert (meta["title"], meta["version"], meta["license"]) == (cited("title"), __version__, cited("license"))
    assert (meta["description"], meta["keywords"]) == (PROJECT["description"], PROJECT["keywords"])
    citation = (ROOT / "CITATION.cff").read_text()
    assert all(one["identifier"] in citation for one in meta["related_identifiers"])
    assert [one["name"] for one in meta["creators"]] == ["The kloc-artifact authors"]


def reported(**changes: Any) -> dict[str, Any]:
    """pip's report of this package and two others, as pip 23 to 26 write it."""

    def item(name: str, version: str, url: str, sha256: str | None, **about: Any) -> dict[str, Any]:
        source = {"url": url, "archive_info": {"hashes": {"sha256": sha256}}} if sha256 else {"url": url}
        return {"metadata": {"name": name, "version": version, **about}, "download_info": source}

    items = [
        item("kloc-artifact", "0.1.0", "file:///src", None, license_expression="MIT"),
        item("Odd_Name", "2.0", "https://index/odd_name-2.0-py3-none-any.whl", "ab" * 32, license="BSD License"),
        item("torch", "2.13.0+cpu", "file:///w/torch-2.13.0%2Bcpu-cp311.whl", "cd" * 32, license_expression="X AND Y"),
    ]
    where = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
    return {"install": items, "environment": where, **changes}


def test_parts_are_pinned_by_hash_and_listed_with_their_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = script("parts")
    file = tmp_path / "report.json"
    file.write_text(json.dumps(reported()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    parts.main(str(tmp_path / "out"), str(file))
    lines = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    assert "Python 3.11 on linux x86_64" in lines[0]
    assert lines[1:] == [
        f"odd-name==2.0 --hash=sha256:{'ab' * 32}",
        f"torch==2.13.0+cpu --hash=sha256:{'cd' * 32}",
    ]
    bill = json.loads((tmp_path / "out" / "sbom.spdx.json").read_text())
    assert bill["creationInfo"]["created"] == "1970-01-02T00:00:00Z"
    packages = {one["name"]: one for one in bill["packages"]}
    assert packages["torch"]["packageFileName"] == "torch-2.13.0+cpu-cp311.whl"
    assert [packages[name]["licenseDeclared"] for name in ("torch", "odd-name")] == ["X AND Y", "NOASSERTION"]
    ids = {one["SPDXID"] for one in bill["packages"]} | {"SPDXRef-DOCUMENT"}
    ends = {one[end] for one in bill["relationships"] for end in ("spdxElementId", "relatedSpdxElement")}
    assert ends == ids
    assert "| odd-name | 2.0 | BSD License |" in (tmp_path / "out" / "licences.md").read_text()
    again = parts.sbom(parts.parts_of(reported()), datetime.fromtimestamp(86400, UTC))
    assert again == bill


def test_an_images_bill_of_materials_has_the_systems_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, report, listed = script("parts"), tmp_path / "report.json", tmp_path / "system.tsv"
    report.write_text(json.dumps(reported()))
    listed.write_text("libstdc++6:amd64\t12.2.0-14+deb12u1\nlibexpat1\t1:2.5\n")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    parts.main(str(tmp_path), "--system", str(listed), str(report))
    bill = json.loads((tmp_path / "sbom.spdx.json").read_text())
    found = {one["name"]: one for one in bill["packages"]}
    assert found["libstdc++6"]["versionInfo"] == "12.2.0-14+deb12u1"
    (address,) = found["libstdc++6"]["externalRefs"]
    assert address["referenceLocator"] == "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1"
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one["SPDXID"]) for one in bill["packages"])
    needed = {one["relatedSpdxElement"] for one in bill["relationships"] if one["relationshipType"] == "DEPENDS_ON"}
    assert {found[name]["SPDXID"] for name in ("libstdc++6", "libexpat1", "torch")} <= needed


def test_a_part_without_a_hash_is_refused(tmp_path: Path) -> None:
    report = reported()
    del report["install"][1]["download_info"]["archive_info"]
    with pytest.raises(ValueError, match="odd-name: has no sha256"):
        script("parts").parts_of(report)
    wheel = tmp_path / "odd_name-2.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel of this machine, whose hash pip 23.0 leaves out")
    report["install"][1]["download_info"]["url"] = wheel.as_uri()
    part = next(part for part in script("parts").parts_of(report) if part["name"] == "odd-name")
    assert (part["sha256"], part["file"]) == (sha256(wheel.read_bytes()).hexdigest(), wheel.name)


def test_an_archive_has_the_same_bytes_whenever_and_wherever_it_is_made(tmp_path: Path) -> None:
    archive = script("archive")
    made = []
    for place, names in (("a", ("one", "two", "run.lock")), ("b", ("two", "one"))):
        for name in names:
            path = tmp_path / place / "inner" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            path.chmod(0o600 if place == "a" else 0o755)
        made.append(archive.folder_archive(tmp_path / place, "top", 5))
    assert made[0] == made[1]
    file = tmp_path / "made.tar.gz"
    file.write_bytes(made[0])
    with tarfile.open(file) as tar:
        assert [(one.name, one.mtime, one.uid) for one in tar] == [("top/inner/one", 5, 0), ("top/inner/two", 5, 0)]
    archive.write_sums(tmp_path / "a" / "inner")
    assert (tmp_path / "a" / "inner" / "SHA256SUMS").read_text().count("\n") == 3


def image(folder: Path, files: dict[str, bytes], created: str = "1970", **changes: Any) -> Path:
    """An image of two layers as buildah writes it: an empty one, and one that holds `files`."""
    folder.mkdir()
    digests = []
    for contents in ({}, files):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                for field, value in changes.items():
                    setattr(entry, field, value)
                tar.addfile(entry, io.BytesIO(data))
        digests.append(blob(folder, made.getvalue()))
    config = {"created": created, "rootfs": {"type": "layers", "diff_ids": digests}}
    manifest = {
        "schemaVersion": 2,
        "config": {"digest": blob(folder, json.dumps(config).encode())},
        "layers": [{"digest": digest} for digest in digests],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def blob(folder: Path, data: bytes) -> str:
    digest = sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return f"sha256:{digest}"


FILES = {"opt/a": b"one", "opt/b": b"two"}


@pytest.mark.parametrize(
    ("files", "changes", "said"),
    [
        (FILES, {}, "equal: image "),
        ({**FILES, "opt/b": b"owt"}, {}, "layer 2: opt/b: type 0 mode 644 owner 0:0 time 0 size 3 sha256 "),
        ({"opt/a": b"one"}, {}, "| missing"),
        (FILES, {"mode": 0o600}, "layer 2: opt/a: type 0 mode 644 "),
        (FILES, {"mtime": 7}, "time 7 size 3"),
        (FILES, {"pax_headers": {"SCHILY.xattr.user.x": "y"}}, "SCHILY.xattr.user.x"),
        ({"opt/b": b"two", "opt/a": b"one"}, {}, "layer 2: the same entries in another order"),
        (FILES, {"created": "1971"}, 'description: created: "1970" | "1971"'),
    ],
)
def test_two_images_are_equal_or_what_differs_is_named(
    files: dict[str, bytes], changes: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = image(tmp_path / "one", FILES), image(tmp_path / "other", files, **changes)
    equal = files == FILES and list(files) == list(FILES) and not changes
    assert script("layers").main(str(one), str(other)) == (0 if equal else 1)
    assert said in capsys.readouterr().out


def test_a_layer_must_have_the_hash_of_its_name(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    layers = script("layers")
    one, other = image(tmp_path / "one", FILES), image(tmp_path / "other", FILES)
    assert layers.main(str(one), "--read", "/opt/b") == 0
    assert capsysbinary.readouterr().out == b"two"
    with pytest.raises(ValueError, match="no layer holds the file /opt/c"):
        layers.read(one, "/opt/c")
    (layer,) = [file for file in other.iterdir() if b"two" in file.read_bytes()]
    layer.write_bytes(layer.read_bytes().replace(b"two", b"owt"))
    with pytest.raises(ValueError, match="not that of its name"):
        layers.main(str(one), str(other))


DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())


def test_the_image_installs_every_package_by_hash() -> None:
    installs = re.findall(r"/pip (?:install|wheel|download)[^&;\n]*", DOCKERFILE)
    resolved, packages, own = installs
    assert "--dry-run" in resolved and "-c constraints.txt" in resolved
    assert "--require-hashes" in packages and packages.rstrip().endswith("-r requirements.txt")
    assert "--no-deps --no-build-isolation" in own and own.rstrip().endswith(" .")
    pinned = (ROOT / "constraints.txt").read_text()
    for needed in tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]:
        name = re.split(r"[<>=~]", needed)[0]
        assert f" {name} " in resolved and f"\n{name}==" in pinned


def test_the_images_base_is_pinned_and_its_python_the_one_tested() -> None:
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}", base)
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["${BASE_IMAGE}", "system", "system"]


def test_what_the_image_copies_reaches_its_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!")]
    copied = [name for found in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for name in found.split()]
    assert "artifact" in copied and "requirements.tx[t]" in copied
    for name in copied:
        assert any(fnmatch.fnmatch(one, name) for one in let_through), name
        assert (ROOT / name).exists() or name == "requirements.tx[t]"
