"""What runs on a worker of a Ray cluster (cluster.py). local.py computes each batch, as it does without Ray."""

import importlib
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from artifact import __version__
from artifact.errors import SettingError
from artifact.plans.unit import Plan
from artifact.runs.describe import RunInfo
from artifact.runs.engine import Batch, Computed
from artifact.runs.local import Local
from artifact.runs.resolve import Asked, prepare
from artifact.runs.took import measured


@dataclass(frozen=True)
class Prepared:
    """What a worker is ready for, and where."""

    info: RunInfo
    version: str
    host: str
    node: str
    process: int
    said: list[str]
    seconds: dict[str, float]
    """What making it ready took, by part."""


class Worker:
    """What runs on a Ray worker: one loaded model, and batches computed with it."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        with suppress(OSError):  # paths given relative to it are then missed, and said to be
            os.chdir(folder)
        os.environ.update(environment)
        self._said: list[str] = []

    def prepare(self, plan: Plan, asked: Asked, begun: RunInfo | None, there: dict[str, str]) -> Prepared:
        """Load the model; `there` are the files and folders that the driver sees, by their options."""
        for option, path in there.items():
            if not Path(path).exists():
                raise SettingError(
                    f"{option} {path}: is not on {socket.gethostname()}, where a worker runs; put it at the same path "
                    "on every machine of the cluster, or in a folder that they share"
                )
        with measured() as took:
            context, info = prepare(plan, asked, self._said.append, begun)
        self._local = Local(context, info)
        node = importlib.import_module("ray").get_runtime_context().get_node_id()
        return Prepared(info, __version__, socket.gethostname(), node, os.getpid(), self._lines(), took.seconds)

    def compute(self, batch: Batch) -> tuple[Computed, list[str]]:
        """One batch, and what was said of it."""
        (computed,) = self._local.compute([batch])
        return computed, self._lines()

    def weights_hash(self) -> str:
        return self._local.weights_hash()

    def placed(self) -> None:
        """Returns once the worker is somewhere."""

    def _lines(self) -> list[str]:
        lines = list(self._said)
        self._said.clear()
        return lines
