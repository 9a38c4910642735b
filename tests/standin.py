"""Stand-in CUDA devices for machines without one: `with standin.devices():` has torch say that there are two.

Their tensors say cuda:0 or cuda:1 and hold their data on the processor. They refuse to be mixed with tensors of other
devices, as CUDA's do, and are counted: bytes alive and at the peak, kernels, copies, and places where the host waits.
A device's memory can be limited. It proves nothing about CUDA's kernels, speed, TF32 or the order of sums: the numbers
are the processor's, its random ones too.

How: a tensor subclass that wraps the inner tensor and whose `device` is a property; a dispatch mode that catches what
makes tensors on such a device; a function mode for what never reaches the dispatcher (.to, .cpu, .numpy, .tolist,
torch.tensor).
"""

import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICES = 2
CPU = torch.device("cpu")
aten = torch.ops.aten
# CUDA takes an index from the processor; the host then waits for its copy.
_HOST_INDEX = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
_WAITING = ("aten::nonzero", "aten::masked_select", "aten::_unique2")


class Ledger:
    """What one device held and did. A storage counts once, however many views of it live."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.live = self.peak = self.uploads = self.downloads = self.kernels = 0
        self.waits: Counter[str] = Counter()
        self._views: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}

    def hold(self, wrapper: torch.Tensor, inner: torch.Tensor) -> None:
        """Count a tensor's storage for as long as it lives; OutOfMemoryError when the device has no room for it."""
        storage = inner.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._views[key]:
            if self.live + size > self.capacity:
                raise torch.OutOfMemoryError(f"stand-in: {self.live} bytes live, {size} asked for")
            self._sizes[key] = size
            self.live += size
            self.peak = max(self.peak, self.live)
        self._views[key] += 1
        weakref.finalize(wrapper, self._drop, key)

    def wait(self) -> None:
        """The host waits here: count the package's own line that made it."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and f"{os.sep}artifact{os.sep}" not in frame.f_code.co_filename:
            frame = frame.f_back
        code = frame.f_code if frame else None
        name = f"{code.co_filename.rpartition('artifact' + os.sep)[2]}:{code.co_name}" if code else "elsewhere"
        self.waits[name] += 1

    def _drop(self, key: int) -> None:
        self._views[key] -= 1
        if not self._views[key]:
            del self._views[key]
            self.live -= self._sizes.pop(key, 0)


LEDGERS: list[Ledger] = []
"""Of the devices that are there now, or were last."""


class Generator(torch.Generator):
    """A stand-in device's source of random numbers: the processor's, which only its tensors may be drawn from."""

    # A processor's one is torch's own, which no subclass may be typed to make.
    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        if _number(device) is None:
            return _PROCESSORS.__new__(_PROCESSORS)
        made = super().__new__(cls)
        made.number = _number(device)
        return made


_PROCESSORS = torch.Generator


class Standin(torch.Tensor):
    """A tensor of a stand-in device around the processor's tensor that holds its data."""

    inner: torch.Tensor
    number: int

    @staticmethod
    def __new__(cls, inner: torch.Tensor, number: int) -> "Standin":
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, requires_grad=inner.requires_grad, device="cpu",
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor, number: int) -> None:
        self.inner, self.number = inner.detach(), number
        LEDGERS[number].hold(self, self.inner)

    # What torch types as attributes, a property answers: the wrapper itself is the processor's.
    device = property(lambda self: torch.device("cuda", self.number))  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN206
        return _run(func, args, kwargs or {})


def _number(device: Any) -> int | None:
    """Which stand-in a device names; None for the processor and for no device."""
    if device is None:
        return None
    device = torch.device(device)
    return (device.index or 0) if device.type == "cuda" else None


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with all that its lists, tuples and dictionaries hold changed: torch's own tree_map, in a third of the
    time."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        made = [_each(one, change) for one in value]
        if type(value) in (list, tuple):
            return type(value)(made)
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return {key: _each(one, change) for key, one in value.items()} if isinstance(value, dict) else change(value)


def _plain(value: Any) -> Any:
    return value.inner if isinstance(value, Standin) else value


