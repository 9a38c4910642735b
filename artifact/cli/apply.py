"""kloc apply: a model with edits added to its weights, as a folder that transformers loads."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import AnyModel, Dtype, Edits, Model, check_inputs, load_model
from artifact.terminal import say


def apply(
    *,
    model: Model,
    edits: Edits,
    out: Annotated[Path, Parameter(help="New folder for the edited model.")],
    float32: Annotated[bool, Parameter(help="Write float32 weights where the model's are of half precision.")] = False,
    dtype: Dtype = "float32",
    any_model: AnyModel = False,
) -> int:
    """Write an edited model that transformers loads, with a model card. The model's own files do not change.

    Give the --dtype with which the edit was made; the files keep the type that they are stored in.
    """
    from artifact.editing.apply import check_place, total, write_model
    from artifact.editing.edit_file import notes_of, read_edits

    check_place(out)
    check_inputs({"--edit": edits})
    loaded = load_model(model, "cpu", dtype)
    edit, files = read_edits(edits, loaded, any_model)
    assert edit is not None
    changed = write_model(out, loaded, edit, files, float32)
    whole = total(changed)
    named = ", ".join(path.name for path in edits)
    say(f"{loaded.name} with {named}: {len(changed)} weights changed, norm {whole.asked:.4g}")
    if whole.stored != whole.asked and whole.dtype not in ("float32", "float64"):
        say(
            f"stored in {whole.dtype}: norm {whole.stored:.4g}, {whole.stored / whole.asked:.4f} of what was asked; "
            f"rounding error {whole.error / whole.asked:.2%} (--float32 rounds nothing away)"
        )
    for line in notes_of(files):
        say(line)
    say(out)
    return 0
