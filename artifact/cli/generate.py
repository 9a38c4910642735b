"""kloc generate: what a model goes on with after a prompt, edited or not."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from artifact.cli.app import (
    NO_FILES,
    AnyModel,
    Device,
    Dtype,
    Edits,
    Model,
    check_inputs,
    check_outputs,
    load_model,
    write_json,
)
from artifact.cli.bounds import count
from artifact.sizes import count_of
from artifact.terminal import say


def generate(
    *,
    model: Model,
    prompt: Annotated[str, Parameter(help="The text to continue.")],
    edits: Edits = NO_FILES,
    tokens: Annotated[int, count("Most tokens of the continuation.", 1_000_000)] = 20,
    any_model: AnyModel = False,
    device: Device = None,
    dtype: Dtype = "float32",
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write the continuation here.")] = None,
) -> int:
    """Continue a prompt with the likeliest token each time, unedited or with edits. No weight is changed."""
    from artifact.editing.edit_file import notes_of, read_edits
    from artifact.evaluation.generate import generate as greedy

    check_outputs({"--json": json_file}, (*edits, model))
    check_inputs({"--edit": edits})
    loaded = load_model(model, device, dtype)
    edit, files = read_edits(edits, loaded, any_model)
    found = greedy(loaded, prompt, tokens, edit)
    notes = notes_of(files)
    result: dict[str, Any] = {"model": loaded.name, "revision": loaded.revision}
    result |= {"edits": [path.name for path in edits], "prompt": prompt}
    result |= {"text": found.text, "ids": found.ids, "ended": found.ended, "notes": notes}
    write_json(json_file, result)
    say(f"{prompt}{found.text}")
    if found.ended:
        say(f"(the model ended its text after {count_of(len(found.ids), 'token')})")
    for line in notes:
        say(line)
    return 0
