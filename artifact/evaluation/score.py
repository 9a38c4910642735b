"""NLL of continuations under an edit, for many cases at once, each row of a batch under its own case's edit.

Covers what the tables need: every prompt of both perspectives with its continuations (target, foil, and the relation
perspective's harder foil), teacher forced, as `prompt + " " + text`; in an encoder, one word piece at the prompt's
mask. All texts of a case make one row, in which a shared beginning, or an encoder's prompt, is computed once.
metrics.py says what the numbers mean. Golden numbers: tests/reference/eval and the metrics of
tests/reference/rake_rome, 1e-4.

Shape letters as in lm/decoder.py, and P read positions, N tokens scored there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from artifact.editing.edit import Edit, row_edits
from artifact.errors import EditError, PromptError
from artifact.evaluation.metrics import GROUPS, OPTIONAL, CaseScore, Group, PromptScore, view_score
from artifact.facts.fact import NO_RELATION, Fact, Perspective, fill
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, batches, default_memory, row_bytes
from artifact.lm.family import RowEdits
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Encoded

BATCH_TOKENS = 4096
"""Padded tokens a pass: sized so that GPT-2 XL's widest layer stays under 0.2 GB in float32."""
PADDING = 0.15
"""Most padding of any row, as a share of its tokens: a batch ends where rows grow longer than that."""


@dataclass(frozen=True)
class _Continuation:
    """What is `fed` of a prompt and its continuation, whose last id is only read; its ids are read from the position
    `read` on. `whole`: all tokens of the prompt see each other, as in an encoder.
    """

    case: int
    read: int
    fed: tuple[int, ...]
    text: tuple[int, ...]
    whole: bool

    @classmethod
    def of(cls, model: LanguageModel, case: int, prompt: Encoded, text: str) -> "_Continuation":
        ids = tuple(model.tokens.continuation(f" {text}"))
        return cls(case, prompt.read, model.tokens.fed(prompt, ids), ids, prompt.mask is not None)


_Reading = tuple[float, bool]
"""Mean NLL of a continuation, and whether all its tokens are the argmax."""
_Asked = list[tuple[str, list[_Continuation]]]
"""Prompts with their continuations."""
_View = tuple[dict[Group, _Asked], str | None]
"""Each group's prompts, and the name of the harder foil."""


def score_cases(
    model: LanguageModel,
    facts: Sequence[Fact],
    edits: Sequence[Edit] | Edit | None = None,
    memory: Memory | None = None,
) -> list[CaseScore]:
    """Scores of every fact's views: unedited, under one edit each (a sequence), or all under one edit.

    Cases go in batches that fit `memory`. Raises PromptError for a prompt the model cannot be asked with, EditError for
    a case whose score is not finite.
    """
    contexts = _contexts(edits, len(facts))
    cases = [_asked(model, case, fact, contexts[case]) for case, fact in enumerate(facts)]
    asked = [prompts for views in cases for groups, _ in views.values() for prompts in groups.values()]
    wanted = dict.fromkeys(text for prompts in asked for _, texts in prompts for text in texts)
    readings = _finite_readings(model, facts, list(wanted), edits, memory)

    def scores(prompts: _Asked) -> list[PromptScore]:
        return [_prompt_score(prompt, [readings[text] for text in texts]) for prompt, texts in prompts]

    return [
        CaseScore(
            fact.case_id,
            {
                perspective: view_score({group: scores(prompts) for group, prompts in groups.items()}, foil)
                for perspective, (groups, foil) in views.items()
            },
        )
        for fact, views in zip(facts, cases, strict=True)
    ]


def cannot_be_asked(model: LanguageModel, facts: Sequence[Fact], removal: bool = False) -> dict[int, str]:
    """Why the model cannot be asked with a text of a fact, by case id, for the facts of which it cannot; with `removal`
    the "rm" prompt is one of them.
    """
    found: dict[int, str] = {}
    for fact in facts:
        try:
            _asked(model, 0, fact)
            if removal:
                _asked_to_remove(model, 0, fact)
        except PromptError as error:
            found[fact.case_id] = str(error).removeprefix(f"case {fact.case_id}: ")
    return found


def _prompt_score(prompt: str, readings: Sequence[_Reading]) -> PromptScore:
    (new, new_right), (true, true_right), *another = readings
    return PromptScore(prompt, new, true, new_right, true_right, another[0][0] if another else None)


