"""kloc sequence: many edits in one model, one after the other and as one batch, and what is left of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from artifact.cli.app import (
    ANY_MACHINE,
    AS_RELEASED,
    Following,
    Machine,
    Model,
    by_option,
    check_inputs,
    check_outputs,
    write_json,
)
from artifact.editing.method import unread
from artifact.editing.methods import METHODS, MethodName
from artifact.errors import SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.facts.records import read_facts
from artifact.reading import whole_number
from artifact.sizes import count_of
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.evaluation.sequence import Point

_CARRIED = ", ".join(name for name, method in METHODS.items() if method.carries)


@Parameter(name="*")
@dataclass(frozen=True)
class MethodFiles:
    """The files and folders that the method may read."""

    moments: Annotated[Path | None, Parameter(help="Folder of second moments in the published layout.")] = None
    prefixes: Annotated[Path | None, Parameter(help="JSON list of context templates (as kloc edit takes it).")] = None
    hparams: Annotated[Path | None, Parameter(help="JSON object of hyperparameters.")] = None
    mend_weights: Annotated[Path | None, Parameter(help="MEND's trained network.")] = None
    facts: Annotated[Path | None, Parameter(help="JSON file of other facts (as kloc edit takes it).")] = None


_FILES = MethodFiles()


def sequence(
    *,
    model: Model,
    method: Annotated[MethodName, Parameter(help=f"Editing method: one of {_CARRIED}.", show_choices=False)],
    cases: Annotated[Path, Parameter(help="JSON file of CounterFact-style records, written in its order.")],
    sizes: Annotated[
        str, Parameter(name="--sequence", help="Score all facts written so far after these numbers of edits.")
    ] = "1,10,100",
    perspective: Annotated[
        Perspective, Parameter(help="The perspective to edit from: the entity's or the relation's.")
    ] = "entity",
    files: MethodFiles = _FILES,
    machine: Machine = ANY_MACHINE,
    following: Following = AS_RELEASED,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every case's numbers here.")] = None,
) -> int:
    """Write facts one after the other, and as one batch, and score them. The model's own files do not change."""
    from artifact.evaluation.sequence import curve
    from artifact.runs.editors import make_editor

    asked, followed = _sizes(sizes), following.followed
    check_outputs({"--json": json_file}, (cases, *vars(files).values(), model))
    check_inputs({"--cases": cases, **by_option(files, "moments")})
    records = read_facts(cases)
    loaded, budget = machine.load(model, followed.tf32)
    editor = make_editor(loaded, method, followed, budget, **vars(files))
    points = curve(editor, records, perspective, asked, budget)
    settings = {key: value for key, value in editor.described().items() if key != "prefixes"}
    described = {"model": loaded.name, "revision": loaded.revision, "method": method, "perspective": perspective}
    described["protocol"] = followed.words
    write_json(json_file, {**described, "settings": settings, "points": [_json(point) for point in points]})
    say(f"{METHODS[method].printed}, {perspective} edits, model {loaded.name}, protocol {described['protocol']}")
    for point in points:
        for line in _lines(point):
            say(line)
    for line in unread(vars(files), [METHODS[method]]):
        say(line)
    return 0


def _sizes(text: str) -> list[int]:
    sizes = [whole_number(size.strip()) for size in text.split(",")]
    if not all(sizes):
        raise SettingError(f"--sequence {text[:60]!r} is not a list of numbers of edits; give one such as 1,10,100")
    return sorted({size for size in sizes if size is not None})


def _json(point: "Point") -> dict[str, Any]:
    from artifact.evaluation.further import further_json
    from artifact.evaluation.metrics import case_json

    both = zip(point.scores, point.further, strict=True)
    cases = [case_json(score) | {"further": further_json(more)} for score, more in both]
    failed = [{"case_id": case, "reason": reason} for case, reason in point.failed.items()]
    return {"facts": point.facts, "way": point.way, "cases": cases, "failed": failed}


def _lines(point: "Point") -> Iterator[str]:
    """A point in words and figures: success of each perspective's groups, removal and generation, in percent."""
    from artifact.evaluation.metrics import GROUPS

    parts = []
    for perspective in PERSPECTIVES:
        views = [score.views[perspective] for score in point.scores if perspective in score.views]
        for group in GROUPS:
            asked = [view.metrics[group]["success"] for view in views if group in view.metrics]
            values = [value for value in asked if value is not None]
            if values:
                parts.append(f"{perspective} {group} {100 * sum(values) / len(values):.1f}")
        exact = [one.generation[perspective].exact for one in point.further if perspective in one.generation]
        if exact:
            parts.append(f"{perspective} generation {100 * sum(exact) / len(exact):.1f}")
    removed = [one.removed for one in point.further if one.removed is not None]
    if removed:
        parts.append(f"removal {100 * sum(removed) / len(removed):.1f}")
    how = "one after the other" if point.way == "sequence" else "as one batch"
    failed = f", {len(point.failed)} failed" if point.failed else ""
    yield f"{count_of(point.facts, 'fact')} {how}{failed}: {', '.join(parts) or 'no numbers'}"
