"""What is asked of an edit beyond the paper's columns: is the old relation gone, and what does the model write freely?

Covers removal (NLL("None") < NLL(r) at the "rm" prompt, which a relation edit is to achieve) and generation (the greedy
text after each view's edited prompt, until its sentence is over; exact if that sentence is the target). Success only
compares two given continuations; a model can prefer the target and still write something else (arXiv 2502.11177).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifact.editing.edit import Edit
from artifact.evaluation.generate import AROUND, first_sentence, sentences
from artifact.evaluation.metrics import PromptScore
from artifact.evaluation.score import removals
from artifact.facts.fact import Fact, Perspective
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class Written:
    """The text after a prompt, its first sentence, the target, and whether they are the same but for punctuation at
    their ends.
    """

    prompt: str
    text: str
    sentence: str
    target: str
    exact: bool


@dataclass(frozen=True)
class FurtherScore:
    """One case: whether "None" is likelier than the relation at the "rm" prompt, and what each view's prompt is
    continued with.
    """

    case_id: int
    removal: PromptScore | None
    generation: Mapping[Perspective, Written]

    @property
    def removed(self) -> bool | None:
        """Whether the model has stopped stating the old relation. None without relation fields."""
        return None if self.removal is None else self.removal.target_new < self.removal.target_true


def further_scores(
    model: LanguageModel,
    facts: Sequence[Fact],
    edits: Sequence[Edit] | Edit | None = None,
    memory: Memory | None = None,
) -> list[FurtherScore]:
    """Removal and generation of every fact: unedited, under one edit each (a sequence), or all under one edit. An
    encoder generates nothing.

    Raises as `score_cases` does.
    """
    causal = model.decoder.family.causal  # an encoder writes no text
    views = [(case, view) for case, fact in enumerate(facts) if causal for view in fact.views()]
    own = edits if edits is None or isinstance(edits, Edit) else [edits[case] for case, _ in views]
    prompts, targets = [view.reliability[0] for _, view in views], [view.target for _, view in views]
    texts = sentences(model, prompts, own, memory, targets) if views else []
    written: list[dict[Perspective, Written]] = [{} for _ in facts]
    for (case, view), text in zip(views, texts, strict=True):
        sentence = first_sentence(text.text, view.target)
        exact = sentence.strip(AROUND) == view.target.strip(AROUND)
        written[case][view.perspective] = Written(text.prompt, text.text, sentence, view.target, exact)
    gone = removals(model, facts, edits, memory)
    return [
        FurtherScore(fact.case_id, removal, texts_of)
        for fact, removal, texts_of in zip(facts, gone, written, strict=True)
    ]


def further_json(score: FurtherScore) -> dict[str, Any]:
    """A case's further scores as plain JSON, as records and `kloc score --json` hold them."""
    found: dict[str, Any] = {"generation": {view: asdict(written) for view, written in score.generation.items()}}
    if score.removal is not None:
        removal = {
            "prompt": score.removal.prompt,
            "none": score.removal.target_new,
            "relation": score.removal.target_true,
        }
        found["removal"] = removal | {"removed": score.removed}
    return found
