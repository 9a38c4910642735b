"""The embedded world's facts, which come with the package."""

from pathlib import Path

from artifact.facts.dataset import Data, DataSet, RelationSource, built_in, read_records
from artifact.sources.catalogue import WORLD, WORLDS


def world(path: Path | None = None, relation_source: RelationSource = "authors", by_id: bool = False) -> Data:
    """The embedded world's facts."""
    records, _ = read_records(WORLD / "facts.json")
    return built_in(records, "embedded world", "made-up facts, true by construction")


DATASET = DataSet(name="world", load=world, default_for=tuple(WORLDS))
