"""What a pass through a model takes, as formulas of its shape: operations, bytes, and passes through a block.

Operations are those of matrix products, as torch counts them (tests/test_estimate.py holds every formula to its count
on tiny shapes); bytes are the traffic of activations, an estimate; passes are block passes that a batch starts once,
however many facts are in it.

Shape letters as in lm/decoder.py. A token through a block takes twice its linear layers' entries in operations (24 D^2
where M = 4 D) and 4 D for every key it sees; on the way back as many more, since weights take no gradient, and 10 D a
key.
"""

from dataclasses import dataclass, replace
from typing import Any

FLOAT = 4
"""Bytes of a float32."""
VECTORS = 40
"""Vectors of width D that a token's way through a block reads and writes: norms, projections, attention, activation."""
_LOGIT_VECTORS = 4
"""Times that a row of logits is read or written: product, softmax, what is gathered."""


@dataclass(frozen=True)
class Shape:
    """A model of L layers, width D and V words; `tied` where head and embedding are one.

    Where another model than GPT-2 or GPT-J: `inner` is its MLP's width (0: 4 D), `linear` the entries of a block's
    linear layers (0: 12 D^2), `attention_in` those of queries, keys and values among them (0: 3 D^2). `itemsize`: bytes
    of a weight.
    """

    layers: int
    width: int
    vocabulary: int
    tied: bool
    inner: int = 0
    linear: int = 0
    attention_in: int = 0
    itemsize: int = FLOAT

    def __post_init__(self) -> None:
        for name, usual in (("inner", 4 * self.width), ("linear", 12 * self.width**2)):
            object.__setattr__(self, name, getattr(self, name) or usual)
        object.__setattr__(self, "attention_in", self.attention_in or 3 * self.width**2)

    @classmethod
    def of(cls, config: dict[str, Any], itemsize: int = FLOAT) -> "Shape":
        """From the fields that shapes.py gives transformers."""
        tied = config.get("tie_word_embeddings", True)
        return cls(config["n_layer"], config["n_embd"], config["vocab_size"], tied, itemsize=itemsize)

    @property
    def weights(self) -> int:
        """Bytes of the weights, but for biases and norms (0.1%)."""
        return self.layers * self.block + self.ends

    @property
    def ends(self) -> int:
        """Bytes of the embedding and the output layer."""
        return self.itemsize * (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def block(self) -> int:
        """Bytes of one block's linear weights."""
        return self.itemsize * self.linear


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
class Efficiency:
    """Share of a machine's matrix rate that a kind of work reaches: on a CPU in all, with its source, and on a GPU in
    its matrix products alone, assumed.
    """

    cpu: float
    source: str
    gpu: float


def blocks(shape: Shape, layers: float, tokens: float, keys: float, back: bool = False) -> Work:
    """`tokens` tokens of one fact through `layers` blocks, each seeing `keys` keys; with `back` their gradients too."""
    width = shape.width
    linear, attention = 2 * shape.linear, 4 * width * keys
    if back:
        linear, attention = 2 * linear, attention + 10 * width * keys
    moved = FLOAT * VECTORS * width * (3 if back else 1)
    return Work(layers * tokens * (linear + attention), layers * tokens * moved, layers * (3 if back else 1))


def reading(shape: Shape, layers: float, tokens: float, keys: float, read: float, back: bool = False) -> Work:
    """`blocks` of which the last goes on from its attention with the `read` tokens alone."""
    left_out = 2 * (shape.linear - shape.attention_in) * (tokens - read)
    whole = blocks(shape, layers, tokens, keys, back)
    return replace(whole, products=whole.products - min(layers, 1) * (2 if back else 1) * left_out)


def head(shape: Shape, rows: float, back: bool = False) -> Work:
    """Logits of `rows` positions; with `back` the gradients of their states."""
    logits = (2 if back else 1) * rows * shape.vocabulary
    return Work(2 * logits * shape.width, FLOAT * _LOGIT_VECTORS * logits)
