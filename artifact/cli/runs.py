"""kloc smoke, full, run, report, verify, baseline: run a plan, and report on what was run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from artifact.cli.app import (
    AnyModel,
    Correct,
    Device,
    Dtype,
    Limit,
    Memory,
    Out,
    Protocol,
    RunModel,
    check_outputs,
    words,
    writing,
)
from artifact.cli.bounds import between, count
from artifact.editing.methods import METHODS
from artifact.errors import SettingError
from artifact.facts.dataset import RelationSource
from artifact.facts.datasets import DATASETS
from artifact.io import write_atomically
from artifact.plans import PLANS
from artifact.plans.unit import Part
from artifact.terminal import complain, say

if TYPE_CHECKING:
    from artifact.plans.unit import Plan
    from artifact.runs.resolve import Asked
    from artifact.runs.store import Store

RunFolder = Annotated[Path, Parameter(help="Folder of a run, or of one run for each model.")]


@Parameter(name="*")
@dataclass
class RunOptions:
    """Options that every run takes."""

    model: RunModel = "auto"
    protocol: Protocol = "released"
    correct: Correct = field(default_factory=list)
    out: Out = None
    limit: Limit = None
    device: Device = None
    dtype: Dtype = "float32"
    memory: Memory = None
    facts: Annotated[str | None, Parameter(help=f"{', '.join(DATASETS)}, or a file (default: the plan's own).")] = None
    relation_source: Annotated[
        RelationSource,
        Parameter(help="Use the authors' relation prompts, or build them by templates."),
    ] = "authors"
    moments: Annotated[
        Path | None, Parameter(help="Folder of the model's second moments, in the published layout.")
    ] = None
    mend_weights: Annotated[
        Path | None, Parameter(help="MEND network that was trained for the model; the world has its own.")
    ] = None
    hparams: Annotated[
        Path | None, Parameter(help="File of kloc tune; methods that it does not have keep the model's values.")
    ] = None
    retry_failed: Annotated[bool, Parameter(help="Compute failed cases again and replace their records.")] = False
    any_model: AnyModel = False
    seed: Annotated[
        int | None,
        Parameter(help="Draw the context prefixes by this seed (default: 2409).", validator=between(0, 2**31)),
    ] = None


@Parameter(name="*")
@dataclass
class Narrowing:
    """Options that narrow a plan, or say where it is computed."""

    only: Annotated[list[Part], Parameter(help="Only these tables, figures and claims.")] = field(default_factory=list)
    methods: Annotated[list[str], Parameter(help=f"Only these: {', '.join(METHODS)}.")] = field(default_factory=list)
    shard: Annotated[str | None, Parameter(help="i/n: compute the i-th of n parts; kloc merge joins them.")] = None
    engine: Annotated[
        Literal["local", "ray"], Parameter(help="Compute in this process, or on a Ray cluster's GPUs.")
    ] = "local"
    gpus_per_worker: Annotated[
        int, count("With --engine ray: GPUs of each worker, over which a larger model is spread.", 1000)
    ] = 1


_OPTIONS, _WHOLE = RunOptions(), Narrowing()


def smoke(*, options: RunOptions = _OPTIONS) -> int:
    """Run every stage once on a small model, in minutes: traces, edits of both perspectives, tables and figures."""
    return _run("smoke", options, _WHOLE)


def full(*, options: RunOptions = _OPTIONS, narrowing: Narrowing = _WHOLE) -> int:
    """Run the whole paper: both models, tables and figures. Fetches what it needs, resumes, takes hours on a GPU."""
    return _run("full", options, narrowing)


def run(
    plan: Annotated[
        str,
        Parameter(help=f"Name of the plan: {', '.join(PLANS)}."),
    ],
    *,
    options: RunOptions = _OPTIONS,
    narrowing: Narrowing = _WHOLE,
) -> int:
    """Run a plan, or resume an interrupted run of it. The last line printed is the report's path."""
    return _run(plan, options, narrowing)


