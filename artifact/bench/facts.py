"""Facts like CounterFact's over made-up words of one token each, and a tokenizer that holds exactly such words.

Covers what benchmarks and the rehearsal ask with: records with both perspectives, statements to trace, context
prefixes, and a word-level tokenizer that fills a shape's vocabulary, so that neither hub nor tokenizer file is needed.
A benchmark's lengths follow CounterFact under GPT-2's tokens: subjects of 3, prompts of 8 to 10, rephrasings of 15; the
rehearsal's are those of single known facts (paper_facts, paper_statements). The words mean nothing, and the models
asked have random weights: only time, memory and agreement can be read off them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from string import ascii_lowercase

import numpy as np

from artifact.editing.prefixes import BARE
from artifact.facts.fact import NO_RELATION, Fact, Statement, fill
from artifact.lm.tokens import Tokens

SUBJECT = 3
NEIGHBOURS = 10
_END, _UNKNOWN = "<|endoftext|>", "<|unk|>"
_FIXED = (_END, _UNKNOWN, ".", NO_RELATION, f"Ġ{NO_RELATION}", "Ġis", "Ġa")
"""What the methods' own wording needs beside the made-up words."""


def word_tokens(vocabulary: int, limit: int) -> Tokens:
    """A tokenizer of `vocabulary` words, each with and without its leading space, as GPT-2's has; id 0 ends a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = [*_FIXED, *(entry for word in _words(vocabulary) for entry in (word, f"Ġ{word}"))]
    entries += [f"<|{number}|>" for number in range(len(entries), vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in (_END, _UNKNOWN)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, unk_token=_UNKNOWN)
    return Tokens(fast, limit)


def synthetic_facts(vocabulary: int, count: int, target_tokens: int = 1, seed: int = 0) -> list[Fact]:
    """`count` facts of both perspectives, 2 rephrasings each, 10 neighbours, and objects of `target_tokens` tokens."""
    draw = _Draw(vocabulary, seed)
    return [
        _fact(draw, case, _Lengths(None, SUBJECT, draw.length(), target_tokens, target_tokens)) for case in range(count)
    ]


def synthetic_prefixes(vocabulary: int, lengths: Sequence[tuple[int, int]], seed: int = 1) -> list[str]:
    """The bare prompt's template and, for each (tokens, how many), that many templates "text. {}"."""
    draw = _Draw(vocabulary, seed)
    return [BARE, *(f"{draw.text(tokens)}. {{}}" for tokens, count in lengths for _ in range(count))]


