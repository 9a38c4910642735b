"""kloc answer: a reviewer's questions, answered from a run."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from artifact.cli.app import check_outputs, write_json, writing
from artifact.cli.runs import RunFolder, say_damage
from artifact.io import write_atomically
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.reporting.answers import Answer


def answer(
    run_folder: RunFolder,
    *others: Annotated[Path, Parameter(help="With --seeds: runs of the same kind, each of another seed.")],
    json: Annotated[Path | None, Parameter(help="Write the answers here.")] = None,
    seeds: Annotated[
        Path | None, Parameter(help="Answer nothing, but keep the numbers of all runs here, to give intervals later.")
    ] = None,
) -> int:
    """Answer what a reviewer asks (expected/reviewer.json) from a run's records, each in one line."""
    from artifact.errors import SettingError
    from artifact.reporting.answers import answers, seeds_json, seeds_of
    from artifact.reporting.verdict import measured_run
    from artifact.runs.store import reading_all

    check_outputs({"--json": json, "--seeds": seeds}, (run_folder, *others))
    if others and seeds is None:
        raise SettingError(f"{others[0]}: one folder is answered for at a time; several are taken with --seeds")
    with ExitStack() as stack:
        stores = [store for one in (run_folder, *others) for store in stack.enter_context(reading_all(one))]
        runs = [measured_run(store) for store in stores]
        if seeds is not None:
            content = seeds_json(seeds_of(runs))
            with writing(seeds):
                write_atomically(seeds, content)
            say(seeds)
            return say_damage(stores)
        found = answers(runs)
        damage = say_damage(stores)
    several = len(runs) > 1
    for model, one in found:
        say(f"{one.question.question}{f' ({model})' if several and model else ''}")
        say(f"    {one.text}")
        if one.over_seeds:
            say(f"    {one.over_seeds}")
    write_json(json, {"answers": [_plain(model, one) for model, one in found]})
    return damage


def _plain(model: str, one: "Answer") -> dict[str, object]:
    named = {"id": one.question.id, "question": one.question.question, "answer": one.text}
    return named | {"model": model or None, "numbers": dict(one.numbers), "over_seeds": one.over_seeds or None}
