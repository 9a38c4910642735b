"""kloc bench: this package against the one-at-a-time way."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from artifact.cli.app import Memory, Protocol, app, memory_budget

bench_app = App(
    name="bench", help="This package against the one-at-a-time way: same work, one run, with the difference."
)
app.command(bench_app)


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
        memory=memory_budget(memory, device),
    )
    for one in found:
        for line in one.lines():
            print(line, flush=True)
    return 0
