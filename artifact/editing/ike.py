"""Editing in context (IKE): no weight changes; the new fact and demonstrations stand before every prompt.

Covers both perspectives. Demonstrations are other facts of the data, the most similar last, each of one of three kinds:
0 copies the new fact, 1 asks it in other words, 2 asks something that it must not change. As published, the kinds are
one list of 32 in an order drawn by the seed, whatever a fact was chosen for. A relation's demonstrations copy the "add"
prompt, rephrase it, or ask the "rm" prompt and are answered "None", as the relation versions of ROME and MEMIT are
taught. Similar facts have the same tokens (cosine of their counts): a stand-in for the published sentence encoder.
EasyEdit's IKE is another construction, and not this one (docs/protocol.md).
Source: arXiv 2305.12740; golden texts, perplexities and orders of similarity: tests/reference/ike.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from artifact.editing.edit import Edit, Edited
from artifact.editing.methods.ike import IkeHparams
from artifact.errors import EditError, FactError, PromptError
from artifact.facts.fact import NO_RELATION, Fact, Perspective, View, fill
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Tokens

KINDS = "2120122022102120" + 8 * "12"
"""The published kinds before they are shuffled: 4 copies, 12 rephrasings, 16 that must not change."""
_ROOM = 16
"""One in so many of a model's positions is left for prompts longer than the view's own."""


@dataclass(frozen=True, kw_only=True)
class IkeEdit(Edited):
    """An edit in context, and how many demonstrations fitted into it."""

    demonstrations: int

    def told(self) -> dict[str, Any]:
        return super().told() | {"demonstrations": self.demonstrations}


def ike(
    model: LanguageModel, views: Sequence[View], hparams: IkeHparams, facts: Sequence[Fact]
) -> list[IkeEdit | EditError]:
    """An edit for each view: a text to put before every prompt, with as many demonstrations from `facts` as are asked
    for and fit; an EditError in the place of one whose texts the model cannot be asked with.
    """
    edits: list[IkeEdit | EditError] = []
    data = tuple(facts)
    index = {perspective: _index(model.tokens, data, perspective) for perspective in {v.perspective for v in views}}
    for view in views:
        try:
            others = index[view.perspective].nearest(view)[: hparams.demonstrations]
            edits.append(_edit(model, view, hparams, others))
        except PromptError as error:
            edits.append(EditError(str(error)))
    return edits


def context_of(view: View, others: Sequence[View], seed: int) -> str:
    """The text before a prompt: the demonstrations of `others`, given most similar first, and the new fact."""
    draw, kinds = random.Random(seed), list(KINDS)
    draw.shuffle(kinds)
    shown = [_demonstration(one, kind, draw) for one, kind in zip(others, kinds, strict=False)]
    return "".join(reversed(shown)) + _demonstration(view, "0", draw) + _opening(view)


def _edit(model: LanguageModel, view: View, hparams: IkeHparams, others: Sequence[View]) -> IkeEdit:
    asked = (*view.reliability, *view.generality, *view.specificity)
    own = max(len(model.tokens.ids(f"{prompt} {view.target}")) for prompt in asked)
    most = model.tokens.limit - own - model.tokens.limit // _ROOM
    for count in range(len(others), -1, -1):
        context = context_of(view, others[:count], hparams.seed)
        if model.tokens.count(context) <= most:
            return IkeEdit(edit=Edit({}, context), norm=0.0, demonstrations=count)
    raise EditError(
        f"the new fact and a prompt need more than the model's {model.tokens.limit} positions; take another model"
    )


def _opening(view: View) -> str:
    return f"New Fact: {_told(view)}\nPrompt: "


def _demonstration(view: View, kind: str, draw: random.Random) -> str:
    """One fact as a demonstration of that kind; a copy where it has no prompt of the kind."""
    prompt, answer = fill(view.template, view.subject), view.target
    if kind == "1" and view.generality:
        prompt = draw.choice(view.generality)
    elif kind == "2" and view.removal is not None:
        prompt, answer = fill(view.removal, view.subject), NO_RELATION
    elif kind == "2" and view.specificity:
        prompt = draw.choice(view.specificity)
        answer = view.truth(prompt)
    return f"{_opening(view)}{prompt} {answer}\n\n"


class _Index:
    """Views of the data by their tokens."""

    def __init__(self, tokens: Tokens, views: Sequence[View]) -> None:
        self._tokens, self._views = tokens, views
        self._places: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        for place, view in enumerate(views):
            for token, share in bag(tokens, _told(view)).items():
                self._places[token].append((place, share))

    def nearest(self, view: View) -> list[View]:
        """The views that share a token with this one, most similar first, without those that ask its own prompt."""
        score: defaultdict[int, float] = defaultdict(float)
        for token, share in bag(self._tokens, _told(view)).items():
            for place, other in self._places.get(token, ()):
                score[place] += share * other
        order = sorted(score, key=lambda place: (-score[place], place))
        return [one for place in order if (one := self._views[place]).reliability != view.reliability]


@lru_cache(maxsize=2)  # both perspectives of a run's facts
def _index(tokens: Tokens, facts: tuple[Fact, ...], perspective: Perspective) -> _Index:
    views = []
    for fact in facts:
        try:
            view = fact.view(perspective)
            tokens.ids(_told(view))
            views.append(view)
        except (FactError, PromptError):  # without relation fields, or of other words than the model knows
            continue
    return _Index(tokens, views)


def _told(view: View) -> str:
    return f"{fill(view.template, view.subject)} {view.target}"


def bag(tokens: Tokens, text: str) -> dict[int, float]:
    """How often each token occurs in a text, scaled to length one: the sum of products of two is their cosine."""
    counts = Counter(tokens.ids(text))
    length = sum(count * count for count in counts.values()) ** 0.5
    return {token: count / length for token, count in counts.items()}
