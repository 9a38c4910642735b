"""Which of several cards of one machine holds which block of a model that is larger than one of them.

The embedding, the last norm and the output layer stand on the first card; blocks follow in order, each card with about
the same share of its memory taken. Only the hidden state moves from card to card.
"""

from collections.abc import Sequence


def spread(blocks: Sequence[int], first: int, free: Sequence[int]) -> list[int]:
    """The card of each block, in order, for blocks of so many bytes and cards with so many free bytes.

    `first` bytes stand on the first card besides. A card is left out where its share is less than half a block.
    """
    share = (first + sum(blocks)) / sum(free)
    placed: list[int] = []
    before = float(first)
    for size in blocks:
        card, room = 0, share * free[0]
        while before + size / 2 > room and card < len(free) - 1:
            card += 1
            room += share * free[card]
        placed.append(card)
        before += size
    return placed
