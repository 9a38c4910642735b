"""What making a run ready takes: each second counts once, the longest part first, and nothing without a measurement."""

import time

import pytest

from artifact.runs.took import counted, measured, part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests move."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_part_inside_another_is_not_counted_twice(clock: list[float]) -> None:
    @part("inner")
    def inner() -> str:
        clock[0] += 3
        return "done"

    with measured() as took:
        with part("outer"):
            clock[0] += 1
            assert inner() == inner() == "done"
        with part("short"):
            clock[0] += 0.01
        clock[0] += 2
    assert took.words == "ready after 9.0 s: inner 6.0, outer 1.0, the rest 2.0"
    assert inner() == "done" and took.seconds["inner"] == 6


def test_a_part_that_fails_is_counted_and_a_short_one_is_not_named(clock: list[float]) -> None:
    with measured() as took:
        with pytest.raises(ValueError, match="no"), part("model"):
            clock[0] += 0.5
            raise ValueError("no")
        assert took.words == "ready after 0.5 s: model 0.5"
    with measured() as took:
        pass
    assert took.words == "ready after 0.0 s"


def test_what_a_worker_measured_counts_where_its_driver_waits(clock: list[float]) -> None:
    counted({"model": 5.0})  # one that joins later
    with measured() as took:
        clock[0] += 9
        counted({"model": 2.0, "noise level": 6.0})
    assert took.words == "ready after 9.0 s: noise level 6.0, model 2.0, the rest 1.0"