def _run(name: str, options: RunOptions, narrowing: Narrowing) -> int:
    from artifact.cli.fetch import obtain
    from artifact.progress import display
    from artifact.reporting.report import render
    from artifact.runs.ahead import check_ahead
    from artifact.runs.inputs import needed_sources
    from artifact.runs.runner import run_name, run_plan
    from artifact.runs.store import reading_all

    if narrowing.gpus_per_worker != 1 and narrowing.engine != "ray":
        raise SettingError("--gpus-per-worker needs --engine ray; a run in this process uses the cards that it sees")
    methods = words(narrowing.methods)
    asked = _asked(options, narrowing)
    plans, several = _plans(name, options.model, narrowing.only, methods)
    narrowed_to = [*narrowing.only, *methods]
    # Several models stand side by side in one folder, with one report; one of them by name is put there, too.
    root = None
    if several:
        root = options.out or Path("results") / run_name(plans[0], plans[0].models[0], asked, narrowed_to)

    def report(folder: Path) -> Any:
        with reading_all(folder) as stores:
            return render(*stores, folder=folder / "report", by_model=several)

    models = [plan.models[0] if options.model == "auto" and plan.models else options.model for plan in plans]
    for plan, model in zip(plans, models, strict=True):
        out = root / model if root else options.out
        if out is None and model != "auto":
            out = Path("results") / run_name(plan, model, asked, narrowed_to)
        check_ahead(plan, model, asked, out, local=narrowing.engine == "local")
    needed = [needed_sources(plan, model, asked.given) for plan, model in zip(plans, models, strict=True)]
    # All of it first: what cannot be had should not be found out after days on the first model.
    obtain(*(list(dict.fromkeys(chain.from_iterable(kind))) for kind in zip(*needed, strict=True)))
    computed = []
    for plan, model in zip(plans, models, strict=True):
        with display() as show:
            folder = run_plan(
                plan,
                asked,
                out=root / model if root else options.out,
                narrowing=narrowed_to,
                show=show,
                engine=_engine(narrowing.engine),
                report=lambda store: report(root or store.folder),
                retry_failed=options.retry_failed,
            )
        computed.append(folder)
        page, rendered = report(root or folder)
    return _say_outcome(root or folder, computed, page, rendered)


def _asked(options: RunOptions, narrowing: Narrowing) -> "Asked":
    """What the run is asked for; SettingError for an unknown switch or part, before anything is fetched."""
    from artifact.editing.protocol import protocol_of
    from artifact.runs.inputs import Given
    from artifact.runs.resolve import Asked

    correct = tuple(sorted(set(words(options.correct))))
    protocol_of(options.protocol, correct)
    given = Given(
        options.facts,
        options.relation_source,
        options.moments,
        options.mend_weights,
        options.any_model,
        options.seed,
        options.hparams,
    )
    return Asked(
        options.model,
        options.protocol,
        options.limit,
        options.memory,
        options.device,
        given,
        _shard(narrowing.shard),
        correct,
        dtype=options.dtype,
        methods=tuple(words(narrowing.methods)),
        gpus_per_worker=narrowing.gpus_per_worker,
    )


def _plans(name: str, model: str, only: Sequence[str], methods: Sequence[str]) -> tuple[list["Plan"], bool]:
    """The plans of that name for the model, narrowed; whether they are of several models and share one folder."""
    from artifact.plans import find_plans, narrowed
    from artifact.plans.paper import PAPER_MODELS

    plans = [narrowed(plan, only, methods) for plan in find_plans(name)]
    several = len(plans) > 1 and model in ("auto", *PAPER_MODELS)
    if model in PAPER_MODELS:
        plans = [plan for plan in plans if model in plan.models] or plans[:1]
    elif model != "auto":
        plans = plans[:1]
    return plans, several


def _say_outcome(folder: Path, computed: Sequence[Path], page: Path, rendered: Any) -> int:
    """Print what came of a run and where its page is; the exit code."""
    from artifact.runs.status import failed_units, left_line, not_computed
    from artifact.runs.store import reading_all

    for before in rendered.before:
        say(f"measured before: {before.sentence}")
    with reading_all(folder) as stores:
        missing, failed = not_computed(stores), failed_units(stores)
        left = left_line([store for store in stores if store.folder in computed])
    for line in filter(None, (missing, left)):
        say(line)
    say(f"verdict: {rendered.verdict.sentence}")
    for line in rendered.elsewhere:
        say(line)
    say(page)
    return 2 if failed or left else rendered.verdict.exit_code


