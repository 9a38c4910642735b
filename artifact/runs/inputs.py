"""What goes into a run besides the model: facts and statements, second moments, MEND's weights, and whether it counts.

Covers the choice by plan and by what the user names, the sources that have to be there, and the rule by which a run is
evidence. Nothing stands in for another source silently: what is absent is an error with its remedy. Downloading is
cli/fetch.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from artifact.editing.made_for import ANY_MODEL
from artifact.editing.methods import METHODS
from artifact.editing.protocol import Protocol
from artifact.errors import ArtifactError, NotFetched, SettingError
from artifact.facts.dataset import Data, DataSet, RelationSource
from artifact.facts.datasets import DATASETS, OWN, default_for, traced_for
from artifact.facts.datasets.known import NoRelationWords, with_relation_words
from artifact.lm.dtype import DtypeName
from artifact.plans.paper import PAPER_MODELS
from artifact.plans.unit import Plan
from artifact.sources.cache import converted_folder
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES, WORLDS, file_named
from artifact.sources.fetch import moments_folder, path_of
from artifact.sources.lock import expected_of, recorded
from artifact.sources.verify import examine

WORLD_NOTE = (
    "The embedded world is a list of made-up facts and a small GPT-2 trained on them, so that editing works at a known "
    "site."
)
OTHER_NOTE = (
    "The paper's numbers are for GPT-2 XL and GPT-J on CounterFact; this run took another model or other facts."
)

ANY_MODEL_NOTE = (
    f"Files made for another model were allowed ({ANY_MODEL}), so this run is not compared with the paper's numbers."
)


@dataclass(frozen=True)
class Given:
    """What the user names for a run: facts by name or file, moments, weights, and the seed that context prefixes are
    drawn by; None leaves it to the plan.
    """

    facts: str | None = None
    relation_source: RelationSource = "authors"
    moments: Path | None = None
    mend_weights: Path | None = None
    any_model: bool = False
    """Whether files made for another model are used all the same."""
    seed: int | None = None
    hparams: Path | None = None
    """A file of kloc tune."""

    def options(self) -> dict[str, str]:
        """The command line's options by name, to repeat the run with; a flag's value is empty."""
        named: dict[str, object] = {"--facts": self.facts, "--moments": self.moments, "--seed": self.seed}
        named |= {"--mend-weights": self.mend_weights, "--hparams": self.hparams}
        if self.relation_source != "authors":
            named["--relation-source"] = self.relation_source
        flags = {ANY_MODEL: ""} if self.any_model else {}
        return {option: str(value) for option, value in named.items() if value is not None} | flags


@dataclass(frozen=True)
class Inputs:
    """The data of a run: `edited` for units that edit or score, `traced` for units that trace."""

    edited: Data
    traced: Data
    relation_words: Sequence[str] = ()
    """The words of the authors' file of relation traces, whose embeddings give these traces' noise; none without it."""
    whole: Data | None = None
    """Where a run takes a part of the facts alone (answered.py): all of them."""

    @property
    def every(self) -> Data:
        """All facts of the data: among these replacements find donors, and methods and controls other facts."""
        return self.whole or self.edited


def needed_sources(plan: Plan, model: str, given: Given) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the sources that a run needs (sources/catalogue.py) and of those without which some rows are skipped."""
    methods = [METHODS[name] for name in dict.fromkeys(unit.method for unit in plan.units) if name in METHODS]
    names = [model] if model in PAPER_MODELS else []
    names += dict.fromkeys(name for one in _data_sets(plan, model, given) for name in sources_of(one, given))
    if any(one.moments for one in methods) and given.moments is None and _published(plan, model):
        names.append(f"moments-{model}")
    networks = [f"{one.name}-{model}" for one in methods if one.network and given.mend_weights is None]
    return tuple(names), tuple(name for name in networks if name in PLAIN_SOURCES)


def check_given(plan: Plan, model: str, given: Given) -> None:
    """Raise FactError or SettingError for a file or folder of the user's that is not there or cannot be used."""
    if (chosen := data_set(plan, model, given)) is OWN:
        read_data(chosen, given, by_id=False)
    if given.moments is not None and not given.moments.is_dir():
        raise SettingError(f"{given.moments}: is not a folder; give --moments a folder in the published layout")
    if given.mend_weights is not None and not given.mend_weights.is_file():
        raise SettingError(f"{given.mend_weights}: is not a file; give --mend-weights a network trained for the model")


def data_set(plan: Plan, model: str, given: Given) -> DataSet:
    """The data set of a run: the one or the file that the user names, else the default for the plan and the model.

    Raises SettingError for a name that is neither a data set nor a file.
    """
    if given.facts is None:
        return DATASETS[plan.facts] if plan.facts else default_for(model, plan.of_the_paper)
    return named_data_set(given.facts)


def real_facts(plan: Plan, model: str, given: Given) -> bool:
    """Whether a run is about real facts: those that its model answers, none of them set aside, and with second moments
    of a real text.
    """
    return bool(plan.facts) or data_set(plan, model, given).answered


def named_data_set(facts: str) -> DataSet:
    """The data set of that name, or that of the user's file; SettingError for a name that is neither."""
    if facts not in DATASETS and not Path(facts).exists():
        raise SettingError(f"--facts {facts}: is neither a file nor one of {', '.join(DATASETS)}; give one of these")
    return DATASETS.get(facts, OWN)


def sources_of(one: DataSet, given: Given) -> list[str]:
    """Names of the sources (sources/catalogue.py) that a data set is read from."""
    return [file_named(key).source for key in one.keys(given.relation_source)]


