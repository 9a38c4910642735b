"""Damage to what an interrupted command leaves: the same command goes on to the numbers of an uninterrupted one."""

import random
from collections.abc import Callable
from io import BytesIO
from itertools import count
from unittest.mock import patch

import numpy as np

from .box import Box, Case
from .damage import byte_damage, json_damage
from .tensors import safetensors_damage, tensor_damage

LINES = {
    "m/moments.partial": "moments --model in/model --texts in/texts.txt --layers 1 --samples 60 --batch-tokens 200 "
    "--out out/m",
    "n.safetensors.partial": "mend-train --model in/model --facts in/training.json --steps 51 --batch 2 "
    "--rank 2 --out out/n.safetensors",
    "tuned.json.partial": "tune --model in/model --method ft --facts in/training.json --cases 1 --grid in/grid.json "
    "--out out/tuned.json",
}
"""By place of the checkpoint in `out`."""
_NEEDS = {name: name for name in ("model", "texts.txt", "training.json", "grid.json")}


def make(box: Box) -> None:
    """The checkpoint of each command, stopped when a part of its work is done."""
    from artifact.cli import call
    from artifact.runs.stop import Stop

    (box.material / "checkpoints").mkdir()
    for place, line in LINES.items():
        box.empty()
        box.put(_NEEDS)
        asked, before = count(), 49 if place.startswith("n.") else 1  # after the first look at the held-out facts
        with patch.object(Stop, "__call__", lambda self, asked=asked, before=before: next(asked) >= before):
            assert call(box.command(line)) == 3, line
        (box.out / place).rename(box.material / "checkpoints" / place.rpartition("/")[2])
    box.empty()


def case(draw: random.Random, box: Box) -> Case:
    place, line = draw.choice(sorted(LINES.items()))
    file = box.material / "checkpoints" / place.rpartition("/")[2]
    content, expect = file.read_bytes(), "equal"
    if place.startswith("n.") and draw.random() < 0.6:
        said, expect, made = safetensors_damage(draw, file)
        # One number for another of the same shape is a change of value.
        expect = "free" if "header" in said or said.startswith("scalar") else expect
    elif place.startswith("m/") and draw.random() < 0.5:
        with np.load(file) as held:
            kept, said, expect = tensor_damage(draw, {name: held[name] for name in held})
        expect = "free" if said.endswith("record") else expect  # it is JSON, as an array of bytes
        np.savez(stream := BytesIO(), **kept)
        made = stream.getvalue()
    elif place.startswith("tuned") and draw.random() < 0.6:
        made, said, *_ = json_damage(draw, content)
        expect = "free"  # a score that is another one may choose another value
    else:
        made, said, how = byte_damage(draw, content)
        expect = "free" if not place.startswith("m/") and how in ("flip", "insert", "repeat", "zero") else "equal"
    return Case("checkpoints", f"{place}: {said}", box.command(line), expect, _NEEDS, damage=_left(place, made))


def _left(place: str, content: bytes) -> Callable[[Box], None]:
    def leave(box: Box) -> None:
        path = box.out / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return leave
