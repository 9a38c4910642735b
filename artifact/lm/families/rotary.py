"""Rotary positions: by how much each pair of a head's entries turns from one position to the next, and the turning.

Covers plain frequencies, the scalings that transformers calls linear, dynamic, llama3, yarn and longrope, a rotary
share below one, and both ways to pair the entries. Dynamic scaling and the long factors of longrope begin beyond a
number of positions; the model is held to these (`longest`), so that its frequencies never change within a text.
Tested equal to transformers' models: tests/lm/test_conformance.py.

Shape letters as in lm/decoder.py, and F rotary frequency (one a pair of a head's entries).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from artifact.errors import ModelError
from artifact.lm.families.sizes import ORIGINAL
from artifact.terminal import short


@dataclass(frozen=True)
class Rotary:
    """Frequencies in float32; entries of a head beyond the first 2 F are not turned.

    `strength` is a factor on cosine and sine; `neighbours`: a pair is (2i, 2i + 1), as in GPT-J, and not (i, i + F);
    `longest`: most positions for which the frequencies hold, 0 for any.
    """

    frequency_F: Tensor
    strength: float = 1.0
    neighbours: bool = False
    longest: int = 0

    def turn(self, x_BHTK: Tensor, position_XT: Tensor) -> Tensor:
        """Queries or keys with each pair turned by its position times the pair's frequency."""
        position = position_XT[:, None, :, None].float()  # spread over heads and pairs
        angle = position * self.frequency_F.to(x_BHTK.device)
        cos, sin = (part if self.strength == 1 else part * self.strength for part in (angle.cos(), angle.sin()))
        cos, sin = cos.to(x_BHTK.dtype), sin.to(x_BHTK.dtype)
        width = 2 * len(self.frequency_F)
        turned = x_BHTK if width == x_BHTK.shape[-1] else x_BHTK[..., :width]
        first, second = (turned[..., 0::2], turned[..., 1::2]) if self.neighbours else turned.chunk(2, dim=-1)
        pair = first * cos - second * sin, second * cos + first * sin
        done = torch.stack(pair, dim=-1).flatten(-2) if self.neighbours else torch.cat(pair, dim=-1)
        return done if turned is x_BHTK else torch.cat((done, x_BHTK[..., width:]), dim=-1)


def rotary_of(head_width: int, given: Mapping[str, Any], positions: int, *, partial: bool = False) -> Rotary:
    """Rotary positions of a model of so many positions from transformers' `rope_parameters`.

    `partial`: the family may turn a share of each head alone. Raises ModelError for an unknown kind of scaling, a share
    where the family has none, and values that give no frequencies.
    """
    kind, share = given.get("rope_type", "default"), given.get("partial_rotary_factor", 1.0)
    if not isinstance(kind, str) or kind not in _SCALED:
        *others, last = _SCALED
        raise ModelError(
            f"rotary positions of type {short(repr(kind))} (rope_type) are not supported; expected "
            f"{', '.join(others)} or {last}; give another model"
        )
    if share != 1 and not partial:
        raise ModelError("partial_rotary_factor: this family turns each head whole, not a part of it; set it to 1")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ModelError(f"configuration partial_rotary_factor = {short(repr(share))} is not possible; expected 0 to 1")
    width = int(head_width * share)
    if width % 2 or not width:
        raise ModelError(
            f"{width} entries of heads of width {head_width} cannot be rotated in pairs; expected an even number"
        )
    pair_F = torch.arange(0, width, 2, dtype=torch.float32) / width
    rotary = _SCALED[kind](1.0 / positive(given, "rope_theta") ** pair_F, given, positions)
    if not rotary.frequency_F.isfinite().all() or not math.isfinite(rotary.strength):
        raise ModelError("the configuration's rotary values give frequencies that are not finite; give another model")
    return rotary


