"""The embedded world's model: training a small GPT-2 on the made-up facts, storing it, and measuring what it knows.

Covers the batches, a training forward with an attention mask per layer, the optimisation, the files of a model folder
and recall figures. Does not cover the facts themselves (see `artifact.facts.world`), and its forward serves training
and measuring only: experiments load the folder like any other GPT-2.

Attention is staged in training only: in most statements the tokens after a subject cannot see it in the lower layers,
and see only its last token in the upper ones. The subject is thereby recognised at its last token, early, as in large
pretrained models; a small model trained without this reads the name from the prompt's last token instead.

Shape letters: B batch row, T token, L layer, D width, H head, E width of a head, F width of the MLP, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from artifact.facts.world import (
    DEFAULT_SEED,
    END_OF_TEXT,
    GENERATOR_VERSION,
    NO_RELATION,
    OPENERS,
    UNKNOWN,
    Question,
    World,
    build_tokenizer,
    generate,
)
from artifact.io import write_atomically

LAYERS = 6
HEADS = 4
WIDTH = 128
POSITIONS = 128
STAGE_LAYER = 3  # from this layer on a staged subject's last token can be seen
ROW = 64  # tokens in a training row
DEFAULT_STEPS = 1400  # many more make the facts so firm that an edit needs a larger clamp

Params = dict[str, Tensor]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Settings:
    """What decides the training beside the seed and the number of steps."""

    rows: int = 32  # rows of ROW tokens in a step
    peak_rate: float = 3e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    staged: float = 0.8  # share of statements trained with staged attention
    other_weight: float = 0.1  # weight of the loss on words that are no answer
    glued_none: float = 0.04  # share of "None" answers written without the space, as one published objective has it
    bare: float = 0.45  # share of texts that are one statement from position 0
    prefixed: float = 0.35  # share with a fragment of other statements before it; the rest open with END_OF_TEXT


class Encoded(NamedTuple):
    """A statement as token ids: with its first word opening a text (`start`) or following a space (`inside`)."""

    start: list[int]
    inside: list[int]
    span: tuple[int, int]  # the subject's tokens, half open
    answer: int  # position of the answer's token


class Batch(NamedTuple):
    """One step's rows; each row holds several texts that cannot see each other and count positions from 0."""

    ids_BT: Tensor
    positions_BT: Tensor
    early_mask_BTT: Tensor  # true where row token t may attend to token s, layers below STAGE_LAYER
    late_mask_BTT: Tensor  # the same from STAGE_LAYER on
    weight_BT: Tensor  # weight of the loss on the token at t, predicted from t - 1


def encode(world: World, statements: Sequence[Question]) -> list[Encoded]:
    """Token ids, subject span and answer position of each statement; every word must be in the vocabulary."""
    tokenizer = build_tokenizer(world)
    unknown = tokenizer.token_to_id(UNKNOWN)
    encoded = []
    for statement in statements:
        start, inside = tokenizer.encode(statement.text), tokenizer.encode(" " + statement.text)
        if unknown in start.ids or unknown in inside.ids:
            raise ValueError(f"{statement.text!r} holds a word outside the vocabulary; the world's words are fixed")
        first = statement.text.index(statement.subject)
        last = first + len(statement.subject)
        inner = [t for t, (a, b) in enumerate(start.offsets) if a >= first and b <= last]
        encoded.append(Encoded(start.ids, inside.ids, (inner[0], inner[-1] + 1), len(start.ids) - 2))
    return encoded


