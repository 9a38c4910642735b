"""kloc compare: two runs side by side."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import check_outputs, writing
from artifact.cli.runs import say_damage
from artifact.evaluation.metrics import METRICS, Metric
from artifact.io import write_atomically
from artifact.terminal import say


def compare(
    first: Annotated[Path, Parameter(help="Folder of a run.")],
    second: Annotated[Path, Parameter(help="Folder of another run on the same data.")],
    *,
    metric: Annotated[Metric, Parameter(help="The metric to print.")] = "success",
    csv: Annotated[Path | None, Parameter(help="Write the numbers of all metrics here.")] = None,
) -> int:
    """Show what differs between two runs: settings, and paired differences (second minus first) over common cases."""
    from artifact.reporting.compare import compare as pair
    from artifact.reporting.compare import comparison_csv, comparison_text
    from artifact.runs.store import reading

    check_outputs({"--csv": csv}, (first, second))
    with reading(first) as first_store, reading(second) as second_store:
        comparison = pair(first_store, second_store, (metric,) if csv is None else METRICS)
        damage = say_damage([first_store, second_store])
    if csv is not None:
        with writing(csv):
            write_atomically(csv, comparison_csv(comparison))
    for line in comparison_text(comparison, metric).splitlines():
        say(line)
    return damage
