"""Which tokens a causal trace corrupts, and what takes the place of their embeddings: noise, other tokens, a mean.

Covers the spans of both perspectives and the noise of the released code: numpy's RandomState(1), restarted for every
trace, shape (samples, span, width), added in float64 to the word embeddings before positions. Source: the
released code (docs/protocol.md); golden numbers in tests/reference/trace. It does not run the model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from artifact.errors import PromptError, SettingError
from artifact.facts.fact import Perspective, Statement
from artifact.facts.subject import subject_start
from artifact.lm.decoder import Decoder
from artifact.lm.tokens import Encoded, Tokens
from artifact.tracing.choices import RELATION_SPANS, RelationSpan


def subject_tokens(encoded: Encoded, statement: Statement) -> tuple[int, ...]:
    """Positions of the subject's tokens: where the template puts it, else its only occurrence.

    PromptError where it has no token, or cannot be placed (subject_start).
    """
    start = subject_start(encoded.text, statement.subject, statement.template)
    span = encoded.span(start, start + len(statement.subject))
    if not span:
        raise PromptError(f"the subject {statement.subject!r} has no token in the prompt; give another")
    return span


def corrupted_tokens(
    encoded: Encoded, statement: Statement, perspective: Perspective, relation_span: RelationSpan = "all"
) -> tuple[int, ...]:
    """Positions that are corrupted: the subject (entity), or the relation's words in one of three readings.

    `all`: every token of the text but the subject's (and an encoder's mask); `after`: those after the subject;
    `template`: those of the statement's template without its "{}". Words that the statement itself names come before
    these readings. Raises PromptError when that leaves no token.
    """
    subject = subject_tokens(encoded, statement)
    if perspective == "entity":
        return subject
    if statement.relation_words is not None:
        if statement.prompt.count(statement.relation_words) != 1:
            raise PromptError(
                f"the relation's words {statement.relation_words!r} are not once in the prompt {statement.prompt!r}; "
                "correct the record, or --correct relation_span_from_file"
            )
        return encoded.find(statement.relation_words)
    if relation_span == "all":
        span = tuple(i for i in encoded.words if i not in subject)
    elif relation_span == "after":
        span = tuple(i for i in encoded.words if i > subject[-1])
    elif relation_span == "template":
        if statement.template is None:
            raise SettingError(
                f"case {statement.case_id}: the relation span 'template' needs the fact's template and it has none; "
                "use --relation-span all or after"
            )
        before, _, after = statement.template.partition("{}")
        stop = len(before) + len(statement.subject) + len(after)
        span = tuple(i for i in encoded.span(0, stop) if i in encoded.words and i not in subject)
    else:
        raise SettingError(f"relation span {relation_span!r} is unknown; expected one of {', '.join(RELATION_SPANS)}")
    if not span:
        raise PromptError(
            f"the prompt {encoded.text!r} has no relation token to corrupt (span {relation_span!r}); "
            "use --relation-span all, or a longer prompt"
        )
    return span


def embedding_spread(decoder: Decoder, tokens: Tokens, subjects: Sequence[str]) -> float:
    """Standard deviation (unbiased, over all entries) of the word embeddings of all subjects' tokens: sigma of `s3`.

    In float64 on the processor, so that workers on unlike devices agree on it.
    """
    if not subjects:
        raise SettingError("the noise level s3 needs subjects and got none; give a fact file or a number")
    ids = [i for subject in subjects for i in tokens.ids(subject)]
    with torch.no_grad():
        return decoder.words(torch.tensor([ids], device=decoder.device)).double().cpu().std().item()


def mean_word(decoder: Decoder, ids: Sequence[int]) -> Tensor:
    """The mean (D,) of these tokens' word embeddings, in float64: what the corruption `mean` puts in their place."""
    if not ids:
        raise SettingError("the corruption mean needs tokens to average and got none; give a fact file")
    with torch.no_grad():
        return decoder.words(torch.tensor([list(ids)], device=decoder.device))[0].double().mean(0)


def noise(samples: int, span: int, width: int, draw: int = 0) -> np.ndarray:
    """Unit noise (samples, span, width) in float64; `draw` 1 is what the same generator gives the second time."""
    generator = np.random.RandomState(1)
    for _ in range(draw):
        generator.randn(samples, span, width)
    return generator.randn(samples, span, width)


def corrupt_words(word_1TD: Tensor, span: Sequence[int], level: float, unit_SXD: np.ndarray) -> Tensor:
    """Word embeddings of S corrupted samples (S, T, D): `level` times the unit noise added at `span`, in float64."""
    word_STD = word_1TD.repeat(unit_SXD.shape[0], 1, 1)
    added = torch.from_numpy(level * unit_SXD).to(word_STD.device)
    # Added in float64 and rounded once, as numpy noise is in the released code.
    word_STD[:, list(span)] = (word_STD[:, list(span)].double() + added).to(word_STD.dtype)
    return word_STD
