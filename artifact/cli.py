"""kloc: the command line. Thin: it parses, calls, prints, and turns errors into one line and an exit code.

Exit codes: 0 done and reproduced or nothing to compare; 1 ran, and a compared value is outside its tolerance; 2 bad
input or environment; 3 interrupted, resumable. Imports that load torch happen inside the commands that need it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

from artifact import __version__
from artifact.errors import ArtifactError, EditError, FactError, RunError
from artifact.facts.fact import PERSPECTIVES, Perspective, Statement, read_facts, read_statements

app = App(
    name="kloc",
    version=__version__,
    help="Re-run, measure and judge 'Does Knowledge Localization Hold True?' (CIKM 2024).",
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
)
bench_app = App(
    name="bench", help="This package against the one-at-a-time way: same work, one run, with the difference."
)
app.command(bench_app)
world_app = App(name="world", help="The embedded world: made-up facts and the small model trained on them.")
app.command(world_app)

ProtocolName = Literal["released", "corrected"]
Model = Annotated[str, Parameter(help="world, gpt2, gpt2-xl, gpt-j, or the folder of a transformers model.")]
RunModel = Annotated[
    str, Parameter(help="auto (GPT-2 small if it can be had, else the embedded world), a model's name, or a folder.")
]
Protocol = Annotated[ProtocolName, Parameter(help="Follow the released code's behaviour, or mend its defects.")]
Out = Annotated[Path | None, Parameter(help="Run folder; results/<plan>-<model> unless said.")]
Memory = Annotated[str | None, Parameter(help="Most memory of a batch, such as 8GB; from the device unless said.")]
Limit = Annotated[int | None, Parameter(help="At most this many facts in every unit.")]


@app.command
def smoke(
    *,
    model: RunModel = "auto",
    protocol: Protocol = "released",
    out: Out = None,
    limit: Limit = None,
    memory: Memory = None,
) -> int:
    """Every stage once on a small model, in minutes: traces, edits from both views, tables, a figure, a verdict."""
    return run("smoke", model=model, protocol=protocol, out=out, limit=limit, memory=memory)


@app.command
def run(
    plan: Annotated[str, Parameter(help="Name of the plan: smoke.")],
    *,
    model: RunModel = "auto",
    protocol: Protocol = "released",
    out: Out = None,
    limit: Limit = None,
    memory: Memory = None,
) -> int:
    """Run a plan, or go on with an interrupted one; the last line is the report's path."""
    from artifact.plan import find_plan
    from artifact.reporting.report import render
    from artifact.reporting.verdict import verdict_of
    from artifact.runs.progress import display
    from artifact.runs.runner import run_plan
    from artifact.runs.store import reading

    found = find_plan(plan)
    with display() as show:
        folder = run_plan(found, model=model, protocol=protocol, limit=limit, out=out, memory=memory, show=show)
    with reading(folder) as store:
        page, verdict = render(store), verdict_of(store)
    print(f"verdict: {verdict.sentence}")
    print(page)
    return verdict.exit_code


@app.command
def report(run_folder: Annotated[Path, Parameter(help="Folder of a run.")]) -> int:
    """Render a run's report again from its journal, without the model."""
    from artifact.reporting.report import render
    from artifact.runs.store import reading

    with reading(run_folder) as store:
        print(render(store))
    return 0


@app.command
def verify(run_folder: Annotated[Path, Parameter(help="Folder of a run.")]) -> int:
    """Print the verdict on a run; exit code 1 when a compared value is outside its tolerance."""
    from artifact.reporting.verdict import verdict_of
    from artifact.runs.store import reading

    with reading(run_folder) as store:
        found = verdict_of(store)
    for cell in found.cells:
        print(f"{cell.cell.id}: {cell.status}")
    for judged in found.claims:
        print(f"{judged.claim.id}: {judged.status}")
    print(f"verdict: {found.sentence}")
    return found.exit_code