def removals(
    model: LanguageModel,
    facts: Sequence[Fact],
    edits: Sequence[Edit] | Edit | None = None,
    memory: Memory | None = None,
) -> list[PromptScore | None]:
    """Of every fact, whether the old relation is still stated: the "rm" prompt with the word "None" and the relation as
    its new and true continuations. None for a fact without relation fields. Arguments and errors as of `score_cases`.
    """
    contexts, asked = _contexts(edits, len(facts)), dict[int, tuple[str, list[_Continuation]]]()
    for case, fact in enumerate(facts):
        if (one := _asked_to_remove(model, case, fact, contexts[case])) is not None:
            asked[case] = one
    wanted = dict.fromkeys(text for _, texts in asked.values() for text in texts)
    readings = _finite_readings(model, facts, list(wanted), edits, memory)
    scores = {
        case: _prompt_score(prompt, [readings[text] for text in texts]) for case, (prompt, texts) in asked.items()
    }
    return [scores.get(case) for case in range(len(facts))]


def _contexts(edits: Sequence[Edit] | Edit | None, cases: int) -> list[str]:
    """What each case's edit puts before its prompts."""
    if edits is None or isinstance(edits, Edit):
        return ["" if edits is None else edits.context] * cases
    return [edit.context for edit in edits]


def _asked(model: LanguageModel, case: int, fact: Fact, context: str = "") -> dict[Perspective, _View]:
    """What is asked of one fact, by perspective; PromptError, with its case id, where the model cannot be asked so."""
    views: dict[Perspective, _View] = {}
    try:
        for view in fact.views():
            foils = (view.foil,) if view.harder_foil is None else (view.foil, view.harder_foil)
            own = dict(view.answers)
            groups: dict[Group, _Asked] = {
                group: [] for group in GROUPS if group not in OPTIONAL or getattr(view, group)
            }
            for group, prompts in groups.items():
                for prompt in getattr(view, group):
                    against = (own[prompt],) if prompt in own else foils
                    encoded = model.tokens.encode(context + prompt)
                    asked = [_Continuation.of(model, case, encoded, text) for text in (view.target, *against)]
                    prompts.append((prompt, asked))
            views[view.perspective] = (groups, view.harder_foil)
    except PromptError as error:
        raise PromptError(f"case {fact.case_id}: {error}") from None
    return views


def _asked_to_remove(
    model: LanguageModel, case: int, fact: Fact, context: str = ""
) -> tuple[str, list[_Continuation]] | None:
    """The "rm" prompt and its two continuations; None for a fact without relation fields."""
    if fact.relation is None or fact.removal_template is None:
        return None
    prompt = fill(fact.removal_template, fact.subject)
    encoded = model.tokens.encode(context + prompt)
    return prompt, [_Continuation.of(model, case, encoded, text) for text in (NO_RELATION, fact.relation)]


def _finite_readings(
    model: LanguageModel,
    facts: Sequence[Fact],
    wanted: Sequence[_Continuation],
    edits: Sequence[Edit] | Edit | None,
    memory: Memory | None,
) -> dict[_Continuation, _Reading]:
    """What `_read` reads; EditError, which names the case, for a loss that is not finite."""
    readings = _read(model, wanted, edits, memory or Memory(default_memory(model.decoder.device)))
    for text, (nll, _) in readings.items():
        if not math.isfinite(nll):
            under = "its edit" if edits is not None else "the model"
            raise EditError(f"case {facts[text.case].case_id}: the loss of a text under {under} is {nll}, not finite")
    return readings