class _Draw:
    """Texts of distinct words, seeded."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self._words = _words(vocabulary)
        self._random = np.random.default_rng(seed)

    def text(self, words: int) -> str:
        """`words` words with spaces between them; empty for none."""
        return " ".join(self._words[i] for i in self._random.choice(len(self._words), words, replace=False))

    def template(self, tokens: int, subject: int = SUBJECT, before: int | None = None) -> str:
        """A prompt's wording of that many tokens with its subject: up to three before it unless given, the rest after
        it, at least one.
        """
        if before is None:
            before = int(self._random.integers(0, min(4, tokens - subject)))
        return f"{self.text(before)} {{}} {self.text(tokens - subject - before)}".strip()

    def length(self) -> int:
        return int(self._random.integers(8, 11))


@dataclass(frozen=True)
class _Lengths:
    """Tokens of a record: before its subject, of it and after it in the rewrite prompt, of relation and objects."""

    before: int | None
    subject: int
    prompt: int
    relation: int
    objects: int = 1
    other: int | None = None
    lead: int = 6
    """Tokens of the sentence of another text before a rephrasing."""
    asked: int = 2
    """Rephrasings of the relation prompt."""


def _fact(draw: _Draw, case: int, lengths: _Lengths) -> Fact:
    subject, template = draw.text(lengths.subject), draw.template(lengths.prompt, lengths.subject, lengths.before)
    true, new = (draw.text(lengths.objects) for _ in range(2))
    # "The relation between s and o is": three words, the subject, one word, the object, one word.
    add = f"{draw.text(3)} {{}} {draw.text(1)} {{o}} {draw.text(1)}"
    other = f"{draw.text(4)} {{}} {draw.text(1)} {{o}} {draw.text(2)}"
    rephrasing = max(8, lengths.subject + 1)
    wordings = [other, f"{draw.text(1)} {other}"]
    wordings += [f"{draw.text(2)} {{}} {draw.text(2)} {{o}} {draw.text(2)}" for _ in range(lengths.asked - 2)]
    return Fact(
        case_id=case,
        subject=subject,
        relation_id="synthetic",
        template=template,
        object_true=true,
        object_new=new,
        # A sentence of another text, then the question in other words.
        paraphrases=tuple(
            f"{draw.text(lengths.lead)}. {fill(draw.template(rephrasing, lengths.subject), subject)}" for _ in range(2)
        ),
        neighbourhood=tuple(fill(template, draw.text(lengths.subject)) for _ in range(NEIGHBOURS)),
        relation=draw.text(lengths.relation),
        add_template=add.replace("{o}", new),
        removal_template=add.replace("{o}", true),
        relation_paraphrases=tuple(fill(text, subject).replace("{o}", new) for text in wordings),
        another_relation=draw.text(lengths.other) if lengths.other else None,
    )


def paper_facts(vocabulary: int, count: int) -> list[Fact]:
    """`count` facts of both perspectives, as long in tokens as real ones (bench/work.py's PAPER_LENGTHS)."""
    draw = _Draw(vocabulary, 2)
    return [
        _fact(draw, case, _Lengths(before, subject, before + subject + after, relation, other=other, lead=11, asked=5))
        for case, (before, subject, after, relation, other) in enumerate(islice(cycle(_EDITED), count))
    ]


def paper_statements(vocabulary: int, count: int) -> list[Statement]:
    """`count` statements to trace that have the lengths of real ones in tokens; they expect no answer."""
    draw = _Draw(vocabulary, 3)

    def made() -> Iterator[Statement]:
        for case, (before, subject, after) in enumerate(islice(cycle(_TRACED), count)):
            text, template = draw.text(subject), draw.template(before + subject + after, subject, before)
            yield Statement(case, fill(template, text), text, template)

    return list(made())


_EDITED = (
    (0, 7, 3, 1, 2), (0, 2, 5, 1, 2), (4, 5, 3, 2, 2), (0, 5, 5, 3, 1), (0, 5, 5, 3, 1), (0, 3, 5, 1, 1),
    (0, 3, 3, 2, 2), (0, 6, 3, 3, 2), (0, 6, 3, 1, 2), (4, 6, 1, 2, 1), (0, 7, 7, 2, 2), (0, 5, 3, 1, 3),
    (0, 2, 3, 2, 2), (0, 3, 6, 1, 2), (0, 8, 6, 3, 3), (0, 4, 3, 1, 1), (4, 6, 1, 2, 3), (0, 9, 5, 1, 2),
    (0, 6, 6, 1, 2), (1, 3, 5, 2, 1), (0, 2, 4, 1, 3), (0, 3, 5, 1, 2), (0, 1, 3, 1, 1), (0, 2, 3, 1, 2),
    (0, 2, 4, 1, 1), (0, 5, 3, 2, 1), (4, 3, 4, 2, 3), (0, 4, 3, 1, 2), (0, 4, 3, 3, 2), (0, 7, 3, 3, 3),
    (0, 6, 5, 1, 1), (0, 6, 4, 1, 2),
)  # fmt: skip
"""Of 32 edit cases of the known facts under GPT-2's tokens: before the subject, of it, after it, of the relation and of
the other relation. Drawn at random among many draws so that the means of the first 4, 8, 16 and 32 are nearest to those
of all 1,032, and the longest of the first 16 to the mean over batches of 16."""
_TRACED = (
    (0, 3, 7), (0, 3, 6), (0, 3, 7), (0, 5, 4), (0, 3, 4), (0, 2, 5), (5, 6, 5), (0, 4, 5),
    (0, 4, 2), (0, 1, 3), (0, 3, 8), (0, 4, 3), (0, 4, 10), (0, 5, 6), (0, 10, 5), (0, 3, 6),
)  # fmt: skip
"""Of 16 known facts that are traced, drawn likewise: before the subject, of it, after it."""


def _words(vocabulary: int) -> list[str]:
    """As many words of four letters as fit the vocabulary with both of their forms."""
    room = (vocabulary - len(_FIXED)) // 2
    return ["".join(letters) for letters, _ in zip(product(ascii_lowercase, repeat=4), range(room), strict=False)]
