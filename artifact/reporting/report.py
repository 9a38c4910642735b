"""A run's report: page, tables, figures and verdict, each a function of the store: twice rendered, the same bytes.

Covers filling the templates of `paper/` and writing the files, each atomically. Times are in timings.json; the page
has them beside those of a rehearsal, where the run kept one. Numbers come from tables.py, charts.py and verdict.py.
"""

import base64
import gc
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from artifact.editing.protocol import all_switches, corrected_switches, protocol_words
from artifact.errors import RunError
from artifact.evaluation.metrics import METRICS
from artifact.io import clear_unfinished, write_atomically
from artifact.plans import narrowing_of
from artifact.reporting import grids
from artifact.reporting.about import facts_each, in_a_line, progress, rehearsed, setting
from artifact.reporting.baseline import MeasuredBefore, measured_before
from artifact.reporting.by_relation import relation_grids
from artifact.reporting.cells import CHANGE, Grid, grid_csv
from artifact.reporting.charts import Chart, largest_half_width
from artifact.reporting.crate import CRATE, crate_json
from artifact.reporting.drawing import Drawers
from artifact.reporting.drawings import INDEX, Drawings
from artifact.reporting.elsewhere import claims_elsewhere, elsewhere_json
from artifact.reporting.escapes import file_name
from artifact.reporting.expected import Expected, load_expected
from artifact.reporting.flow_charts import extraction_csv, finished_flows, gini_csv, gini_words
from artifact.reporting.gallery import Gallery, Shown, gallery
from artifact.reporting.summary import summarised
from artifact.reporting.switches import load_worth, switch_lines
from artifact.reporting.tables import JudgedRow, shown_columns
from artifact.reporting.templates import compile_templates, template
from artifact.reporting.tested_tables import (
    READING,
    Statistics,
    paper_statistics,
    question_statistics,
    run_statistics,
    statistics_csv,
)
from artifact.reporting.verdict import MeasuredRun, Verdict, measured_run, reach_verdict, verdict_json
from artifact.runs.describe import RunInfo
from artifact.runs.lock import turn
from artifact.runs.rehearsed import REHEARSED
from artifact.runs.store import REPORT, Store

PAPER_TITLE = (
    "Does Knowledge Localization Hold True? Surprising Differences Between Entity and Relation Perspectives in "
    "Language Models"
)
_FORMS = ("pdf", "png")
"""Of a report's figures."""


@dataclass(frozen=True)
class Report:
    """A report's files by their path inside its folder, and what they say."""

    files: dict[str, bytes]
    verdict: Verdict
    before: tuple[MeasuredBefore, ...]
    elsewhere: tuple[str, ...] = ()
    """What models without published values say of the claims, a line each."""


def render(*stores: Store, folder: Path | None = None, by_model: bool = False) -> tuple[Path, Report]:
    """Write the report of one run, or of one run a model; returns the path of report.html, and the report.

    `folder` (default: the first run's own report folder); what is written into a run's own folder, or into that of the
    runs, is described there in ro-crate-metadata.json. With several runs each file carries its model's name; with
    `by_model` a single run's do, too, so that names stay when other models join. Two processes that report into one
    folder take turns. Raises RunError where it cannot be written, ExpectedError where published values cannot be read.
    """
    folder = folder or stores[0].report_folder
    with ExitStack() as stack:
        # Tried first: nobody should wait for a report that has no place.
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            alone = stack.enter_context(turn(folder))
        with _uncollected():
            report = make_report(stores, load_expected(), folder, by_model)
        for name, content in report.files.items():
            if alone:  # only a killed process can have left a part of it
                clear_unfinished(folder / name, age=0)
            _write(folder / name, content)
        root = folder.parent
        if folder.name == REPORT and all(root in (store.folder, store.folder.parent) for store in stores):
            files = {f"{REPORT}/{name}": content for name, content in report.files.items()}
            commands = [repeat_command(store.info()) for store in stores]
            with _writing(root / CRATE):
                write_atomically(root / CRATE, crate_json(root, stores, commands, files))
    return folder / "report.html", report


