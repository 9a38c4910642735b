"""kloc tune: choose hyperparameters for a model on facts set aside."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from artifact.cli.app import (
    ANY_MACHINE,
    AS_RELEASED,
    Following,
    Machine,
    Model,
    check_inputs,
    check_outputs,
    writing,
)
from artifact.cli.bounds import count
from artifact.cli.fetch import named_data
from artifact.editing.method import unread
from artifact.editing.methods import METHODS, MethodName
from artifact.errors import Interrupted, SettingError
from artifact.facts.datasets import DATASETS
from artifact.progress import Display, display
from artifact.sizes import count_of
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.editing.editor import Editor
    from artifact.editing.tuned import Chosen
    from artifact.facts.fact import Fact
    from artifact.runs.tune import Checkpoint

CASES = 24
UNFINISHED = ".partial"
"""Ending of the file beside --out that holds what was scored so far."""


def tune(
    *,
    model: Model,
    facts: Annotated[str, Parameter(help=f"{', '.join(DATASETS)}, or a file; only facts set aside are taken.")],
    method: Annotated[list[MethodName], Parameter(help="Method to choose for; give it once for each.")],
    out: Annotated[Path, Parameter(help="JSON file to write, which --hparams takes. Its checkpoint is FILE.partial.")],
    cases: Annotated[int, count("Facts to judge on, at most.", 10_000)] = CASES,
    grid: Annotated[
        Path | None,
        Parameter(help="JSON object by method of lists of values by hyperparameter (default: its own grid)."),
    ] = None,
    moments: Annotated[Path | None, Parameter(help="Folder of second moments of all layers that are tried.")] = None,
    mend_weights: Annotated[Path | None, Parameter(help="MEND's network trained for the model.")] = None,
    machine: Machine = ANY_MACHINE,
    following: Following = AS_RELEASED,
) -> int:
    """Choose a method's hyperparameters on a small grid. After an interruption the same command resumes."""
    import msgspec

    from artifact.editing.tuned import Tuned
    from artifact.io import write_atomically
    from artifact.runs.tune import CRITERION, Checkpoint, facts_to_tune_on

    followed = following.followed
    chosen_methods = list(dict.fromkeys(method))
    check_outputs({"--out": out}, (grid, moments, mend_weights, model, facts))
    check_inputs({"--grid": grid, "--mend-weights": mend_weights})
    given = _grids(grid, chosen_methods)
    data = named_data(facts)
    loaded, budget = machine.load(model, followed.tf32)
    judged = facts_to_tune_on(loaded, data.facts, cases, facts, budget)
    editors = _editors(loaded, chosen_methods, given, followed, budget, moments, mend_weights)
    ids, told = [fact.case_id for fact in judged], followed.words
    checkpoint = Checkpoint(out.with_name(out.name + UNFINISHED))
    if checkpoint.damage:
        say(f"{checkpoint.path}: cannot be read ({checkpoint.damage}), so the search begins anew")
    say(f"{count_of(len(judged), 'fact')} of {data.source}, set aside and answered by {loaded.name}; protocol {told}")
    chosen = _searched(editors, judged, checkpoint, [loaded.weights_sha256, data.sha256, ids, told])
    used = next((one.moments.source for one, _ in editors.values() if one.moments is not None), "")
    about = (loaded.name, loaded.revision, loaded.weights_sha256, told, data.source, data.sha256, ids, CRITERION)
    with writing(out):
        write_atomically(out, msgspec.json.format(msgspec.json.encode(Tuned(*about, chosen, used)), indent=1) + b"\n")
        checkpoint.finish()
    for name, found in chosen.items():
        say(f"{name}: {found.words}")
    files = {"moments": moments, "mend_weights": mend_weights}
    for line in unread(files, [METHODS[name] for name in chosen_methods]):
        say(line)
    say(out)
    return 0


def _grids(path: Path | None, methods: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The grids of a file by method; SettingError for a file of another form, or with another method."""
    import msgspec

    from artifact.reading import read_json

    if path is None:
        return {}
    try:
        given = msgspec.convert(read_json(path), dict[str, dict[str, list[Any]]])
    except msgspec.ValidationError as error:
        raise SettingError(f"{path}: {error}; expected lists of values by method and hyperparameter") from None
    if not given:
        raise SettingError(f"{path}: holds no grid; give lists of values by method and hyperparameter, or no --grid")
    if others := [name for name in given if name not in methods]:
        raise SettingError(f"{path}: has a grid for {others[0]}, which --method does not name; take it out or name it")
    return given


def _editors(
    loaded: Any,
    methods: Sequence[str],
    given: Mapping[str, dict[str, list[Any]]],
    followed: Any,
    budget: Any,
    moments: Path | None,
    mend_weights: Path | None,
) -> "dict[str, tuple[Editor, dict[str, list[Any]]]]":
    """Each method with its start and its grid; one set of second moments for all layers that are tried."""
    from artifact.editing.moments.files import read_moments
    from artifact.runs.editors import default_moments, make_editor
    from artifact.runs.tune import checked_grid

    layers = loaded.decoder.layers
    starts = {name: METHODS[name].start_for(loaded.name, layers, loaded.decoder) for name in methods}
    grids = {
        name: checked_grid(name, given.get(name, METHODS[name].grid(layers)), start, layers)
        for name, start in starts.items()
    }
    asked = [name for name in methods if METHODS[name].moments]
    tried = {layer for name in asked for layer in starts[name].edited}
    tried |= {layer for name in asked for value in grids[name].get("layers", ()) for layer in value}
    matrices: Any = None
    if asked:
        matrices = (
            default_moments(loaded, sorted(tried), budget, of_text=True) if moments is None else read_moments(moments)
        )
    return {
        name: (
            make_editor(
                loaded,
                name,
                followed,
                budget,
                hparams=starts[name],
                moments=matrices if METHODS[name].moments else None,
                mend_weights=mend_weights if METHODS[name].network else None,
            ),
            values,
        )
        for name, values in grids.items()
    }


def _searched(
    editors: "Mapping[str, tuple[Editor, dict[str, list[Any]]]]",
    judged: "Sequence[Fact]",
    checkpoint: "Checkpoint",
    of: Sequence[Any],
) -> "dict[str, Chosen]":
    """What each method's search finds. `of`: all else that scores depend on, and so what a checkpoint is taken for.

    Interrupted when it was stopped.
    """
    from artifact.runs.stop import stopping
    from artifact.runs.tune import Search

    chosen = {}
    with stopping() as stop, display() as show:
        for name, (editor, values) in editors.items():
            kept = checkpoint.of(name, str([*of, editor.described()]))
            found = Search(editor, judged, values, kept, checkpoint.write, _teller(show, name)).run(stop)
            if found is None:
                there = f"{checkpoint.path} keeps what was scored, and the same command goes on"
                raise Interrupted(f"stopped; {there if checkpoint.path.exists() else 'nothing was scored yet'}")
            chosen[name] = found
    return chosen


def _teller(show: Display, name: str) -> Callable[[int, int, str], None]:
    """What a search calls with the candidates that it has tried."""
    bar = show.bar(name)

    def tell(done: int, of: int, told: str) -> None:
        bar.at(done, of, lambda rate: f"{done}/{of} candidates")
        show.say(f"{name}: {told}")

    return tell