class Sampler:
    """Draws training rows from the statements, in an order that the seed fixes."""

    def __init__(self, world: World, settings: Settings, seed: int, limit: int | None = None) -> None:
        """`limit` keeps only the first statements of each kind, for short trial runs."""
        self.settings = settings
        self.draw = np.random.RandomState(seed)
        self.kinds = [encode(world, kind[:limit]) for kind in (world.entity, world.relation, world.unrelated)]
        self.queues: list[list[int]] = [[] for _ in self.kinds]
        tokenizer = build_tokenizer(world)
        self.openers = [tokenizer.encode(opener).ids for opener in OPENERS]
        special = (END_OF_TEXT, ".", "..", f"Ġ{NO_RELATION}", NO_RELATION)
        self.end, self.stop, self.stops, self.none, self.glued_none = map(world.vocabulary().index, special)

    def batch(self) -> Batch:
        """The next step's rows; a text that does not fit any more closes its row and is dropped."""
        rows, length = self.settings.rows, ROW
        ids_BT, positions_BT = np.zeros((2, rows, length), dtype=np.int64)
        text_BT = np.full((rows, length), -1)  # number of the text within its row, -1 after the last
        staged_BT = np.zeros((rows, length), dtype=np.int64)  # for a staged subject's tokens: where the subject ends
        weight_BT = np.zeros((rows, length), dtype=np.float32)
        for row in range(rows):
            at, number = 0, 0
            while True:
                ids, ends, weights = self._text()
                if at + len(ids) > length:
                    break
                here = (row, slice(at, at + len(ids)))
                ids_BT[here], positions_BT[here], text_BT[here] = ids, np.arange(len(ids)), number
                staged_BT[here], weight_BT[here] = [end and at + end for end in ends], weights
                at, number = at + len(ids), number + 1
        index_T = np.arange(length)
        visible_BTT = (text_BT[:, :, None] == text_BT[:, None, :]) & (index_T[:, None] >= index_T[None, :])
        end_B1T = staged_BT[:, None, :]
        after_BTT = (end_B1T > 0) & (index_T[None, :, None] >= end_B1T)
        last_B1T = end_B1T == index_T[None, None, :] + 1
        early_BTT, late_BTT = visible_BTT & ~after_BTT, visible_BTT & ~(after_BTT & ~last_B1T)
        return Batch(*(torch.from_numpy(array) for array in (ids_BT, positions_BT, early_BTT, late_BTT, weight_BT)))

    def _text(self) -> tuple[list[int], list[int], list[float]]:
        """One text: its ids, the end of the staged subject each token belongs to (else 0), and its loss weights."""
        kind = self.draw.random_sample()
        if kind < self.settings.bare:
            return self._place([self._statement()], [])
        if kind < self.settings.bare + self.settings.prefixed:
            return self._place([self._statement()], self._fragment())
        return self._place([self._statement() for _ in range(1 + self.draw.randint(2))], [self.end])

    def _place(self, statements: list[Encoded], before: list[int]) -> tuple[list[int], list[int], list[float]]:
        """Statements one after the other behind the given ids."""
        ids, ends, weights = list(before), [0] * len(before), [0.0] * len(before)
        for statement in statements:
            opens = not ids or ids == [self.end]
            first, last = (len(ids) + edge for edge in statement.span)
            staged = self.draw.random_sample() < self.settings.staged
            tokens = list(statement.start if opens else statement.inside)
            if tokens[statement.answer] == self.none and self.draw.random_sample() < self.settings.glued_none:
                tokens[statement.answer] = self.glued_none
            for t, token in enumerate(tokens):
                ends.append(last if staged and first <= len(ids) < last else 0)
                other = self.settings.other_weight if ids else 0.0  # nothing predicts the very first token
                weights.append(1.0 if t == statement.answer else other)
                ids.append(token)
        return ids, ends, weights

    def _fragment(self) -> list[int]:
        """The beginning of one or two statements, sometimes behind an opener, closed by a full stop."""
        ids = list(self.openers[self.draw.randint(len(self.openers))]) if self.draw.random_sample() < 0.15 else []
        for _ in range(2):
            statement = self._statement()
            ids += statement.inside if ids else statement.start
        ids = ids[: 1 + self.draw.randint(11)]
        return [*ids[:-1], self.stops] if ids[-1] == self.stop else [*ids, self.stop]

    def _statement(self) -> Encoded:
        """The next statement; the kinds come in fixed shares, each in a shuffled order."""
        share = self.draw.random_sample()
        kind = 0 if share < 0.4 else 1 if share < 0.67 else 2
        if not self.queues[kind]:
            self.queues[kind] = self.draw.permutation(len(self.kinds[kind])).tolist()
        return self.kinds[kind][self.queues[kind].pop()]


