"""A machine as an estimate needs it: measured here in five seconds, or described.

Measured are the rate of one large matrix product and the rate of copying memory.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from artifact.bench.shapes import matrix_rate, timed
from artifact.editing.protocol import protocol_of
from artifact.errors import SettingError
from artifact.lm.device import choose_device, host_memory, parse_bytes, use_tf32
from artifact.sizes import size_words

_SIDE = 1 << 26
"""Numbers that are copied to measure the memory's rate: 0.27 GB."""


@dataclass(frozen=True)
class Machine:
    """A device: operations a second of a large matrix product, bytes a second, bytes of memory; how that is known."""

    name: str
    cuda: bool
    rate: float
    bandwidth: float
    memory: float
    known: str

    @property
    def words(self) -> str:
        where = f"{self.name}, {size_words(self.memory)}"
        return f"{where}: {_rate(self.rate)} in large matrix products, {self.bandwidth / 1e9:.0f} GB/s ({self.known})"


def this_machine(protocol: str, correct: Sequence[str] = ()) -> Machine:
    """The machine at hand, measured in the protocol's precision."""
    device, _ = choose_device()
    tf32 = protocol_of(protocol, correct).tf32
    use_tf32(tf32)
    cuda = device.startswith("cuda")
    if cuda:
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        precision = "TF32" if tf32 and torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    else:
        name, memory, precision = f"CPU, {torch.get_num_threads()} threads", host_memory(), "float32"
    rate, bandwidth = matrix_rate(device, torch.float32), copy_rate(device)
    return Machine(name, cuda, rate, bandwidth, memory, f"{precision}, measured now")


def copy_rate(device: str) -> float:
    """Bytes a second, read and written, of copying a large tensor: the best of five."""
    source, target = torch.ones(_SIDE, device=device), torch.empty(_SIDE, device=device)
    target.copy_(source)
    return 2 * 4 * _SIDE / min(timed(lambda: target.copy_(source), device).seconds for _ in range(5))


def other_machine(rate: str, bandwidth: str, memory: str) -> Machine:
    """A GPU that is not at hand, by its rates and memory; SettingError for what is not a rate or a size."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GTP])FLOPS?(/S)?\s*", rate.upper())
    if not parts or float(parts[1]) <= 0:
        raise SettingError(f"--rate {rate!r} is not a rate; give one such as 150TFLOPS")
    operations = float(parts[1]) * 1000 ** (3 + "GTP".index(parts[2]))
    moved = parse_bytes(re.sub(r"(?i)/s\s*$", "", bandwidth))
    return Machine("a GPU that is not at hand", True, operations, moved, parse_bytes(memory), "as given, not measured")


def _rate(rate: float) -> str:
    return f"{rate / 1e12:.0f} TFLOP/s" if rate >= 1e13 else f"{rate / 1e9:.0f} GFLOP/s"
