"""What a unit can do to a fact beyond tracing, scoring and editing it: one entry a task, for the questions' plans.

No torch: reports name tasks. What a task computes is a file in runs/tasks/; what its records answer is a file in
reporting/findings/.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task: what it does in words, and two functions as "module:function". `compute` takes (unit, facts, context)
    and gives a record a fact; `work` takes (unit, the planned model, the share of the most steps) and gives what a fact
    takes. `all_moments`: it reads second moments of every layer. `refuses`, if any, takes the model and says why it
    cannot do the task, empty where it can.
    """

    words: str
    compute: str
    work: str
    all_moments: bool = False
    refuses: str = ""


TASKS: Mapping[str, Task] = {
    "where": Task(
        "edit at every layer of a module, and trace it",
        "artifact.runs.tasks.where:compute",
        "artifact.bench.tasks:where",
        True,
    ),
    "both": Task(
        "edit both perspectives, alone and together",
        "artifact.runs.tasks.both:compute",
        "artifact.bench.tasks:both",
        True,
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
}