def initial(vocabulary: int, seed: int) -> Params:
    """GPT-2's initial parameters under the names and orientations of transformers' GPT2LMHeadModel."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=draw) * std

    params = {"transformer.wte.weight": normal(vocabulary, WIDTH), "transformer.wpe.weight": normal(POSITIONS, WIDTH)}
    small = 0.02 / math.sqrt(2 * LAYERS)
    for layer in range(LAYERS):
        block = f"transformer.h.{layer}."
        for norm in ("ln_1", "ln_2"):
            params[f"{block}{norm}.weight"], params[f"{block}{norm}.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)
        for name, rows, columns, std in (
            ("attn.c_attn", WIDTH, 3 * WIDTH, 0.02),
            ("attn.c_proj", WIDTH, WIDTH, small),
            ("mlp.c_fc", WIDTH, 4 * WIDTH, 0.02),
            ("mlp.c_proj", 4 * WIDTH, WIDTH, small),
        ):
            params[f"{block}{name}.weight"] = normal(rows, columns, std=std)
            params[f"{block}{name}.bias"] = torch.zeros(columns)
    params["transformer.ln_f.weight"], params["transformer.ln_f.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    return params


def forward(params: Params, ids_BT: Tensor, positions_BT: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Hidden states (B, T, D) after the last norm; `masks` holds one (B, T, T) mask per layer, true = visible."""

    def norm(name: str, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, (WIDTH,), params[f"{name}.weight"], params[f"{name}.bias"])

    def linear(name: str, x_BTX: Tensor) -> Tensor:
        weight_XY, bias_Y = params[f"{name}.weight"], params[f"{name}.bias"]
        return torch.addmm(bias_Y, x_BTX.flatten(0, 1), weight_XY).view(*x_BTX.shape[:2], -1)

    batch, tokens = ids_BT.shape
    hidden_BTD = F.embedding(ids_BT, params["transformer.wte.weight"])
    hidden_BTD = hidden_BTD + F.embedding(positions_BT, params["transformer.wpe.weight"])
    for layer, mask_BTT in enumerate(masks):
        block = f"transformer.h.{layer}."
        qkv_BTX = linear(f"{block}attn.c_attn", norm(f"{block}ln_1", hidden_BTD))
        q_BHTE, k_BHTE, v_BHTE = qkv_BTX.view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask_BTT[:, None])
        mixed_BTD = mixed_BHTE.transpose(1, 2).reshape(batch, tokens, WIDTH)
        hidden_BTD = hidden_BTD + linear(f"{block}attn.c_proj", mixed_BTD)
        inner_BTF = F.gelu(linear(f"{block}mlp.c_fc", norm(f"{block}ln_2", hidden_BTD)), approximate="tanh")
        hidden_BTD = hidden_BTD + linear(f"{block}mlp.c_proj", inner_BTF)
    return norm("transformer.ln_f", hidden_BTD)


def batch_loss(params: Params, batch: Batch) -> Tensor:
    """Weighted mean of -log p over the tokens that carry a weight."""
    masks = [batch.early_mask_BTT if layer < STAGE_LAYER else batch.late_mask_BTT for layer in range(LAYERS)]
    hidden_BTD = forward(params, batch.ids_BT, batch.positions_BT, masks)
    weight_N = batch.weight_BT[:, 1:].flatten()
    used = weight_N > 0
    logits_NV = hidden_BTD[:, :-1].flatten(0, 1)[used] @ params["transformer.wte.weight"].T
    nll_N = F.cross_entropy(logits_NV, batch.ids_BT[:, 1:].flatten()[used], reduction="none")
    return (nll_N * weight_N[used]).sum() / weight_N.sum()


