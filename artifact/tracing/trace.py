"""Causal tracing of one fact: clean, corrupted, and corrupted-with-restoration runs over every (token, layer) cell.

Covers the settings of a trace, the greedy answers that decide which facts are traced, and tracing many facts. The kinds
of trace are in kinds.py, the computation in sweep.py, averages over facts in averages.py. Equations (4) and (5) of the
paper; golden numbers: tests/reference/trace, 1e-5.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from artifact.errors import ArtifactError, DoesNotFit, PromptError, SettingError
from artifact.facts.fact import Perspective, Statement
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, batches, default_memory
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded
from artifact.sizes import dtype_word
from artifact.tracing.attribution import attributed
from artifact.tracing.choices import METRICS, Corruption, Direction, Metric, RelationSpan
from artifact.tracing.corruption import corrupted_tokens, subject_tokens
from artifact.tracing.kinds import KindWord, SeverWord, TraceKind, trace_kind
from artifact.tracing.replacement import donor_ids
from artifact.tracing.sweep import Cells, Swept, sweep
from artifact.tracing.windows import MOST_WINDOW

_MOST_SAMPLES = 10_000
"""All of them are in memory at once."""


@dataclass(frozen=True)
class Measured:
    """One metric of a traced fact: without corruption, with it, and after restoring each (token, layer)."""

    clean: float
    corrupted: float
    scores: list[list[float]]

    @property
    def normalised(self) -> list[list[float]] | None:
        """(score - corrupted) / (clean - corrupted); None where the corruption changes nothing."""
        whole = self.clean - self.corrupted
        return [[(one - self.corrupted) / whole for one in row] for row in self.scores] if whole else None

    def told(self) -> dict[str, Any]:
        """What a record keeps, to six digits."""
        scores = [[_rounded(one) for one in row] for row in self.scores]
        return {"clean": _rounded(self.clean), "corrupted": _rounded(self.corrupted), "scores": scores}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Trace:
    """One traced fact. Probabilities are of the clean greedy answer's first token at the last position, or at the mask.

    `tokens` and `answer` are the tokens' texts; one that holds a part of a character is its bytes, as <0xE6>
    (Tokens.label). scores_TL holds the mean over samples after restoring (token, layer); the indirect effect is
    scores - corrupted. `metrics` are all that the same passes give, `foils` the tokens that `ld` compares with.
    """

    case_id: int
    tokens: tuple[str, ...]
    subject: tuple[int, ...]
    span: tuple[int, ...]
    answer: str
    answer_id: int
    clean: float
    corrupted: float
    scores: list[list[float]]
    metrics: dict[Metric, Measured]
    foils: tuple[str, ...]
    mask: int | None = None
    """An encoder's position of its mask."""

    def told(self) -> dict[str, Any]:
        """What a record of a case keeps: the probabilities, and the other metrics to six digits."""
        left_out = ("case_id", "metrics", *(("mask",) if self.mask is None else ()))
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        return kept | {"metrics": {name: one.told() for name, one in self.metrics.items() if name != "p"}}


@dataclass(frozen=True)
class TraceSettings:
    """What is restored and how: the two words of a kind (kinds.py), window of layers (for windowed kinds), noise.

    `corruption` says what takes the place of the corrupted embeddings: noise, the tokens of donors, or a mean. In the
    direction `restore` clean outputs are put into the corrupted run, in `corrupt` corrupted ones into the clean run.

    `noise_level` multiplies unit noise; `fresh_noise` is the released severed tracing, in which the frozen values come
    from the generator's first draw and the scored run from its second. Raises SettingError for words without a kind
    and numbers out of range.
    """

    noise_level: float
    kind: KindWord = "hidden"
    window: int = 10
    samples: int = 10
    sever: SeverWord | None = None
    fresh_noise: bool = True
    perspective: Perspective = "entity"
    relation_span: RelationSpan = "all"
    corruption: Corruption = "noise"
    direction: Direction = "restore"

    def __post_init__(self) -> None:
        if not (1 <= self.samples <= _MOST_SAMPLES and 1 <= self.window <= MOST_WINDOW):
            raise SettingError(
                f"samples and window must be at least 1, and at most {_MOST_SAMPLES} and {MOST_WINDOW}, got "
                f"{self.samples} and {self.window}; give such numbers"
            )
        if not (self.noise_level > 0 and np.isfinite(self.noise_level)):
            raise SettingError(f"the noise level must be a positive number, got {self.noise_level}; give one, or s3")
        trace_kind(self.kind, self.sever)

    @property
    def trace_kind(self) -> TraceKind:
        """The kind that `kind` and `sever` stand for."""
        return trace_kind(self.kind, self.sever)

    def cells(self, layers: int, donors: int = 0, mean_D: Tensor | None = None, read: int = -1) -> Cells:
        """What a sweep over a model of so many layers restores; with as many `donors`, or `mean_D`, not under noise.
        The answer is read at position `read`.
        """
        kind = self.trace_kind
        return Cells(
            kind.site,
            kind.windows(layers, self.window),
            {"noise": self.samples, "replace": donors, "mean": 1}[self.corruption],
            self.noise_level,
            kind.severed,
            self.fresh_noise and self.corruption == "noise",
            self.direction,
            mean_D,
            read,
        )


