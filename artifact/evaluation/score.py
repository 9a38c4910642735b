"""NLL of continuations under an edit, for many cases at once, each row of a batch under its own case's edit.

Covers what the tables need: every prompt of both views with its two continuations, teacher forced, as
`prompt + " " + text`. Golden numbers: tests/reference/eval and the metrics of tests/reference/rake_rome, 1e-4. What the
numbers mean is metrics.py's.

Shape letters as in lm/decoder.py, and P read positions, N tokens scored there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from artifact.editing.edit import Edit, rows
from artifact.evaluation.metrics import GROUPS, CaseScore, PromptScore, view_score
from artifact.facts.fact import Fact
from artifact.lm.load import LanguageModel

BATCH_TOKENS = 4096
"""Padded tokens a pass: sized so that GPT-2 XL's widest layer stays under 0.2 GB in float32."""
PADDING = 2
"""Most padding of any row: a batch ends where rows grow longer than that."""


@dataclass(frozen=True)
class _Continuation:
    """A prompt's ids and a continuation's; the last id of the continuation is only read, never fed."""

    case: int
    prompt: tuple[int, ...]
    text: tuple[int, ...]

    @property
    def fed(self) -> tuple[int, ...]:
        return self.prompt + self.text[:-1]


def score_cases(
    model: LanguageModel, facts: Sequence[Fact], edits: Sequence[Edit] | Edit | None = None
) -> list[CaseScore]:
    """Scores of every fact's views: unedited, under one edit each (a sequence), or all under one edit.

    Raises PromptError for a prompt the model cannot be asked with.
    """
    wanted: dict[_Continuation, None] = {}
    cases = []
    for case, fact in enumerate(facts):
        views = {}
        for view in fact.views():
            new, true = (tuple(model.tokens.ids(f" {text}")) for text in (view.target, view.foil))
            groups = {}
            for group in GROUPS:
                pairs = []
                for prompt in getattr(view, group):
                    ids = model.tokens.encode(prompt).ids
                    pair = (_Continuation(case, ids, new), _Continuation(case, ids, true))
                    wanted.update(dict.fromkeys(pair))
                    pairs.append((prompt, *pair))
                groups[group] = pairs
            views[view.perspective] = groups
        cases.append((fact.case_id, views))
    found = _read(model, list(wanted), edits)

    def scored(prompt: str, new: _Continuation, true: _Continuation) -> PromptScore:
        return PromptScore(prompt, found[new][0], found[true][0], found[new][1], found[true][1])

    return [
        CaseScore(
            case_id,
            {
                perspective: view_score({group: [scored(*pair) for pair in pairs] for group, pairs in groups.items()})
                for perspective, groups in views.items()
            },
        )
        for case_id, views in cases
    ]


def _read(
    model: LanguageModel, wanted: Sequence[_Continuation], edits: Sequence[Edit] | Edit | None
) -> dict[_Continuation, tuple[float, bool]]:
    """Mean NLL and whether all tokens are the argmax, for each continuation."""
    decoder = model.decoder
    # Continuations of one token share their prompt's row; rows of like length share a batch.
    fed: dict[tuple[int, tuple[int, ...]], list[_Continuation]] = {}
    for one in wanted:
        fed.setdefault((one.case, one.fed), []).append(one)
    order = sorted(fed, key=lambda key: len(key[1]))
    found: dict[_Continuation, tuple[float, bool]] = {}
    while order:
        size = 1
        longest = len(order[0][1]) + PADDING
        while size < len(order) and len(order[size][1]) <= longest and (size + 1) * longest <= BATCH_TOKENS:
            size += 1
        batch, order = order[:size], order[size:]
        row_edits = None
        if isinstance(edits, Edit):
            row_edits = rows([edits], [0] * len(batch))
        elif edits is not None:
            row_edits = rows(edits, [case for case, _ in batch])
        # Continuations of one token read the same position: its logits are made once.
        places: dict[tuple[int, int], int] = {}
        reads = [
            (places.setdefault((row, len(one.prompt) - 1 + j), len(places)), token)
            for row, key in enumerate(batch)
            for one in fed[key]
            for j, token in enumerate(one.text)
        ]
        with torch.no_grad():
            word_BTD = decoder.words(model.tokens.pad([ids for _, ids in batch], decoder.device))
            hidden_BTD = decoder.blocks(decoder.embed(word_BTD), edits=row_edits)
            row_P, at_P = torch.tensor(list(places), device=decoder.device).unbind(1)
            log_PV = decoder.logits(hidden_BTD[row_P, at_P]).log_softmax(-1)
            place_N, token_N = torch.tensor(reads, device=decoder.device).unbind(1)
            nll = (-log_PV[place_N, token_N]).tolist()
            right = (log_PV.argmax(-1)[place_N] == token_N).tolist()
        position = 0
        for key in batch:
            for one in fed[key]:
                part = slice(position, position + len(one.text))
                found[one] = (sum(nll[part]) / len(one.text), all(right[part]))
                position = part.stop
    return found
