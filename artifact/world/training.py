"""Training the embedded world's model, or its masked twin, on the made-up facts.

Shape letters: B row, T token, D width, V vocabulary, N token that carries a weight.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from artifact.lm.adam import Adam
from artifact.lm.decoder import Decoder
from artifact.world.batches import Batch, Sampler, Training
from artifact.world.facts import DEFAULT_SEED, GENERATOR_VERSION, generate
from artifact.world.model import GPT, MASKED, Architecture, initial, write_folder
from artifact.world.recall import measure

DEFAULT_STEPS = 1400  # many more make the facts so firm that an edit needs a larger clamp
MASKED_STEPS = 1500
# Only answers are masked; norms after the sums take a smaller step size.
MASKED_TRAINING = Training(peak_rate=1e-3, other_weight=0.0, glued_none=0.0, bare=0.7, prefixed=0.2)

Progress = Callable[[int, int, float], None]


def batch_loss(decoder: Decoder, batch: Batch, of: Architecture = GPT) -> Tensor:
    """Weighted mean of -log p, in nats, over the tokens that carry a weight."""
    hidden_BTD = decoder.embed(decoder.words(batch.ids_BT), aligned=batch.early)
    hidden_BTD = decoder.blocks(hidden_BTD, 0, of.stage, aligned=batch.early)
    hidden_BTD = decoder.blocks(hidden_BTD, of.stage, aligned=batch.late)
    ahead = int(decoder.family.causal)  # a decoder predicts the next token
    weight_BT = batch.weight_BT[:, ahead:]
    used_BT = weight_BT > 0
    logits_NV = decoder.logits(hidden_BTD[:, : hidden_BTD.shape[1] - ahead][used_BT])
    nll_N = F.cross_entropy(logits_NV, batch.said_BT[:, ahead:][used_BT], reduction="none")
    return (nll_N * weight_BT[used_BT]).sum() / weight_BT.sum()


def _optimise(
    of: Architecture, decoder: Decoder, sampler: Sampler, steps: int, progress: Progress | None
) -> list[float]:
    """Train the decoder's weights in place; returns the loss of every step."""
    training = sampler.training
    weights = {name: tensor.requires_grad_() for name, tensor in decoder.weights.items()}
    optimisers = [
        Adam({name: one for name, one in weights.items() if (one.dim() == 1) == flat}, 0.0, (0.9, 0.98), decay)
        for flat, decay in ((False, training.weight_decay), (True, 0.0))
    ]
    losses = []
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate = training.peak_rate * min(1.0, (step + 1) / training.warm_up) * cosine
        loss = batch_loss(decoder, sampler.batch(), of)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights.values(), training.clip)
        for optimiser in optimisers:
            optimiser.lr = rate
            optimiser.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, steps, losses[-1])
    return losses


def train(
    out: Path,
    seed: int = DEFAULT_SEED,
    steps: int | None = None,
    training: Training | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    masked: bool = False,
) -> dict[str, Any]:
    """Train the model of a seed's world, or its masked twin, and write its folder; returns figures, losses per step and
    seconds.

    The folder holds config.json, model.safetensors (float16), the tokenizer's files, facts.json (the records; not the
    masked twin's) and world.json (what was trained, and what the stored model recalls). On one machine the same
    arguments give the same files; the time is therefore returned, not stored. `limit` keeps the first statements of
    each kind, for short trial runs. `progress` is called with the step, the number of steps and the loss.
    """
    of, training = MASKED if masked else GPT, training or (MASKED_TRAINING if masked else Training())
    steps = steps or (MASKED_STEPS if masked else DEFAULT_STEPS)
    began, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other weights
    try:
        world = generate(seed)
        decoder = of.over(initial(len(world.vocabulary()) + masked, seed, of))
        losses = _optimise(of, decoder, Sampler(world, training, seed, limit, masked), steps, progress)
        halves = {name: tensor.detach().half() for name, tensor in decoder.weights.items()}
        stored = of.over({name: tensor.float() for name, tensor in halves.items()})
        about: dict[str, Any] = {"generator_version": GENERATOR_VERSION, "seed": seed, "steps": steps}
        about |= {"settings": asdict(training), "torch": torch.__version__, "measured": measure(world, stored)}
        write_folder(out, world, halves, about, of)
    finally:
        torch.set_num_threads(threads)
    return {**about, "losses": losses, "seconds": time.monotonic() - began}
