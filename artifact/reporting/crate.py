"""A run folder as a Process Run Crate 0.5: ro-crate-metadata.json, which archives and registries of research data read.

Covers what a run was: the software, the model, the data and the settings that it took, when it ran, and every file that
it left with size and hash. Like timings.json it holds times; it is otherwise a function of the journal and the report.
Not said, though the profile recommends it: who ran it (the package does not ask), and an address of the software.
`nox -s validate` holds a crate against the public validator.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from artifact import __version__
from artifact.io import sha256_of
from artifact.runs.journal import DATABASE, DESCRIPTION
from artifact.runs.store import Store

CRATE = "ro-crate-metadata.json"
_CRATE_1_1 = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_TERMS = "https://w3id.org/ro/terms/workflow-run#"
_LICENCE = "https://spdx.org/licenses/MIT"
_PAPER = "https://doi.org/10.1145/3627673.3679900"
_FORMATS = {
    ".html": "text/html",
    ".md": "text/markdown",
    ".json": "application/json",
    ".csv": "text/csv",
    ".tex": "application/x-tex",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".sqlite": "application/vnd.sqlite3",
}
Entity = dict[str, Any]


def crate_json(root: Path, stores: Sequence[Store], commands: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """The content of `root`'s ro-crate-metadata.json.

    `stores` are the runs in it, each with the command that makes it again, and `files` the report's by their path
    in `root`. The journals and descriptions are read where they lie. Raises OSError where they cannot be.
    """
    entries = {(entry := _file(name, content))["@id"]: entry for name, content in sorted(files.items())}
    graph: list[Entity] = []
    ends: list[str] = []
    for store, command in zip(stores, commands, strict=True):
        folder = "" if store.folder == root else f"{store.folder.name}/"
        own = [_stored(root, f"{folder}{name}") for name in (DESCRIPTION, DATABASE) if (store.folder / name).is_file()]
        entries |= {entry["@id"]: entry for entry in own}
        made = _action(store, command, f"#run{'' if not folder else '-' + quote(store.folder.name)}")
        made[0]["result"] = _named([*own, *(entries[quote(name)] for name in sorted(files))])
        ends.append(made[0].get("endTime", ""))
        graph += made
    runs = [entity for entity in graph if entity["@type"] == "CreateAction"]
    content = {
        "@context": [f"{_CRATE_1_1}/context", {"sha256": f"{_TERMS}sha256", "environment": f"{_TERMS}environment"}],
        "@graph": [
            {
                "@id": CRATE,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": _CRATE_1_1},
            },
            _root(runs, list(entries.values()), max(ends, default="")),
            *_fixed(),
            *graph,
            *entries.values(),
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _root(runs: Sequence[Entity], files: Sequence[Entity], published: str) -> Entity:
    """The folder itself; a run without times is dated by the day that the clock began, which is surely none."""
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Runs of kloc-artifact: {'; '.join(run['name'] for run in runs)}",
        "description": "Records, tables, figures and verdict of runs that repeat the experiments of 'Does Knowledge "
        "Localization Hold True?' (CIKM 2024). report/report.html says what they show.",
        "datePublished": published or "1970-01-01T00:00:00+00:00",
        "license": {"@id": _LICENCE},
        "conformsTo": {"@id": _PROFILE},
        "citation": {"@id": _PAPER},
        "mentions": _named(runs),
        "hasPart": _named(files),
    }


def _fixed() -> list[Entity]:
    return [
        {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": _LICENCE,
            "@type": "CreativeWork",
            "name": "MIT License",
            "description": "Of the numbers and pages. Texts of facts in the records keep the licence of their source.",
        },
        {
            "@id": _PAPER,
            "@type": "ScholarlyArticle",
            "name": "Does Knowledge Localization Hold True? Surprising Differences Between Entity and Relation "
            "Perspectives in Language Models",
        },
        {
            "@id": "#kloc-artifact",
            "@type": "SoftwareApplication",
            "name": "kloc-artifact",
            "softwareVersion": __version__,
        },
    ]


def _action(store: Store, command: str, name: str) -> list[Entity]:
    """The run and what it took, first the run itself; without the files it left."""
    info = store.info()
    taken = [
        _work(f"{name}-model", info.model, "The model", info.revision, info.weights_sha256),
        _work(f"{name}-facts", info.data_source, info.data_note, None, info.data_sha256),
        *(
            _work(f"{name}-traced", traced.source, traced.note, None, traced.sha256)
            for traced in [info.traced]
            if traced is not None
        ),
        *(
            _work(f"{name}-moments", moments.source, "Second moments", None, moments.sha256)
            for moments in [info.moments]
            if moments is not None
        ),
        *(
            _value(f"{name}-{key}", key, value)
            for key, value in {
                "protocol": info.protocol,
                "device": info.device,
                "dtype": info.dtype,
                **{
                    f"hyperparameters-{method}": value.get("hash", "not recorded")
                    for method, value in sorted(info.settings.items())
                },
            }.items()
        ),
    ]
    machines = [
        _value(f"{name}-machine-{i}", "machine", msgspec.json.encode(one, order="sorted").decode())
        for i, one in enumerate(store.environments(), 1)
    ]
    action: Entity = {
        "@id": name,
        "@type": "CreateAction",
        "name": f"{info.plan.name} on {info.model}",
        "description": f"{info.plan.title}: {command}",
        "instrument": {"@id": "#kloc-artifact"},
        "object": _named(taken),
        **_times(store),
    }
    if machines:
        action["environment"] = _named(machines)
    counts: Counter[str] = sum(store.counts().values(), Counter())
    if counts.total() == sum(len(batch) for unit in info.plan.units for batch in info.batches(unit)):
        action["actionStatus"] = "http://schema.org/CompletedActionStatus"
    return [action, *taken, *machines]


def _named(entities: Sequence[Entity]) -> Entity | list[Entity]:
    """References to entities; to a single one without a list, as RO-Crate recommends."""
    names = [{"@id": entity["@id"]} for entity in entities]
    return names[0] if len(names) == 1 else names


def _times(store: Store) -> Entity:
    """Begin of the first and end of the last batch, as far as the journal knows them."""
    timed = [(ended - seconds, ended) for _, seconds, _, ended in store.timed() if ended is not None]
    if not timed:
        return {}
    try:
        start, end = (
            datetime.fromtimestamp(round(at), UTC).isoformat()
            for at in (min(begin for begin, _ in timed), max(end for _, end in timed))
        )
    except (OverflowError, ValueError, OSError):
        return {}  # a clock that was wrong beyond what a date can say
    return {"startTime": start, "endTime": end}


def _work(name: str, title: str, description: str, version: str | None, digest: str) -> Entity:
    entity = {"@id": name, "@type": "CreativeWork", "name": title, "description": description or title}
    return {**entity, **({"version": version} if version else {}), "sha256": digest}


def _value(name: str, key: str, value: str) -> Entity:
    return {"@id": name, "@type": "PropertyValue", "name": key, "value": value}


def _file(name: str, content: bytes) -> Entity:
    return _entry(name, len(content), sha256(content).hexdigest())


def _stored(root: Path, name: str) -> Entity:
    return _entry(name, (root / name).stat().st_size, sha256_of(root / name))


def _entry(name: str, size: int, digest: str) -> Entity:
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name,
        "contentSize": str(size),
        "encodingFormat": _FORMATS.get(Path(name).suffix, "application/octet-stream"),
        "sha256": digest,
    }
