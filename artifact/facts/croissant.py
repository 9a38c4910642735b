"""Croissant descriptions of fact files: what machines read before they load a data set (mlcommons.org, version 1.0).

Covers CounterFact-style records, known facts, and LRE's files of a relation each: the files with their hash, licence
and source, and the fields that a run reads, each with its path in the JSON. `nox -s validate` holds them against
mlcroissant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from artifact import __version__
from artifact.errors import FactError
from artifact.facts.dataset import read_records
from artifact.facts.records import is_counterfact
from artifact.reading import read_bytes
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
_PAIR_FIELDS = {"subject": "the entity that the fact is about", "object": "the answer"}
_NUMBERS = ("case_id", "known_id")


@dataclass(frozen=True)
class _File:
    """One file; `url` is where it is fetched, or its name where it lies beside its description."""

    name: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class _Described:
    """Fact files in words; `records` is the path to a file's records in the JSON."""

    name: str
    description: str
    files: tuple[_File, ...]
    licence: str
    citation: str
    fields: dict[str, str]
    records: str = "$[*]"


_READ: dict[str, tuple[dict[str, str], str]] = {
    "counterfact": (_FACT_FIELDS, "$[*]"),
    "known": (_KNOWN_FIELDS, "$[*]"),
    "lre": (_PAIR_FIELDS, "$.samples[*]"),
}
"""The fields of published files, and where their records are."""
PUBLISHED = tuple(_READ)
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
    fields, records = _READ[source.name]
    files = tuple(_File(file.name, file.urls[0], file.sha256 or "", file.size) for file in source.files)
    of_paper = " of 'Does Knowledge Localization Hold True?' (CIKM 2024)" if len(files) == 1 else ""
    named = files[0].name if len(files) == 1 else f"{len(files)} files, a relation each"
    return _Described(
        name=source.name,
        description=f"{named}: {source.purpose}{of_paper}.",
        files=files,
        licence=source.licence,
        citation=source.citation,
        fields=fields,
        records=records,
    )


def _own(facts: str, path: Path) -> _Described:
    records, digest = read_records(path)
    if isinstance(records, list) and not read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        raise FactError(f"{path}: is no JSON list, whose fields alone can be described; give a JSON list of records")
    made_up = facts == "world"
    return _Described(
        name="kloc-world-facts" if made_up else path.stem,
        description="256 made-up facts of the embedded world of kloc-artifact, from both perspectives; "
        "they say nothing about real entities."
        if made_up
        else f"Facts of {path.name}, as kloc-artifact reads them.",
        files=(_File(path.name, path.name, digest, path.stat().st_size),),
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
        "url": one.files[0].url,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.name,
                "name": file.name,
                "contentUrl": file.url,
                "contentSize": f"{file.size} B",
                "encodingFormat": "application/json",
                "sha256": file.sha256,
            }
            for file in one.files
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": records,
                "name": records,
                "description": "One record for each fact.",
                "field": [_field(one, file, records, name, words) for name, words in one.fields.items()],
            }
            for file, records in _record_sets(one)
        ],
    }


def _record_sets(one: _Described) -> Iterator[tuple[_File, str]]:
    """Each file with the name of its records."""
    for file in one.files:
        yield file, "facts" if len(one.files) == 1 else Path(file.name).stem


def _field(one: _Described, file: _File, records: str, name: str, words: str) -> dict[str, Any]:
    short = name.removeprefix("requested_rewrite.").removesuffix(".str")
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{short}",
        "name": short,
        "description": words,
        "dataType": "sc:Integer" if name in _NUMBERS else "sc:Text",
        "source": {"fileObject": {"@id": file.name}, "extract": {"jsonPath": f"{one.records}.{name}"}},
    }
