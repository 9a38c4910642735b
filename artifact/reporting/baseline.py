"""Our own earlier measurements: the same run made before, on a named machine, and whether this run gives its numbers.

Covers the files of expected/measured/, one a plan, model, protocol and hardware, writing one from a run, and setting a
run beside the one that describes it. These are no expected values: they tell a reviewer that an installation works as
ours did, decide no status and no exit code, and no published value is among them (expected.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from artifact.editing.protocol import protocol_words
from artifact.errors import ExpectedError
from artifact.io import NOT_JSON
from artifact.reporting.charts import Chart
from artifact.reporting.intervals import Series, estimates
from artifact.reporting.resources import expected_folder
from artifact.reporting.verdict import MeasuredRun
from artifact.runs.describe import RunInfo

POINTS = 5.0
"""Points of a rate, or hundredths of a probability, within which a number counts as the same: other processors and
thread counts change a sum's last bits, and an optimisation of many steps carries that into a few cases."""
_DIGITS = 6


class MeasuredValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One number: a row's column of a metric, or a trace's clean, corrupted or largest average indirect effect.

    Rates in percent, magnitudes and probabilities times 100; means with the ends of their 95% interval.
    """

    unit: str
    what: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def allows(self, other: "MeasuredValue") -> bool:
        """Whether another run's number is as this one: within POINTS, or, over fewer of its facts, where the mean of so
        many of them lies in 19 of 20 draws: the interval as wide as such a part differs from the whole.
        """
        away = other.value - self.value
        end = self.low if away < 0 else self.high
        part = math.sqrt(self.n / other.n - 1) if 0 < other.n < self.n else 0.0
        return abs(away) <= max(POINTS, 0.0 if end is None else abs(end - self.value) * part)


class RunKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a run's numbers, but for its seed: `protocol` in words, `settings` the hashes of the hyperparameters
    by method.
    """

    plan: str
    model: str
    weights_sha256: str
    data_sha256: str
    protocol: str
    limit: int | None
    settings: dict[str, str]

    @classmethod
    def of(cls, info: RunInfo) -> "RunKind":
        """That of a run."""
        protocol = protocol_words(info.protocol, info.switches)
        settings = {method: value.get("hash", "") for method, value in sorted(info.settings.items())}
        data = info.weights_sha256, info.data_sha256
        return RunKind(info.plan.name, info.model, *data, protocol, info.limit, settings)

    @property
    def kind(self) -> "RunKind":
        """These fields alone."""
        return RunKind(*(getattr(self, name) for name in RunKind.__struct_fields__))


class Baseline(RunKind, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One run's numbers with what made them."""

    hardware: str
    values: tuple[MeasuredValue, ...]
    records: str = ""
    """The tally of the records' seals (runs/seals.py), by which the run itself is known again."""

    def describes(self, info: RunInfo) -> bool:
        """Whether a run of `info` is this run made again: the same plan, model, data, protocol and settings, and no
        other seed or file that its numbers depend on.
        """
        if not info.given.keys().isdisjoint(("--seed", "--moments", "--mend-weights")):
            return False
        made = RunKind.of(info)
        return self.kind == (msgspec.structs.replace(made, limit=None) if self.part_of(info) else made)

    def part_of(self, info: RunInfo) -> bool:
        """Whether a run of `info` is of this one's first facts alone, in a plan that takes what the model answers."""
        return bool(info.plan.facts) and info.limit is not None and self.limit is None


@dataclass(frozen=True)
class MeasuredBefore:
    """A run beside an earlier one: how many numbers are the same within POINTS, and those that are not, as text."""

    hardware: str
    compared: int
    same: int
    largest: float
    others: tuple[str, ...]
    part: bool = False
    """The earlier run had more facts, and this one's are its first."""
    itself: bool = False
    """The earlier run is this one."""

    @property
    def sentence(self) -> str:
        """The comparison in one line."""
        if self.itself:
            return (
                f"this is our own run: later ones are compared with its {self.compared} numbers, measured on "
                f"{self.hardware}"
            )
        same = f"{self.same} of {self.compared} numbers lie within {POINTS:g} points"
        if self.part:
            return f"{same}, or the 95% intervals for so few facts, of our own measurement of more on {self.hardware}"
        return f"{same} of our own measurement on {self.hardware}; the largest difference is {self.largest:.1f}"


def measured_values(run: MeasuredRun, drawn: Sequence[Chart]) -> list[MeasuredValue]:
    """A run's numbers: every row by metric and column, every trace by its mean probabilities and largest effect."""
    values = [
        MeasuredValue(
            row.unit,
            f"{metric}, {column.name}",
            round(value.mean.mean * 100, _DIGITS),
            value.mean.n,
            round(value.mean.low * 100, _DIGITS),
            round(value.mean.high * 100, _DIGITS),
        )
        for row in run.rows
        for (metric, column), value in row.values.items()
    ]
    panels = [panel for chart in drawn for panel in chart.panels]
    traces = [run.traced.traces[panel.kind, panel.perspective] for panel in panels]
    series = [Series(one.cases_F, values_F) for one in traces for values_F in (one.clean_F, one.corrupted_F)]
    means = iter(estimates(series, rates=False))
    for panel in panels:
        for what in ("clean", "corrupted"):
            if (mean := next(means)) is not None:
                ends = (round(end * 100, _DIGITS) for end in (mean.low, mean.high))
                values.append(MeasuredValue(panel.unit, what, round(mean.mean * 100, _DIGITS), mean.n, *ends))
        # Of few facts the largest of many means is larger, so it has no interval.
        largest = round(float(panel.aie_RL[panel.peak]) * 100, _DIGITS)
        values.append(MeasuredValue(panel.unit, "largest AIE", largest, panel.facts))
    return values


def baseline_json(run: MeasuredRun, drawn: Sequence[Chart], hardware: str) -> bytes:
    """The content of a file of expected/measured/."""
    kind = msgspec.structs.asdict(RunKind.of(run.info))
    values = tuple(measured_values(run, drawn))
    measured = Baseline(**kind, hardware=hardware, values=values, records=_tally(run))
    return msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n"


def measured_before(run: MeasuredRun, drawn: Sequence[Chart], folder: Path | None = None) -> MeasuredBefore | None:
    """The run beside our own earlier one of the same kind; None where none was measured or nothing is finished.

    Numbers over another number of facts than before are left out, but for those of a part of a run that have an
    interval. ExpectedError for a file that is not a baseline.
    """
    for path in sorted((folder or expected_folder() / "measured").glob("*.json")):
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Baseline)
        except (OSError, *NOT_JSON) as error:
            raise ExpectedError(
                f"{path}: cannot be read as a measurement ({error}); restore it from the repository"
            ) from None
        if not known.describes(run.info):
            continue
        before = {(one.unit, one.what): one for one in known.values}
        part = known.part_of(run.info)
        pairs = [
            (one, was)
            for one in measured_values(run, drawn)
            if (was := before.get((one.unit, one.what))) is not None
            and (one.n == was.n or (part and one.n < was.n and was.low is not None))
        ]
        if pairs:
            others = [
                f"{one.unit}, {one.what}: {one.value:.1f}, was {was.value:.1f}"
                for one, was in pairs
                if not was.allows(one)
            ]
            largest = max(abs(one.value - was.value) for one, was in pairs)
            itself = bool(known.records) and known.records == _tally(run)
            same = len(pairs) - len(others)
            return MeasuredBefore(known.hardware, len(pairs), same, largest, tuple(others), part, itself)
    return None


def _tally(run: MeasuredRun) -> str:
    return run.store.checked().tally.text()