def _optimise(params: Params, sampler: Sampler, steps: int, progress: Progress | None) -> list[float]:
    """Train the parameters in place; returns the loss of every step."""
    settings = sampler.settings
    for tensor in params.values():
        tensor.requires_grad_(True)
    groups = [
        {"params": [p for p in params.values() if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(0.9, 0.98))
    losses = []
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate = settings.peak_rate * min(1.0, (step + 1) / settings.warm_up) * cosine
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = batch_loss(params, sampler.batch())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(params.values(), settings.clip)
        optimiser.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, steps, losses[-1])
    return losses


def train(
    out: Path,
    seed: int = DEFAULT_SEED,
    steps: int = DEFAULT_STEPS,
    settings: Settings | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the model of a seed's world and write its folder; returns figures, losses per step and seconds.

    The folder holds config.json, model.safetensors (float16), the tokenizer's files, facts.json (the records) and
    world.json (what was trained, and what it recalls). On one machine the same arguments give the same files; the time
    is therefore returned, not stored. `limit` keeps the first statements of each kind, for short trial runs.
    `progress` is called with the step, the number of steps and the loss.
    """
    settings = settings or Settings()
    began, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other weights
    try:
        world = generate(seed)
        params = initial(len(world.vocabulary()), seed)
        losses = _optimise(params, Sampler(world, settings, seed, limit), steps, progress)
        out.mkdir(parents=True, exist_ok=True)
        halves = {name: tensor.detach().half().contiguous() for name, tensor in params.items()}
        write_atomically(out / "model.safetensors", save(halves, metadata={"format": "pt"}))
        save_tokenizer(world, out)
        _write_json(out / "config.json", _config(len(world.vocabulary())))
        _write_json(out / "facts.json", world.records())
        provenance: dict[str, Any] = {"generator_version": GENERATOR_VERSION, "seed": seed, "steps": steps}
        provenance |= {"settings": asdict(settings), "torch": torch.__version__}
        _write_json(out / "world.json", provenance)
        provenance["measured"] = measure(out)
        _write_json(out / "world.json", provenance)
    finally:
        torch.set_num_threads(threads)
    return {**provenance, "losses": losses, "seconds": time.monotonic() - began}


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode("ascii") + b"\n")


def _config(vocabulary: int) -> dict[str, Any]:
    """The config.json of the model; computing is float32 although the file stores float16."""
    shape = {"n_embd": WIDTH, "n_head": HEADS, "n_inner": None, "n_layer": LAYERS, "n_positions": POSITIONS}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    layers = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "dtype": "float32"}
    head = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocabulary}
    return {**head, **shape, **layers, **dropout, **ends}


def save_tokenizer(world: World, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, loadable as a `PreTrainedTokenizerFast`."""
    write_atomically(folder / "tokenizer.json", build_tokenizer(world).to_str(pretty=True).encode())
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {"0": {"content": END_OF_TEXT, **special}, "1": {"content": UNKNOWN, **special}},
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_input_names": ["input_ids", "attention_mask"],  # token types would be added to the embeddings
        "model_max_length": POSITIONS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
    }
    _write_json(folder / "tokenizer_config.json", config)


@torch.no_grad()
def measure(model_dir: Path) -> dict[str, dict[str, float]]:
    """What a stored model recalls, per set of prompts: greedy recall and mean probability of the right word.

    Sets: the main prompts of both views, the same with a sampled beginning of text before them, the templates held out
    of training; and, with "None" as the right word, (s, o*) of each edit case and unrelated pairs never trained.
    """
    world = generate(json.loads((model_dir / "world.json").read_text(encoding="ascii"))["seed"])
    params = {name: tensor.float() for name, tensor in load_file(model_dir / "model.safetensors").items()}
    sets = {
        "entity_main": world.main("entity"),
        "entity_prefixed": prefixed(world, world.main("entity")),
        "entity_held_out": world.held_out("entity"),
        "relation_main": world.main("relation"),
        "relation_prefixed": prefixed(world, world.main("relation")),
        "relation_held_out": world.held_out("relation"),
        "none_edit_pairs": world.edit_pairs(),
        "none_edit_pairs_prefixed": prefixed(world, world.edit_pairs()),
        "none_edit_pairs_held_out": world.edit_pairs(held_out=True),
        "none_unseen_pairs": world.unseen_pairs(512),
    }
    return {name: _recall(params, world, questions) for name, questions in sets.items()}


def prefixed(world: World, questions: Sequence[Question]) -> list[Question]:
    """The questions behind a short beginning of text, "words. prompt", drawn from other statements."""
    draw = np.random.RandomState(world.seed + 20_000)
    corpus = world.corpus()
    found = []
    for question in questions:
        other = corpus[draw.randint(len(corpus))]
        while question.subject in other:
            other = corpus[draw.randint(len(corpus))]
        words = other.removesuffix(".").split()[: 2 + draw.randint(9)]
        found.append(Question(f"{' '.join(words)}. {question.prompt}", question.subject, question.answer))
    return found


def _recall(params: Params, world: World, questions: Sequence[Question]) -> dict[str, float]:
    """Share of questions whose right word is the most probable next word, and that word's mean probability."""
    encoded = encode(world, questions)
    length = max(len(item.start) for item in encoded)
    ids_BT = torch.zeros(len(encoded), length, dtype=torch.long)
    for row, item in enumerate(encoded):
        ids_BT[row, : len(item.start)] = torch.tensor(item.start)
    causal_BTT = torch.ones(length, length, dtype=torch.bool).tril()[None]  # padding stands behind all that is read
    hidden_BTD = forward(params, ids_BT, torch.arange(length).expand_as(ids_BT), [causal_BTT] * LAYERS)
    answer_B = torch.tensor([item.answer for item in encoded])
    rows_B = torch.arange(len(encoded))
    probability_BV = (hidden_BTD[rows_B, answer_B - 1] @ params["transformer.wte.weight"].T).softmax(-1)
    right_B = ids_BT[rows_B, answer_B]
    recall, mean = (probability_BV.argmax(-1) == right_B).double().mean(), probability_BV[rows_B, right_B].mean()
    return {"recall": round(recall.item(), 4), "probability": round(mean.item(), 4)}