_NONE = -1
"""Stands for the answer of a prompt after which the model's numbers are not finite."""


def _not_finite(statement: Statement) -> PromptError:
    return PromptError(
        f"case {statement.case_id}: the model's probabilities after the prompt are not finite; give a model of finite "
        "weights, or less noise"
    )


@torch.no_grad()
def greedy_answers(
    model: LanguageModel, statements: Sequence[Statement], memory: Memory | None = None
) -> list[int | ArtifactError]:
    """The likeliest next token of each prompt, or the likeliest at its mask; an error in the place of a prompt that
    cannot be asked.
    """
    memory = memory or Memory(default_memory(model.decoder.device))
    answers: dict[int, int | ArtifactError] = {}
    asked: dict[int, Encoded] = {}
    for number, statement in enumerate(statements):
        try:
            asked[number] = model.tokens.encode(statement.prompt)
        except ArtifactError as error:
            answers[number] = error
    decoder = model.decoder

    def fitting(left: Sequence[int]) -> int:
        return memory.rows(decoder, 0, max(len(asked[number].ids) for number in left))

    def compute(part: Sequence[int]) -> list[int]:
        rows = [asked[number].ids for number in part]
        aligned = decoder.padded([len(row) for row in rows])
        word_BTD = decoder.words(model.tokens.pad(rows, decoder.device))
        hidden_BTD = decoder.blocks(decoder.embed(word_BTD, aligned=aligned), aligned=aligned)
        read_B = torch.tensor([asked[number].read for number in part], device=decoder.device)
        logits_BV = decoder.logits(hidden_BTD[torch.arange(len(rows), device=decoder.device), read_B])
        finite_B = logits_BV.isfinite().all(-1)
        return logits_BV.argmax(-1).where(finite_B, torch.full_like(finite_B, _NONE, dtype=torch.long)).tolist()

    for part, tokens in batches(list(asked), fitting, compute, memory):
        for number, token in zip(part, tokens, strict=True):
            answers[number] = token if token != _NONE else _not_finite(statements[number])
    return [answers[number] for number in range(len(statements))]


def is_answer(model: LanguageModel, statement: Statement, token: int) -> bool:
    """Whether the statement's expected answer, where its source gives one, begins with `token`, which is no blank.

    A tokenizer that writes digits one by one puts a blank before a year: it says nothing of the year.
    """
    if not statement.answer:
        return True
    try:
        right = token == model.tokens.continuation(f" {statement.answer}")[0]
    except PromptError:
        return False  # a word that is not in the vocabulary is not what the model says
    return right and bool(model.tokens.label(token).strip())


def answered(model: LanguageModel, statements: Sequence[Statement], memory: Memory | None = None) -> list[bool]:
    """Of each statement, whether the model's greedy answer is the one that its source gives (`is_answer`)."""
    said = zip(statements, greedy_answers(model, statements, memory), strict=True)
    return [isinstance(token, int) and is_answer(model, one, token) for one, token in said]


def screen(
    model: LanguageModel,
    statement: Statement,
    settings: TraceSettings,
    metric: Metric,
    donors: Sequence[str] = (),
    mean_D: Tensor | None = None,
) -> np.ndarray:
    """Approximate effects (T, L) of one fact's cells on a metric, by attribution patching (attribution.py)."""
    encoded = model.tokens.encode(statement.prompt)
    span = corrupted_tokens(encoded, statement, settings.perspective, settings.relation_span)
    ids = _donors(model, encoded, span, settings, donors)
    cells = settings.cells(model.decoder.layers, len(ids), mean_D, encoded.read)
    return attributed(model.decoder, encoded.ids, span, cells, metric, ids)


class _Asked(NamedTuple):
    """A statement by its place in the list, its tokens, and those to corrupt."""

    number: int
    statement: Statement
    encoded: Encoded
    span: tuple[int, ...]
    donors: tuple[tuple[int, ...], ...]
    only: Collection[int] | None


def trace(
    model: LanguageModel,
    statement: Statement,
    settings: TraceSettings,
    memory: Memory | None = None,
    donors: Sequence[str] = (),
    mean_D: Tensor | None = None,
) -> Trace:
    """Trace one fact. Raises PromptError for a prompt, subject or donor the model cannot be asked with."""
    (traced,) = trace_all(model, [statement], settings, memory, [donors], mean_D)
    if isinstance(traced, ArtifactError):
        raise traced
    return traced


