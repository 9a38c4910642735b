"""What one fact's value is optimised for: prompts with targets, and where in each the edited token stands.

Covers both perspectives as released. The optimisation itself is value.py's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from artifact.editing.protocol import Protocol
from artifact.editing.site import FactToken
from artifact.errors import PromptError
from artifact.facts.fact import NO_RELATION, View, fill
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded

KEPT_PROMPT = "{} is a"
"""The prompt whose next-token distribution an edit should leave alone."""


@dataclass(frozen=True)
class Row:
    """A prompt with its target after it, but for the target's last token; or an encoder's prompt, whose target of one
    token stands at its `mask`.

    `lookup` is the position of the edited token; `divisor` is the token count that the target's summed NLL is divided
    by.
    """

    ids: tuple[int, ...]
    lookup: int
    target: tuple[int, ...] = ()
    divisor: int = 1
    mask: int | None = None

    @property
    def first(self) -> int:
        """The first token that a change at `lookup` reaches."""
        return self.lookup if self.mask is None else 0

    @property
    def read(self) -> int:
        """The position where the target's first token is scored, or what is kept is read; target token j: j further."""
        if self.mask is not None:
            return self.mask
        return len(self.ids) - len(self.target) if self.target else self.lookup


@dataclass(frozen=True)
class Objective:
    """What one fact's value is optimised for: prompts with targets, and the prompt whose distribution is kept."""

    rows: tuple[Row, ...]
    kept: Row


def fact_row(
    model: LanguageModel,
    template: str,
    subject: str,
    target: Sequence[int] = (),
    divisor: int | None = None,
    written: Callable[[Sequence[int]], str] | None = None,
    token: FactToken = "subject_last",
) -> Row:
    """The row of a prompt template ("{}" is the subject) and the ids of its target, edited at `token`.

    The ids of the target, but for the last, follow the prompt's. With `written` (target_text) its text is appended
    instead and the whole tokenised together, as in the released code. PromptError where the edited token is not there,
    and where prompt and target exceed the model's positions.
    """
    text, said = fill(template, subject), written(target[:-1]) if written and len(target) > 1 else ""
    encoded = model.tokens.encode(text + said)
    ids = encoded.ids if said else model.tokens.fed(encoded, target)
    lookup = _lookup(encoded, text, subject, template.index("{}"), token)
    if target and encoded.mask is None and len(ids) - len(target) < lookup:
        raise PromptError(
            f"the target {said!r}, written after its prompt as text, has fewer tokens than its {len(target)} ids and "
            "would be scored inside the prompt; --correct target_as_text appends the ids"
        )
    return Row(ids, lookup, tuple(target), divisor or max(1, len(target)), encoded.mask)


def _lookup(encoded: Encoded, text: str, subject: str, start: int, token: FactToken) -> int:
    """The position of the edited token of a prompt whose subject begins at character `start`.

    The relation's last token is the last one that is not the subject's, as in relation traces (span `all`): the
    prompt's last token unless the prompt ends with the subject. An encoder's last token is its mask.
    """
    own = encoded.span(start, start + len(subject))
    if not own:
        raise PromptError(f"the subject {subject!r} has no token in the prompt {text!r}; give a subject with letters")
    if token == "subject_last":
        return own[-1]
    if token == "last" and encoded.mask is not None:
        return encoded.mask
    last = encoded.span(len(text) - 1, len(text)) or encoded.span(0, len(text))
    if token == "last" or last[-1] not in own:
        return last[-1]
    if own[0] == encoded.opening:
        raise PromptError(f"the prompt {text!r} has no relation token: all of it is the subject; give a longer prompt")
    return own[0] - 1


def target_text(model: LanguageModel, protocol: Protocol) -> Callable[[Sequence[int]], str] | None:
    """How a target is written after its prompt as text, as released; None where its ids are appended.

    Text stands for ids only in tokenizers of the kind that the released code ran on: bytes with their spaces.
    """
    if not (protocol.target_as_text and model.tokens.byte_level):
        return None
    return model.tokens.decode_as_released if protocol.target_spaces_cleaned else model.tokens.decode


def objective(
    model: LanguageModel,
    view: View,
    templates: Sequence[str],
    removals: Sequence[str],
    protocol: Protocol,
    token: FactToken = "subject_last",
) -> Objective:
    """What the value of one view is optimised for: every prefixed prompt; in relation views, removal towards "None"."""
    target, written = model.tokens.continuation(f" {view.target}"), target_text(model, protocol)
    rows = [fact_row(model, fill(t, view.template), view.subject, target, None, written, token) for t in templates]
    if view.removal is not None:
        none = model.tokens.continuation(NO_RELATION if protocol.removal_without_space else f" {NO_RELATION}")
        divisor = len(target) if protocol.removal_nll_by_relation_length else len(none)
        texts = [fill(template, view.removal) for template in removals]
        rows += [fact_row(model, text, view.subject, none, divisor, written, token) for text in texts]
    return Objective(tuple(rows), fact_row(model, KEPT_PROMPT, view.subject, token=token))


def merged(objectives: Sequence[Objective]) -> Objective:
    """One objective for one value: all their prompts; what is kept is the first's."""
    return Objective(tuple(row for one in objectives for row in one.rows), objectives[0].kept)


def until_lookup(row: Row) -> Row:
    """A row up to its edited token: what stands after it cannot change the state there, but in an encoder."""
    return Row(row.ids if row.mask is not None else row.ids[: row.lookup + 1], row.lookup, mask=row.mask)