@app.command
def trace(
    *,
    model: Model,
    prompt: Annotated[str, Parameter(help="The prompt to trace.")],
    subject: Annotated[str, Parameter(help="The subject, as it stands in the prompt.")],
    corrupt: Annotated[
        Perspective, Parameter(help="Corrupt the subject's tokens (entity) or the relation's.")
    ] = "entity",
    kind: Annotated[
        Literal["hidden", "mlp", "attn"], Parameter(help="Restore block outputs, or a module's outputs in a window.")
    ] = "hidden",
    window: Annotated[int, Parameter(help="Layers restored together, for mlp and attn.")] = 10,
    relation_span: Annotated[
        Literal["all", "after", "template"],
        Parameter(help="Relation tokens: all but the subject, those after it, or those of the template."),
    ] = "all",
    template: Annotated[
        str | None, Parameter(help="The prompt's wording with {} for the subject, for --relation-span template.")
    ] = None,
    samples: Annotated[int, Parameter(help="Noise samples.")] = 10,
    noise: Annotated[
        str, Parameter(help="s3 (three standard deviations of the subjects' embeddings) or a number.")
    ] = "s3",
    facts: Annotated[
        Path | None, Parameter(help="Fact file whose subjects give s3; built-in facts unless said.")
    ] = None,
    sever: Annotated[
        Literal["mlp", "attn"] | None, Parameter(help="Freeze this module's outputs at the token, corrupted.")
    ] = None,
    memory: Memory = None,
    protocol: Protocol = "released",
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write the scores here.")] = None,
    figure: Annotated[Path | None, Parameter(help="Draw the heat map of effects here (.pdf or .png).")] = None,
) -> int:
    """Causal tracing of one prompt: the answer's probability with each (token, layer) restored."""
    from artifact.editing.protocol import PROTOCOLS
    from artifact.runs.setup import data_for, noise_level, use_tf32
    from artifact.tracing.trace import Settings
    from artifact.tracing.trace import trace as trace_fact

    statement = Statement(0, prompt, subject, template)
    subjects = [s.subject for s in read_statements(facts)] if facts else None
    loaded = _load(model)
    use_tf32(PROTOCOLS[protocol].tf32)
    level = noise_level(noise, loaded, subjects)
    settings = Settings(
        level, kind, window, samples, sever, PROTOCOLS[protocol].severed_fresh_noise, corrupt, relation_span
    )
    found = trace_fact(loaded, statement, settings, _memory(memory, str(loaded.decoder.device)))
    result = {
        "tokens": found.tokens,
        "subject": found.subject,
        "span": found.span,
        "answer": found.answer,
        "clean": found.clean,
        "corrupted": found.corrupted,
        "scores": found.scores,
        "kind": kind,
        "window": None if kind == "hidden" else window,
        "sever": sever,
        "noise": level,
        "samples": samples,
        "corrupt": corrupt,
        "protocol": protocol,
        "model": loaded.name,
        "revision": loaded.revision,
    }
    source = f"s3 over the subjects of {facts or data_for(loaded.name).source}" if noise == "s3" else "as given"
    print(f"noise {level:.4f} ({source}), {samples} samples, protocol {protocol}")
    print(f"answer {found.answer!r}: clean {found.clean:.4f}, corrupted {found.corrupted:.4f}")
    for position, (token, row) in enumerate(zip(found.tokens, found.scores, strict=True)):
        mark = "*" if position in found.span else " "
        print(f"{token!r:>16}{mark} " + " ".join(f"{score:.3f}" for score in row))
    _write_json(json_file, result)
    if figure is not None:
        from artifact.reporting.figures import trace_figure

        trace_figure(result, figure)
    return 0


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

    from artifact.editing.hparams import hparams_hash, rome_hparams
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
    loaded = _load(model)
    resolved = rome_hparams(loaded.name, loaded.decoder.layers, hparams)
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
    _check_folder(out)
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
    loaded = _load(model)
    scores = score_cases(loaded, facts, read_edit(edit, loaded.decoder) if edit else None)
    found = [case_json(one) for one in scores]
    print(f"{len(facts)} cases, {'edited by ' + edit.name if edit else 'unedited'}, model {loaded.name}")
    for view in PERSPECTIVES:
        for group in GROUPS:
            of_cases = [one[view][group] for one in found if view in one and one[view][group]["success"] is not None]
            if of_cases:
                means = {metric: sum(case[metric] for case in of_cases) / len(of_cases) for metric in METRICS}
                print(f"{view} {group}: " + ", ".join(f"{metric} {mean:.4f}" for metric, mean in means.items()))
    _write_json(json_file, {"model": loaded.name, "revision": loaded.revision, "cases": found})
    return 0


