"""Facts like CounterFact's over made-up words of one token each, and a tokenizer that holds exactly such words.

Covers what a benchmark of edits asks with: records with both views, context prefixes, and a word-level tokenizer that
fills a shape's vocabulary, so that neither hub nor tokenizer file is needed. Lengths follow CounterFact under GPT-2's
tokens: subjects of 3, prompts of 8 to 10, rephrasings of 15. The words mean nothing, and the models asked have random
weights: only time, memory and agreement can be read off them.
"""

from collections.abc import Sequence
from itertools import product
from string import ascii_lowercase

import numpy as np

from artifact.editing.prefixes import BARE
from artifact.facts.fact import NO_RELATION, Fact
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
    """`count` facts with both views, 2 rephrasings in each, 10 neighbours, and objects of `target_tokens` tokens."""
    draw = _Draw(vocabulary, seed)
    return [_fact(draw, case, target_tokens) for case in range(count)]


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

    def template(self, tokens: int) -> str:
        """A prompt's wording of that many tokens with its subject: up to three before it, at least one behind."""
        before = int(self._random.integers(0, min(4, tokens - SUBJECT)))
        return f"{self.text(before)} {{}} {self.text(tokens - SUBJECT - before)}".strip()

    def length(self) -> int:
        return int(self._random.integers(8, 11))


def _fact(draw: _Draw, case: int, target_tokens: int) -> Fact:
    subject, template = draw.text(SUBJECT), draw.template(draw.length())
    true, new, relation = (draw.text(target_tokens) for _ in range(3))
    # "The relation between s and o is": three words, the subject, one word, the object, one word.
    add = f"{draw.text(3)} {{}} {draw.text(1)} {{o}} {draw.text(1)}"
    other = f"{draw.text(4)} {{}} {draw.text(1)} {{o}} {draw.text(2)}"
    return Fact(
        case_id=case,
        subject=subject,
        relation_id="synthetic",
        template=template,
        object_true=true,
        object_new=new,
        # A sentence of another text, then the question in other words.
        paraphrases=tuple(f"{draw.text(6)}. {draw.template(8).replace('{}', subject)}" for _ in range(2)),
        neighbourhood=tuple(template.replace("{}", draw.text(SUBJECT)) for _ in range(NEIGHBOURS)),
        relation=relation,
        add_template=add.replace("{o}", new),
        removal_template=add.replace("{o}", true),
        relation_paraphrases=tuple(
            text.replace("{}", subject).replace("{o}", new) for text in (other, f"{draw.text(1)} {other}")
        ),
    )


def _words(vocabulary: int) -> list[str]:
    """As many words of four letters as fit the vocabulary with both of their forms."""
    room = (vocabulary - len(_FIXED)) // 2
    return ["".join(letters) for letters, _ in zip(product(ascii_lowercase, repeat=4), range(room), strict=False)]
