"""kloc knockout: attention from some tokens of one prompt to others, removed layer by layer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from artifact.cli.app import ANY_MACHINE, Machine, Model, check_outputs, write_json
from artifact.cli.bounds import count
from artifact.facts.fact import Statement
from artifact.facts.subject import subject_start
from artifact.sizes import count_of
from artifact.terminal import say
from artifact.tracing.edges import WINDOW, Edge, Role, scaled_window
from artifact.tracing.windows import MOST_WINDOW

if TYPE_CHECKING:
    from artifact.tracing.knockout import EdgeCut, Knockout


def knockout(
    *,
    model: Model,
    prompt: Annotated[str, Parameter(help="The prompt to ask.")],
    subject: Annotated[str, Parameter(help="The subject, as it stands in the prompt.")],
    start: Annotated[
        Role,
        Parameter(name="--from", help="Tokens that can no longer read: last, relation or subject."),
    ],
    end: Annotated[Role, Parameter(name="--to", help="The tokens that they can no longer read.")],
    window: Annotated[int, count("How many layers around each layer lose the edges.", MOST_WINDOW)] = WINDOW,
    template: Annotated[
        str | None, Parameter(help="The prompt's wording with {} for the subject, where the prompt names it twice.")
    ] = None,
    machine: Machine = ANY_MACHINE,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write the numbers here.")] = None,
) -> int:
    """Attention knockout of one prompt: the answer's probability when some tokens cannot read others."""
    from artifact.tracing.knockout import knockout as knock_out

    check_outputs({"--json": json_file}, (model,))
    subject_start(prompt, subject, template)  # before the model is loaded
    loaded, budget = machine.load(model)
    edge = Edge(start, end)
    found = knock_out(loaded, Statement(0, prompt, subject, template), [edge], window, budget)
    (cut,) = found.cuts
    change = [(after - found.before) / found.before for after in cut.after]
    result = {
        "tokens": found.tokens,
        "subject": found.subject,
        "relation": found.relation,
        "answer": found.answer,
        "before": found.before,
        "after": cut.after,
        "change": change,
        "from": start,
        "to": end,
        "edges": cut.removed,
        "window": window,
        "extracted": {"before": found.extracted, "after": cut.extracted},
        "lens": found.lens,
        "model": loaded.name,
        "revision": loaded.revision,
    }
    write_json(json_file, result)
    for line in _lines(edge, found, cut, change, window):
        say(line)
    return 0


def _lines(edge: Edge, found: "Knockout", cut: "EdgeCut", change: Sequence[float], window: int) -> Iterator[str]:
    """What was removed, and the answer's probability without it, a line for each layer."""
    layers = len(cut.after)
    if 2 * window > layers:
        yield (
            f"a window of {window} layers spans most of this model's {layers}, so layers hardly differ; the published "
            f"share of the depth is --window {scaled_window(layers)}"
        )
    if not cut.removed:
        yield f"{edge.printed}: does not exist, as a token sees only itself and those before it"
    removed = count_of(cut.removed, "edge")
    yield f"{edge.printed}: {removed} removed, each time in a window of {count_of(window, 'layer')}"
    yield f"answer {found.answer!r}: {found.before:.4f} before; {_first(found.extracted)}"
    for layer, (after, share) in enumerate(zip(cut.after, change, strict=True)):
        first = {module: at[layer] for module, at in (cut.extracted or {}).items()}
        yield f"layer {layer:>3}: {after:.4f} ({share:+.1%}); {_first(first)}"


def _first(extracted: dict[str, list[int]] | None) -> str:
    """In which layers the outputs at the last token have the answer first, in words."""
    named = [f"{module} in {', '.join(map(str, layers)) or 'none'}" for module, layers in (extracted or {}).items()]
    return f"layers with the answer first: {'; '.join(named)}"
