"""How many tokens the paper's facts have: what the work of an edit, a score or a trace is estimated from."""

from dataclasses import dataclass

from artifact.facts.fact import Perspective


@dataclass(frozen=True)
class Prompt:
    """A perspective's edit prompt: tokens in the mean, and as the longest of a batch has it tokens, those before the
    subject's last one, those from it on, and tokens of the target.
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
    last: dict[Perspective, Traced]
    """The same where the last corrupted token alone is restored."""


PAPER_LENGTHS = Lengths(
    # The known facts' edit cases (facts/datasets/known.py) under GPT-2's tokens; of longest ones the mean over batches
    # of 16.
    prompts={"entity": Prompt(9.0, 14.3, 9.3, 7.9, 1.0), "relation": Prompt(10.1, 14.5, 10.5, 4.0, 2.9)},
    # Ten drawn tokens and the full stop after them (editing/prefixes.py).
    prefix=11,
    # The known facts' edit cases take 131, with 5 neighbours and 2 short rephrasings; CounterFact has 10 neighbours of
    # 9 tokens, and a sentence of another text before each rephrasing, about 12 more; and 7% of padding.
    case=215,
    # 23 in the same cases, and 5 neighbours more.
    reads=28,
    # Exactly those of the 1,209 known facts under GPT-2's tokens; 83% of their prompts begin with the subject.
    traced={"entity": Traced(9.7, 9.1, 51.2, 8.7), "relation": Traced(9.7, 6.0, 26.9, 8.7)},
    last={"entity": Traced(9.7, 1.0, 5.7, 8.7), "relation": Traced(9.7, 1.0, 1.0, 8.7)},
)
"""CounterFact's and the known facts' lengths."""