def make_report(stores: Sequence[Store], expected: Expected, folder: Path, by_model: bool = False) -> Report:
    """The report as it is to stand in `folder`, from which figures that are still right are read back."""
    drawings, worth = Drawings(folder), load_worth()
    files: dict[str, bytes] = {}
    parts = []
    with Drawers() as drawers:
        if drawings.none_yet:
            drawers.begin()
            compile_templates()
        runs = [measured_run(store) for store in stores]
        verdict = reach_verdict(expected, runs)
        draw = partial(_figures, drawings, drawers)
        for run, prefix in zip(runs, prefixes([run.info.model for run in runs], by_model), strict=True):
            part, made = _part(run, prefix, draw, verdict, expected)
            part["switches"] = switch_lines(run.info.switches, worth)
            part["elsewhere"] = claims_elsewhere(expected.claims, run)
            files |= made
            parts.append(part)
    if any(part["gallery"].every for part in parts):
        files[INDEX] = drawings.content
    (paper_grids, second_grids), tested, made = _paper_tables(verdict)
    files |= made
    before = tuple(part["before"] for part in parts if part["before"])
    context = {
        "title": PAPER_TITLE,
        "summary": summarised(runs, verdict, before),
        "verdict": verdict,
        "compared": verdict.counts["reproduced"] + verdict.counts["outside tolerance"] > 0,
        "worth": worth,
        "parts": parts,
        "metric_words": grids.METRIC_WORDS,
        "paper_grids": paper_grids,
        "second_grids": second_grids,
        "statistics_of": tested,
        "reading": READING if tested or any(part["statistics"] for part in parts) else "",
        "tolerances": list(dict.fromkeys(cell.tolerance for cell in verdict.cells)),
        "notes": list(dict.fromkeys(note for cell in verdict.cells for note in cell.cell.notes)),
        "table_files": sorted(name for name in files if name.startswith("tables/")),
    }
    files["report.html"] = template("report.html.j2").render(context).encode()
    files["report.md"] = template("report.md.j2").render(context).encode()
    elsewhere = [answer for part in parts for answer in part["elsewhere"]]
    files["verdict.json"] = verdict_json(verdict, elsewhere_json(elsewhere))
    files["timings.json"] = _timings(runs)
    return Report(files, verdict, before, tuple(answer.sentence for answer in elsewhere))


def _paper_tables(verdict: Verdict) -> tuple[list[list[Grid]], dict[str, Statistics], dict[str, bytes]]:
    """The tables held against published values, of the paper and of a second source, their statistics and files."""
    both = [_by_table(rows) for rows in (verdict.paper, verdict.second_source)]
    made = [[grids.paper_grid(*table) for table in tables.items()] for tables in both]
    files = _table_files([grid for tables in made for grid in tables])
    every = {name: table for tables in both for name, table in tables.items()}
    files |= {f"tables/{name}.csv": grids.paper_csv(table) for name, table in every.items()}
    tested = paper_statistics(every)
    if tested:
        files["tables/paper-statistics.csv"] = statistics_csv([*tested.values()])
    return made, tested, files


