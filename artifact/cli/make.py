"""kloc world: build the embedded world."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from artifact.cli.app import check_outputs, writing
from artifact.cli.bounds import between, count
from artifact.errors import SettingError
from artifact.terminal import say

world_app = App(name="world", help="The embedded world: made-up facts and the small model trained on them.")


@world_app.command
def train(
    *,
    out: Annotated[Path, Parameter(help="Folder for the model, its tokenizer and its facts.")],
    seed: Annotated[
        int | None,
        Parameter(
            help="Another seed makes another world (default: the embedded world's seed).",
            validator=between(0, 2**63 - 1),
        ),
    ] = None,
    steps: Annotated[int | None, count("Training steps (default: those of the embedded model).")] = None,
    masked: Annotated[
        bool, Parameter(help="Train the masked twin, a small BERT, on the same facts; its folder holds no facts.")
    ] = False,
) -> int:
    """Build the embedded world from its seed: facts, tokenizer and model."""
    from artifact.world.facts import DEFAULT_SEED
    from artifact.world.model import names_of
    from artifact.world.training import train as train_world

    def progress(step: int, of: int, loss: float) -> None:
        if step % 50 == 0 or step == of:
            say(f"step {step}/{of}: loss {loss:.4f}")

    written = names_of(masked)
    there = {name for name in (*written, *names_of(not masked)) if os.path.lexists(out / name)}
    # Only what this command has written, or begun to write: the world's folder holds records, its twin's does not.
    if there - {written[0]} and (written[0] not in there or ("facts.json" in there) == masked):
        raise SettingError(f"--out {out}: holds {min(there)} of something else; name a new folder")
    check_outputs({"--out": out / "config.json"})
    with writing(out):
        about = train_world(
            out,
            DEFAULT_SEED if seed is None else seed,
            steps,
            progress=progress,
            masked=masked,
        )
    for name, figures in about["measured"].items():
        say(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    say(out)
    return 0