@bench_app.command(name="trace")
def bench_trace(
    *,
    shape: Annotated[
        Literal["gpt2", "gpt2-xl", "gpt-j"], Parameter(help="Shape of the model; weights are random.")
    ] = "gpt2",
    device: Annotated[str | None, Parameter(help="cpu or cuda; the best there is unless said.")] = None,
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], Parameter(help="Precision.")] = "float32",
    kind: Annotated[
        list[Literal["hidden", "mlp", "attn"]] | None, Parameter(help="Kinds of tracing; hidden and mlp unless said.")
    ] = None,
    tokens: Annotated[int, Parameter(help="Tokens of the prompt.")] = 10,
    samples: Annotated[int, Parameter(help="Noise samples.")] = 10,
    facts: Annotated[int, Parameter(help="Facts in one sweep.")] = 1,
    loop_cells: Annotated[int, Parameter(help="Cells timed one at a time; fewer than all are scaled.")] = 120,
    memory: Memory = None,
    protocol: Protocol = "released",
) -> int:
    """Seconds, ratio, memory and operations of causal tracing by sweeps and by one cell a pass."""
    import torch

    from artifact.bench.trace import bench_trace as compare
    from artifact.editing.protocol import PROTOCOLS
    from artifact.lm.load import auto_device
    from artifact.runs.setup import use_tf32

    device = device or auto_device()[0]
    use_tf32(PROTOCOLS[protocol].tf32)
    cuda = device.startswith("cuda")
    where = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{shape} shape, {dtype}, {where}; protocol {protocol}")
    print(f"{tokens} tokens, {samples} samples, {facts} facts a sweep")
    found = compare(
        shape,
        device,
        getattr(torch, dtype),
        kind or ["hidden", "mlp"],
        tokens=tokens,
        samples=samples,
        facts=facts,
        loop_cells=loop_cells,
        memory=_memory(memory, device),
    )
    for one in found:
        for line in one.lines():
            print(line, flush=True)
    return 0


@world_app.command
def train(
    *,
    out: Annotated[Path, Parameter(help="Folder for the model, its tokenizer and its facts.")],
    seed: Annotated[
        int | None, Parameter(help="Another seed makes another world; the committed one's unless said.")
    ] = None,
    steps: Annotated[int | None, Parameter(help="Training steps; the committed model's unless said.")] = None,
) -> int:
    """Build the embedded world from its seed: facts, tokenizer and model."""
    from artifact.facts.world import DEFAULT_SEED
    from artifact.lm.world import DEFAULT_STEPS
    from artifact.lm.world import train as train_world

    def said(step: int, of: int, loss: float) -> None:
        if step % 50 == 0 or step == of:
            print(f"step {step}/{of}: loss {loss:.4f}", flush=True)

    _check_folder(out / "config.json")
    made = train_world(
        out, DEFAULT_SEED if seed is None else seed, DEFAULT_STEPS if steps is None else steps, progress=said
    )
    for name, figures in made["measured"].items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    print(out)
    return 0


def main() -> None:
    """Entry point: run the command, print an error's one line, exit with its code."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """The exit code of a command line; what a user can mend is printed to standard error in one line."""
    try:
        return app(arguments) or 0
    except ArtifactError as error:
        print(f"kloc: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except cyclopts.CycloptsError as error:
        print(f"kloc: {' '.join(str(error).split())} Try kloc --help.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe is gone: nobody is left to tell
        return 0
    except KeyboardInterrupt:
        print("kloc: stopped; the same command goes on from what was stored", file=sys.stderr)
        return 3


def _memory(asked: str | None, device: str) -> Any:
    """The memory budget asked for, or the device's own."""
    import torch

    from artifact.tracing.sweep import Memory, default_memory, parse_bytes

    limit = default_memory(torch.device(device)) if asked is None else parse_bytes(asked)
    return Memory(limit, lambda line: print(line, file=sys.stderr))


def _load(model: str) -> Any:
    from artifact.lm.load import load

    return load(model)


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        _check_folder(path)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _check_folder(path: Path) -> None:
    """Make the folder of a file that is to be written; RunError when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name a file in a folder you own") from None