def run_inputs(plan: Plan, model: str, given: Given, protocol: Protocol) -> Inputs:
    """The data that the plan's units take (data_set), or that the user names instead.

    Relation traces follow the authors' file of their words where the protocol says so and the data set has one; where
    that file is missing the note says that our reading stands in. Raises FactError for what is not there, with the
    command that fetches it.
    """
    edits_from, traces_from = _data_sets(plan, model, given)
    by_id = not protocol.records_in_file_order
    edited = read_data(edits_from, given, by_id)
    traced = edited if traces_from is edits_from else read_data(traces_from, given, by_id)
    relation_traces = any(unit.does == "trace" and unit.perspective == "relation" for unit in plan.units)
    if protocol.relation_span_from_file and relation_traces:
        return Inputs(edited, *_relation_words(traces_from, traced))
    return Inputs(edited, traced)


def run_moments(plan: Plan, model: str, given: Given) -> Path | None:
    """The folder of second moments: the user's, the published ones for the paper's plans, or None to compute them."""
    if given.moments is not None or not _published(plan, model):
        return given.moments
    return moments_folder(model)


def run_mend_weights(model: str, given: Given) -> tuple[Path | None, str]:
    """MEND's weights for the model, the user's or the published ones; None with the reason when there are none."""
    if given.mend_weights is not None or f"mend-{model}" not in PLAIN_SOURCES:
        return given.mend_weights, ""
    try:
        return path_of(f"mend-{model}"), ""
    except ArtifactError as error:
        return None, f"MEND's published weights are unavailable ({error}); or name a file with --mend-weights"


def evidence(plan: Plan, model: str, inputs: Inputs, given: Given, dtype: DtypeName = "float32") -> tuple[bool, str]:
    """Whether a run may be held against the paper, and why not in words.

    It may with one of the paper's models by name in float32, its weights those whose hash is pinned, under one of the
    paper's plans, on the paper's data (DataSet.evidence), every file with the hash that is pinned or was recorded at
    the first fetch. Templates for relation prompts, a limit and the protocol change tolerances and marks, and are said
    there.
    """
    if model in WORLDS:
        return False, WORLD_NOTE
    if given.any_model:
        return False, ANY_MODEL_NOTE
    if dtype != "float32":
        return False, f"{OTHER_NOTE.rstrip('.')}, or weights in {dtype}."
    if model not in PAPER_MODELS or not plan.of_the_paper or not data_set(plan, model, given).evidence:
        return False, OTHER_NOTE
    read = zip(_data_sets(plan, model, given), (inputs.edited, inputs.traced), strict=True)
    others = (_other_bytes(key, data.sha256) for one, data in read for key in one.keys(given.relation_source))
    if other := next(filter(None, others), "") or other_weights(model):
        return False, f"{OTHER_NOTE.rstrip('.')}: {other}."
    return True, ""


def _other_bytes(key: str, sha256: str) -> str:
    """Why the bytes that were read are not those that a fetched file must have, in words; empty when they are."""
    file = file_named(key)
    expected = expected_of(f"{file.source}/{file.name}", file.sha256)
    if expected is None or expected.sha256 == sha256:
        return ""
    return f"{file.name} has sha256 {sha256[:12]}, not {expected.sha256[:12]}"


def other_weights(model: str) -> str:
    """Why a model's files in the cache are not the pinned ones, in words; empty when they are.

    Files are hashed: a converted model's must be as recorded, and made from the file whose hash is pinned.
    """
    source = HUB_MODELS[model]
    if source.sha256 is None:
        return ""
    made, pinned = converted_folder(source), {source.weights: source.sha256, **source.hashes}
    for finding in examine(source):
        name = finding.key.rpartition("/")[2]
        if made.is_dir():
            entry = recorded(finding.key)
            right = finding.state == "whole" and entry is not None and entry.made_from == source.sha256
        else:
            right = finding.state == "whole" or name not in pinned
        if not right:
            expected = pinned.get(name, source.sha256)[:12]
            return f"{name} of {model} is not, or not made from, the file with sha256 {expected}"
    return ""


def _data_sets(plan: Plan, model: str, given: Given) -> tuple[DataSet, DataSet]:
    """What units edit or score, and what they trace; one for both where the plan has units of one kind alone."""
    chosen, does = data_set(plan, model, given), {unit.does for unit in plan.units}
    if "trace" not in does:
        return chosen, chosen
    traced = traced_for(chosen)
    return (traced if does == {"trace"} else chosen), traced


def read_data(one: DataSet, given: Given, by_id: bool) -> Data:
    """The facts of a data set, of its fetched files or the user's; FactError for what is not there."""
    paths = tuple(path_of(key) for key in one.keys(given.relation_source))
    own = Path(given.facts) if one is OWN and given.facts else None
    return one.load(paths if len(paths) > 1 else paths[0] if paths else own, given.relation_source, by_id)


def _relation_words(one: DataSet, traced: Data) -> tuple[Data, Sequence[str]]:
    if one.relation_words:
        try:
            return with_relation_words(traced, path_of(one.relation_words))
        except NotFetched:  # one that is there and damaged is refused
            pass
        except NoRelationWords as error:
            traced = replace(traced, note=f"{traced.note}; {error}")
    return (replace(traced, note=f"{traced.note}; {one.own_reading}") if one.own_reading else traced), ()


def _published(plan: Plan, model: str) -> bool:
    return plan.of_the_paper and f"moments-{model}" in PLAIN_SOURCES