def _part(
    run: MeasuredRun,
    prefix: str,
    draw: Callable[[str, Sequence[Shown]], dict[str, bytes]],
    verdict: Verdict,
    expected: Expected,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the page says of one run, and the run's files by path; `draw` makes those of figures."""
    shown = gallery(run, verdict.paper)
    drawn = shown.traces
    settings = [setting(method, value) for method, value in sorted(run.info.settings.items())]
    tables = _run_grids(run, drawn, {one["method"]: one["hash"] for one in settings})
    figures = draw(prefix, shown.every)
    files = {**figures, **_run_tables(run, prefix, tables), **_flow_tables(run, prefix, shown)}
    tested = {
        **run_statistics(run, drawn, expected.claims),
        **question_statistics(run.info.model, verdict.questions),
    }
    if tested:
        files[f"tables/{prefix}statistics.csv"] = statistics_csv([*tested.values()])
    part = {
        "prefix": prefix,
        **{f"{kind}_grids": made for kind, made in tables.items()},
        "statistics": tested,
        "gallery": shown,
        "images": {
            one.name: base64.b64encode(figures[f"figures/{prefix}{one.name}.png"]).decode() for one in shown.every
        },
        "half_widths": {panel.unit: largest_half_width(panel) for chart in drawn for panel in chart.panels},
        "before": measured_before(run, drawn),
        "gini": gini_words(drawn) if shown.flows else [],
        "settings": settings,
        "columns_of": {metric: shown_columns(metric, run.begun) for metric in METRICS},
        **_described(run),
    }
    return part, files


def _run_grids(run: MeasuredRun, drawn: Sequence[Chart], hashes: Mapping[str, str]) -> dict[str, list[Grid]]:
    """A run's tables by kind: its own numbers, transfer gaps and traces, as far as it has them."""
    return {
        "own": [grids.own_grid(metric, run.begun, hashes) for metric in METRICS] if run.begun else [],
        "overall": [grid for grid in [grids.overall_grid(run.begun)] if grid.lines],
        "gap": [grids.gap_grid(metric, run.begun) for metric in METRICS] if any(row.gaps for row in run.begun) else [],
        "trace": [grids.trace_grid(drawn)] if drawn else [],
        "relation": relation_grids(run),
        "question": [grid for findings in run.findings.values() for grid in findings.grids],
    }


def _run_tables(run: MeasuredRun, prefix: str, tables: Mapping[str, list[Grid]]) -> dict[str, bytes]:
    """The files of a run's tables, by path."""
    of = f" on {run.info.model}" if prefix else ""
    files = _table_files([grid for made in tables.values() for grid in made], prefix, of)
    if run.begun:
        files[f"tables/{prefix}run.csv"] = grids.own_csv(run.begun)
    flat = [grid for kind, made in tables.items() if kind != "own" for grid in made]
    return files | {f"tables/{prefix}{grid.name}.csv": grid_csv(grid) for grid in flat}


def _flow_tables(run: MeasuredRun, prefix: str, shown: Gallery) -> dict[str, bytes]:
    """The files of a run's knockouts, by path; none without knockouts."""
    if not shown.flows:
        return {}
    files = {f"tables/{prefix}extraction.csv": extraction_csv(finished_flows(run.store))}
    return files | ({f"tables/{prefix}gini.csv": gini_csv(shown.traces)} if shown.traces else {})


def _described(run: MeasuredRun) -> dict[str, Any]:
    """What the page says of a run besides its numbers: its description, progress, failures and machines."""
    store, info = run.store, run.info
    units = progress(store, info)
    return {
        "info": info,
        "rows": run.begun,
        "journal": store.checked(),
        "reasons": run.reasons,
        "progress": units,
        "protocol": protocol_words(info.protocol, info.switches),
        "followed": sum(all_switches(info.switches).values()),
        "facts_each": facts_each(units, info),
        "environments": [
            {key: in_a_line(value) for key, value in sorted(e.items()) if key != REHEARSED}
            for e in store.environments()
        ],
        "rehearsed": rehearsed(store),
        "command": repeat_command(info),
    }


def prefixes(models: Sequence[str], by_model: bool) -> list[str]:
    """What a run's files and headings open with where several runs stand in one report: the model's name.

    A folder's name may hold what neither an id nor a LaTeX label may, and two folders may bear one name.
    """
    if len(models) == 1 and not by_model:
        return [""]
    names = [file_name(Path(model).name) for model in models]
    made = [f"{name}-{i}-" if names.count(name) > 1 else f"{name}-" for i, name in enumerate(names, 1)]
    return made if len(set(made)) == len(made) else [f"{i}-{name}-" for i, name in enumerate(names, 1)]


def _table_files(tables: Sequence[Grid], prefix: str = "", of: str = "") -> dict[str, bytes]:
    """Tables as LaTeX and Markdown; `of` names the model where several stand in one report."""
    return {
        f"tables/{prefix}{grid.name}.{form}": template(f"table.{form}.j2")
        .render(grid=grid, prefix=prefix, of=of, change_words=CHANGE)
        .encode()
        for grid in tables
        for form in ("tex", "md")
    }


def repeat_command(info: RunInfo) -> str:
    """The command that makes the run again."""
    plan, (only, methods) = info.plan.name, narrowing_of(info.plan, info.left_out_units)
    own = plan == "full" or (plan == "smoke" and not (only or methods or info.shard))  # `kloc smoke` narrows nothing
    words = ["kloc", *([] if own else ["run"]), plan, "--model", info.model]
    words += ["--device", "cpu"] if info.device == "cpu" and info.plan.of_the_paper else []  # or it would be refused
    words += [word for name in only for word in ("--only", name)]
    words += ["--methods", ",".join(methods)] if methods else []
    if info.shard is not None:
        words += ["--shard", "{}/{}".format(*info.shard)]
    if info.limit is not None:
        words += ["--limit", str(info.limit)]
    if info.protocol != "released":
        words += ["--protocol", info.protocol]
    if corrected := corrected_switches(info.protocol, info.switches):
        words += ["--correct", ",".join(corrected)]
    for option, value in sorted(info.given.items()):
        words += [option, value] if value else [option]
    return shlex.join(words)


def _figures(drawings: Drawings, drawers: Drawers, prefix: str, every: Sequence[Shown]) -> dict[str, bytes]:
    """The figures' files and their CSV, by path inside the report folder; matplotlib is loaded to draw alone."""
    named = {f"{prefix}{one.name}": one for one in every}
    files = {f"figures/{name}.csv": one.csv for name, one in named.items()}
    numbers = {name: one.fingerprint for name, one in named.items()}
    made = drawings.files(numbers, _FORMS, lambda stale: drawers.draw([named[name] for name in stale], _FORMS))
    return files | {f"figures/{name}": content for name, content in made.items()}


def _write(path: Path, content: bytes) -> None:
    with _writing(path):
        write_atomically(path, content)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage collection is off: a journal's rows form no cycles, and looking takes a fifth of a report's time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); free disk space, change the folder's owner, or "
            "copy the run folder to a place you own and report it there"
        ) from None


def _by_table(rows: tuple[JudgedRow, ...]) -> dict[str, list[JudgedRow]]:
    names = {"t1": "paper-table-1", "t2": "paper-table-2", "rake": "released-summary", "rome-t4": "rome-table-4"}
    tables: dict[str, list[JudgedRow]] = {}
    for row in rows:
        tables.setdefault(names.get(row.source.table, row.source.table), []).append(row)
    return tables


def _timings(runs: Sequence[MeasuredRun]) -> bytes:
    content = {
        "unit": "seconds of work, summed over every process that worked on the run",
        "units": [
            {"model": run.info.model, "unit": unit, "seconds": round(seconds, 3), "cases": cases}
            for run in runs
            for unit, seconds, cases in run.store.times()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"
