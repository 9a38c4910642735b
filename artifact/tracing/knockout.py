"""Attention knockout: how the answer's probability changes when tokens of one role cannot read those of another.

Covers one statement and many: the answer's probability without and with each edge (edges.py) removed in a window of
layers about every layer; at which layers attention's and the MLP's output at the last position has the answer first;
and the answer's probability in every state. Source: Geva et al. 2023 (arXiv 2304.14767); golden numbers:
tests/reference/knockout, 1e-5. The computation is in cut.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from artifact.errors import ArtifactError, DoesNotFit, PromptError, SettingError
from artifact.facts.fact import Statement
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded
from artifact.tracing.corruption import subject_tokens
from artifact.tracing.cut import Cut, Flow, knock_out
from artifact.tracing.edges import Edge, Role, places
from artifact.tracing.flow import MODULES
from artifact.tracing.windows import MOST_WINDOW, around


@dataclass(frozen=True)
class EdgeCut:
    """One edge removed in a window about every layer.

    `removed` counts the pairs of tokens that it joins: none where all tokens of its end stand after those of its start.
    `after` is the answer's probability by layer. `extracted` says by module (attn, mlp) and window in which layers the
    output at the last position has the answer first; None where it was not asked for.
    """

    edge: str
    removed: int
    after: list[float]
    extracted: dict[str, list[list[int]]] | None


@dataclass(frozen=True)
class Knockout:
    """One statement's knockouts. Probabilities are of the clean greedy answer's first token at the last position.

    `subject` and `relation` are the positions of these roles. `extracted` is that of EdgeCut without a cut, `lens` the
    answer's probability by token and layer in the outputs of blocks, through the final norm and the head.
    """

    case_id: int
    tokens: tuple[str, ...]
    subject: tuple[int, ...]
    relation: tuple[int, ...]
    answer: str
    answer_id: int
    before: float
    cuts: list[EdgeCut]
    extracted: dict[str, list[int]] | None
    lens: list[list[float]] | None

    def told(self) -> dict[str, Any]:
        """What a record of a case keeps."""
        told = asdict(self)
        del told["case_id"]
        return told


class _Asked(NamedTuple):
    """A statement by its place in the list, its tokens, and the positions of its roles."""

    number: int
    statement: Statement
    encoded: Encoded
    places: dict[Role, tuple[int, ...]]


def knockout(
    model: LanguageModel,
    statement: Statement,
    edges: Sequence[Edge],
    window: int,
    memory: Memory | None = None,
    extraction: bool = True,
) -> Knockout:
    """Knock out the edges of one statement. Raises PromptError for a prompt or subject it cannot be asked with."""
    (found,) = knockout_all(model, [statement], edges, window, memory, extraction)
    if isinstance(found, ArtifactError):
        raise found
    return found


def knockout_all(
    model: LanguageModel,
    statements: Sequence[Statement],
    edges: Sequence[Edge],
    window: int,
    memory: Memory | None = None,
    extraction: bool = True,
) -> list[Knockout | ArtifactError]:
    """Knock out the edges of many statements, those of one length together; an error in the place of one that fails.

    `window` layers about every layer; `extraction` asks for `extracted` and `lens`, too. SettingError for a window that
    is not between 1 and MOST_WINDOW, ModelError for an encoder.
    """
    if not 1 <= window <= MOST_WINDOW:
        raise SettingError(f"the window must be from 1 to {MOST_WINDOW} layers, got {window}; give such a number")
    model.kind.needs_decoder("attention knockout")
    memory = memory or Memory(default_memory(model.decoder.device))
    done: dict[int, Knockout | ArtifactError] = {}
    lengths: dict[int, list[_Asked]] = {}
    for number, statement in enumerate(statements):
        try:
            encoded = model.tokens.encode(statement.prompt)
            subject = subject_tokens(encoded, statement)
        except ArtifactError as error:
            done[number] = error
        else:
            where = places(len(encoded.ids), subject, encoded.opening)
            lengths.setdefault(len(encoded.ids), []).append(_Asked(number, statement, encoded, where))
    windows = around(model.decoder.layers, window)
    for tokens, asked in sorted(lengths.items()):

        def fitting(left: Sequence[_Asked], tokens: int = tokens) -> int:
            return memory.facts(model.decoder, tokens, 0)

        def compute(part: Sequence[_Asked]) -> Flow | DoesNotFit:
            cuts = [Cut(f, edge.pairs(one.places)) for f, one in enumerate(part) for edge in edges]
            return knock_out(model.decoder, [one.encoded.ids for one in part], cuts, windows, memory, extraction)

        def alone(one: _Asked) -> Flow | DoesNotFit:
            return DoesNotFit(
                f"case {one.statement.case_id}: one fact of {len(one.encoded.ids)} tokens does not fit the device's "
                "memory; take a larger device"
            )

        for part, flow in batches(asked, fitting, compute, memory, alone):
            for f, one in enumerate(part):
                done[one.number] = flow if isinstance(flow, DoesNotFit) else _knockout_of(model, one, flow, f, edges)
    return [done[number] for number in range(len(statements))]


def _knockout_of(
    model: LanguageModel, one: _Asked, flow: Flow, f: int, edges: Sequence[Edge]
) -> Knockout | ArtifactError:
    """Fact f of a flow as a Knockout; PromptError where its numbers are not finite."""
    rows = range(f * len(edges), (f + 1) * len(edges))
    if not np.isfinite([flow.before_F[f], *flow.after_CL[list(rows)].flat]).all():
        return PromptError(
            f"case {one.statement.case_id}: the model's probabilities after the prompt are not finite; give a model of "
            "finite weights"
        )
    cuts = [
        EdgeCut(edge.name, len(edge.pairs(one.places)), flow.after_CL[row].tolist(), _under(flow, row))
        for edge, row in zip(edges, rows, strict=True)
    ]
    first_XFL, lens_FTL = flow.first_XFL, flow.lens_FTL
    return Knockout(
        case_id=one.statement.case_id,
        tokens=tuple(model.tokens.label(i) for i in one.encoded.ids),
        subject=one.places["subject"],
        relation=one.places["relation"],
        answer=model.tokens.label(flow.answer_F[f]),
        answer_id=flow.answer_F[f],
        before=flow.before_F[f],
        cuts=cuts,
        extracted=None if first_XFL is None else {m: _layers(first_XFL[x, f]) for x, m in enumerate(MODULES)},
        lens=None if lens_FTL is None else lens_FTL[f].tolist(),
    )


def _under(flow: Flow, row: int) -> dict[str, list[list[int]]] | None:
    if flow.first_XCLL is None:
        return None
    return {module: [_layers(first_L) for first_L in flow.first_XCLL[x, row]] for x, module in enumerate(MODULES)}


def _layers(first_L: np.ndarray) -> list[int]:
    return np.flatnonzero(first_L).tolist()
