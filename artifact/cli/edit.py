"""kloc edit and score: one edit as a file, and what it does to the prompts of its cases."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import (
    AnyModel,
    Correct,
    Device,
    Edits,
    Memory,
    Model,
    Protocol,
    app,
    check_inputs,
    check_outputs,
    load_model,
    memory_budget,
    words,
    write_json,
)
from artifact.editing.methods import METHODS, MethodName
from artifact.errors import EditError, FactError, SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective, read_facts
from artifact.facts.joint import refuse_conflicts
from artifact.io import sha256_of
from artifact.terminal import say

_NONE: list[str] = []
_NO_FILES: list[Path] = []


def _named(what: str) -> str:
    """The methods that have something, in words: "ft, mend and memit"."""
    *names, last = [name for name, method in METHODS.items() if getattr(method, what)]
    return f"{', '.join(names)} and {last}" if names else last


@app.command
def edit(
    *,
    model: Model,
    method: Annotated[MethodName, Parameter(help="Editing method.")],
    request: Annotated[
        Path, Parameter(help=f"JSON file with one CounterFact-style record; for {_named('joint')} also a list.")
    ],
    out: Annotated[Path, Parameter(help="safetensors file for the change, new minus old.")],
    perspective: Annotated[Perspective, Parameter(help="Edit through the entity or the relation view.")] = "entity",
    moments: Annotated[
        Path | None, Parameter(help=f"Folder of second moments in the published layout, for {_named('moments')}.")
    ] = None,
    prefixes: Annotated[
        Path | None,
        Parameter(help="JSON list of context templates (a list of lists for memit); drawn unless given."),
    ] = None,
    hparams: Annotated[Path | None, Parameter(help="JSON of hyperparameters that replace the model's.")] = None,
    mend_weights: Annotated[
        Path | None, Parameter(help="MEND's trained network: .safetensors, .npz, or the published .pt.")
    ] = None,
    history: Annotated[
        Path | None,
        Parameter(help="JSON list of records edited before, in order: as released, MEND's edit depends on them."),
    ] = None,
    any_model: AnyModel = False,
    device: Device = None,
    memory: Memory = None,
    protocol: Protocol = "released",
    correct: Correct = _NONE,
) -> int:
    """Edit one fact, or several jointly, and write the weight change; the model itself is left as it is."""
    from artifact.editing.edit_file import write_edit
    from artifact.editing.mend_history import History
    from artifact.editing.protocol import protocol_of, protocol_words
    from artifact.lm.device import use_tf32
    from artifact.runs.editors import make_editor

    followed = protocol_of(protocol, words(correct))
    asked = METHODS[method]
    if history is not None and not asked.ordered(followed.switches()):
        raise SettingError(
            f"--history is for {_named('ordered_by')} as released, whose edits depend on those before them; this is "
            f"{method} under {protocol_words(followed.name, followed.switches())}; leave it out"
        )
    files = {"--prefixes": prefixes, "--hparams": hparams, "--mend-weights": mend_weights, "--history": history}
    check_outputs({"--out": out}, (request, *files.values(), moments, model))
    check_inputs(files)
    requests = read_facts(request)
    if len(requests) > 1 and not asked.joint:
        raise FactError(
            f"{request}: holds {len(requests)} records and {method} edits single facts; give a file with one record"
        )
    views = [fact.view(perspective) for fact in requests]
    named = [f"record {number} (case {fact.case_id})" for number, fact in enumerate(requests)]
    refuse_conflicts(views, named, str(request))
    earlier = [] if history is None else [[fact.view(perspective)] for fact in read_facts(history)]
    loaded = load_model(model, device)
    use_tf32(followed.tf32)
    editor = make_editor(
        loaded,
        method,
        followed,
        memory_budget(memory, str(loaded.decoder.device)),
        hparams=hparams,
        prefixes=prefixes,
        moments=moments,
        mend_weights=mend_weights,
        any_model=any_model,
    )
    before = History()
    if earlier:
        editor.count_rows(earlier, before)
    (found,) = editor.edits([views], before)
    if isinstance(found, EditError):
        raise found
    if not found.edit.changes:
        raise EditError(
            f"{found.told()['unedited_reason']}: the released code scores the unedited model, so there is no change to "
            "write; give other hyperparameters with --hparams"
        )
    settings = editor.described()
    described: dict[str, str] = {
        "method": method,
        "perspective": perspective,
        "cases": ", ".join(str(fact.case_id) for fact in requests),
        **({"request_sha256": sha256_of(request)} if request.is_file() else {}),
        "protocol": protocol_words(followed.name, followed.switches()),
        "model": loaded.name,
        "revision": loaded.revision,
        "hparams": settings["hash"],
        "hparams_source": settings["hparams_source"],
        **{key: str(settings[key]) for key in ("moments", "weights") if key in settings},
        **({"history": str(len(earlier))} if editor.ordered else {}),
        **({"notes": "; ".join(editor.notes)} if editor.notes else {}),
    }
    write_edit(out, found.edit, loaded, described)
    first = views[0]
    others = f" and {len(views) - 1} more" if len(views) > 1 else ""
    say(f"{method}, {perspective} perspective: {first.subject!r} -> {first.target!r}{others}")
    figures = {name: value for name, value in found.told().items() if not isinstance(value, str)}
    say(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if found.note:
        say(found.note)
    if editor.ordered:
        say(f"as released, normalised with the rows of {len(earlier)} edits before it (--history) and its own")
    told = [name for name in ("protocol", "hparams", "moments", "weights") if name in described]
    say(", ".join(f"{name} {described[name]}" for name in told))
    say(f"hyperparameters: {described['hparams_source']}")
    for line in editor.notes:
        say(line)
    # A file that the method does not read is not passed over in silence.
    for option, path in {"moments": moments, "prefixes": prefixes, "mend_weights": mend_weights}.items():
        if path is not None and option not in asked.files:
            say(f"--{option.replace('_', '-')} {path} is not used: {method} reads no such file")
    if asked.undone(followed.switches()):
        say(f"the released evaluation undoes {asked.printed}'s edit before it scores; this file holds the edit itself")
    say(out)
    return 0


@app.command
def score(
    *,
    model: Model,
    cases: Annotated[Path, Parameter(help="JSON file of CounterFact-style records.")],
    edits: Edits = _NO_FILES,
    any_model: AnyModel = False,
    device: Device = None,
    memory: Memory = None,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every prompt's numbers here.")] = None,
) -> int:
    """Score the model, edited or not: success, accuracy and magnitude of both views."""
    from artifact.editing.edit_file import read_edits
    from artifact.evaluation.metrics import GROUPS, METRICS, case_json
    from artifact.evaluation.score import score_cases

    check_outputs({"--json": json_file}, (cases, *edits, model))
    check_inputs({"--edit": edits})
    facts = read_facts(cases)
    loaded = load_model(model, device)
    added, files = read_edits(edits, loaded, any_model)
    budget = memory_budget(memory, str(loaded.decoder.device))
    scores = score_cases(loaded, facts, added, budget)
    found = [case_json(one) for one in scores]
    notes = [file.note for file in files if file.note]
    write_json(json_file, {"model": loaded.name, "revision": loaded.revision, "notes": notes, "cases": found})
    how = f"edited by {', '.join(path.name for path in edits)}" if edits else "unedited"
    say(f"{len(facts)} cases, {how}, model {loaded.name}")
    for view in PERSPECTIVES:
        for group in GROUPS:
            of_cases = [one[view][group] for one in found if view in one and one[view][group]["success"] is not None]
            if of_cases:
                means = {metric: sum(case[metric] for case in of_cases) / len(of_cases) for metric in METRICS}
                say(f"{view} {group}: " + ", ".join(f"{metric} {mean:.4f}" for metric, mean in means.items()))
    for line in notes:
        say(line)
    return 0
