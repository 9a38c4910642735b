"""kloc smoke, run, report, verify: runs of a plan and what is made of them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import Limit, Memory, Out, Protocol, RunModel, app, check_folder

RunMoments = Annotated[
    Path | None, Parameter(name="--moments", help="Folder of the model's second moments, in the published layout.")
]
RunMend = Annotated[
    Path | None, Parameter(name="--mend-weights", help="MEND's network trained for the model; the world has its own.")
]

RunFolder = Annotated[Path, Parameter(help="Folder of a run, or of several runs, one a model.")]


@app.command
def smoke(
    *,
    model: RunModel = "auto",
    protocol: Protocol = "released",
    out: Out = None,
    limit: Limit = None,
    memory: Memory = None,
    moments: RunMoments = None,
    mend_weights: RunMend = None,
) -> int:
    """Every stage once on a small model, in minutes: traces, edits from both views, tables, a figure, a verdict."""
    return run(
        "smoke",
        model=model,
        protocol=protocol,
        out=out,
        limit=limit,
        memory=memory,
        moments=moments,
        mend_weights=mend_weights,
    )


@app.command
def run(
    plan: Annotated[str, Parameter(help="Name of the plan: smoke.")],
    *,
    model: RunModel = "auto",
    protocol: Protocol = "released",
    out: Out = None,
    limit: Limit = None,
    memory: Memory = None,
    moments: RunMoments = None,
    mend_weights: RunMend = None,
) -> int:
    """Run a plan, or go on with an interrupted one; the last line is the report's path."""
    from artifact.plan import find_plan
    from artifact.reporting.report import render
    from artifact.runs.editors import Given
    from artifact.runs.progress import display
    from artifact.runs.runner import run_plan
    from artifact.runs.store import reading

    found = find_plan(plan)
    with display() as show:
        folder = run_plan(
            found,
            model=model,
            protocol=protocol,
            limit=limit,
            out=out,
            memory=memory,
            given=Given(moments, mend_weights),
            show=show,
        )
    with reading(folder) as store:
        page, report = render(store)
    for before in report.before:
        print(f"measured before: {before.sentence}")
    print(f"verdict: {report.verdict.sentence}")
    print(page)
    return report.verdict.exit_code


@app.command
def report(
    run_folder: RunFolder,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder to write to; report in the run's own folder unless said.")
    ] = None,
) -> int:
    """Render a run's report again from its journal, without the model."""
    from artifact.reporting.report import render
    from artifact.runs.store import reading_all

    with reading_all(run_folder) as stores:
        page, _ = render(*stores, folder=out or run_folder / "report")
    print(page)
    return 0


@app.command
def verify(run_folder: RunFolder) -> int:
    """Print the verdict on a run; exit code 1 when a compared value is outside its tolerance."""
    from artifact.reporting.grids import verdict_lines
    from artifact.reporting.verdict import verdict_of
    from artifact.runs.store import reading_all

    with reading_all(run_folder) as stores:
        found = verdict_of(*stores)
    for line in verdict_lines(found.cells):
        print(line)
    for judged in found.claims:
        print(f"{judged.claim.id}: {judged.status}" + (f" ({judged.margin})" if judged.margin else ""))
    print(f"verdict: {found.sentence}")
    return found.exit_code


@app.command
def baseline(
    run_folder: Annotated[Path, Parameter(help="Folder of a finished run.")],
    *,
    hardware: Annotated[str, Parameter(help="The machine in words, as the report shall name it.")],
    out: Annotated[Path, Parameter(help="File to write, such as expected/measured/smoke-world.json.")],
) -> int:
    """Keep a run's numbers as our own measurement, which later runs of the same kind are set beside."""
    from artifact.reporting.baseline import baseline_json
    from artifact.reporting.charts import charts
    from artifact.reporting.verdict import measured_run
    from artifact.runs.store import reading, write_atomically

    with reading(run_folder) as store:
        content = baseline_json(measured_run(store), charts(store), hardware)
    check_folder(out)
    write_atomically(out, content)
    print(out)
    return 0
