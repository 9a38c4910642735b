"""What a run is, and the first thing in which two runs' descriptions differ, in words."""

import math
from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from typing import Any, TypedDict

import msgspec

from artifact.lm.dtype import DtypeName
from artifact.plans.unit import Plan, Unit

_REBUILT = "relation prompts from templates"
_WORDS = ("hparams_source",)
"""Say in words where values come from; the values and their hash stand beside them."""


class TracedData(msgspec.Struct, frozen=True):
    """What the units that trace take: where it comes from, and the case ids."""

    source: str
    sha256: str
    note: str
    cases: list[int]


class MomentsUsed(msgspec.Struct, frozen=True):
    """The second moments of a run: their source in words, and the hash of their files, or of the texts summed here."""

    source: str
    sha256: str


class _Setting(TypedDict, total=False):
    """What is read of a method's settings in a description, which may hold more."""

    hparams: dict[str, Any]
    hash: str


def left_out_lines(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each reason: what a model's family refuses of a plan, and why."""
    return [f"{', '.join(names)}: {reason}" for reason, names in left_out.items()]


class RunInfo(msgspec.Struct, frozen=True):
    """What a run is: everything a number of it must carry. Two runs of equal info give equal records.

    `evidence` is False for a model that says nothing about the paper (the embedded world, GPT-2 small), with the
    reason in words in `evidence_note`. The data and `cases` are those of edits and scores, `traced` those of traces
    (None in journals that trace the same). `shard` is (i, n) for the i-th of n parts of a run. `settings` holds, by
    method, the resolved hyperparameters and their hash.
    """

    plan: Plan
    model: str
    model_reason: str
    revision: str
    weights_sha256: str
    layers: int
    device: str
    dtype: DtypeName
    protocol: str
    switches: dict[str, bool]
    data_source: str
    data_sha256: str
    data_note: str
    evidence: bool
    evidence_note: str
    settings: dict[str, dict[str, Any]]
    noise_level: float
    samples: int
    cases: list[int]
    limit: int | None = None
    given: dict[str, str] = {}
    traced: TracedData | None = None
    shard: tuple[int, int] | None = None
    relation_noise_level: float | None = None
    """Of relation traces, where it is another than `noise_level`."""
    moments: MomentsUsed | None = None
    """None where no unit needs them, and in runs of earlier versions."""
    file_notes: list[str] = []
    """What must be said of the files used: made for another model, or for an unknown one."""
    tokenizer_sha256: str = ""
    """Over the tokenizer's files; empty in runs of before it was recorded."""
    relations: dict[str, list[int]] = {}
    """The case ids of each relation by its name; in runs of earlier versions only where `by_relation`."""
    traced_relations: dict[str, list[int]] = {}
    """The same of the statements that are traced, by the relation's id; empty in runs of earlier versions."""
    by_relation: bool = True
    """Whether edits are shown by relation, too, where relations are known."""
    reconstructed: bool | None = None
    """Relation prompts were built by rule from templates; None in runs of earlier versions."""

    parameters: int = 0
    """How many the model has; 0 in runs of earlier versions."""
    left_out: dict[str, list[str]] = {}
    """What the model's family refuses, by the reason: names of units, and how many facts (refused.py)."""

    def __post_init__(self) -> None:
        msgspec.convert(self.settings, dict[str, _Setting])
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"a run has no part {self.shard[0]} of {self.shard[1]}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"a run cannot take {self.limit} facts")

    @property
    def left_out_units(self) -> set[str]:
        """The names of what is left out."""
        return {name for names in self.left_out.values() for name in names}

    @property
    def left_out_lines(self) -> list[str]:
        """A line for each reason: what is left out, and why."""
        return left_out_lines(self.left_out)

    @property
    def relations_rebuilt(self) -> bool:
        """Whether relation prompts were built by rule; runs of earlier versions say so in the source of their data."""
        return _REBUILT in self.data_source if self.reconstructed is None else self.reconstructed

    memory: int | None = None
    """Bytes that a batch may take, as chosen when the run began; None in runs of earlier versions."""

    def planned(self, unit: Unit) -> int:
        """How many cases the unit takes when it is finished, the user's limit apart."""
        return len(self._cases(unit)[: unit.most])

    def asked(self, unit: Unit) -> int:
        """How many cases this run takes: the user's limit and the shard are minded."""
        return sum(map(len, self.batches(unit)))

    def batches(self, unit: Unit) -> list[tuple[int, ...]]:
        """The case ids of each batch of the unit, of this run's shard alone.

        Batches are cut from the plan's list, never from what is left or of a shard, so that every way of running gives
        the same numbers.
        """
        cases = self._cases(unit)[: unit.most][: self.limit]
        cut = [tuple(cases[start : start + unit.batch]) for start in range(0, len(cases), unit.batch)]
        if self.shard is None:
            return cut
        index, shards = self.shard
        return cut[index - 1 :: shards]

    def _cases(self, unit: Unit) -> list[int]:
        return self.traced.cases if unit.does == "trace" and self.traced is not None else self.cases


def described(info: RunInfo) -> dict[str, Any]:
    """What a run is, as plain JSON; its units with all their fields, also those that have their default."""
    found = msgspec.json.decode(msgspec.json.encode(info))
    found["plan"]["units"] = [msgspec.structs.asdict(unit) for unit in info.plan.units]
    return found


def first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], apart: Collection[str] = ()
) -> tuple[str, str, str] | None:
    """The first entry in which two runs' descriptions differ, and its two values, in words; `apart` may differ.

    The entry is named down to the place in a list (from 1); the two texts are never the same. Fractions that are close
    count as equal: their last digits depend on the machine. So do words of where equal hyperparameters come from: they
    name a file, which may have got another method's values since.
    """
    for key, now in other.items():
        before = one.get(key)
        if key in apart or key in _WORDS or before == now or close(before, now):
            continue
        name, then, here = key.replace("_", " "), _parts(before), _parts(now)
        if then and here and then.keys() == here.keys() and then.get("name") == here.get("name"):
            inner = first_difference(then, here)
            if inner is not None:
                return f"{name} {inner[0]}", *inner[1:]
            if type(before) is type(now):
                continue
        return name, *_texts(before, now)
    return None


def close(one: object, other: object) -> bool:
    """Whether both are fractions, and equal but for a billionth."""
    return isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-9)


def _parts(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, list):
        return {str(number): one for number, one in enumerate(value, 1)}
    return value if isinstance(value, dict) else None


def _texts(*values: object) -> tuple[str, str]:
    """Two values in at most 60 characters each, from near the first place where they differ."""
    names = tuple(value.get("name") if isinstance(value, dict) else None for value in values)
    shown = values if None in names or names[0] == names[1] else names
    one, other = (msgspec.json.encode(value).decode() for value in shown)
    same = len(commonprefix((one, other)))
    start = max(0, same - 20) if max(len(one), len(other)) > 60 and same > 40 else 0

    def cut(text: str) -> str:
        text = ("..." if start else "") + text[start:]
        return text if len(text) <= 60 else text[:57] + "..."

    return cut(one), cut(other)
