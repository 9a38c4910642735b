"""Croissant descriptions of fact files: what machines read before they load a data set (mlcommons.org, version 1.0).

Covers CounterFact-style records and known facts: the file with its hash, licence and source, and the fields that a run
reads, each with its path in the JSON. `nox -s validate` holds them against mlcroissant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from artifact import __version__
from artifact.errors import FactError
from artifact.facts.dataset import read_records
from artifact.facts.records import is_counterfact
from artifact.sources.catalogue import PLAIN_SOURCES, WORLD, PlainSource

_CONFORMS = "http://mlcommons.org/croissant/1.0"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that Croissant 1.0 tells every description to hold."""
_FACT_FIELDS = {
    "case_id": "the record's number",
    "requested_rewrite.subject": "the entity that the fact is about",
    "requested_rewrite.prompt": "the fact's statement with {} for the subject, without the answer",
    "requested_rewrite.relation_id": "the relation",
    "requested_rewrite.target_true.str": "the answer before an edit",
    "requested_rewrite.target_new.str": "the answer that an edit gives it",
}
_KNOWN_FIELDS = {
    "known_id": "the record's number",
    "subject": "the entity that the fact is about",
    "prompt": "the statement without the answer",
    "template": "the statement with {} for the subject",
    "attribute": "the answer",
}
_NUMBERS = ("case_id", "known_id")


@dataclass(frozen=True)
class _Described:
    """A fact file in words; `url` is where it is fetched, or its name where it lies beside its description."""

    name: str
    description: str
    file: str
    url: str
    sha256: str
    size: int
    licence: str
    citation: str
    fields: dict[str, str]


PUBLISHED = tuple(name for name, source in PLAIN_SOURCES.items() if len(source.files) == 1 and source.files[0].sha256)
"""Fact files whose one file has a pinned hash."""
"""The fetched data sets that can be described without being there, since their bytes are known."""


def croissant_json(facts: str) -> bytes:
    """The description of `world`, of one of PUBLISHED, or of a file of records.

    It names a file that is not fetched by its name alone: the two belong into one folder. Raises FactError for a file
    that cannot be read or that holds no object.
    """
    if facts in PUBLISHED:
        described = _published(PLAIN_SOURCES[facts])
    else:
        described = _own(facts, WORLD / "facts.json" if facts == "world" else Path(facts))
    content = _content(described)
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _published(source: PlainSource) -> _Described:
    (file,) = source.files
    return _Described(
        name=source.name,
        description=f"{file.name}: {source.purpose} of 'Does Knowledge Localization Hold True?' (CIKM 2024).",
        file=file.name,
        url=file.urls[0],
        sha256=file.sha256 or "",
        size=file.size,
        licence=source.licence,
        citation=source.citation,
        fields=_KNOWN_FIELDS if source.name == "known" else _FACT_FIELDS,
    )


def _own(facts: str, path: Path) -> _Described:
    records, digest = read_records(path)
    made_up = facts == "world"
    return _Described(
        name="kloc-world-facts" if made_up else path.stem,
        description="256 made-up facts of the embedded world of kloc-artifact, from both perspectives; "
        "they say nothing about real entities."
        if made_up
        else f"Facts of {path.name}, as kloc-artifact reads them.",
        file=path.name,
        url=path.name,
        sha256=digest,
        size=path.stat().st_size,
        licence="MIT" if made_up else "not stated",
        citation="The kloc-artifact authors, kloc-artifact" if made_up else "not stated",
        fields=_present(records, _FACT_FIELDS if is_counterfact(records) else _KNOWN_FIELDS, path),
    )


def _present(records: object, fields: dict[str, str], path: Path) -> dict[str, str]:
    """The fields that the first record has."""
    first = records[0] if isinstance(records, Sequence) and records else None
    if not isinstance(first, dict):
        raise FactError(f"{path}: holds no list of records; give a JSON list of CounterFact records or known facts")

    def there(name: str) -> bool:
        value: object = first
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value is not None

    return {name: words for name, words in fields.items() if there(name)}


def _content(one: _Described) -> dict[str, Any]:
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS,
        "name": one.name,
        "description": one.description,
        "license": one.licence,
        "citeAs": one.citation,
        "version": __version__,
        "url": one.url,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": one.file,
                "name": one.file,
                "contentUrl": one.url,
                "contentSize": f"{one.size} B",
                "encodingFormat": "application/json",
                "sha256": one.sha256,
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "facts",
                "name": "facts",
                "description": "One record for each fact.",
                "field": [_field(one.file, name, words) for name, words in one.fields.items()],
            }
        ],
    }


def _field(file: str, name: str, words: str) -> dict[str, Any]:
    short = name.removeprefix("requested_rewrite.").removesuffix(".str")
    return {
        "@type": "cr:Field",
        "@id": f"facts/{short}",
        "name": short,
        "description": words,
        "dataType": "sc:Integer" if name in _NUMBERS else "sc:Text",
        "source": {"fileObject": {"@id": file}, "extract": {"jsonPath": f"$[*].{name}"}},
    }
