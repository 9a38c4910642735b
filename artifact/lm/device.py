"""The device: which one is used and why, in which precision, what fits it, and batches that go on when memory runs out.

Covers `--device`, NVIDIA cards that torch cannot use, TF32, free memory (a container's limit counts, not the host's),
the budget of a batch, and `batches`, the only place that catches out-of-memory. What an item costs is said by those who
cut batches: tracing, editing, evaluation.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from artifact.errors import DeviceError, ModelError, SettingError
from artifact.lm.decoder import Decoder
from artifact.sizes import count_of, dtype_word, size_words

T = TypeVar("T")
R = TypeVar("R")

GPU_SHARE = 0.6
"""Share of a GPU's free memory that batches take; the rest is for what their estimates leave out."""
CPU_BUDGET = 2_000_000_000
"""Bytes that batches take on a CPU: more makes them no faster."""
ROOM = 1.3
"""Memory that a model takes beside its weights' bytes, as a factor: batches, gradients, second moments."""
OLDEST_DRIVER = {"11": "450", "12": "525", "13": "580"}
"""The oldest NVIDIA driver by CUDA's major version (NVIDIA's CUDA compatibility guide, table 1)."""
_CALM = 8
"""Batches without trouble after which a halved budget is doubled again, up to what it was."""


def choose_device(asked: str | None = None) -> tuple[str, str]:
    """The device (cpu, cuda or cuda:N) and why, in words: the one asked for, else the first GPU, else the CPU.

    Raises DeviceError for a device that is not there, and where an NVIDIA card is there that torch cannot use: a run of
    days on the CPU must not begin unnoticed. `--device cpu` begins it all the same.
    """
    if asked is None:
        count = _cards()
        if count:
            return "cuda", f"a GPU is there ({torch.cuda.get_device_name()})"
        if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
            return "cpu", "CUDA_VISIBLE_DEVICES hides the GPUs"
        if (why := unusable_card()) is not None:
            raise DeviceError(f"{why}, or give --device cpu")
        return "cpu", "no CUDA device is there"
    if asked == "cpu":
        return "cpu", "asked for with --device cpu"
    found = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if not found:
        raise DeviceError(f"--device {asked!r} is unknown; expected cpu, cuda, or one GPU by number such as cuda:1")
    count = _cards()
    if not count:
        why = unusable_card() or f"--device {asked}: no CUDA device is there; run it where there is one"
        raise DeviceError(f"{why}, or give --device cpu")
    if int(found[1] or 0) >= count:
        raise DeviceError(
            f"--device {asked}: this machine has {count_of(count, 'GPU')}; give cuda:0"
            + (f" to cuda:{count - 1}" if count > 1 else "")
        )
    return asked, f"asked for with --device {asked} ({torch.cuda.get_device_name(asked)})"


def unusable_card(root: Path = Path("/")) -> str | None:
    """Why torch cannot use the NVIDIA card of this machine, with both versions and a remedy; None without a card.

    Read from the driver's own files, which a container sees even when it was started without the card.
    """
    driver = nvidia_driver(root)
    nodes = list((root / "dev").glob("nvidia[0-9]*"))
    if driver is None and not nodes:
        return None
    cuda = torch.version.cuda
    card = f"an NVIDIA card is there (driver {driver or 'of an unknown version'})"
    if cuda is None:
        return f"{card}, but torch {torch.__version__} is built without CUDA; install torch's build for CUDA"
    built = f"torch {torch.__version__} (CUDA {cuda})"
    if not nodes:
        return (
            f"{card}, but {built} sees no device file: start the container with --gpus all (NVIDIA container toolkit), "
            "or load the driver's modules"
        )
    oldest = OLDEST_DRIVER.get(cuda.split(".")[0])
    if oldest and driver and int(driver.split(".")[0]) < int(oldest):
        return (
            f"{card}, but {built} needs driver {oldest} or newer: update the driver, or build for an older CUDA "
            "(README, GPUs and drivers)"
        )
    return f"{card}, but {built} cannot use it: check nvidia-smi and the permissions of /dev/nvidia*"


