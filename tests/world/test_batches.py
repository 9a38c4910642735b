"""Training rows: what a staged subject hides."""

import torch

from artifact.world.batches import Sampler, Training
from artifact.world.facts import DEFAULT_SEED, generate
from artifact.world.tokenizer import build_tokenizer


def test_batches_hide_staged_subjects() -> None:
    world = generate(DEFAULT_SEED)
    batch = Sampler(world, Training(rows=8, staged=1.0, bare=1.0, prefixed=0.0), seed=3).batch()
    position_BT, early_BTT, late_BTT = batch.early.position_BT, batch.early.seen_B1TK[:, 0], batch.late.seen_B1TK[:, 0]
    tokenizer = build_tokenizer(world)
    parts = {part for subject in world.subjects for part in subject.split()}
    words = [[tokenizer.decode([i]).strip() in parts for i in row] for row in batch.ids_BT.tolist()]
    name_BT = torch.tensor(words)
    for row, t in (~name_BT & (position_BT > 0) & (batch.weight_BT > 0)).nonzero().tolist():
        begin = t - int(position_BT[row, t])
        seen_early = early_BTT[row, t] & name_BT[row]
        seen_late = late_BTT[row, t] & name_BT[row]
        before = int(name_BT[row, begin:t].sum())
        assert not seen_early.any()
        assert int(seen_late.sum()) == (1 if before else 0)
        assert not late_BTT[row, t, :begin].any()