def trace_all(
    model: LanguageModel,
    statements: Sequence[Statement],
    settings: TraceSettings,
    memory: Memory | None = None,
    donors: Sequence[Sequence[str]] | None = None,
    mean_D: Tensor | None = None,
    only: Sequence[Collection[int]] | None = None,
) -> list[Trace | ArtifactError]:
    """Trace many facts, those of one length together; an error in the place of one that cannot be traced.

    With `only`, these tokens of each statement alone are restored, and the scores of others are nan. The corruption
    `replace` needs `donors`, each statement's prompts (replacement.py), and `mean` an embedding, mean_D; SettingError
    where they are missing.
    """
    if settings.corruption == "mean" and mean_D is None:
        raise SettingError("the corruption mean needs an embedding and got none; give one (replacement.mean_of)")
    memory = memory or Memory(default_memory(model.decoder.device))
    traced: dict[int, Trace | ArtifactError] = {}
    alike: dict[tuple[int, int, int], list[_Asked]] = {}
    for number, statement in enumerate(statements):
        try:
            encoded = model.tokens.encode(statement.prompt)
            span = corrupted_tokens(encoded, statement, settings.perspective, settings.relation_span)
            ids = _donors(model, encoded, span, settings, donors[number] if donors else ())
        except ArtifactError as error:
            traced[number] = error
        else:
            alike.setdefault((len(encoded.ids), len(ids), encoded.read), []).append(
                _Asked(number, statement, encoded, span, ids, only[number] if only else None)
            )
    _check_noise(settings.noise_level, model.decoder)
    for _, asked in sorted(alike.items()):
        traced |= _trace_one_length(model, asked, settings, memory, mean_D)
    return [traced[number] for number in range(len(statements))]


def _donors(
    model: LanguageModel, encoded: Encoded, span: Sequence[int], settings: TraceSettings, prompts: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    if settings.corruption != "replace":
        return ()
    if not prompts:
        raise PromptError(f"the prompt {encoded.text!r} has no donor to replace its tokens; give one")
    return tuple(donor_ids(model.tokens, encoded, span, prompt) for prompt in prompts)


def _trace_one_length(
    model: LanguageModel, asked: Sequence[_Asked], settings: TraceSettings, memory: Memory, mean_D: Tensor | None
) -> dict[int, Trace | ArtifactError]:
    """The traces of statements of as many tokens and donors, read at one position, by their places in the list."""
    donors, tokens = len(asked[0].donors), len(asked[0].encoded.ids)
    cells = settings.cells(model.decoder.layers, donors, mean_D, asked[0].encoded.read)

    def fitting(left: Sequence[_Asked]) -> int:
        # Severed under fresh noise, one run is scored and the outputs of another are frozen; in the direction `corrupt`
        # the clean run is kept once for every sample.
        runs = 2 if cells.fresh or cells.direction == "corrupt" else 1
        return memory.facts(model.decoder, tokens, cells.samples, runs)

    def compute(part: Sequence[_Asked]) -> Swept | DoesNotFit:
        ids, spans = [one.encoded.ids for one in part], [one.span for one in part]
        chosen = [one.only for one in part if one.only is not None]
        of_donors = [one.donors for one in part] if donors else None
        return sweep(model.decoder, ids, spans, cells, memory, of_donors, chosen or None)

    def alone(one: _Asked) -> Swept | DoesNotFit:
        return DoesNotFit(
            f"case {one.statement.case_id}: one fact of {tokens} tokens, {cells.samples} samples does not fit the "
            "device's memory; take a larger device, or fewer --samples"
        )

    return {
        one.number: swept if isinstance(swept, DoesNotFit) else _trace_of(model, one, swept, f)
        for part, swept in batches(asked, fitting, compute, memory, alone)
        for f, one in enumerate(part)
    }


def _trace_of(model: LanguageModel, one: _Asked, swept: Swept, f: int) -> Trace | ArtifactError:
    """Fact f of a sweep as a Trace; PromptError where its numbers are not finite."""
    tokens = range(len(one.encoded.ids)) if one.only is None else one.only
    if not np.isfinite([swept.clean_F[f], swept.corrupted_F[f], *swept.scores_FTL[f, [*tokens]].flat]).all():
        return _not_finite(one.statement)
    metrics = {
        metric: Measured(
            float(swept.clean_QF[q, f]), float(swept.corrupted_QF[q, f]), swept.metrics_QFTL[q, f].tolist()
        )
        for q, metric in enumerate(METRICS)
    }
    return Trace(
        case_id=one.statement.case_id,
        tokens=tuple(model.tokens.label(i) for i in one.encoded.ids),
        subject=subject_tokens(one.encoded, one.statement),
        span=one.span,
        answer=model.tokens.label(swept.answer_F[f]),
        answer_id=swept.answer_F[f],
        clean=swept.clean_F[f],
        corrupted=swept.corrupted_F[f],
        scores=swept.scores_FTL[f].tolist(),
        metrics=metrics,
        foils=tuple(model.tokens.label(foil) for foil in swept.foil_F[f]),
        mask=one.encoded.mask,
    )


def _check_noise(level: float, decoder: Decoder) -> None:
    """Raise SettingError for noise that is beyond the model's type, as it is or squared: layer norms square it."""
    # Of 1e19 draws one is above nine standard deviations; norms are computed in float32 at least.
    square = torch.finfo(torch.float32).max / decoder.width
    most = min(torch.finfo(decoder.dtype).max, square**0.5) / 9
    if level > most:
        word = dtype_word(decoder.dtype)
        raise SettingError(f"the noise level {level:g} is beyond what {word} holds; give at most {most:.0g}, or s3")
