"""kloc bench: this package against the one-at-a-time way."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from artifact.cli.app import Device, Dtype, Memory, Protocol, memory_budget
from artifact.cli.bounds import between, count
from artifact.editing.methods import MethodName
from artifact.editing.site import MODULES, FactToken, Module
from artifact.sizes import count_of
from artifact.terminal import say
from artifact.tracing.edges import EdgeName
from artifact.tracing.kinds import KindWord

bench_app = App(
    name="bench",
    help="Compare this package with the one-at-a-time way on the same work: time, and how far results differ.",
)

_SAMPLES = 10_000
"""Most noise samples: all of them are in memory at once."""
Shape = Annotated[Literal["gpt2", "gpt2-xl", "gpt-j"], Parameter(help="Shape of the model, whose weights are random.")]
LoopFacts = Annotated[
    int, count("Facts computed one at a time; the results of both ways are compared on these.", 100_000)
]
TargetTokens = Annotated[int, count("Tokens of every target.", 500)]
Operations = Annotated[bool, Parameter(negative="--no-operations", help="Count our operations, too, in one more run.")]


@bench_app.command(name="trace")
def bench_trace(
    *,
    shape: Shape = "gpt2",
    device: Device = None,
    dtype: Dtype = "float32",
    kind: Annotated[list[KindWord] | None, Parameter(help="Kinds of tracing (default: hidden and mlp).")] = None,
    tokens: Annotated[int, Parameter(help="Tokens of the prompt.", validator=between(2, 1000))] = 10,
    samples: Annotated[int, count("Noise samples.", _SAMPLES)] = 10,
    facts: Annotated[int, count("Facts in one sweep.", 100_000)] = 1,
    loop_cells: Annotated[int, count("Cells computed one at a time; if fewer than all, their time is scaled.")] = 120,
    memory: Memory = None,
    protocol: Protocol = "released",
) -> int:
    """Causal tracing in sweeps against one cell a pass: seconds, ratio, memory and operations."""
    import torch

    from artifact.bench.trace import bench_trace as compare

    device = _ready(shape, device, protocol, dtype)
    say(f"{count_of(tokens, 'token')}, {count_of(samples, 'sample')}, {count_of(facts, 'fact')} a sweep")
    kinds = compare(
        shape,
        device,
        getattr(torch, dtype),
        kind or ["hidden", "mlp"],
        tokens=tokens,
        samples=samples,
        facts=facts,
        loop_cells=loop_cells,
        memory=None if memory is None else memory_budget(memory, device),
    )
    return _told(line for kind_bench in kinds for line in kind_bench.lines())


@bench_app.command(name="edit")
def bench_edit(
    *,
    method: Annotated[MethodName, Parameter(help="Editing method.")] = "rome",
    shape: Shape = "gpt2",
    device: Device = None,
    facts: Annotated[int, count("Facts together.", 100_000)] = 8,
    loop_facts: LoopFacts = 2,
    target_tokens: TargetTokens = 1,
    operations: Operations = True,
    memory: Memory = None,
    protocol: Protocol = "released",
) -> int:
    """Edits made together against one fact at a time, as released: seconds, ratio, memory and agreement.

    The protocol decides only whether the GPU may use TF32 in matrix products.
    """
    from artifact.bench.edit import bench_edit as compare

    device = _ready(shape, device, protocol)
    _say_together(method, count_of(facts, "fact"), f"targets of {count_of(target_tokens, 'token')}")
    comparison = compare(
        shape,
        device,
        method,
        facts=facts,
        loop_facts=loop_facts,
        memory=None if memory is None else memory_budget(memory, device),
        target_tokens=target_tokens,
        count=operations,
    )
    return _told(comparison.lines())


@bench_app.command(name="evaluate")
def bench_evaluate(
    *,
    shape: Shape = "gpt2",
    device: Device = None,
    facts: Annotated[int, count("Cases together, each under its own edit.", 100_000)] = 8,
    loop_facts: LoopFacts = 2,
    target_tokens: TargetTokens = 1,
    operations: Operations = True,
    protocol: Protocol = "released",
) -> int:
    """Edited cases scored together against one case at a time: seconds, ratio, memory and agreement.

    The protocol decides only whether the GPU may use TF32 in matrix products.
    """
    from artifact.bench.evaluate import bench_evaluate as compare

    device = _ready(shape, device, protocol)
    _say_together("evaluation", count_of(facts, "case"), f"targets of {count_of(target_tokens, 'token')}")
    comparison = compare(
        shape, device, facts=facts, loop_facts=loop_facts, target_tokens=target_tokens, count=operations
    )
    return _told(comparison.lines())


@bench_app.command(name="generate")
def bench_generate(
    *,
    shape: Shape = "gpt2",
    device: Device = None,
    facts: Annotated[int, count("Cases together, each under its own edit.", 100_000)] = 16,
    loop_facts: LoopFacts = 2,
    tokens: Annotated[int, count("Tokens of each text.", 1_000)] = 20,
    operations: Operations = True,
    protocol: Protocol = "released",
) -> int:
    """Texts of edited cases generated together against one text at a time: seconds, ratio, memory and agreement.

    The protocol decides only whether the GPU may use TF32 in matrix products.
    """
    from artifact.bench.generate import bench_generate as compare

    device = _ready(shape, device, protocol)
    _say_together("generation", count_of(facts, "case"), f"{count_of(tokens, 'token')} a text")
    comparison = compare(shape, device, facts=facts, loop_facts=loop_facts, tokens=tokens, count=operations)
    return _told(comparison.lines())


@bench_app.command(name="knockout")
def bench_knockout(
    *,
    shape: Shape = "gpt2",
    device: Device = None,
    edge: Annotated[list[EdgeName] | None, Parameter(help="Edges to remove (default: all five).")] = None,
    tokens: Annotated[int, Parameter(help="Tokens of the prompt.", validator=between(3, 1000))] = 10,
    window: Annotated[int | None, count("Layers of a window (default: nine of 48, scaled).", 100_000)] = None,
    facts: Annotated[int, count("Facts in one sweep.", 100_000)] = 1,
    loop_facts: LoopFacts = 1,
    operations: Operations = True,
    memory: Memory = None,
    protocol: Protocol = "released",
) -> int:
    """Attention knockouts in one sweep against one pass a window: seconds, ratio, memory and agreement.

    The protocol decides only whether the GPU may use TF32 in matrix products.
    """
    from artifact.bench.knockout import bench_knockout as compare
    from artifact.bench.shapes import SHAPES
    from artifact.tracing.edges import EDGES, scaled_window

    device = _ready(shape, device, protocol)
    window = scaled_window(SHAPES[shape]["n_layer"]) if window is None else window
    say(f"{count_of(tokens, 'token')}, {count_of(facts, 'fact')} a sweep, windows of {count_of(window, 'layer')}")
    comparison = compare(
        shape,
        device,
        [EDGES[name] for name in edge or EDGES],
        tokens=tokens,
        window=window,
        facts=facts,
        loop_facts=loop_facts,
        memory=None if memory is None else memory_budget(memory, device),
        count=operations,
    )
    return _told(comparison.lines())


@bench_app.command(name="where")
def bench_where(
    *,
    site: Annotated[list[Module] | None, Parameter(help="Modules to edit (default: both).")] = None,
    token: Annotated[FactToken, Parameter(help="The token whose key is edited.")] = "subject_last",
    shape: Shape = "gpt2",
    device: Device = None,
    operations: Operations = True,
    memory: Memory = None,
    protocol: Protocol = "released",
) -> int:
    """One fact edited at all layers in one sweep against one edit a layer: seconds a site, ratio and agreement.

    The protocol decides only whether the GPU may use TF32 in matrix products.
    """
    from artifact.bench.where import bench_where as compare

    device = _ready(shape, device, protocol)
    say("rome, one fact, every layer; weights, request and second moments are random")
    for one in site or MODULES:
        budget = None if memory is None else memory_budget(memory, device)
        _told(compare(shape, device, one, token, memory=budget, count=operations).lines())
    return 0


@bench_app.command(name="report")
def bench_report(
    *,
    records: Annotated[int, count("Records of the invented run.", 100_000_000)] = 100_000,
    out: Annotated[Path | None, Parameter(help="Keep the invented run in this folder.")] = None,
) -> int:
    """Seconds of `kloc report` on an invented run of the paper's size, the first time and again."""
    import tempfile

    from artifact.bench.report import bench_report as time_it

    with tempfile.TemporaryDirectory() as scratch:
        return _told(time_it(out or Path(scratch) / "run", records).lines())


def _say_together(what: str, count: str, of_each: str) -> None:
    """What is computed together, how much of it, and how large each is."""
    say(f"{what}, {count} together, {of_each}; weights and requests are random")


def _told(lines: Iterable[str]) -> int:
    """Print what was measured; the exit code."""
    for line in lines:
        say(line)
    return 0


def _ready(shape: str, device: str | None, protocol: str, dtype: str = "float32") -> str:
    """The device to use, with its precision set; prints what runs where."""
    import torch

    from artifact.editing.protocol import PROTOCOLS
    from artifact.lm.device import choose_device, use_tf32

    device, _ = choose_device(device)
    use_tf32(PROTOCOLS[protocol].tf32)
    cuda = device.startswith("cuda")
    where = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    say(f"{shape} shape, {dtype}, {where}; protocol {protocol}")
    return device
