"""What each kind of unit takes for one fact: operations, bytes and passes, as formulas of the model's shape.

Covers scoring the unedited and the edited model, the five editing methods, and every kind of tracing. Operations are
those of matrix products, as torch counts them (shapes.py `operations`; tests/test_estimate.py holds every formula to
its count on tiny shapes); bytes are the activations' traffic and the optimiser's, an estimate; passes are block passes
that a batch starts once, however many facts are in it. Second moments and their solves are counted apart. It measures
nothing and knows no machine (estimate.py).

Shape letters as in lm/decoder.py. A token through a block takes 24 D^2 operations in its linear layers (M = 4 D) and
4 D for every key it sees; on the way back once more 24 D^2, since weights take no gradient, and 10 D a key.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from artifact.editing.hparams import FtHparams, KnHparams, MemitHparams, MendHparams, RomeHparams
from artifact.facts.fact import Perspective

FLOAT = 4
"""Bytes of a float32, what every model runs in."""
_VECTORS = 40
"""Vectors of width D that a token's way through a block reads and writes: norms, projections, attention, activation."""
_LOGIT_VECTORS = 4
"""Times that a row of logits is read or written: product, softmax, what is gathered."""
_ADAM_VECTORS = 12
"""Times that Adam's step and the clamp read or write a trained weight: gradient, two moments, change, each way."""
_MEND_RANK, _MEND_LAYERS = 1920, 2
"""Of the published networks: rank, capped by the width, and low-rank layers a weight shape."""


@dataclass(frozen=True)
class Shape:
    """A model of L layers, width D (its MLP is 4 D wide) and V words; `tied` where head and embedding are one."""

    layers: int
    width: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """From the fields that shapes.py gives transformers."""
        tied = config.get("tie_word_embeddings", True)
        return cls(config["n_layer"], config["n_embd"], config["vocab_size"], tied)

    @property
    def weights(self) -> int:
        """Bytes of the weights in float32, but for biases and norms (0.1%)."""
        linear = 12 * self.layers * self.width**2
        return FLOAT * (linear + (1 if self.tied else 2) * self.vocabulary * self.width)

    @property
    def block(self) -> int:
        """Bytes of one block's linear weights."""
        return FLOAT * 12 * self.width**2


@dataclass(frozen=True)
class Work:
    """What one fact takes: `products`, floating-point operations of matrix products, and `bytes`, moved besides the
    weights; and `passes`, block passes that a batch starts once, whose weights are read once.
    """

    products: float
    bytes: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.products + other.products, self.bytes + other.bytes, self.passes + other.passes)

    def times(self, count: float) -> "Work":
        return Work(count * self.products, count * self.bytes, count * self.passes)


@dataclass(frozen=True)
class Prompt:
    """A view's edit prompt: tokens in the mean, and as the longest of a batch has it tokens, those before the subject's
    last one, those from it on, and tokens of the target.
    """

    mean: float
    tokens: float
    before: float
    onward: float
    target: float


@dataclass(frozen=True)
class Traced:
    """Traced prompts: mean tokens, mean positions that are restored (from the first corrupted one on), the mean sum of
    the tokens from each of them to the end, and how many sweeps a batch of facts takes (one a length).
    """

    tokens: float
    restored: float
    onward: float
    sweeps: float = 1


@dataclass(frozen=True)
class Lengths:
    """Token counts of the facts: edit prompts by perspective, the longest context prefix, all that is asked of a case
    as one row (evaluation/score.py) with the positions read in it, and traces by what is corrupted.
    """

    prompts: dict[Perspective, Prompt]
    prefix: float
    case: float
    reads: float
    traced: dict[Perspective, Traced]


PAPER_LENGTHS = Lengths(
    # The known facts' edit cases (facts/known.py) under GPT-2's tokens; of longest ones the mean over batches of 16.
    prompts={"entity": Prompt(9.0, 14.3, 9.3, 7.9, 1.0), "relation": Prompt(10.1, 14.5, 10.5, 4.0, 2.9)},
    # Ten drawn tokens and the full stop behind them (editing/prefixes.py).
    prefix=11,
    # The known facts' edit cases take 131, with 5 neighbours and 2 short rephrasings; CounterFact has 10 neighbours of
    # 9 tokens, and a sentence of another text before each rephrasing, about 12 more; and 7% of padding.
    case=215,
    # 23 in the same cases, and 5 neighbours more.
    reads=28,
    # Exactly those of the 1,209 known facts under GPT-2's tokens; 83% of their prompts begin with the subject.
    traced={"entity": Traced(9.7, 9.1, 51.2, 8.7), "relation": Traced(9.7, 6.0, 26.9, 8.7)},
)
"""CounterFact's and the known facts' lengths."""


