"""Damage to files of tensors: safetensors by tensor, by header and by bytes; npz archives; pickles."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .box import Box, written
from .damage import byte_damage, json_damage

Damage = tuple[str, str, Callable[[Box], None]]

_HOW = (
    *("drop", "rename", "extra", "double", "int", "bool", "complex", "half", "nan", "inf", "huge"),
    *("shape", "cut", "grow", "none", "scalar", "swap", "all", "value"),
)


def tensor_damage(draw: random.Random, held: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str, str]:
    """One tensor damaged: the tensors, words, and what is right: equal (or an error), free, or refused."""
    held = dict(held)
    name = draw.choice(sorted(name for name, array in held.items() if array.dtype.kind in "fiu"))
    array = held[name]
    how = draw.choice(_HOW)
    expect = "refused"
    if how == "drop":
        del held[name]
    elif how == "rename":
        held[draw.choice((f"x.{name}", f"{name}x", name.upper(), "../" + name, ""))] = held.pop(name)
    elif how == "extra":
        held["elsewhere.weight"], expect = np.ones(3, np.float32), "equal"
    elif how == "double":
        held[name], expect = array.astype(np.float64), "equal"
    elif how in ("int", "bool", "complex"):
        held[name] = array.astype({"int": np.int64, "bool": bool, "complex": np.complex64}[how])
    elif how == "half":
        held[name], expect = array.astype(np.float16), "free"
    elif how in ("nan", "inf", "huge"):
        made = array.astype(np.float64 if how == "huge" else np.float32).copy()
        made.flat[draw.randrange(max(made.size, 1))] = {"nan": np.nan, "inf": -np.inf, "huge": 1e300}[how]
        held[name] = made
    elif how == "shape":
        held[name] = array.reshape(-1) if array.ndim > 1 else array.reshape(1, -1)
    elif how == "cut":
        held[name] = array[:-1] if array.ndim else np.zeros(0, np.float32)
    elif how == "grow":
        held[name] = np.concatenate([array, array[:1]]) if array.ndim else array.reshape(1).repeat(2)
    elif how == "none":
        held[name] = array[:0] if array.ndim else np.zeros(0, np.float32)
    elif how == "scalar":
        held[name] = np.ones((), np.float32)
        expect = "equal" if not array.ndim else "refused"
    elif how == "swap":
        other = draw.choice(sorted(name for name, array in held.items() if array.dtype.kind in "fiu"))
        held[name], held[other], expect = held[other], held[name], "free"
    elif how == "all":
        held = {}
    else:
        made = array.copy()
        made.flat[draw.randrange(max(made.size, 1))] += 1
        held[name], expect = made, "free"
    return held, f"{how} {name}", expect


def weights(draw: random.Random, box: Box, layout: str) -> Damage:
    if layout == "pickle":
        return _pickle(draw, box)
    if layout == "shards" and draw.random() < 0.5:
        file = "shards/model.safetensors.index.json"
        made, said, path, how = json_damage(draw, (box.material / file).read_bytes())
        return said, "equal", written(file, made)
    name = "model-00001-of-00002.safetensors" if layout == "shards" else "model.safetensors"
    said, expect, content = safetensors_damage(draw, box.material / layout / name)
    # Causal masks are buffers that a file may hold, drop or fill with anything.
    expect = "equal" if expect == "refused" and ("attn.bias" in said or "masked_bias" in said) else expect
    return said, expect, written(f"{layout}/{name}", content)


def safetensors_damage(draw: random.Random, file: Path) -> tuple[str, str, bytes]:
    """The damaged file's bytes, by tensor, by header, or by bytes."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    way = draw.random()
    if way < 0.5:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save

        with safe_open(file, "np") as opened:
            metadata = opened.metadata()
        held, said, expect = tensor_damage(draw, load_file(file))
        return said, expect, save(held, metadata)
    if way < 0.75:
        made, said, path, how = json_damage(draw, header)
        made = made.replace(b'"@', b'"')
        expect = "free" if how in ("swap", "rename") or (path and path[0] == "__metadata__") else "equal"
        # Renamed metadata is not read: such a file is said to be for an unknown model.
        expect = "equal" if how == "rename" and not (path and path[0] == "__metadata__") else expect
        return f"header: {said}", expect, struct.pack("<Q", len(made)) + made + content[8 + length :]
    if way < 0.85:
        claimed = draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(content), length - 1, length + 1))
        return f"header of {claimed} bytes", "equal", struct.pack("<Q", claimed) + content[8:]
    made, said, how = byte_damage(draw, content, 0, 8 + length)
    return said, "equal" if how not in ("zero", "repeat") else "free", made


def _pickle(draw: random.Random, box: Box) -> Damage:
    import io

    import torch

    file = "pickle/pytorch_model.bin"
    if draw.random() < 0.5:
        held = torch.load(box.material / file, weights_only=True)
        made, said, expect = tensor_damage(draw, {name: tensor.numpy() for name, tensor in held.items()})
        stream = io.BytesIO()
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in made.items()}, stream)
        content = stream.getvalue()
        expect = "equal" if expect == "refused" and ("attn.bias" in said or "masked_bias" in said) else expect
        return said, expect, written(file, content)
    content, said, how = byte_damage(draw, (box.material / file).read_bytes(), 0, 6000)
    return said, "equal" if how in ("cut", "empty") else "free", written(file, content)


def edit(draw: random.Random, box: Box) -> Damage:
    said, expect, content = safetensors_damage(draw, box.material / "edit.safetensors")
    if said.startswith("extra"):
        expect = "refused"
    elif said.startswith("drop"):
        expect = "free"  # a change of fewer weights is a change
    return f"edit: {said}", expect, written("edit.safetensors", content)


def moments(draw: random.Random, box: Box, layer: int) -> Damage:
    folder = box.material / "moments"
    (file,) = folder.glob(f"*.h.{layer}.*.npz")
    way = draw.random()
    if way < 0.35:
        made, said, path, how = json_damage(draw, (folder / "moments.json").read_bytes())
        expect = "equal" if how in ("order",) or (path and "sha256" in str(path[0])) else "free"
        return f"moments.json: {said}", expect, written("moments/moments.json", made)
    if way < 0.8:
        with np.load(file) as held:
            arrays = {name: held[name] for name in held}
        kept, said, expect = tensor_damage(draw, arrays)
        strict = said.endswith("mom2.mom2") and said.startswith(
            ("nan", "inf", "huge", "cut", "grow", "complex", "bool")
        )
        expect = "refused" if strict else "free"
        return f"moments: {said}", expect, lambda at: np.savez(at[f"moments/{file.name}"], **kept)
    content, said, how = byte_damage(draw, file.read_bytes())
    expect = "equal"  # an archive's members carry checksums
    return f"moments: {said}", expect, written(f"moments/{file.name}", content)


def mend(draw: random.Random, box: Box) -> Damage:
    said, expect, content = safetensors_damage(draw, box.material / "mend.safetensors")
    if said.startswith("header"):
        expect = "free"
    return f"mend: {said}", expect, written("mend.safetensors", content)
