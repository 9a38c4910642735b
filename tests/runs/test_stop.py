"""A stop on request: batches in hand are finished; loading and reports, of which nothing is stored, end at once."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cheap import Cheap, contents, description, made_up

from artifact.errors import Interrupted
from artifact.progress import Display
from artifact.runs import cluster, runner
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_plan


def run(folder: Path, engine: Callable[..., Any] = lambda *_: Cheap(), **options: Any) -> Path:
    return run_plan(description().plan, Asked("world"), show=Display(), out=folder, engine=engine, **options)


class Signalled(Cheap):
    """Gets a SIGTERM while it computes its second batch, and computes it to its end."""

    def compute(self, batches, stop):
        for number, computed in enumerate(super().compute(batches, stop), 1):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield computed


def test_a_batch_in_hand_is_finished_and_stored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="goes on from there"):
        run(tmp_path, lambda *_: Signalled())
    assert signal.getsignal(signal.SIGTERM) is before
    assert [len(records) for records in contents(tmp_path).values()] == [8, 0, 0, 0]
    run(tmp_path)
    assert contents(tmp_path) == made_up(description())


def test_a_report_on_the_way_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first report of a large run is drawn for minutes, longer than a scheduler waits."""
    went_on: list[bool] = []

    def report(store: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(True)

    monkeypatch.setattr(runner, "SECONDS_BETWEEN_REPORTS", -1.0)
    with pytest.raises(Interrupted, match="goes on from there"):
        run(tmp_path, report=report)
    assert not went_on
    run(tmp_path)
    assert contents(tmp_path) == made_up(description())


@pytest.mark.parametrize(("took", "wait"), [(0.5, 60.0), (3.0, 60.0), (40.0, 800.0)])
def test_reports_on_the_way_take_a_twentieth_of_the_time_at_most(took: float, wait: float) -> None:
    assert runner.next_report(100.0, 100.0 + took) == 100.0 + took + wait
    assert took <= 0.05 * (took + wait)


def test_loading_ends_at_once(tmp_path: Path) -> None:
    went_on: list[bool] = []

    def engine(*_: object) -> Cheap:
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(True)
        return Cheap()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, engine)
    assert not went_on


class Ray:
    """Starts as Ray does, which takes SIGTERM for itself, and gets a signal before it has."""

    def __init__(self, number: signal.Signals) -> None:
        self.number, self.did = number, list[str]()

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        os.kill(os.getpid(), self.number)
        self.did.append("started")

    def shutdown(self) -> None:
        self.did.append("ended")


@pytest.mark.parametrize(("name", "did"), [("SIGINT", ["started", "ended"]), ("SIGTERM", ["ended"])])
def test_a_stop_while_ray_starts_leaves_no_cluster(name: str, did: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before, ray = signal.getsignal(signal.SIGTERM), Ray(signal.Signals[name])
    with pytest.raises(KeyboardInterrupt):
        cluster._connect(ray)
    assert ray.did == did and signal.getsignal(signal.SIGTERM) is before
