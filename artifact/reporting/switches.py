"""What each switch of a run's protocol does, and what it is worth where this package has measured that.

Covers expected/switches.json: our own measurements on the embedded world, which are no evidence about the paper's
models. The words of a switch are editing/protocol.py's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from artifact.editing.methods import printed_name
from artifact.editing.protocol import SWITCH_WORDS, all_switches
from artifact.errors import ExpectedError
from artifact.facts.fact import Perspective
from artifact.io import NOT_JSON
from artifact.reporting.cells import Scale
from artifact.reporting.resources import expected_folder

_POINTS = Scale(1, signed=True)


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Corrected minus released, for edits with one method from one perspective: by column, the paired change of its
    success in points, and the ends of its 95% interval.
    """

    method: str
    edited: Perspective
    points: tuple[tuple[float, float, float], ...]


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of one switch; `note` says why its effect cannot show, or what else was measured."""

    changes: tuple[Change, ...] = ()
    note: str = ""


class Worth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measurements of all switches, with what made them. `columns` name the numbers of a change."""

    model: str
    hardware: str
    facts: int
    command: str
    columns: tuple[str, ...]
    switches: dict[str, Measured]

    def words(self, switch: str) -> str:
        """The largest change of a switch in one line, or that it is not measured."""
        found = self.switches[switch]
        largest = max(
            (
                (abs(one[0]), change, self.columns[c], one)
                for change in found.changes
                for c, one in enumerate(change.points)
            ),
            key=lambda candidate: candidate[0],
            default=None,
        )
        note = f"{found.note[:1].upper()}{found.note[1:]}." if found.note else ""
        if largest is None:
            return note or "Not measured."
        size, change, column, (mean, low, high) = largest
        if not any(abs(x) for one in found.changes for x in (point[0] for point in one.points)):
            said = "No number changed."
        else:
            edit = f"{printed_name(change.method)}, {change.edited} edit"
            said = f"{_POINTS(mean)} [{_POINTS(low)}, {_POINTS(high)}]: {edit}, {column}."
        return f"{said} {note}".strip()


@dataclass(frozen=True)
class SwitchLine:
    """A switch of one run: its name, whether the run follows the released code, its words, and what it is worth."""

    name: str
    on: bool
    released: str
    corrected: str
    worth: str


def load_worth() -> Worth:
    """expected/switches.json; ExpectedError for a file that does not hold all switches."""
    path = expected_folder() / "switches.json"
    try:
        worth = msgspec.json.decode(path.read_bytes(), type=Worth)
    except (OSError, *NOT_JSON) as error:
        raise ExpectedError(f"{path}: cannot be read ({error}); restore it from the repository") from None
    if apart := worth.switches.keys() ^ SWITCH_WORDS.keys():
        raise ExpectedError(f"{path}: switches: expected one entry a switch, not so for {', '.join(sorted(apart))}")
    return worth


def switch_lines(recorded: Mapping[str, bool], worth: Worth) -> list[SwitchLine]:
    """The switches of a run, in the order of the protocol; a run that recorded none has none."""
    on = all_switches(recorded) if recorded else {}
    return [SwitchLine(name, on[name], *SWITCH_WORDS[name], worth.words(name)) for name in SWITCH_WORDS if name in on]