@cache
def _aliases(func: Any) -> bool:
    """Whether any result shares its storage with an argument."""
    return any(one.alias_info is not None for one in func._schema.returns)


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A copy to a device, or to another type on the same one."""
    source, asked = args[0], kwargs.get("device")
    here = source.number if isinstance(source, Standin) else None
    onto = here if asked is None else _number(asked)
    if here is not None and onto != here:
        LEDGERS[here].wait()
        LEDGERS[here].downloads += 1
    if onto is not None and onto != here:
        LEDGERS[onto].uploads += 1
    found = func(_plain(source), **{key: value for key, value in kwargs.items() if key != "device"})
    return found if onto is None else Standin(found, onto)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is aten._to_copy.default:
        return _moved(func, args, kwargs)
    tensors: list[torch.Tensor] = []

    def opened(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
            return leaf.inner if isinstance(leaf, Standin) else leaf
        return leaf

    plain, named = _each(args, opened), _each(kwargs, opened) if kwargs else {}
    numbers = {leaf.number for leaf in tensors if isinstance(leaf, Standin)}
    hosts = [leaf for leaf in tensors if not isinstance(leaf, Standin) and leaf.dim()]
    asked = _number(kwargs.get("device"))
    if func is aten.copy_.default:
        for number in numbers if len(numbers) > 1 or hosts else ():
            LEDGERS[number].wait()
        _plain(args[0]).copy_(_plain(args[1]))
        return args[0]
    if len(numbers) > 1 or (numbers and hosts and func not in _HOST_INDEX):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found others in {func}")
    number = next(iter(numbers), asked)
    if number is None:
        return func(*args, **kwargs)
    ledger, name = LEDGERS[number], func._schema.name
    if func is aten._local_scalar_dense.default:
        ledger.wait()
        return func(*plain)
    if name == "aten::_fused_sdp_choice":
        return 0
    if hosts or name in _WAITING:
        ledger.wait()
    if named.get("device") is not None:
        named["device"] = CPU
    found = func(*plain, **named)
    ledger.kernels += 1

    def wrapped(value: Any) -> Any:
        outside = isinstance(value, torch.Tensor) and not isinstance(value, Standin)
        return Standin(value, number) if outside else value

    results = _each(found, wrapped)
    return return_and_correct_aliasing(func, args, kwargs, results) if _aliases(func) else results


class _Moved(torch.autograd.Function):
    """A copy to another stand-in whose gradient goes back: torch's own takes the wrapper for the processor's."""

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, target: torch.device, typed: dict[str, Any]) -> torch.Tensor:
        ctx.source, ctx.dtype = source.device, source.dtype
        return aten._to_copy.default(source, device=target, **typed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return aten._to_copy.default(gradient, device=ctx.source, dtype=ctx.dtype), None, None


class _Dispatch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and saying so to every operation takes a quarter of its time

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        return _run(func, args, kwargs or {})


def _padded(rows: Any, batch_first: bool = False, value: float = 0.0, side: str = "right") -> torch.Tensor:
    """torch's own makes its result where C++ says the rows are, on the processor."""
    assert batch_first and side == "right"
    longest = max(len(row) for row in rows)
    ends = [(0, 0) * (row.dim() - 1) + (0, longest - len(row)) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, end, value=value) for row, end in zip(rows, ends, strict=True)])


class _Functions(TorchFunctionMode):
    """What torch answers before the dispatcher is asked."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = dict(kwargs or {})
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if (drawn := kwargs.get("generator")) is not None:
            onto = source.number if isinstance(source, Standin) else _number(kwargs.get("device"))
            if getattr(drawn, "number", None) != onto:
                raise RuntimeError(f"Expected the generator of the tensor's own device in {func}")
        if func in (torch.tensor, torch.as_tensor) and (onto := _number(kwargs.get("device"))) is not None:
            del kwargs["device"]
            if isinstance(args[0], Standin):
                return args[0].to(torch.device("cuda", onto), **kwargs)
            LEDGERS[onto].uploads += 1
            return Standin(func(*args, **kwargs), onto)
        if getattr(func, "__name__", "") == "pad_sequence" and isinstance(args[0][0], Standin):
            return _padded(*args, **kwargs)
        if func is torch.Tensor.cpu:
            func, args = torch.Tensor.to, (source, CPU)
        if func is torch.Tensor.to and source is not None:
            return self._to(source, args[1:], kwargs)
        if isinstance(source, Standin) and func is torch.Tensor.numpy:
            raise TypeError(f"can't convert {source.device} device type tensor to numpy. Use Tensor.cpu() first.")
        if isinstance(source, Standin) and func is torch.Tensor.tolist:
            LEDGERS[source.number].wait()
            return source.inner.tolist()
        return func(*args, **kwargs)

    @staticmethod
    def _to(source: torch.Tensor, asked: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for one in asked:
            if isinstance(one, str | torch.device):
                device = one
            elif isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, torch.Tensor):
                device, dtype = one.device, one.dtype
        here = source.number if isinstance(source, Standin) else None
        onto = here if device is None else _number(device)
        typed = {} if dtype is None else {"dtype": dtype}
        if onto == here and (dtype is None or dtype == source.dtype) and not kwargs.get("copy"):
            return source
        target = CPU if onto is None else torch.device("cuda", onto)
        if source.requires_grad and torch.is_grad_enabled() and None not in (here, onto):
            return _Moved.apply(source, target, typed)
        return aten._to_copy.default(source, device=target, **typed)


@contextmanager
def devices(capacity: int = 80_000_000_000) -> Iterator[list[Ledger]]:
    """Within the block torch.cuda says that DEVICES cards of `capacity` bytes are there; their ledgers."""

    class Properties:
        name, total_memory, major, minor = "stand-in", capacity, 9, 0

    def at(device: Any = None) -> Ledger:
        return LEDGERS[_number(device) or 0]

    def free(device: Any = None) -> tuple[int, int]:
        return capacity - at(device).live, capacity

    def forget(device: Any = None) -> None:
        at(device).peak = at(device).live

    answers: dict[str, Any] = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "is_initialized": lambda: True,
        "device_count": lambda: DEVICES, "current_device": lambda: 0, "get_device_name": lambda *_: "stand-in",
        "get_device_capability": lambda *_: (9, 0), "get_device_properties": lambda *_: Properties,
        "mem_get_info": free, "synchronize": lambda *_: None, "empty_cache": lambda: None,
        "reset_peak_memory_stats": forget, "max_memory_allocated": lambda d=None: at(d).peak,
        "memory_allocated": lambda d=None: at(d).live, "manual_seed_all": lambda seed: None,
    }  # fmt: skip
    LEDGERS[:] = [Ledger(capacity) for _ in range(DEVICES)]
    generator = mock.patch.object(torch, "Generator", Generator)
    # torch built for CUDA asks the driver itself for this, and optimisers ask for it in every step.
    accelerator = mock.patch.object(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with mock.patch.multiple(torch.cuda, **answers), accelerator, generator, _Dispatch(), _Functions():
        yield LEDGERS
