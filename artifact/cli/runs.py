"""kloc smoke, run, report, verify: runs of a plan and what is made of them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import Limit, Memory, Out, Protocol, RunModel, app

RunMoments = Annotated[
    Path | None, Parameter(name="--moments", help="Folder of the model's second moments, in the published layout.")
]
RunMend = Annotated[
    Path | None, Parameter(name="--mend-weights", help="MEND's network trained for the model; the world has its own.")
]


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
    from artifact.reporting.verdict import verdict_of
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
        page, verdict = render(store), verdict_of(store)
    print(f"verdict: {verdict.sentence}")
    print(page)
    return verdict.exit_code


@app.command
def report(run_folder: Annotated[Path, Parameter(help="Folder of a run.")]) -> int:
    """Render a run's report again from its journal, without the model."""
    from artifact.reporting.report import render
    from artifact.runs.store import reading

    with reading(run_folder) as store:
        print(render(store))
    return 0


@app.command
def verify(run_folder: Annotated[Path, Parameter(help="Folder of a run.")]) -> int:
    """Print the verdict on a run; exit code 1 when a compared value is outside its tolerance."""
    from artifact.reporting.verdict import verdict_of
    from artifact.runs.store import reading

    with reading(run_folder) as store:
        found = verdict_of(store)
    for cell in found.cells:
        print(f"{cell.cell.id}: {cell.status}")
    for judged in found.claims:
        print(f"{judged.claim.id}: {judged.status}")
    print(f"verdict: {found.sentence}")
    return found.exit_code
