"""What a unit can do to a fact beyond tracing, scoring and editing it: one entry a task, for the questions' plans.

No torch: reports name tasks. What a task computes is a file in runs/tasks/; what its records answer is a file in
reporting/findings/.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifact.plans.unit import Plan


@dataclass(frozen=True)
class Task:
    """A task: what it does in words, and two functions as "module:function". `compute` takes (unit, facts, context)
    and gives a record a fact; `work` takes (unit, the planned model, the share of the most steps) and gives what a fact
    takes. `moments`, if any, takes (unit, the planned model) and gives the layers of which it reads second moments,
    computed in the run. `refuses`, if any, takes the model and says why it
    cannot do the task, empty where it can. `whole`: the facts of a batch are computed together or not at all.
    """

    words: str
    compute: str
    work: str
    moments: str = ""
    refuses: str = ""
    whole: bool = False


TASKS: Mapping[str, Task] = {
    "where": Task(
        "edit at every layer of a module, and trace it",
        "artifact.runs.tasks.where:compute",
        "artifact.bench.tasks:where",
        moments="artifact.bench.tasks:where_layers",
    ),
    "both": Task(
        "edit both perspectives, alone and together",
        "artifact.runs.tasks.both:compute",
        "artifact.bench.tasks:both",
        moments="artifact.bench.tasks:both_layers",
    ),
    "encoders": Task(
        "trace and edit an encoder, with controls",
        "artifact.runs.tasks.encoders:compute",
        "artifact.bench.tasks:encoders",
        refuses="artifact.runs.tasks.encoders:refuses",
    ),
    "multiverse": Task(
        "trace in every way of the multiverse",
        "artifact.runs.tasks.multiverse:compute",
        "artifact.bench.tasks:multiverse",
    ),
    "sequence": Task(
        "write facts into one model, one after the other and as one batch",
        "artifact.runs.tasks.sequence:compute",
        "artifact.bench.tasks:sequence",
        whole=True,
    ),
}


def picks_models(plan: "Plan") -> bool:
    """Whether every unit of a plan refuses some models, so that none may be chosen for it blindly."""
    return all(unit.does == "task" and TASKS[unit.task].refuses for unit in plan.units)
