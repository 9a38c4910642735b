"""What takes the place of corrupted tokens: donors, whose prompts replace a fact's, and the mean of many tokens.

Covers symmetric token replacement (arXiv 2309.16042): donors named for one prompt, donors of a whole data set with the
reason where a fact has none, and the mean embedding over the corrupted tokens of all facts.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from artifact.errors import ArtifactError, PromptError
from artifact.facts.fact import Perspective, Statement, fill
from artifact.facts.subject import subject_start
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded, Tokens
from artifact.terminal import short
from artifact.tracing.choices import RelationSpan
from artifact.tracing.corruption import corrupted_tokens, mean_word, subject_tokens

MOST_DONORS = 5
"""Donors of a fact, in the place of noise samples."""


def donor_prompt(statement: Statement, perspective: Perspective, donor: str) -> str:
    """The prompt that replaces a statement's: another subject in its wording, or its subject in another wording.

    `donor` is the other subject, or from the relation's perspective the other wording, with {} for the subject.
    PromptError for a blank subject, or a wording without exactly one {}.
    """
    if perspective == "entity":
        if not donor.strip() or donor != donor.strip():
            raise PromptError(f"the donor {short(donor)!r} is blank or has blanks at its ends; give another subject")
        start = subject_start(statement.prompt, statement.subject, statement.template)
        return statement.prompt[:start] + donor + statement.prompt[start + len(statement.subject) :]
    if donor.count("{}") != 1:
        raise PromptError(
            f"the donor {short(donor)!r} does not hold {{}} once; from the relation's perspective a donor is another "
            "wording with {} for the subject"
        )
    return fill(donor, statement.subject)


def donor_ids(tokens: Tokens, encoded: Encoded, span: Sequence[int], prompt: str) -> tuple[int, ...]:
    """The ids of a donor's prompt; PromptError unless they differ from the traced ones, and within `span` alone."""
    ids = tokens.encode(prompt).ids
    if len(ids) != len(encoded.ids):
        raise PromptError(
            f"the donor's prompt {short(prompt)!r} has {len(ids)} tokens and the traced one {len(encoded.ids)}; give a "
            "donor of as many"
        )
    differing = {at for at, (one, other) in enumerate(zip(ids, encoded.ids, strict=True)) if one != other}
    if not differing:
        raise PromptError(f"the donor's prompt {short(prompt)!r} is the traced one; give another donor")
    if not differing <= set(span):
        raise PromptError(
            f"the donor's prompt {short(prompt)!r} differs from the traced one in tokens that are not to be corrupted; "
            "give a donor with as many tokens before and after the subject"
        )
    return ids


class _Told(NamedTuple):
    """A statement with its tokens, the subject's positions, and the wording around the subject."""

    statement: Statement
    encoded: Encoded
    subject: tuple[int, ...]
    wording: tuple[str, str]


def find_donors(
    tokens: Tokens, statements: Sequence[Statement], perspective: Perspective, most: int | None = MOST_DONORS
) -> list[tuple[str, ...] | str]:
    """For each statement the prompts of at most `most` donors among the others (None: of all), or why it has none.

    Entity: other subjects of the same relation and wording, with as many tokens and another answer. Relation: other
    relations of the same subject, with as many tokens before and after it and another answer. Their order is drawn by
    the statement's case id; fewer are the first of more.
    """
    told: list[_Told | str] = []
    groups: dict[object, list[_Told]] = {}
    for statement in statements:
        try:
            encoded = tokens.encode(statement.prompt)
            start = subject_start(statement.prompt, statement.subject, statement.template)
            stop = start + len(statement.subject)
            wording = statement.prompt[:start], statement.prompt[stop:]
            one = _Told(statement, encoded, subject_tokens(encoded, statement), wording)
        except ArtifactError as error:
            told.append(str(error))
            continue
        told.append(one)
        groups.setdefault(_group(one, perspective), []).append(one)
    return [
        one if isinstance(one, str) else _donors(one, groups[_group(one, perspective)], perspective, most)
        for one in told
    ]


def _group(one: _Told, perspective: Perspective) -> object:
    return (one.statement.relation_id, one.wording) if perspective == "entity" else one.statement.subject


def _donors(one: _Told, group: Sequence[_Told], perspective: Perspective, most: int | None) -> tuple[str, ...] | str:
    own = one.statement
    if perspective == "entity":
        others = [other for other in group if other.statement.subject != own.subject]
        what = "no other subject has this relation and wording"
    else:
        others = [
            other for other in group if other.wording != one.wording and other.statement.relation_id != own.relation_id
        ]
        what = "no other relation of this subject is known"
    if not others:
        return f"no donor: {what}"
    alike = [other for other in others if _as_long(one, other)]
    if not alike:
        return "no donor: none has as many tokens before, in and after the subject"
    answered = {o.statement.prompt for o in alike if o.statement.answer and o.statement.answer != own.answer}
    if not answered:
        return "no donor: none has another known answer"
    return tuple(random.Random(own.case_id).sample(sorted(answered), len(answered))[:most])


def _as_long(one: _Told, other: _Told) -> bool:
    return one.subject == other.subject and len(one.encoded.ids) == len(other.encoded.ids)


def mean_of(
    model: LanguageModel,
    statements: Sequence[Statement],
    perspective: Perspective,
    relation_span: RelationSpan = "all",
) -> Tensor:
    """The mean word embedding (D,) over the corrupted tokens of all statements that can be asked, in float64."""
    ids: list[int] = []
    for statement in statements:
        try:
            encoded = model.tokens.encode(statement.prompt)
            ids += [encoded.ids[at] for at in corrupted_tokens(encoded, statement, perspective, relation_span)]
        except PromptError:
            continue  # such a statement is traced by no command
    return mean_word(model.decoder, ids)
