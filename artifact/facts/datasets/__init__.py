"""The data sets by name: one file each, and this table of them, in the order in which they are listed.

A new data set is one file and its name here (docs/extend.md). Whoever needs a list of data sets, a source, a default or
whether a run counts as evidence asks this table. `own` is a file of the user's.
"""

from importlib import import_module

from artifact.facts.dataset import OTHER_MODELS, PAPER, Data, DataSet
from artifact.facts.datasets import own

_FILES = ("counterfact", "known", "lre", "real", "world", "everyday")
DATASETS: dict[str, DataSet] = {file: import_module(f"{__name__}.{file}").DATASET for file in _FILES}
OWN = own.DATASET


def default_for(model: str, of_the_paper: bool = False) -> DataSet:
    """The data set that a run on `model` takes without `--facts`, under a plan of the paper or another one."""
    by_use = {use: one for one in DATASETS.values() for use in one.default_for}
    return by_use[PAPER] if of_the_paper else by_use.get(model, by_use[OTHER_MODELS])


def traced_for(data_set: DataSet) -> DataSet:
    """The data set whose statements are traced in a run on this one."""
    return DATASETS.get(data_set.traced, data_set)


def built_in_for(model: str) -> Data:
    """The facts that come with the package for `model`: the world's own, or the everyday facts."""
    return default_for(model).load(None, "authors", False)
