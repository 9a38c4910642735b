"""What scoring, tracing and second moments take for one fact, as formulas of the model's shape (lm/work.py).

The work of an edit is in its method's file (editing/methods); second moments and their solves are counted apart. Where
an optimisation may stop early, an estimate expects the share of its steps that one stated run took: Method.stops.
ROME and MEMIT stop below a loss of 0.05 (editing/value.py), FT below 0.01 (editing/ft.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from artifact.editing.method import Method
from artifact.facts.lengths import Lengths, Traced
from artifact.lm.work import FLOAT, VECTORS, Shape, Work, blocks, head, reading
from artifact.tracing.kinds import TraceKind
from artifact.tracing.windows import around, steps

STEPS_SOURCE = "SmolLM2 135M on 16 known facts"
"""The run that Method.stops was measured in: a small real language model, as none on GPT-2 XL or GPT-J has been made.
Its command: docs/scaling.md.
"""


def with_steps(method: Method, hparams: Any, share: float) -> Any:
    """The hyperparameters with that share of the most steps, at least one; a mean over facts need not be whole."""
    if not method.stops:
        return hparams
    return msgspec.structs.replace(hparams, **{method.steps: max(1.0, share * getattr(hparams, method.steps))})


def scored(shape: Shape, lengths: Lengths, dense: bool = False) -> Work:
    """Scoring one case, both perspectives; with `dense` under an edit of one whole down-projection (FT)."""
    work = blocks(shape, shape.layers, lengths.case, lengths.case) + head(shape, lengths.reads)
    weight = shape.width * shape.inner
    return work + Work(2 * weight * lengths.case, FLOAT * 2 * weight) if dense else work


def traced(
    shape: Shape, kind: TraceKind, window: int, traced: Traced, samples: int = 10, fresh_noise: bool = True
) -> Work:
    """Tracing one fact, every cell. Severed under `fresh_noise`, the scored run is computed anew for every token.

    Rows of one restored token join after the first layer of their window and part where it ends; in the last block
    only keys and values are computed of all tokens (tracing/sweep.py).
    """
    tokens, layers, windows = traced.tokens, shape.layers, kind.windows(shape.layers, window)
    work = blocks(shape, layers, (1 + samples) * tokens, tokens) + head(shape, 1 + samples)
    if kind.severed and fresh_noise:
        again = blocks(shape, layers, samples * tokens, tokens)
        work += again + head(shape, samples) + again.times(traced.restored)
    groups = [_groups(windows, layer) for layer in range(layers + 1)]
    last = groups[layers - 1]
    sweep = blocks(shape, sum(groups[: layers - 1]), samples * traced.onward, tokens)
    sweep += blocks(shape, last, samples * traced.restored, tokens)
    projected = last * samples * (traced.onward - traced.restored)
    sweep += Work(2 * shape.attention_in * projected, FLOAT * VECTORS / 4 * shape.width * projected)
    if kind.site != "hidden":  # the first layer of a window, of the restored token
        sweep += blocks(shape, len({at.start for at in windows}), samples * traced.restored, tokens)
    work += replace(sweep, passes=traced.restored * layers)
    work += head(shape, samples * groups[layers] * traced.restored)
    return replace(work, passes=work.passes * traced.sweeps)


def knocked(shape: Shape, window: int, tokens: float, onward: Sequence[float]) -> Work:
    """Knocking out edges of one fact of so many tokens, with extraction and lens, in windows about every layer.

    `onward`: for each edge the tokens from the first one that loses an edge to the end. Windows that have not diverged
    yet share their rows, and the last block goes on with the last token alone (tracing/cut.py).
    """
    layers = shape.layers
    path, _ = steps(around(layers, window), range(layers), layers)
    groups = [len(step.inside) for step in path]
    work = blocks(shape, layers, tokens, tokens) + head(shape, 1 + layers * tokens + 2 * layers)
    for count in onward:
        work += blocks(shape, sum(groups[:-1]), count, tokens) + reading(shape, 1, count, tokens, 1).times(groups[-1])
        work += head(shape, groups[-1] + 2 * sum(groups))
    return replace(work, passes=layers * (1 + len(onward)))


def solve_bytes(shape: Shape, layers: int) -> Work:
    """What a batch's solves with second moments read: the factor of each layer (M, M) in float64, twice."""
    return Work(0, 2 * layers * factor_bytes(shape))


def factor_bytes(shape: Shape) -> int:
    """Bytes of one layer's factor of second moments: 8 M^2."""
    return 8 * shape.inner**2


def factor_products(shape: Shape) -> float:
    """Operations of factoring one layer's second moments in float64: M^3 / 3."""
    return shape.inner**3 / 3


def _groups(windows: list[range], layer: int) -> int:
    """How many rows a sample has before block `layer`: those still in one window go together."""
    within = {window.start for window in windows if window.start < layer < window.stop}
    return len(within) + len({(window.start, window.stop) for window in windows if window.stop <= layer})
