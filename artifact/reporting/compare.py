"""Two runs side by side: what differs between their descriptions, and each number's paired difference.

Covers matching the units that score a model by method and edited perspective, pairing the cases that both runs
finished, and the text and CSV of it. Runs on other data cannot be paired. Traces, and how alike single cases are, are
alike.py's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec

from artifact.editing.methods import printed_name
from artifact.errors import RunError
from artifact.evaluation.metrics import METRICS, VALUES, Column, Metric
from artifact.facts.fact import Perspective
from artifact.plans.unit import Control, Unit
from artifact.reporting.alike import (
    PAIR_COLUMNS,
    Alike,
    Paired,
    PairedTraces,
    alike,
    pair_cells,
    paired,
    paired_traces,
    traces_grid,
)
from artifact.reporting.cells import SCALES, UNITS, Cell, Grid, Line
from artifact.reporting.escapes import csv_bytes, markdown
from artifact.reporting.grids import METRIC_WORDS, edit_name
from artifact.reporting.tables import scored_cases, shown_columns, undone
from artifact.reporting.templates import template
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store

_DESCRIBED = ("model", "revision", "weights_sha256", "layers", "device", "dtype", "protocol")
_DATA = ("data_source", "limit", "noise_level", "relation_noise_level", "samples", "evidence")
_MISSING = "not recorded"


@dataclass(frozen=True)
class Difference:
    """One entry of the runs' descriptions that is not the same in both, with each run's value in words."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class PairedUnit:
    """A unit that both runs have; `edited` is None for the unedited model. Columns that share no case are missing."""

    edited: Perspective | None
    printed_method: str
    values: Mapping[tuple[Metric, Column], Paired]


@dataclass(frozen=True)
class Comparison:
    """Two runs, by their folders' names: what differs, the paired units and traces, and the names of others."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    units: tuple[PairedUnit, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    traces: tuple[PairedTraces, ...]
    alike: Alike


def compare(first: Store, second: Store, metrics: Sequence[Metric] = METRICS) -> Comparison:
    """Pair two runs case by case, for the metrics asked for; RunError when they are not runs on the same data."""
    infos = first.info(), second.info()
    if infos[0].data_sha256 != infos[1].data_sha256:
        words = [f"{info.data_source}, sha256 {info.data_sha256[:12]}" for info in infos]
        raise RunError(
            f"{first.folder} and {second.folder}: ran on other data ({words[0]}; {words[1]}) and cannot be paired; "
            "give two runs on the same facts"
        )
    here, there = (_scoring(info) for info in infos)
    shared = [kind for kind in here if kind in there]
    traces = paired_traces(first, second)
    return Comparison(
        first=str(first.folder),
        second=str(second.folder),
        differences=tuple(_differences(*infos, [kind[0] for kind in shared])),
        units=tuple(_paired((first, second), (here[kind], there[kind]), metrics) for kind in shared),
        only_first=tuple(unit.name for kind, unit in here.items() if kind not in there),
        only_second=tuple(unit.name for kind, unit in there.items() if kind not in here),
        traces=traces,
        alike=alike((first, second), [(here[kind], there[kind]) for kind in shared], traces),
    )


def comparison_text(comparison: Comparison, metric: Metric) -> str:
    """The comparison for one metric as Markdown: the runs, what differs, the table, and what was left out."""
    table = template("table.md.j2")
    parts = [f"- first: {markdown(comparison.first)}\n- second: {markdown(comparison.second)}\n"]
    if comparison.differences:
        parts.append(table.render(grid=difference_grid(comparison)))
    else:
        parts.append("Nothing differs between the descriptions of the two runs.\n")
    if comparison.units:
        parts.append(table.render(grid=comparison_grid(comparison, metric)))
    else:
        parts.append("No unit that scores a model is in both runs.\n")
    for words, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            parts.append(f"Only in the {words} run: {', '.join(map(markdown, names))}.\n")
    if comparison.traces:
        parts.append(table.render(grid=traces_grid(comparison.traces)))
    if comparison.alike.sentence:
        parts.append(f"{comparison.alike.sentence}\n")
    return "\n".join(parts)


def difference_grid(comparison: Comparison) -> Grid:
    """What differs between the descriptions, one entry a line."""
    return Grid(
        name="differences",
        title="What differs",
        caption="Entries of the runs' descriptions that are not the same; what both share is left out.",
        heads=("entry", "first", "second"),
        columns=(),
        lines=tuple(Line((one.name, one.first, one.second)) for one in comparison.differences),
    )


def comparison_grid(comparison: Comparison, metric: Metric) -> Grid:
    """Both runs' means for one metric, a column of the tables a line, and the paired difference with its interval."""
    lines, scale = [], SCALES[metric]
    for unit, column in product(comparison.units, shown_columns(metric, comparison.units)):
        cells = pair_cells(unit.values.get((metric, column)), scale)
        lines.append(Line((edit_name(unit.edited), unit.printed_method, column.name), cells))
    return Grid(
        name=f"compare-{metric}",
        title=f"Two runs: {metric}",
        caption=f"{metric.capitalize()}: {METRIC_WORDS[metric]}; mean of each run over the n facts that both finished, "
        "and their paired difference with its 95% interval. Specificity wants what is true of each prompt.",
        heads=("edited", "method", "column"),
        columns=PAIR_COLUMNS,
        lines=tuple(lines),
    )