def _plain(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    """theta^(-2i/K)."""
    return Rotary(frequency_F)


def _linear(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    return Rotary(frequency_F / positive(given, "factor"))


def _dynamic(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    """Plain up to the model's positions; only beyond them would the frequencies change."""
    return Rotary(frequency_F, longest=positions)


def _llama3(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    """Llama 3.1 divides the frequencies of wavelengths beyond the original context by `factor`, leaves the short ones,
    and goes over from one to the other between.
    """
    context, low, high = (positive(given, key) for key in (ORIGINAL, "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise ModelError(f"configuration low_freq_factor = {low} must be below high_freq_factor = {high}")
    turns_F = context * frequency_F / (2 * math.pi)  # how often a pair turns round within the original context
    kept_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return Rotary(kept_F * frequency_F + (1 - kept_F) * frequency_F / positive(given, "factor"))


def _yarn(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    """YaRN (arXiv:2309.00071, section 3): pairs that turn often within the original context keep their frequency, those
    that turn rarely have it divided by `factor`, with a ramp between; cosine and sine are made larger.
    """
    context, theta = positive(given, ORIGINAL), positive(given, "rope_theta")
    factor, width = positive(given, "factor"), 2 * len(frequency_F)

    def place(turns: float) -> float:
        """The pair that turns so often within the original context, as a fraction."""
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    fast, slow = (positive(given, key, default) for key, default in (("beta_fast", 32), ("beta_slow", 1)))
    if theta == 1:
        raise ModelError("configuration rope_theta = 1 turns all pairs alike, which YaRN cannot scale; give another")
    edges = place(fast), place(slow)
    low, high = (math.floor(edges[0]), math.ceil(edges[1])) if given.get("truncate", True) else edges
    low, high = max(low, 0), min(high, width - 1)
    ramp_F = ((torch.arange(len(frequency_F)) - low) / (high - low or 0.001)).clamp(0, 1)
    strength = _strength(given)
    if strength is None:
        one, other = (_optional(given, key) for key in ("mscale", "mscale_all_dim"))
        strength = _grown(factor, one) / _grown(factor, other) if one and other else _grown(factor, 1)
    return Rotary(ramp_F * frequency_F / factor + (1 - ramp_F) * frequency_F, strength=strength)


def _grown(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def _longrope(frequency_F: Tensor, given: Mapping[str, Any], positions: int) -> Rotary:
    """LongRoPE (arXiv:2402.13753) within the original context: each pair's frequency divided by its short factor."""
    context, short_factor = positive(given, ORIGINAL), given.get("short_factor")
    if not isinstance(short_factor, list) or len(short_factor) != len(frequency_F):
        raise ModelError(f"configuration short_factor must be a list of {len(frequency_F)} numbers; give the model's")
    if not all(map(_is_positive, short_factor)):
        raise ModelError("configuration short_factor holds what is not a positive number; give the model's")
    strength, factor = _strength(given), _optional(given, "factor") or positions / context
    if strength is None:
        strength = math.sqrt(1 + math.log(factor) / math.log(context)) if factor > 1 and context > 1 else 1.0
    divided_F = frequency_F / torch.tensor(short_factor, dtype=torch.float32)
    return Rotary(divided_F, strength=strength, longest=int(context))


_SCALED: Mapping[str, Callable[[Tensor, Mapping[str, Any], int], Rotary]] = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def positive(given: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """The positive number of that name in a configuration; ModelError for anything else."""
    value = default if given.get(key) is None else given[key]
    if not _is_positive(value):
        raise ModelError(f"configuration {key} = {short(repr(value))} is not possible; expected a positive number")
    return float(value)


def _strength(given: Mapping[str, Any]) -> float | None:
    """The factor on cosine and sine that a configuration gives; None where it is to be computed."""
    return None if given.get("attention_factor") is None else positive(given, "attention_factor")


def _optional(given: Mapping[str, Any], key: str) -> float | None:
    """`positive` of a number that may be missing, or zero, which says the same."""
    return positive(given, key) if given.get(key) else None


def _is_positive(value: object) -> TypeGuard[float]:
    """Whether a value is a positive number with which one can still compute."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-30 < value < 1e30
