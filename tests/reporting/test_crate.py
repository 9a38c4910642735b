"""A run folder is a Process Run Crate: every file with its size and hash, what the run took, and nothing dangling."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from artifact.reporting.crate import CRATE
from artifact.reporting.report import render, repeat_command
from artifact.runs.store import Store

Build = Callable[..., Store]


def graph(folder: Path) -> dict[str, dict[str, Any]]:
    entities = json.loads((folder / CRATE).read_bytes())["@graph"]
    assert len({entity["@id"] for entity in entities}) == len(entities)
    return {entity["@id"]: entity for entity in entities}


def references(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, dict) and value.keys() == {"@id"}:
        yield value["@id"]


@pytest.fixture(scope="module")
def crate(shared_smoke: Store) -> dict[str, dict[str, Any]]:
    render(shared_smoke)
    return graph(shared_smoke.folder)


def test_every_file_is_described_as_it_lies_there(shared_smoke: Store, crate) -> None:
    described = {unquote(name): entity for name, entity in crate.items() if entity["@type"] == "File"}
    folder = shared_smoke.folder
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        CRATE,
        "run.lock",
        "report/.lock",
    }
    assert described.keys() == there
    assert {"run.sqlite", "report/report.html", "report/verdict.json"} <= there
    for name, entity in described.items():
        content = (folder / name).read_bytes()
        assert (entity["contentSize"], entity["sha256"]) == (str(len(content)), sha256(content).hexdigest()), name
    assert {one["@id"] for one in crate["./"]["hasPart"]} == {one["@id"] for one in described.values()}


def test_nothing_refers_to_what_is_not_there(crate) -> None:
    named = {name for entity in crate.values() for value in entity.values() for name in references(value)}
    assert named - crate.keys() == {"https://w3id.org/ro/crate/1.1"}


def test_the_run_names_what_it_took_and_what_it_left(shared_smoke: Store, crate) -> None:
    info = shared_smoke.info()
    run = crate["#run"]
    assert run["@type"] == "CreateAction" and crate["./"]["mentions"] == {"@id": "#run"}
    assert crate[run["instrument"]["@id"]]["name"] == "kloc-artifact"
    taken = [crate[one["@id"]] for one in run["object"]]
    assert {"name": "world", "sha256": info.weights_sha256}.items() <= taken[0].items()
    assert taken[1]["sha256"] == info.data_sha256
    values = {one["name"]: one["value"] for one in taken if one["@type"] == "PropertyValue"}
    assert values["protocol"] == "released" and values["hyperparameters-rome"] == "0123456789ab"
    assert {"run.sqlite", "report/report.html"} <= {one["@id"] for one in run["result"]}
    assert repeat_command(info) in run["description"]
    assert run["startTime"] <= run["endTime"] == crate["./"]["datePublished"]


def test_an_unfinished_run_is_not_called_complete(build: Build) -> None:
    finished, unfinished = build(odd_cases=False), build(cases=3, planned=9, odd_cases=False)
    for store, status in ((finished, "http://schema.org/CompletedActionStatus"), (unfinished, None)):
        render(store)
        assert graph(store.folder)["#run"].get("actionStatus") == status


def test_a_report_elsewhere_leaves_the_run_folder_as_it_is(build: Build, tmp_path: Path) -> None:
    store = build(cases=2)
    render(store, folder=tmp_path / "elsewhere")
    assert not (store.folder / CRATE).exists() and not (tmp_path / CRATE).exists()
