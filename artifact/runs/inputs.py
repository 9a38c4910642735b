"""What goes into a run besides the model: facts and statements, second moments, MEND's weights, and whether it counts.

Covers the choice by plan and by what the user names, the sources that have to be there, and the rule by which a run is
evidence. Nothing stands in for another source silently: what is absent is an error with its remedy. It fetches nothing
(cli/fetch.py) and loads no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from artifact.editing.made_for import ANY_MODEL
from artifact.editing.methods import METHODS
from artifact.editing.protocol import Protocol
from artifact.errors import ArtifactError, NotFetched, SettingError
from artifact.facts import dataset
from artifact.facts.dataset import Data, RelationSource
from artifact.plan import PAPER_MODELS, Plan
from artifact.sources.cache import converted_folder
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES
from artifact.sources.fetch import moments_folder, path_of
from artifact.sources.lock import recorded
from artifact.sources.verify import examine

FACTS = ("counterfact", "known", "world", "everyday")
"""Data by name for `--facts`; anything else is a file."""
WORLD_NOTE = (
    "The embedded world is a list of made-up facts and a small GPT-2 trained on them, so that editing works at a known "
    "site."
)
OUR_READING = (
    "deviation: the authors' rel_known_1000.json is not there, so relation traces corrupt all of the prompt but its "
    "subject, with the noise of the subjects' embeddings"
)
OWN_READING = (
    "deviation: the authors' rel_known_1000.json names words of the known facts alone, so relation traces corrupt all "
    "of the prompt but its subject"
)
OTHER_NOTE = (
    "The paper's numbers are for GPT-2 XL and GPT-J on CounterFact; this run took another model or other facts."
)

ANY_MODEL_NOTE = (
    f"Files made for another model were allowed ({ANY_MODEL}), so this run is not compared with the paper's numbers."
)


@dataclass(frozen=True)
class Given:
    """What the user names for a run: facts by name or file, moments, weights; None leaves it to the plan."""

    facts: str | None = None
    relation_source: RelationSource = "authors"
    moments: Path | None = None
    mend_weights: Path | None = None
    any_model: bool = False
    """Whether files made for another model are used all the same."""

    def options(self) -> dict[str, str]:
        """The command line's options by name, to repeat the run with; a flag's value is empty."""
        named = {"--facts": self.facts, "--moments": self.moments, "--mend-weights": self.mend_weights}
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


def needed_sources(plan: Plan, model: str, given: Given) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the sources that a run needs (sources/catalogue.py) and of those without which some rows are skipped."""
    does = {unit.does for unit in plan.units}
    methods = [METHODS[name] for name in dict.fromkeys(unit.method for unit in plan.units) if name in METHODS]
    facts = _facts_name(plan, given)
    names = [model] if model in PAPER_MODELS else []
    if facts == "counterfact" and does & {"edit", "unedited"}:
        names.append("counterfact" if given.relation_source == "templates" else "relation")
    if facts == "known" or (facts == "counterfact" and "trace" in does):
        names.append("known")
    if any(one.moments for one in methods) and given.moments is None and _published(plan, model):
        names.append(f"moments-{model}")
    networks = [f"{one.name}-{model}" for one in methods if one.network and given.mend_weights is None]
    return tuple(names), tuple(name for name in networks if name in PLAIN_SOURCES)


def check_given(plan: Plan, model: str, given: Given) -> None:
    """Raise FactError or SettingError for a file or folder of the user's that is not there or cannot be used."""
    name = _facts_name(plan, given)
    if name is not None and name not in FACTS:
        dataset.own(Path(name), given.relation_source)
    if given.moments is not None and not given.moments.is_dir():
        raise SettingError(f"{given.moments}: is not a folder; give --moments a folder in the published layout")
    if given.mend_weights is not None and not given.mend_weights.is_file():
        raise SettingError(f"{given.mend_weights}: is not a file; give --mend-weights a network trained for the model")


def run_inputs(plan: Plan, model: str, given: Given, protocol: Protocol) -> Inputs:
    """The data that the plan's units take, or that the user names instead.

    CounterFact to edit and the known facts to trace for the paper's plans; the world's own facts or the built-in ones
    for smoke runs. Relation traces of the known facts follow the authors' file where the protocol says so; where that
    file is missing the note says that our reading stands in. Raises FactError for what is not there, with the command
    that fetches it.
    """
    name, by_id = _facts_name(plan, given), not protocol.records_in_file_order
    traces = any(unit.does == "trace" for unit in plan.units)
    from_file = protocol.relation_span_from_file and any(
        unit.does == "trace" and unit.corrupt == "relation" for unit in plan.units
    )
    if name in ("known", "counterfact"):
        edited = traced = dataset.known(path_of("known"), by_id) if name == "known" or traces else None
        if name == "counterfact":
            edited = _counterfact(given.relation_source, by_id)
        assert edited is not None
        if traced is None:
            return Inputs(edited, edited)
        return Inputs(edited, *(_relation_words(traced) if from_file else (traced, ())))
    if name is None:
        found = dataset.data_for(model)
    elif name == "world":
        found = dataset.world()
    elif name == "everyday":
        found = dataset.everyday()
    else:
        found = dataset.own(Path(name), given.relation_source, by_id)
        if from_file:
            return Inputs(found, replace(found, note=f"{found.note}; {OWN_READING}"))
    return Inputs(found, found)


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


def evidence(plan: Plan, model: str, data: Data, given: Given) -> tuple[bool, str]:
    """Whether a run may be held against the paper, and why not in words.

    It may with one of the paper's models by name, its weights those whose hash is pinned, under one of the paper's
    plans, on CounterFact from its pinned source. Templates for relation prompts, a limit and the protocol change
    tolerances and marks, and are said there.
    """
    if model == "world":
        return False, WORLD_NOTE
    if given.any_model:
        return False, ANY_MODEL_NOTE
    if model not in PAPER_MODELS or not plan.of_the_paper or _facts_name(plan, given) != "counterfact":
        return False, OTHER_NOTE
    (file,) = PLAIN_SOURCES["counterfact"].files
    if given.relation_source == "templates" and data.sha256 != file.sha256:
        return (
            False,
            f"{OTHER_NOTE.rstrip('.')}: {file.name} has sha256 {data.sha256[:12]}, not {str(file.sha256)[:12]}.",
        )
    if other := other_weights(model):
        return False, f"{OTHER_NOTE.rstrip('.')}: {other}."
    return True, ""


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


def _facts_name(plan: Plan, given: Given) -> str | None:
    if given.facts is None:
        return "counterfact" if plan.of_the_paper else None
    if given.facts not in FACTS and not Path(given.facts).exists():
        raise SettingError(f"--facts {given.facts}: is neither a file nor one of {', '.join(FACTS)}; give one of these")
    return given.facts


def _relation_words(traced: Data) -> tuple[Data, list[str]]:
    try:
        path = path_of("rel_known")
    except NotFetched:  # one that is there and damaged is refused
        return replace(traced, note=f"{traced.note}; {OUR_READING}"), []
    return dataset.with_relation_words(traced, path)


def _counterfact(relation_source: RelationSource, by_id: bool) -> Data:
    if relation_source == "templates":
        return dataset.counterfact(path_of("counterfact"), "templates", by_id=by_id)
    return dataset.counterfact(None, "authors", path_of("rel_counterfact"), by_id)


def _published(plan: Plan, model: str) -> bool:
    return plan.of_the_paper and f"moments-{model}" in PLAIN_SOURCES
