"""The rows on which the embedded world's models are trained: texts drawn from its statements, and what each token sees.

A decoder predicts each token from those on its left, its masked twin the answers, which are masked. Attention is staged
in training only: in most statements the tokens outside a subject cannot see it in the lower layers, and see only its
last token in the upper ones. The subject is thereby recognised at its last token, early, as in large
pretrained models; a small model trained without this reads the name from the prompt's last token instead.

Shape letters: B row, T token (a dimension of 1 stands for all heads), K token that is seen.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from artifact.lm.aligned import Aligned
from artifact.world.facts import END_OF_TEXT, NO_RELATION, OPENERS, World
from artifact.world.tokenizer import Encoded, build_tokenizer, encode, mask_id

ROW = 64  # tokens in a training row


@dataclass(frozen=True)
class Training:
    """What decides the training beside the seed and the number of steps."""

    rows: int = 32  # rows of ROW tokens in a step
    peak_rate: float = 3e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    staged: float = 0.8  # share of statements trained with staged attention
    other_weight: float = 0.1  # weight of the loss on words that are no answer
    glued_none: float = 0.04  # share of "None" answers written without the space, as one published objective has it
    bare: float = 0.45  # share of texts that are one statement from position 0
    prefixed: float = 0.35  # share with a fragment of other statements before it; the rest open with END_OF_TEXT


class Batch(NamedTuple):
    """One step's rows; each row holds several texts that cannot see each other and count positions from 0."""

    ids_BT: Tensor
    early: Aligned  # what each token sees in the lower layers
    late: Aligned  # the same in the upper ones
    weight_BT: Tensor  # weight of the loss on the token at t, predicted from t - 1, or where it is masked
    said_BT: Tensor  # the tokens, also where ids_BT has a mask


class Sampler:
    """Draws training rows from the statements, in an order that the seed fixes."""

    def __init__(
        self, world: World, training: Training, seed: int, limit: int | None = None, masked: bool = False
    ) -> None:
        """`limit` keeps only the first statements of each kind, for short trial runs."""
        self.training = training
        self.mask = mask_id(world) if masked else None
        self.draw = np.random.RandomState(seed)
        self.kinds = [encode(world, kind[:limit]) for kind in (world.entity, world.relation, world.unrelated)]
        self.queues: list[list[int]] = [[] for _ in self.kinds]
        tokenizer = build_tokenizer(world)
        self.openers = [tokenizer.encode(opener).ids for opener in OPENERS]
        special = (END_OF_TEXT, ".", "..", f"Ġ{NO_RELATION}", NO_RELATION)
        self.end, self.stop, self.stops, self.none, self.glued_none = map(world.vocabulary().index, special)

    def batch(self) -> Batch:
        """The next step's rows; a text that does not fit any more closes its row and is dropped."""
        rows, length = self.training.rows, ROW
        ids_BT, position_BT = np.zeros((2, rows, length), dtype=np.int64)
        text_BT = np.full((rows, length), -1)  # number of the text within its row, -1 after the last
        staged_BT = np.zeros((rows, length), dtype=np.int64)  # for a staged subject's tokens: where the subject ends
        weight_BT = np.zeros((rows, length), dtype=np.float32)
        for row in range(rows):
            at, number = 0, 0
            while True:
                ids, ends, weights = self._text()
                if at + len(ids) > length:
                    break
                here = (row, slice(at, at + len(ids)))
                ids_BT[here], position_BT[here], text_BT[here] = ids, np.arange(len(ids)), number
                staged_BT[here], weight_BT[here] = [end and at + end for end in ends], weights
                at, number = at + len(ids), number + 1
        index_T = np.arange(length)
        visible_BTT = text_BT[:, :, None] == text_BT[:, None, :]
        if self.mask is None:
            visible_BTT &= index_T[:, None] >= index_T[None, :]
        end_B1T = staged_BT[:, None, :]
        outside_BTT = (end_B1T > 0) & (staged_BT[:, :, None] != end_B1T)
        last_B1T = end_B1T == index_T[None, None, :] + 1
        early_BTT, late_BTT = visible_BTT & ~outside_BTT, visible_BTT & ~(outside_BTT & ~last_B1T)
        position = torch.from_numpy(position_BT)
        early, late = (Aligned(position, torch.from_numpy(seen_BTT)[:, None]) for seen_BTT in (early_BTT, late_BTT))
        said, weight = torch.from_numpy(ids_BT), torch.from_numpy(weight_BT)
        read = said if self.mask is None else said.masked_fill(weight > 0, self.mask)
        return Batch(read, early, late, weight, said)

    def _text(self) -> tuple[list[int], list[int], list[float]]:
        """One text: its ids, the end of the staged subject each token belongs to (else 0), and its loss weights."""
        kind = self.draw.random_sample()
        if kind < self.training.bare:
            return self._place([self._statement()], [])
        if kind < self.training.bare + self.training.prefixed:
            return self._place([self._statement()], self._fragment())
        return self._place([self._statement() for _ in range(1 + self.draw.randint(2))], [self.end])

    def _place(self, statements: list[Encoded], before: list[int]) -> tuple[list[int], list[int], list[float]]:
        """Statements one after the other, after the given ids."""
        ids, ends, weights = list(before), [0] * len(before), [0.0] * len(before)
        for statement in statements:
            opens = not ids or ids == [self.end]
            first, last = (len(ids) + edge for edge in statement.span)
            staged = self.draw.random_sample() < self.training.staged
            tokens = list(statement.start if opens else statement.inside)
            if tokens[statement.answer] == self.none and self.draw.random_sample() < self.training.glued_none:
                tokens[statement.answer] = self.glued_none
            for t, token in enumerate(tokens):
                ends.append(last if staged and first <= len(ids) < last else 0)
                other = self.training.other_weight if ids else 0.0  # nothing predicts the very first token
                weights.append(1.0 if t == statement.answer else other)
                ids.append(token)
        return ids, ends, weights

    def _fragment(self) -> list[int]:
        """The beginning of one or two statements, sometimes after an opener, closed by a full stop."""
        ids = list(self.openers[self.draw.randint(len(self.openers))]) if self.draw.random_sample() < 0.15 else []
        for _ in range(2):
            statement = self._statement()
            ids += statement.inside if ids else statement.start
        ids = ids[: 1 + self.draw.randint(11)]
        return [*ids[:-1], self.stops] if ids[-1] == self.stop else [*ids, self.stop]

    def _statement(self) -> Encoded:
        """The next statement; the kinds come in fixed shares, each in a shuffled order."""
        share = self.draw.random_sample()
        kind = 0 if share < 0.4 else 1 if share < 0.67 else 2
        if not self.queues[kind]:
            self.queues[kind] = self.draw.permutation(len(self.kinds[kind])).tolist()
        return self.kinds[kind][self.queues[kind].pop()]