def nvidia_driver(root: Path = Path("/")) -> str | None:
    """The version of the loaded NVIDIA driver, such as 535.104.05; None without one."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module[^\n]*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None


def _cards() -> int:
    with warnings.catch_warnings():  # torch warns of an old driver; it is said in our own line
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use_tf32(on: bool) -> None:
    """Matrix products in TF32 on GPUs that have it, or in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in full float32 within the block, whatever the protocol says: for what must not depend on it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    use_tf32(False)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def free_memory(device: str) -> int:
    """Bytes that are free on a GPU, or for this process in the computer's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else host_memory()


def host_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that this process may still take: the machine's free ones, or less under a limit.

    The limits are those of its control group and of all groups above it (version 1 and 2), as containers and schedulers
    set them; "max" is no limit. Memory that the group's file cache holds counts as free.
    """
    return max(0, min([psutil.virtual_memory().available, *_group_rooms(root)]))


def _group_rooms(root: Path) -> Iterator[int]:
    """Bytes left below each limit on this process's memory."""
    mounted = root / "sys/fs/cgroup"
    for version, top, limit, used in (
        (2, mounted, "memory.max", "memory.current"),
        (1, mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        # In a container the group's own folder is often mounted as the top.
        group = top / _group(root, version).lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError, ValueError):
                most = int((folder / limit).read_text())
                cache = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                yield most - int((folder / used).read_text()) + (int(cache[1]) if cache else 0)


def _group(root: Path, version: int) -> str:
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (version == 2 and not controllers) or (version == 1 and "memory" in controllers.split(",")):
                return path
    return "/"


def cards_for(device: str, size: int) -> list[str]:
    """The cards that hold weights of `size` bytes: the device, or all that are seen where it is `cuda` and the first
    one has too little memory free for them with room to work.
    """
    if device != "cuda" or _cards() < 2 or round(size * ROOM) <= free_memory(device):
        return [device]
    return [f"cuda:{number}" for number in range(_cards())]


def check_fits(name: str, size: int, device: str, dtype: torch.dtype = torch.float32) -> None:
    """Raise ModelError, in GB, when weights of `size` bytes in `dtype` do not fit the device with room to work."""
    needed, free = round(size * ROOM), sum(free_memory(card) for card in cards_for(device, size))
    if needed > free:
        where, words = "GPU" if device.startswith("cuda") else "host", dtype_word(dtype)
        raise ModelError(
            f"{name}: needs about {size_words(needed)} of {where} memory in {words}, and {size_words(free)} are free; "
            "free some, or take a larger machine (kloc doctor --estimate)"
        )


class Memory:
    """How many bytes a batch may take: `limit`, halved for a while after the device ran out of memory all the same."""

    def __init__(self, limit: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.limit = self.most = limit
        self._say = say
        self._calm = 0

    def halve(self) -> None:
        """After the device ran out of memory: smaller batches from here on."""
        self.limit, self._calm = max(1, self.limit // 2), 0
        self._say(f"out of memory: going on with batches for {self.limit / 1e9:.2f} GB")

    def went_well(self) -> None:
        """After a batch that fitted: a budget that was halved grows again, slowly, up to what it was."""
        self._calm += 1
        if self.limit < self.most and self._calm >= _CALM:
            self.limit, self._calm = min(self.most, 2 * self.limit), 0

    def rows(self, decoder: Decoder, left: int, tokens: int) -> int:
        """Rows of `tokens` tokens with `left` stored ones that fit, at least one."""
        return max(1, self.limit // 2 // row_bytes(decoder, left, tokens))

    def scored_rows(self, decoder: Decoder, left: int, tokens: int) -> int:
        """Rows as those of `rows` that fit with the logits and probabilities of one position each, at least one."""
        logits = 3 * 4 * len(decoder.embedding_VD)
        return max(1, self.limit // 2 // (row_bytes(decoder, left, tokens) + logits))

    def gradient_row_bytes(self, decoder: Decoder, layers: int, left: int, tokens: int) -> int:
        """Bytes of a row of `tokens` tokens with `left` stored ones whose gradient is taken through `layers` layers.

        A layer keeps norms, queries, keys, values, the MLP's inside twice, and the keys it attends to.
        """
        entries = layers * ((12 + 2 * 4) * tokens + 4 * (left + tokens)) * decoder.width
        logits = 4 * tokens * decoder.embedding_VD.shape[0]
        return (entries + logits) * decoder.embedding_VD.element_size()

    def points(self, decoder: Decoder, left: int, tokens: int = 1) -> int:
        """Points of an integrated gradient that fit, at least one: rows of `tokens` tokens with `left` stored ones, one
        more at every layer, whose activations are all kept for the way back.
        """
        rows = decoder.layers * (decoder.layers + 1) // 2
        return max(1, self.limit // 2 // (rows * row_bytes(decoder, left, tokens)))

    def facts(self, decoder: Decoder, tokens: int, samples: int, runs: int = 1) -> int:
        """Facts of one length whose corrupted runs may be kept together, at least one; `runs` of each."""
        each = 6 + 4 * (runs - 1)  # states, keys, values, outputs, with room; of another run all but the outputs
        entries = each * decoder.layers * tokens * decoder.width
        kept = entries * decoder.embedding_VD.element_size()
        return max(1, self.limit // 2 // ((samples + 1) * kept))


def batches(
    items: Sequence[T],
    fitting: Callable[[Sequence[T]], int],
    compute: Callable[[Sequence[T]], R],
    memory: Memory,
    alone: Callable[[T], R] | None = None,
) -> Iterator[tuple[Sequence[T], R]]:
    """Each batch of `items`, in order, with what `compute` made of it.

    `fitting` says how many of the items that are left, from the first on, the budget holds. A batch for which the
    device runs out of memory is tried again as half as many items under half the budget. `alone` gives the result of an
    item that does not fit on its own, whose trouble then does not count against the others; without it
    torch.OutOfMemoryError is raised, for a caller that can cut its own batch.
    """
    left, most = items, len(items)
    before: int | None = None
    while left:
        part = left[: max(1, min(fitting(left), most))]
        found: list[R] = []
        with suppress(torch.OutOfMemoryError):
            found.append(compute(part))
        # Only here, with the exception, are the tensors of a failed attempt gone.
        if not found:
            _release()
            before = memory.limit if before is None else before
            if len(part) > 1:
                most = len(part) // 2
                memory.halve()
                continue
            memory.limit = before
            if alone is None:
                raise torch.OutOfMemoryError("one item alone does not fit the device's memory")
            found.append(alone(part[0]))
        else:
            memory.went_well()
        yield part, found[0]
        before, left = None, left[len(part) :]
        most = len(left)


def in_one(compute: Callable[[], R], what: str, remedy: str = "free some, or take a larger device") -> R:
    """What `compute` gives, where it cannot be cut into batches; DeviceError naming `what` when memory runs out."""
    found: list[R] = []
    with suppress(torch.OutOfMemoryError):
        found.append(compute())
    if not found:
        _release()
        raise DeviceError(f"{what} does not fit the device's memory; {remedy}")
    return found[0]


def _release() -> None:
    """Give unused blocks back to the device, whose pieces may be too small for the next attempt."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_MOST_BYTES = 2**62
"""What a size must be below; no machine has as much."""


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 8GB, 500MB or 1.5 GB; SettingError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])I?B?\s*", text.upper())
    size = float(found[1]) * 1000 ** (1 + "KMGT".index(found[2])) if found else 0.0
    if not 1 <= size < _MOST_BYTES:
        raise SettingError(f"memory {text[:40]!r} is not a size; give one such as 8GB or 500MB")
    return int(size)


def default_memory(device: torch.device, reserved: int = 0) -> int:
    """Bytes that batches may take unless told: a share of what is free on a GPU, 2 GB of a computer's own memory.

    `reserved` is what will be put on the device for the whole run and is not there yet, such as factors of moments.
    """
    if device.type == "cuda":
        return int(GPU_SHARE * max(0, torch.cuda.mem_get_info(device)[0] - reserved))
    return min(CPU_BUDGET, host_memory() // 2)


def row_bytes(decoder: Decoder, left: int, tokens: int) -> int:
    """Bytes one row needs at the widest point of a block: states, queries, keys and values, the MLP's inside."""
    mlp = 4 * decoder.width
    entries = tokens * (8 * decoder.width + 2 * mlp) + (left + tokens) * 4 * decoder.width
    return entries * decoder.embedding_VD.element_size()
