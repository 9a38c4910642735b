"""Where a subject stands in its prompt, and which subjects and templates are refused: the same for every command.

A subject that occurs twice, or inside another word ("Francetown"), would give the numbers of something else.
"""

import unicodedata

from artifact.errors import PromptError
from artifact.terminal import short

_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts whose words stand without spaces, or take particles without one (Korean): there a letter beside a word is not
a part of it."""


def subject_start(prompt: str, subject: str, template: str | None = None) -> int:
    """Where `subject` begins in `prompt`: where a template puts it, else its only occurrence.

    PromptError for an empty prompt; for a subject that is blank, has blanks at its ends, or is not in the prompt;
    without a template, for one that occurs more than once or inside a word; for a template that does not hold "{}"
    once, or that does not open the prompt when it is filled.
    """
    if not prompt.strip():
        raise PromptError("the prompt is empty; expected a text of at least one token")
    if not subject.strip():
        raise PromptError("the subject is blank; give a text that the prompt contains")
    if subject != subject.strip():
        raise PromptError(f"the subject {short(subject)!r} has blanks at its ends; write it without them")
    start = prompt.find(subject)
    named = f"subject {short(subject)!r}"
    if start < 0:
        raise PromptError(f"{named} is not in the prompt {short(prompt)!r}; give one that occurs in it")
    if template is not None:
        return _placed(prompt, subject, template)
    if prompt.find(subject, start + 1) >= 0:
        raise PromptError(
            f"{named} occurs more than once in the prompt {short(prompt)!r}; give a template, the prompt with {{}} for "
            "the one that is meant"
        )
    if _inside_a_word(prompt, start, start + len(subject)):
        raise PromptError(
            f"{named} stands inside a word of the prompt {short(prompt)!r}; give the whole word, or a template, the "
            "prompt with {} for the subject"
        )
    return start


def _placed(prompt: str, subject: str, template: str) -> int:
    if template.count("{}") != 1:
        raise PromptError(
            f"the template must hold exactly one {{}} for the subject, got {short(template)!r}; correct it"
        )
    if not prompt.startswith(template.replace("{}", subject)):
        raise PromptError(
            f"the prompt {short(prompt)!r} does not open with the template {short(template)!r} filled with the subject "
            f"{short(subject)!r}; correct one of them"
        )
    return template.index("{}")


def _inside_a_word(text: str, start: int, stop: int) -> bool:
    """Whether a letter, digit or accent goes on directly before or after a part of the text that is one there, too."""
    before = start > 0 and _joins(text[start - 1], text[start])
    return before or (stop < len(text) and _joins(text[stop - 1], text[stop]))


def _joins(left: str, right: str) -> bool:
    if unicodedata.category(right).startswith("M"):  # an accent on the letter before it
        return True
    return _of_a_word(left) and _of_a_word(right)


def _of_a_word(letter: str) -> bool:
    if unicodedata.category(letter)[0] not in "LNM":
        return False
    return not unicodedata.name(letter, "").startswith(_WITHOUT_SPACES)
