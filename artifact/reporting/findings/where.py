"""What the plan `where` measured: success of edits at every site, beside the indirect effects of the same sites.

Covers Q1's quantities, one table (a line a site) and one figure (a panel a site, by layer). A mean over layers chooses
none of them; the table's best layer is chosen by its own result and only described.

Shape letters: A layer of the model, F fact, L edited layer, V number of a scored case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifact.editing.site import FACT_TOKENS, MODULES, PRINTED_MODULE, TOKEN_WORDS, FactToken, Module
from artifact.evaluation.metrics import VALUES, Column, Group
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import PROBABILITY, SCALES, Cell, Grid, Line, Scale
from artifact.reporting.findings import Findings, Number, Quantity, floats, tests_of
from artifact.reporting.findings.regression import Explained, explained
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.line_charts import LayerLine, LineChart, LinePanel
from artifact.runs.record import Record
from artifact.runs.store import Store

_SHARE = Scale(1, 100)
_CHANGE = PROBABILITY.of_change
Key = tuple[Perspective, Module, FactToken]
SHOWN: tuple[Group, ...] = ("reliability", "generality", "specificity")
"""Groups of prompts in the table and the figure."""


@dataclass(frozen=True)
class Site:
    """One site of one perspective: values_FLV of the edited model (metrics.VALUES; nan where the edit failed), the
    probability of what the edit writes before and after it, and effects_FA (nan where the fact was not traced).

    `shared` counts facts whose token here is the same as another one's, with which they were edited once. `read_by`
    says what else of its own block reads a change here.
    """

    cases_F: np.ndarray
    layers: tuple[int, ...]
    values_FLV: np.ndarray
    before_F: np.ndarray
    written_FL: np.ndarray
    effects_FA: np.ndarray
    shared: int
    read_by: str

    def column(self, perspective: Perspective, group: Group) -> np.ndarray:
        """Success (F, L) of one column; specificity is that of the entity's prompts, the only ones there are."""
        asked = Column("entity" if group == "specificity" else perspective, group)
        return self.values_FLV[:, :, VALUES.index(("success", asked))]

    @property
    def effects_FL(self) -> np.ndarray:
        """The effects at the layers that are edited."""
        return self.effects_FA[:, list(self.layers)]

    @property
    def rewrite_FL(self) -> np.ndarray:
        """Of the probability that was left to gain, the share that the edit gained (Hase et al.'s rewrite score)."""
        left_F1 = np.maximum(1 - self.before_F, 1e-6)[:, None]
        return (self.written_FL - self.before_F[:, None]) / left_F1

    def best_layer(self, perspective: Perspective) -> int:
        """The place among `layers` of the highest `whole`."""
        return int(self.whole(perspective).argmax())

    def whole(self, perspective: Perspective) -> np.ndarray:
        """By layer (L,), the mean success over reliability, generality and specificity and over facts; -1 without.

        A group that no fact has prompts for (such as neighbours) does not count.
        """
        columns = [self.column(perspective, group) for group in SHOWN]
        asked = [column_FL for column_FL in columns if np.isfinite(column_FL).any()]
        whole_FL = np.mean(asked or columns, axis=0)
        return np.array(
            [one_F[np.isfinite(one_F)].mean() if np.isfinite(one_F).any() else -1.0 for one_F in whole_FL.T]
        )


def sites_of(store: Store) -> dict[Key, Site]:
    """Every site that a run's records of the plan hold."""
    found: dict[Key, Site] = {}
    info = store.info()
    for unit in info.plan.units:
        if unit.task != "where":
            continue
        records = [record for record in store.records(unit) if record.status == "done"]
        if not records:
            continue
        site = next(one for one in MODULES if one == unit.option("site"))
        for token in FACT_TOKENS:
            if token in str(unit.option("tokens")).split():
                found[unit.perspective, site, token] = _site(records, token, info.layers)
    return found