def comparison_csv(comparison: Comparison) -> bytes:
    """Every compared number of scored cases, one a line, as the tables print it; a column without a shared case has
    no line.
    """
    lines = []
    for unit, (metric, column) in product(comparison.units, VALUES):
        pair = unit.values.get((metric, column))
        if pair is not None:
            scale = SCALES[metric]
            lines.append(
                [
                    *(edit_name(unit.edited), unit.printed_method, column.perspective, column.group, column.against),
                    *(metric, UNITS[metric], scale(pair.first), scale(pair.second)),
                    *Cell.of(pair.change, scale.of_change).numbers,
                ]
            )
    header = "edited method perspective group against metric unit first second change change_low change_high n"
    return csv_bytes(header.split(), lines)


def _scoring(info: RunInfo) -> dict[tuple[str, Perspective | None, Control | None, tuple[str, ...]], Unit]:
    """The plan's units that score a model, by method, edited perspective, control and corrected switches."""
    return {
        (unit.method, unit.perspective if unit.does == "edit" else None, unit.control, unit.correct): unit
        for unit in info.plan.units
        if unit.does in ("unedited", "edit")
    }


def _paired(stores: tuple[Store, Store], units: tuple[Unit, Unit], metrics: Sequence[Metric]) -> PairedUnit:
    before, after = (scored_cases(store, unit) for store, unit in zip(stores, units, strict=True))
    pairs = {key: (before[key], after[key]) for key in VALUES if key[0] in metrics and key in before and key in after}
    unit = units[0]
    taken_back = [undone(store.info(), one) for store, one in zip(stores, units, strict=True)]
    # One run may score the edit and the other, under the released protocol, the model with the edit taken back.
    mark = {(True, True): ", undone", (True, False): ", undone in first", (False, True): ", undone in second"}
    name = unit.printed_method + mark.get((taken_back[0], taken_back[1]), "")
    return PairedUnit(unit.perspective if unit.does == "edit" else None, name, paired(pairs))


def _differences(first: RunInfo, second: RunInfo, methods: Sequence[str]) -> list[Difference]:
    """Entries that differ; of the settings those of `methods`, which both runs have, in the order of the plan."""
    here, there = _described(first, methods), _described(second, methods)
    return [
        Difference(name, _words(here.get(name, _MISSING)), _words(there.get(name, _MISSING)))
        for name in dict.fromkeys([*here, *there])
        if here.get(name, _MISSING) != there.get(name, _MISSING)
    ]


def _described(info: RunInfo, methods: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"plan": info.plan.name}
    found |= {name.replace("_", " "): getattr(info, name) for name in _DESCRIBED}
    found |= {f"switch {name}": on for name, on in info.switches.items()}
    for method in dict.fromkeys(methods):
        # The hash stands for all hyperparameters; prefixes, moments and MEND's weights are entries of their own.
        for key, value in info.settings.get(method, {}).items():
            if key != "hparams":
                label = "hyperparameters" if key == "hash" else key.replace("_", " ")
                found[f"{printed_name(method)} {label}"] = value
    return found | {name.replace("_", " "): getattr(info, name) for name in _DATA}


def _words(value: Any) -> str:
    """A value in one line: yes, no, none, a number or a text; a list, such as prefixes, by its hash."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | dict):
        return "sha256 " + hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]
    return str(value)