def scored(shape: Shape, lengths: Lengths, dense: bool = False) -> Work:
    """Scoring one case, both views; with `dense` under an edit of one whole down-projection (FT)."""
    found = _blocks(shape, shape.layers, lengths.case, lengths.case) + _head(shape, lengths.reads)
    return found + Work(8 * shape.width**2 * lengths.case, FLOAT * 8 * shape.width**2) if dense else found


_PREFIX = 0.75
"""Mean length of the context prefixes over that of the longest."""


def rome(
    shape: Shape, hparams: RomeHparams, lengths: Lengths, view: Perspective, prefixes: int = 21, removals: int = 5
) -> Work:
    """One edit by ROME, every step taken: keys of all prefixed prompts, then the value optimisation."""
    prompt = lengths.prompts[view]
    width, asked = _PREFIX * lengths.prefix + prompt.before + 1, prefixes + (view == "relation")
    keys = _reading(shape, hparams.layer + 1, asked * width, width, asked)
    rows = prefixes + (removals if view == "relation" else 0)
    return keys + _value(shape, hparams.layer, hparams.v_num_grad_steps, rows, lengths, prompt)


def memit(
    shape: Shape, hparams: MemitHparams, lengths: Lengths, view: Perspective, prefixes: int = 6, removals: int = 6
) -> Work:
    """One edit by MEMIT, every step taken: the value optimisation at its last layer, then keys layer by layer."""
    prompt, first, last = lengths.prompts[view], hparams.layers[0], hparams.layers[-1]
    width = lengths.prefix + prompt.before + 1
    rows = prefixes + (removals if view == "relation" else 0)
    # Prefixed and bare rows up to the last layer, and the bare one from every layer on to the last.
    keys = _blocks(shape, last + 1, (prefixes + 1) * width, width)
    again = (last - first + 1) + sum(last - layer for layer in hparams.layers)
    return (
        keys
        + _blocks(shape, again, width, width)
        + _value(shape, last, hparams.v_num_grad_steps, rows, lengths, prompt)
    )


def ft(shape: Shape, hparams: FtHparams, lengths: Lengths, view: Perspective) -> Work:
    """One edit by FT, every pass taken: blocks behind the trained one there and back, and Adam over its weight."""
    tokens, square = lengths.prompts[view].mean, shape.width**2
    above = shape.layers - hparams.layer - 1
    # There and back: the change times the stored input, and the weight's gradient.
    one = _reading(shape, above, tokens, tokens, 1, back=True) + _head(shape, 1, back=True)
    one += Work(2 * 8 * square * tokens, FLOAT * 4 * square * (_ADAM_VECTORS + 4), 2)
    return _blocks(shape, hparams.layer + 1, tokens, tokens) + one.times(hparams.num_steps)


def kn(shape: Shape, hparams: KnHparams, lengths: Lengths, view: Perspective) -> Work:
    """One edit by KN: the prompt once, then its last token for each point of the integral, a row more at each layer."""
    tokens, layers = lengths.prompts[view].tokens, shape.layers
    point = _blocks(shape, layers * (layers - 1) / 2, 1, tokens, back=True) + _head(shape, layers, back=True)
    point += Work(2 * 8 * shape.width**2 * layers)
    points = replace(point.times(hparams.steps), passes=3.0 * layers)  # all points go together
    return _blocks(shape, layers, tokens, tokens) + _head(shape, 1) + points


def mend(shape: Shape, hparams: MendHparams, lengths: Lengths, view: Perspective) -> Work:
    """One edit by MEND: a whole pass over prompt and target, back to its lowest layer, and the network's own layers."""
    prompt, edited = lengths.prompts[view], len(hparams.layers)
    tokens, both = prompt.tokens + prompt.target, 5 * shape.width
    lowest = hparams.layers[0]
    found = _blocks(shape, lowest + 1, tokens, tokens)
    found += _blocks(shape, shape.layers - lowest - 1, tokens, tokens, back=True)
    # The way back ends at the lowest layer's MLP.
    found += Work(8 * shape.width**2 * tokens) + _head(shape, prompt.target, back=True)
    # Two weights a layer; in the model's last layer only the scored tokens have a gradient.
    top = hparams.layers[-1] == shape.layers - 1
    rows = 2 * ((edited - top) * (prompt.mean + prompt.target) + top * prompt.target)
    rank = min(_MEND_RANK, both)
    return found + Work(_MEND_LAYERS * 4 * both * rank * rows, 0, 2.0 * edited)


Edit = Callable[[Shape, Any, Lengths, Perspective], Work]
EDITS: dict[str, Edit] = {"ft": ft, "kn": kn, "mend": mend, "rome": rome, "memit": memit}
"""The methods by name."""


