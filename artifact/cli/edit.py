"""kloc edit and score: one edit as a file, and what it does to the prompts of its cases."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from artifact.cli.app import Model, Protocol, app, check_folder, load_model, write_json
from artifact.errors import EditError, FactError
from artifact.facts.fact import PERSPECTIVES, Perspective, read_facts


@app.command
def edit(
    *,
    model: Model,
    method: Annotated[Literal["rome"], Parameter(help="Editing method.")],
    request: Annotated[Path, Parameter(help="JSON file with one CounterFact-style record.")],
    out: Annotated[Path, Parameter(help="safetensors file for the change, new minus old.")],
    perspective: Annotated[Perspective, Parameter(help="Edit through the entity or the relation view.")] = "entity",
    moments: Annotated[Path | None, Parameter(help="Folder of second moments in the published layout.")] = None,
    prefixes: Annotated[Path | None, Parameter(help="JSON list of context templates; drawn unless given.")] = None,
    hparams: Annotated[Path | None, Parameter(help="JSON of hyperparameters that replace the model's.")] = None,
    protocol: Protocol = "released",
) -> int:
    """Edit one fact and write the weight change; the model itself is left as it is."""
    from safetensors.torch import save_file

    from artifact.editing.hparams import hparams_for, hparams_hash
    from artifact.editing.moments import read_moments
    from artifact.editing.prefixes import draw_prefixes, read_prefixes
    from artifact.editing.protocol import PROTOCOLS
    from artifact.editing.rome import rome
    from artifact.runs.setup import default_moments, use_tf32

    requests = read_facts(request)
    if len(requests) != 1:
        raise FactError(
            f"{request}: holds {len(requests)} records and {method} edits single facts; give a file with one record"
        )
    loaded = load_model(model)
    resolved = hparams_for("rome", loaded.name, loaded.decoder.layers, hparams)
    use_tf32(PROTOCOLS[protocol].tf32)
    templates = read_prefixes(prefixes) if prefixes else draw_prefixes(loaded, resolved.context_template_length_params)
    matrices = read_moments(moments) if moments else default_moments(loaded, (resolved.layer,))
    view = requests[0].view(perspective)
    (found,) = rome(loaded, [view], resolved, templates, matrices, PROTOCOLS[protocol])
    if isinstance(found, EditError):
        raise found
    described = {
        "method": method,
        "perspective": perspective,
        "protocol": protocol,
        "model": loaded.name,
        "revision": loaded.revision,
        "hparams": hparams_hash(resolved),
        "moments": matrices.source,
    }
    check_folder(out)
    save_file(found.edit.tensors(loaded.decoder), out, metadata=described)
    first, last = found.history[0][0], found.history[-1][0]
    print(f"{method}, {perspective} perspective: {view.subject!r} -> {view.target!r}")
    print(f"loss {first:.4f} -> {last:.4f} in {len(found.history)} steps, weight change of norm {found.norm:.4f}")
    print(f"moments: {matrices.source}; hyperparameters {hparams_hash(resolved)}; protocol {protocol}")
    print(out)
    return 0


@app.command
def score(
    *,
    model: Model,
    cases: Annotated[Path, Parameter(help="JSON file of CounterFact-style records.")],
    edit: Annotated[Path | None, Parameter(help="Weight change written by kloc edit; unedited without.")] = None,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every prompt's numbers here.")] = None,
) -> int:
    """Score the model, edited or not: success, accuracy and magnitude of both views."""
    from artifact.editing.edit import read_edit
    from artifact.evaluation.metrics import GROUPS, METRICS, case_json
    from artifact.evaluation.score import score_cases

    facts = read_facts(cases)
    loaded = load_model(model)
    scores = score_cases(loaded, facts, read_edit(edit, loaded.decoder) if edit else None)
    found = [case_json(one) for one in scores]
    print(f"{len(facts)} cases, {'edited by ' + edit.name if edit else 'unedited'}, model {loaded.name}")
    for view in PERSPECTIVES:
        for group in GROUPS:
            of_cases = [one[view][group] for one in found if view in one and one[view][group]["success"] is not None]
            if of_cases:
                means = {metric: sum(case[metric] for case in of_cases) / len(of_cases) for metric in METRICS}
                print(f"{view} {group}: " + ", ".join(f"{metric} {mean:.4f}" for metric, mean in means.items()))
    write_json(json_file, {"model": loaded.name, "revision": loaded.revision, "cases": found})
    return 0