def _read(
    model: LanguageModel, wanted: Sequence[_Continuation], edits: Sequence[Edit] | Edit | None, memory: Memory
) -> dict[_Continuation, _Reading]:
    """What is read for each continuation: cases of like lengths in batches, smallest first."""
    packed: dict[int, _Packed] = {}
    for text in wanted:
        packed.setdefault(text.case, _Packed()).add(text)
    order = sorted(packed, key=lambda case: len(packed[case].ids))
    readings: dict[_Continuation, _Reading] = {}

    def fitting(left: Sequence[int]) -> int:
        count = _together([len(packed[case].ids) for case in left])
        return min(count, memory.limit // 2 // max(_case_bytes(model.decoder, packed[case]) for case in left[:count]))

    def compute(batch: Sequence[int]) -> tuple[list[float], list[bool]]:
        of_rows = None
        if edits is not None:
            of_rows = row_edits([edits], [0] * len(batch)) if isinstance(edits, Edit) else row_edits(edits, batch)
        return _read_batch(model, [packed[case] for case in batch], of_rows)

    for batch, (nll, right) in batches(order, fitting, compute, memory):
        position = 0
        for text in (text for case in batch for text in packed[case].paths):
            part = slice(position, position + len(text.text))
            readings[text] = (sum(nll[part]) / len(text.text), all(right[part]))
            position = part.stop
    return readings


@torch.no_grad()
def _read_batch(
    model: LanguageModel, batch: Sequence["_Packed"], edits: RowEdits | None
) -> tuple[list[float], list[bool]]:
    """NLL of every token of every continuation, row after row, and whether it is the argmax."""
    decoder = model.decoder
    # Continuations of one token read the same position: its logits are made once.
    places: dict[tuple[int, int], int] = {}
    reads = [
        (places.setdefault((row, at), len(places)), token)
        for row, packed in enumerate(batch)
        for text, path in packed.paths.items()
        for at, token in zip(path[text.read : text.read + len(text.text)], text.text, strict=True)
    ]
    aligned = _aligned(batch, decoder.device)
    word_BTD = decoder.words(model.tokens.pad([packed.ids for packed in batch], decoder.device, whole=False))
    hidden_BTD = decoder.blocks(decoder.embed(word_BTD, aligned=aligned), aligned=aligned, edits=edits)
    row_P, at_P = torch.tensor(list(places), device=decoder.device).unbind(1)
    log_PV = decoder.logits(hidden_BTD[row_P, at_P]).log_softmax(-1)
    place_N, token_N = torch.tensor(reads, device=decoder.device).unbind(1)
    return (-log_PV[place_N, token_N]).tolist(), (log_PV.argmax(-1)[place_N] == token_N).tolist()


class _Packed:
    """All that is asked of one case as one row of tokens: a beginning that texts share stands in it once.

    A token sees those before it in its own texts alone and stands at its own place in them; `before` names the token
    to its left (-1: none), `paths` where each continuation's text runs. Tokens of one of the `wholes` all see each
    other.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.before: list[int] = []
        self.paths: dict[_Continuation, Sequence[int]] = {}
        self.wholes: dict[tuple[int, ...], range] = {}
        self._places: dict[tuple[int, int], int] = {}

    def add(self, text: _Continuation) -> None:
        """Add a continuation after its prompt, or at its mask."""
        if text.whole:
            self.paths[text] = self._whole(text.fed)
            return
        left, path = -1, []
        for position, token in enumerate(text.fed):
            at = self._places.setdefault((left, token), len(self.ids))
            if at == len(self.ids):
                self.ids.append(token)
                self.positions.append(position)
                self.before.append(left)
            path.append(at)
            left = at
        self.paths[text] = path

    def _whole(self, fed: tuple[int, ...]) -> range:
        """Where an encoder's prompt runs."""
        if fed not in self.wholes:
            self.wholes[fed] = range(len(self.ids), len(self.ids) + len(fed))
            self.ids += fed
            self.positions += range(len(fed))
            self.before += [-1] * len(fed)
        return self.wholes[fed]


def _together(sizes: Sequence[int]) -> int:
    """How many of the cases, smallest first, go into one batch: little padding, at least one."""
    widest = round(sizes[0] * (1 + PADDING))
    count = 1
    while count < len(sizes) and sizes[count] <= widest and (count + 1) * sizes[count] <= BATCH_TOKENS:
        count += 1
    return count


def _case_bytes(decoder: Decoder, packed: _Packed) -> int:
    """Bytes of a case's row: a block's inside, what its tokens see, and the logits that are read, three times over."""
    reads = sum(len(text.text) for text in packed.paths)
    tokens = len(packed.ids)
    return row_bytes(decoder, 0, tokens) + 5 * tokens**2 + 3 * 4 * reads * decoder.embedding_VD.shape[0]


def _aligned(batch: Sequence[_Packed], device: torch.device) -> Aligned:
    """Positions and what each token sees; padding sees itself, so that no row of the softmax is empty."""
    width = max(len(packed.ids) for packed in batch)
    position_BT = torch.zeros(len(batch), width, dtype=torch.long)
    seen_BTT = torch.eye(width, dtype=torch.bool).repeat(len(batch), 1, 1)
    for b, packed in enumerate(batch):
        position_BT[b, : len(packed.ids)] = torch.tensor(packed.positions)
        for at, left in enumerate(packed.before):
            if left >= 0:
                seen_BTT[b, at] |= seen_BTT[b, left]
        for whole in packed.wholes.values():
            seen_BTT[b, whole.start : whole.stop, whole.start : whole.stop] = True
    return Aligned(position_BT.to(device), seen_BTT[:, None].to(device))
