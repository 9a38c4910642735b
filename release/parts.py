"""What an installation is made of, from pip's report of it: wheels by hash, a bill of materials in SPDX 2.3, licences.

    pip install --report REPORT ...        (add --dry-run --ignore-installed to look without installing)
    python release/parts.py OUT REPORT...        (several where an installation took several commands)
    python release/parts.py OUT --system LIST REPORT...        (with the distribution's packages, for an image)

Writes into the folder OUT:
- requirements.txt: every package by version and sha256, for `pip install --require-hashes`, and for the same Python and
  platform alone;
- sbom.spdx.json: the same for programs;
- licences.md: the same for people.
LIST is what `dpkg-query --show` prints, a name and a version a line. Its packages are in the bill of materials alone.
The hashes are those of the package index that was asked. Times come from SOURCE_DATE_EPOCH (default: 0), so that the
same packages give the same bytes. Needs the standard library alone: the image runs it. Run it with the Python of the
installation: pip before 25 leaves a newer form of licences out of its report, and the installed package has it.
"""

import json
import os
import platform
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

OURS = "kloc-artifact"
_LONGEST = 60
_PLAIN = ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MPL-2.0 AND MIT")
"""Words of the older licence field that are SPDX expressions, too."""


def parts_of(report: dict[str, Any]) -> list[dict[str, str]]:
    """Every package of pip's report by name: version, wheel, sha256 and licence as it says them itself.

    Raises ValueError for one without a hash, other than this package: it was built here, or is no file.
    """
    parts = []
    for item in report["install"]:
        about, source = item["metadata"], item["download_info"]
        name = re.sub(r"[-_.]+", "-", about["name"]).lower()
        path = Path(unquote(urlsplit(source["url"]).path))
        digest = (source.get("archive_info") or {}).get("hashes", {}).get("sha256", "")
        if not digest and source["url"].startswith("file:") and path.is_file():  # pip 23.0 does not say it
            digest = sha256(path.read_bytes()).hexdigest()
        if not digest and name != OURS:
            raise ValueError(f"{name}: has no sha256 in pip's report; install it from a wheel")
        part = {"name": name, "version": about["version"], "file": path.name if digest else "", "sha256": digest}
        expression = about.get("license_expression") or _installed_expression(about["name"])
        words = expression or _licence_words(about)
        parts.append({**part, "licence": words, "spdx": words if expression or words in _PLAIN else ""})
    return sorted(parts, key=lambda part: part["name"])


def _licence_words(about: dict[str, Any]) -> str:
    """A package's own words: a short licence field, or its classifiers."""
    words = " ".join(str(about.get("license") or "").split())
    if 0 < len(words) <= _LONGEST and words.upper() != "UNKNOWN":
        return words
    classified = [line.rsplit(" :: ", 1)[1] for line in about.get("classifier", []) if line.startswith("License :: ")]
    return "; ".join(classified) or (f"{words[:_LONGEST]}..." if words else "not stated")


def _installed_expression(name: str) -> str | None:
    try:
        return metadata.metadata(name).get("License-Expression")
    except metadata.PackageNotFoundError:
        return None


def requirements(parts: list[dict[str, str]], report: dict[str, Any]) -> str:
    """A requirements file with hashes, without this package itself."""
    where = report["environment"]
    head = (
        f"# For Python {where['python_version']} on {where['sys_platform']} {where['platform_machine']} alone: wheels "
        "differ between Pythons and platforms.\n"
    )
    pinned = [f"{part['name']}=={part['version']} --hash=sha256:{part['sha256']}\n" for part in parts if part["sha256"]]
    return head + "".join(pinned)


def system_parts(listed: str, distribution: str) -> list[dict[str, str]]:
    """The packages that `dpkg-query --show` printed: name, version and address (purl) for a distribution's name."""
    parts = []
    for line in listed.splitlines():
        name, version = line.split("\t")
        name = name.split(":")[0]  # the architecture, where the distribution names it
        purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}"
        parts.append({"name": name, "version": version, "purl": purl})
    return parts


def sbom(parts: list[dict[str, str]], created: datetime, system: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """A bill of materials in SPDX 2.3: this package depends on all others and on the system's."""
    (ours,) = [part for part in parts if part["name"] == OURS]
    digest = sha256(json.dumps([*parts, *system], sort_keys=True).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{OURS}-{ours['version']}",
        "documentNamespace": f"https://spdx.org/spdxdocs/{OURS}-{ours['version']}-{digest}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: release/parts.py"]},
        "packages": [*map(_package, parts), *map(_system_package, system)],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", _id(ours)),
            *(_relation(_id(ours), "DEPENDS_ON", _id(part)) for part in parts if part is not ours),
            *(_relation(_id(ours), "DEPENDS_ON", _system_id(part)) for part in system),
        ],
    }


def _id(part: dict[str, str]) -> str:
    return f"SPDXRef-{part['name']}"


def _system_id(part: dict[str, str]) -> str:
    return f"SPDXRef-deb-{re.sub('[^A-Za-z0-9.]', '-', part['name'])}"


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _package(part: dict[str, str]) -> dict[str, Any]:
    # An expression is passed on, words of a package's own are a comment: nobody has read its licence here.
    package = _described(_id(part), part, f"pkg:pypi/{part['name']}@{part['version']}") | {
        "licenseDeclared": part["spdx"] or "NOASSERTION",
        "licenseComments": f"the package says: {part['licence']}",
    }
    if part["sha256"]:
        package["packageFileName"] = part["file"]
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": part["sha256"]}]
    return package


def _system_package(part: dict[str, str]) -> dict[str, Any]:
    return _described(_system_id(part), part, part["purl"]) | {
        "licenseDeclared": "NOASSERTION",
        "licenseComments": f"in the image: /usr/share/doc/{part['name']}/copyright",
    }


def _described(identity: str, part: dict[str, str], purl: str) -> dict[str, Any]:
    return {
        "SPDXID": identity,
        "name": part["name"],
        "versionInfo": part["version"],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl},
        ],
    }


def licences(parts: list[dict[str, str]]) -> str:
    """A table for people."""
    head = "# Licences of all parts, as each package states its own\n\n"
    head += "| package | version | licence |\n| --- | --- | --- |\n"
    rows = [f"| {part['name']} | {part['version']} | {part['licence'].replace('|', '/')} |\n" for part in parts]
    return head + "".join(rows)


def main(*arguments: str) -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--system", type=Path)
    parser.add_argument("reports", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    first, *others = [json.loads(file.read_text()) for file in given.reports]
    report = {**first, "install": [item for one in (first, *others) for item in one["install"]]}
    parts, folder = parts_of(report), given.out
    listed = given.system.read_text() if given.system else ""
    system = system_parts(listed, platform.freedesktop_os_release()["ID"]) if listed else []
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text(requirements(parts, report))
    (folder / "sbom.spdx.json").write_text(json.dumps(sbom(parts, created, system), indent=1) + "\n")
    (folder / "licences.md").write_text(licences(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
