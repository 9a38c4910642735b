"""Public validators on what the artifact writes: run folders, descriptions of facts, and the bill of materials.

    python release/validate.py FOLDER...

Below the folders, and in *-results.tar.gz there, every ro-crate-metadata.json is checked by RO-Crate's validator, every
*.croissant.json by mlcroissant and every *.spdx.json by spdx-tools. Exit code 1 where one fails, or where there is
nothing. Works without a network: RO-Crate's context, which the validator would fetch, is taken from the package
`rocrate`, which holds it. `nox -s validate` installs what this needs.
"""

import email.message
import io
import sys
import tarfile
import tempfile
import urllib.request
import urllib.response
from hashlib import sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import mlcroissant
import requests
from requests.adapters import BaseAdapter
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "process-run-crate"


def context() -> bytes:
    """RO-Crate 1.1's JSON-LD context."""
    found = find_spec("rocrate")  # not imported: its dependencies are not installed
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0], "data", "ro-crate.jsonld").read_bytes()


class _Urllib(urllib.request.BaseHandler):
    """What rdflib fetches with."""

    handler_order = 100  # before the one that would ask the network

    def https_open(self, request: urllib.request.Request) -> urllib.response.addinfourl:
        if request.full_url != CONTEXT:
            raise OSError(f"{request.full_url}: is not fetched here")
        head = email.message.Message()
        head["Content-Type"] = "application/ld+json"
        answer = urllib.response.addinfourl(io.BytesIO(context()), head, CONTEXT, 200)
        answer.msg = "OK"
        return answer


class _Requests(BaseAdapter):
    """What the validator fetches with."""

    def send(self, request: requests.PreparedRequest, **options: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 404, str(request.url), request
        answer.raw = io.BytesIO()
        if request.url == CONTEXT:
            answer.status_code, answer.raw = 200, io.BytesIO(context())
            answer.headers["Content-Type"] = "application/ld+json"
        return answer

    def close(self) -> None: ...


def crate_faults(folder: Path) -> list[str]:
    """What the crate lacks that its profile requires; what it only recommends is printed."""
    settings = ValidationSettings(
        rocrate_uri=str(folder),
        profile_identifier=PROFILE,
        requirement_severity=Severity.RECOMMENDED,
        no_cache=True,
    )
    found = list(services.validate(settings).get_issues())
    for issue in found:
        if issue.severity < Severity.REQUIRED:
            print(f"{folder}: recommended, {issue.check.identifier}: {issue.message}")
    return [f"{issue.check.identifier}: {issue.message}" for issue in found if issue.severity >= Severity.REQUIRED]


def croissant_faults(path: Path) -> list[str]:
    """What mlcroissant says against a description; of each file that lies beside it ten records are read, too."""
    faults = []
    try:
        described = mlcroissant.Dataset(path)
        for file, fields in zip(described.metadata.distribution, described.metadata.record_sets, strict=True):
            beside = path.parent / str(file.content_url)
            if not beside.is_file():
                continue
            if sha256(beside.read_bytes()).hexdigest() != file.sha256:
                faults.append(f"{beside.name} has another sha256")
            elif (count := len(list(islice(described.records(fields.id), 10)))) < 10:
                faults.append(f"{beside.name}: {count} records are read, expected 10")
    except (mlcroissant.ValidationError, ValueError) as error:
        faults.append(str(error))
    return faults


def sbom_faults(path: Path) -> list[str]:
    """What SPDX 2.3 says against a bill of materials."""
    return [message.validation_message for message in validate_full_spdx_document(parse_file(str(path)))]


CHECKS = {
    "ro-crate-metadata.json": lambda path: crate_faults(path.parent),
    "*.croissant.json": croissant_faults,
    "*.spdx.json": sbom_faults,
}


def main(folders: list[str]) -> int:
    urllib.request.install_opener(urllib.request.build_opener(_Urllib()))
    requests.Session.get_adapter = lambda self, url: _Requests()
    failed = checked = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, archive in enumerate(path for one in folders for path in Path(one).glob("*-results.tar.gz")):
            with tarfile.open(archive) as tar:
                tar.extractall(Path(scratch, str(number)), filter="data")
        for pattern, faults in CHECKS.items():
            for path in sorted(path for folder in (*folders, scratch) for path in Path(folder).rglob(pattern)):
                said = faults(path)
                print(f"{path}: {'; '.join(said) or 'valid'}")
                checked, failed = checked + 1, failed + bool(said)
    print(f"{checked} files checked, {failed} not valid")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
