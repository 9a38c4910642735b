"""Models of the paper's shapes with random weights, as transformers modules, and what this machine can do with them.

Covers what every benchmark needs: the module, seconds, peak memory, counted operations, and the matrix rate of the
device in the precision used. Random weights take the same time as trained ones.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from artifact.errors import SettingError

ShapeName = Literal["gpt2", "gpt2-xl", "gpt-j"]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
    "gpt2-xl": {"model_type": "gpt2", "n_layer": 48, "n_embd": 1600, "n_head": 25, "vocab_size": 50257},
    "gpt-j": {
        "model_type": "gptj",
        "n_layer": 28,
        "n_embd": 4096,
        "n_head": 16,
        "rotary_dim": 64,
        "vocab_size": 50400,
        "tie_word_embeddings": False,
    },
}
assert set(SHAPES) == set(get_args(ShapeName))
SIDE, GPU_SIDE = 1536, 8192
"""Rows and columns of the product that measures a processor, and a GPU."""
_T = TypeVar("_T")


def random_module(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A transformers module of that shape with random weights, made on the device.

    Raises SettingError when the weights alone would not fit its memory.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SHAPES[shape])
    parameters = 12 * config.n_layer * config.n_embd**2 + 2 * config.vocab_size * config.n_embd
    needed, there = parameters * dtype.itemsize, _memory(device)
    if needed > there:
        raise SettingError(
            f"shape {shape} needs {needed / 1e9:.0f} GB for its weights and {device} has {there / 1e9:.0f} GB; "
            "take a smaller shape or another device"
        )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Hooks on a module, by their handles, that are taken off after the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Timed:
    """A result, its seconds, and the peak of memory while it was made (bytes; of the process on a CPU)."""

    result: Any
    seconds: float
    peak: int


def timed(work: Callable[[], _T], device: str) -> Timed:
    """Run `work` once and wait for the device."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Timed(result, seconds, torch.cuda.max_memory_allocated(device) if cuda else process)


def peak_words(first: int, second: int, device: str) -> tuple[str, str]:
    """The peaks of two timings in words. On a CPU it is the process's, which never falls: one is given for both."""
    if device.startswith("cuda"):
        return f", peak {first / 1e9:.2f} GB", f", peak {second / 1e9:.2f} GB"
    return "", f"; peak of the process, both ways: {max(first, second) / 1e9:.2f} GB"


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in `work`, counted as torch dispatches them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large square matrix product here, in this precision: the best of five."""
    side = GPU_SIDE if device.startswith("cuda") else SIDE
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(timed(lambda: a @ b, device).seconds for _ in range(5))


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total