def _engine(name: str) -> Any:
    from artifact.runs.runner import local_engine

    if name == "ray":
        from artifact.runs.cluster import ray_engine

        return ray_engine
    return local_engine


_MOST_PARTS = 1_000_000


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count <= _MOST_PARTS:
        raise SettingError(f"--shard {text[:40]!r} is not a part of a run; give i/n with 1 <= i <= n, such as 2/4")
    return index, count


def report(
    run_folder: RunFolder,
    *,
    out: Annotated[Path | None, Parameter(help="Folder to write to (default: report in the run's folder).")] = None,
) -> int:
    """Render a run's report again from its stored records. No model is loaded."""
    from artifact.reporting.report import render
    from artifact.runs.store import reading_all

    with reading_all(run_folder) as stores:
        within = stores[0].folder != run_folder
        page, _ = render(*stores, folder=out or run_folder / "report", by_model=within)
        damage = say_damage(stores)
    say(page)
    return damage


def verify(
    run_folder: Annotated[
        Path, Parameter(help="Folder of a run, or of one run for each model, or a file of kloc contribute.")
    ],
) -> int:
    """Print the verdict on a run. Exit code 1: a value is outside its tolerance. Exit code 2: records are damaged.

    A file that kloc contribute wrote is first checked against its hashes.
    """
    if not isfile(run_folder):
        return _verify(run_folder)
    from artifact.runs.pack import unpacked

    with unpacked(run_folder) as (folder, manifest):
        say(f"pack of kloc-artifact {manifest.package}: {len(manifest.files)} files, whole")
        for place, machines in sorted(manifest.machines.items()):
            for machine in machines:
                said = ", ".join(f"{key} {_words(value)}" for key, value in sorted(machine.items()))
                say(f"{place.rstrip('/') or 'run'} was computed on: {said}")
        return _verify(folder, packed=True)


def _words(value: Any) -> str:
    return ", ".join(f"{key} {_words(one)}" for key, one in value.items()) if isinstance(value, dict) else str(value)


def _verify(run_folder: Path, packed: bool = False) -> int:
    from artifact.reporting.elsewhere import claims_elsewhere
    from artifact.reporting.expected import load_expected
    from artifact.reporting.grids import verdict_lines
    from artifact.reporting.verdict import measured_run, reach_verdict
    from artifact.runs.status import not_computed
    from artifact.runs.store import reading_all

    expected = load_expected()
    with reading_all(run_folder) as stores:
        runs = [measured_run(store) for store in stores]
        verdict, missing = reach_verdict(expected, runs), not_computed(stores, packed)
        elsewhere = [answer for run in runs for answer in claims_elsewhere(expected.claims, run)]
        say_damage(stores)
    say(f"verdict: {verdict.sentence}")
    for checked in verdict.journals:
        if checked.unsealed:
            say(checked.unsealed_words)
    if missing:
        say(missing)
    for judged in verdict.claims:
        say(f"{judged.claim.id}: {judged.status}" + (f" ({judged.margin})" if judged.margin else ""))
    for answer in elsewhere:
        say(answer.sentence)
    for line in verdict_lines(verdict.cells):
        say(line)
    return verdict.exit_code


def baseline(
    run_folder: Annotated[Path, Parameter(help="Folder of a finished run.")],
    *,
    hardware: Annotated[str, Parameter(help="The machine in words, for the report.")],
    out: Annotated[Path, Parameter(help="File to write, such as expected/measured/smoke-world.json.")],
) -> int:
    """Keep a run's numbers in a file, so that later runs of the same kind are compared with them."""
    from artifact.reporting.baseline import baseline_json
    from artifact.reporting.charts import charts
    from artifact.reporting.verdict import measured_run
    from artifact.runs.store import reading

    check_outputs({"--out": out}, (run_folder,))
    with reading(run_folder) as store:
        run = measured_run(store)
        content = baseline_json(run, charts(store, run.traced.traces), hardware)
        damage = say_damage([store])
    with writing(out):
        write_atomically(out, content)
    say(out)
    return damage


def say_damage(stores: Sequence["Store"]) -> int:
    """Say which damaged records of the journals were left out; the exit code that follows."""
    from artifact.runs.status import damage_line

    if line := damage_line(stores):
        complain(line)
    return 2 if line else 0