def _site(records: Sequence[Record], token: FactToken, of_layers: int) -> Site:
    payloads = [record.payload for record in records]
    layers = tuple(payloads[0]["layers"])
    nothing = [np.nan] * len(VALUES)
    values, written, effects, shared = [], [], [], 0
    for payload in payloads:
        own = payload["tokens"][token]
        if "same_as" in own:
            shared, own = shared + 1, payload["tokens"][own["same_as"]]
        values.append([floats(one.get("values", nothing)) for one in own["layers"]])
        written.append(floats([one.get("written") for one in own["layers"]]))
        effects.append(_of_every_layer((payload["effects"] or {}).get(token, []), layers, of_layers))
    return Site(
        cases_F=np.array([record.case_id for record in records]),
        layers=layers,
        values_FLV=np.array(values),
        before_F=np.array([payload["before"]["written"] for payload in payloads]),
        written_FL=np.array(written),
        effects_FA=np.array(effects),
        shared=shared,
        read_by=payloads[0].get("read_by", ""),
    )


def _of_every_layer(effects: Sequence[float], layers: Sequence[int], of_layers: int) -> list[float]:
    """A fact's effects at every layer; a journal of before has those of edited layers alone, and others are nan."""
    if len(effects) == of_layers:
        return floats(effects)
    known = dict(zip(layers, effects, strict=False))
    return floats([known.get(layer) for layer in range(of_layers)])


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it has no records of the plan."""
    sites = sites_of(store)
    if not sites:
        return None
    relations = store.info().relations
    regressions = {key: explained(site.rewrite_FL, site.effects_FL) for key, site in sites.items()}
    quantities = {
        "relation effect, attention minus MLP, last token": _difference(
            sites, ("relation", "attn", "last"), ("relation", "mlp", "last"), "effects", relations
        ),
        "relation edit, MLP minus attention, subject's last token": _difference(
            sites, ("relation", "mlp", "subject_last"), ("relation", "attn", "subject_last"), "gain", relations
        ),
    }
    for perspective in PERSPECTIVES:
        one, name = regressions.get((perspective, "mlp", "subject_last")), "R squared gained by the effects"
        quantities[f"{name}, {perspective}, MLP, subject's last token"] = one.gained if one else None
    return Findings(
        {name: Quantity(estimate) for name, estimate in quantities.items()},
        (_grid(sites, regressions),),
        (_chart(sites, store.info().layers, store.info().model),),
        tests=tests_of(_numbers(sites), relations),
    )


def _numbers(sites: Mapping[Key, Site]) -> list[Number]:
    """What edits gain in probability, and the indirect effects, of each site; means over the edited layers."""
    numbers = []
    for (perspective, module, token), site in sites.items():
        if site.shared < len(site.cases_F):
            of = f"{perspective}: {PRINTED_MODULE[module]}, {TOKEN_WORDS[token]}"
            numbers.append(Number(of, "gain of edits", _by_fact(site, "gain"), _CHANGE))
            numbers.append(Number(of, "indirect effect", _by_fact(site, "effects"), _CHANGE, None))
    return numbers


def _difference(
    sites: Mapping[Key, Site], one: Key, other: Key, what: str, relations: Mapping[str, Sequence[int]]
) -> Estimate | None:
    """The mean over facts of one site's mean over layers minus another's."""
    if one not in sites or other not in sites:
        return None
    series = [_by_fact(sites[key], what) for key in (one, other)]
    return estimates([series[0].minus(series[1])], rates=False, relations=relations)[0]


def _by_fact(site: Site, what: str) -> Series:
    rows_FL = site.effects_FL if what == "effects" else site.written_FL - site.before_F[:, None]
    whole_F = np.isfinite(rows_FL).all(1)
    return Series(site.cases_F[whole_F], rows_FL[whole_F].mean(1))


def _grid(sites: Mapping[Key, Site], regressions: Mapping[Key, Explained | None]) -> Grid:
    lines = []
    for (perspective, module, token), site in sites.items():
        if site.shared == len(site.cases_F):
            continue
        at, found = site.best_layer(perspective), regressions[perspective, module, token]
        success = [site.column(perspective, group)[:, at] for group in SHOWN]
        of = [*success, site.effects_FL[:, at]]
        # Exact zeros look like shares of 0% to the intervals; they are effects.
        numbers = estimates([_series(site, column_F) for column_F in of], [True] * len(success) + [False])
        cells = [Cell.of(one, SCALES["success"]) for one in numbers[:3]] + [Cell.of(numbers[3], PROBABILITY)]
        cells += [Cell.of(one, _SHARE) for one in ((found.of_layer, found.gained) if found else (None, None))]
        cells.append(Cell.of(found.rho if found else None, PROBABILITY))
        words = f"{PRINTED_MODULE[module]}, {TOKEN_WORDS[token]}"
        lines.append(Line((perspective, words, str(site.layers[at])), tuple(cells)))
    columns = ("reliability", "generality", "specificity", "effect there", "R2 of the layer", "R2 gained", "rho")
    longest = sorted(sites.items(), key=lambda item: len(item[1].cases_F))
    shared = {token: (site.shared, len(site.cases_F)) for (_, _, token), site in longest if site.shared}
    caption = (
        "ROME at each site: success in percent at the layer whose mean over these columns is highest, chosen by this "
        "result itself; the module's average indirect effect there (probability, one layer restored); R squared "
        "(percent) of the rewrite score on the layer, what the fact's effects add to it, and Spearman's rho over "
        "facts, mean over layers. "
        f"{max(len(site.cases_F) for site in sites.values())} facts; 95% intervals over facts."
    )
    whole = max(len(site.cases_F) for site in sites.values())
    traced = max(int(np.isfinite(site.effects_FL).any(1).sum()) for site in sites.values())
    if traced < whole:
        caption += f" Effects are over the {traced} facts that could be traced."
    edited = next(iter(sites.values())).layers
    caption += f" Layers edited: {', '.join(map(str, edited))}."
    if read_by := dict.fromkeys(site.read_by for site in sites.values() if site.read_by):
        caption += f" Of a change at a module: {'; '.join(read_by)}."
    for token, (count, facts) in shared.items():
        words = TOKEN_WORDS[token]
        caption += f" {words[0].upper()}{words[1:]} is the same as another in {count} of {facts} facts."
    return Grid("where", "Edits by site", caption, ("perspective", "site", "best layer"), columns, tuple(lines))


def _series(site: Site, values_F: np.ndarray) -> Series:
    whole_F = np.isfinite(values_F)
    return Series(site.cases_F[whole_F], values_F[whole_F])


def _chart(sites: Mapping[Key, Site], of_layers: int, model: str) -> LineChart:
    panels, best = [], []
    for (perspective, module, token), site in sites.items():
        if site.shared == len(site.cases_F):
            continue
        named = [(group, site.column(perspective, group)) for group in SHOWN]
        lines = [_line(site, name, site.layers, rows_FL, rates=True) for name, rows_FL in named]
        lines.append(_line(site, "effect", tuple(range(of_layers)), site.effects_FA, rates=False))
        title = f"{perspective}: {PRINTED_MODULE[module]}, {TOKEN_WORDS[token]}"
        panels.append(LinePanel(title, tuple(line for line in lines if any(line.estimates))))
        best.append(f"{title}, layer {site.layers[site.best_layer(perspective)]}")
    return LineChart(
        name="where",
        title=f"Success of edits and indirect effects by layer, {model}",
        summary=f"best layer of each site: {'; '.join(best)}",
        axis="success, or effect on the probability",
        of_layers=of_layers,
        panels=tuple(panels),
    )


def _line(site: Site, name: str, layers: tuple[int, ...], rows_FL: np.ndarray, *, rates: bool) -> LayerLine:
    found = estimates([_series(site, column_F) for column_F in rows_FL.T], rates)
    return LayerLine(name, layers, tuple(found))