def traced(
    shape: Shape,
    windows: list[range],
    traced: Traced,
    samples: int = 10,
    severed: bool = False,
    fresh_noise: bool = True,
) -> Work:
    """Tracing one fact, every cell: `windows` of layers by centre, as tracing/trace.py's Settings make them.

    Rows of one restored token join at the start of their window and part where it ends (tracing/sweep.py). With
    `severed` and `fresh_noise` the scored run is computed anew for every restored token.
    """
    tokens, layers = traced.tokens, shape.layers
    found = _blocks(shape, layers, (1 + samples) * tokens, tokens) + _head(shape, 1 + samples)
    if severed and fresh_noise:
        again = _blocks(shape, layers, samples * tokens, tokens)
        found += again + _head(shape, samples) + again.times(traced.restored)
    groups = sum(_groups(windows, layer) for layer in range(layers))
    sweep = _blocks(shape, groups, samples * traced.onward, tokens)
    found += replace(sweep, passes=traced.restored * layers)
    found += _head(shape, samples * _groups(windows, layers) * traced.restored)
    return replace(found, passes=found.passes * traced.sweeps)


def solve_bytes(shape: Shape, layers: int) -> Work:
    """What a batch's solves with second moments read: the factor of each layer (M, M) in float64, twice."""
    return Work(0, 2 * layers * factor_bytes(shape))


def factor_bytes(shape: Shape) -> int:
    """Bytes of one layer's factor of second moments: 8 M^2."""
    return 8 * (4 * shape.width) ** 2


def factor_products(shape: Shape) -> float:
    """Operations of factoring one layer's second moments in float64: M^3 / 3."""
    return (4 * shape.width) ** 3 / 3


def mend_bytes(shape: Shape) -> int:
    """Bytes of MEND's network: for both weight shapes its low-rank layers, two factors each."""
    both = 5 * shape.width
    return FLOAT * 2 * _MEND_LAYERS * 2 * both * min(_MEND_RANK, both)


def _value(shape: Shape, layer: int, steps: int, rows: int, lengths: Lengths, prompt: Prompt) -> Work:
    """The value optimisation of one fact (editing/value.py): `rows` prompts with targets and the one that is kept.

    One whole pass is stored; a step goes from the subject's last token and the edited layer on, there and back, but for
    the last, which is not followed by a step.
    """
    onward = prompt.onward + prompt.target - 1
    keys = lengths.prefix + prompt.before + onward
    above, read = shape.layers - layer - 1, rows * prompt.target + 1
    # Rows are packed: they have the lengths that they have.
    excess, prefix = (prompt.before + prompt.onward - prompt.mean) / 2, _PREFIX * lengths.prefix
    before, onward = prefix + prompt.before - excess, onward - excess
    width = before + onward
    there = _reading(shape, above, rows * onward + 1, keys, read) + _head(shape, read)
    both = _reading(shape, above, rows * onward + 1, keys, read, back=True) + _head(shape, read, back=True)
    stored = _blocks(shape, layer + 1, rows * width, width) + _reading(shape, above, rows * before, before, 0)
    return stored + both.times(steps - 1) + there


def _reading(shape: Shape, layers: float, tokens: float, keys: float, read: float, back: bool = False) -> Work:
    """`_blocks` of which the last goes on from its attention with the `read` tokens alone."""
    whole, left_out = _blocks(shape, layers, tokens, keys, back), 18 * shape.width**2 * (tokens - read)
    return replace(whole, products=whole.products - min(layers, 1) * (2 if back else 1) * left_out)


def _blocks(shape: Shape, layers: float, tokens: float, keys: float, back: bool = False) -> Work:
    """`tokens` tokens of one fact through `layers` blocks, each seeing `keys` keys; with `back` their gradients too."""
    width = shape.width
    linear, attention = 24 * width**2, 4 * width * keys
    if back:
        linear, attention = 2 * linear, attention + 10 * width * keys
    moved = FLOAT * _VECTORS * width * (3 if back else 1)
    return Work(layers * tokens * (linear + attention), layers * tokens * moved, layers * (3 if back else 1))


def _head(shape: Shape, rows: float, back: bool = False) -> Work:
    """Logits of `rows` positions; with `back` the gradients of their states."""
    ways = 2 if back else 1
    return Work(
        ways * 2 * rows * shape.width * shape.vocabulary, ways * FLOAT * _LOGIT_VECTORS * rows * shape.vocabulary
    )


def _groups(windows: list[range], layer: int) -> int:
    """How many rows a sample has before block `layer`: those still in one window go together."""
    within = {window.start for window in windows if window.start <= layer < window.stop}
    return len(within) + len({(window.start, window.stop) for window in windows if window.stop <= layer})
