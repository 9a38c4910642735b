"""How many tokens facts have on a model: their prompts and answers, from both perspectives. Nothing is computed."""

from collections.abc import Iterator, Sequence
from statistics import median

from artifact.facts.fact import PERSPECTIVES, Fact
from artifact.lm.tokens import Tokens


def token_lengths(tokens: Tokens, facts: Sequence[Fact]) -> Iterator[str]:
    """A line a perspective: the shortest, the middle and the longest of its edit prompts, new answers and old ones.

    Facts without the relation's fields are left out of its line. PromptError for a text that the model cannot be asked.
    """
    for perspective in PERSPECTIVES:
        views = [view for fact in facts for view in fact.views() if view.perspective == perspective]
        if views:
            prompts = [len(tokens.encode(prompt).ids) for view in views for prompt in view.reliability]
            new, old = (
                [len(tokens.continuation(f" {text}")) for text in texts]
                for texts in ([view.target for view in views], [view.foil for view in views])
            )
            yield (
                f"{perspective} perspective, tokens: prompts {_range(prompts)}, new answers {_range(new)}, old answers "
                f"{_range(old)}"
            )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high} (median {median(counts):g})"
