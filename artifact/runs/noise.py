"""The noise of traces: its level from `--noise`, or from the embeddings of the words that a run corrupts."""

from collections.abc import Callable, Sequence

from artifact.errors import PromptError, SettingError
from artifact.facts.datasets import built_in_for
from artifact.lm.load import LanguageModel
from artifact.runs.describe import close
from artifact.tracing.corruption import embedding_spread


def noise_level(asked: str, model: LanguageModel, subjects: list[str] | None = None) -> float:
    """The level of `--noise`: a number, or s3, three standard deviations of the subjects' word embeddings.

    Without `subjects` those of the model's built-in facts are used.
    """
    if asked == "s3":
        subjects = subjects or [fact.subject for fact in built_in_for(model.name).facts]
        return 3 * embedding_spread(model.decoder, model.tokens, subjects)
    return noise_number(asked)


def kept_level(found: float, begun: float | None) -> float:
    """The level that a run was begun with, where today's is the same but for its last digits.

    Sums over embeddings depend in these on the number of threads, the processor and the device.
    """
    return begun if begun is not None and close(found, begun) else found


def readable(model: LanguageModel, words: Sequence[str], source: str, say: Callable[[str], None]) -> list[str]:
    """The words that the model can read; the others are reported and left out of the noise level.

    A trace that needs one of them is a failed case with its reason. Raises PromptError where none is left.
    """
    left, refused = [], []
    for word in words:
        try:
            model.tokens.ids(word)
        except PromptError as error:
            refused.append(error)
        else:
            left.append(word)
    if refused and not left:
        raise refused[0]
    if refused:
        say(f"noise level: {len(refused)} of {len(words)} {source} left out (the first: {refused[0]})")
    return left


def noise_number(asked: str) -> float:
    """The level of `--noise` that is given as a number; SettingError for anything else."""
    try:
        return float(asked)
    except ValueError:
        raise SettingError(f"noise {asked[:40]!r} is neither s3 nor a number; give one of these") from None
