"""Names keep their word: a tensor called x_BTD has three axes, and what is B long in one argument is so in the others.

Every function of lm, tracing, editing and evaluation is watched while a model is traced, edited by each method and
scored. At a call the arguments' axes are compared with their letters, alike letters with each other; at its end the
local tensors' number of axes. A digit is an axis of that length, X stands for any axes.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from tiny_llama import llama_module, write_folder

import artifact
from artifact.lm.load import load
from artifact.plans.mechanism import MECHANISM
from artifact.plans.paper import SMOKE
from artifact.runs.local import compute
from artifact.runs.resolve import Asked, prepare

WATCHED = tuple(str(Path(artifact.__file__).parent / room) + "/" for room in ("lm", "tracing", "editing", "evaluation"))
MODELS = Path(__file__).parent / "reference" / "models"
SUFFIX = re.compile(r"_([A-Z0-9]*[A-Z][A-Z0-9]*)$")


def wrong(named: dict[str, object], sizes: bool) -> Iterator[str]:
    """What is wrong with the tensors of these names: their number of axes and, with `sizes`, their lengths."""
    lengths: dict[str, tuple[int, str]] = {}
    for name, value in named.items():
        suffix = SUFFIX.search(name)
        if suffix is None or not isinstance(value, torch.Tensor | np.ndarray):
            continue
        letters = suffix[1]
        if "X" in letters:  # as many axes as there are, of any length
            at, more = letters.index("X"), value.ndim - len(letters) + 1
            letters = letters[:at] + "X" * max(0, more) + letters[at + 1 :]
        if len(letters) != value.ndim:
            yield f"{name} has shape {tuple(value.shape)}"
            continue
        for letter, size in zip(letters, value.shape, strict=True):
            if letter.isdigit() and size != int(letter):
                yield f"{name} has shape {tuple(value.shape)}"
            elif sizes and not letter.isdigit() and letter != "X":
                known, other = lengths.setdefault(letter, (size, name))
                if known != size:
                    yield f"{letter} is {size} in {name} and {known} in {other}"


@contextmanager
def watched(found: set[str]) -> Iterator[None]:
    """Collect what is wrong in every watched function that is called inside."""

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event in ("call", "return") and code.co_filename.startswith(WATCHED):
            called = event == "call"
            where = f"{Path(code.co_filename).name}:{code.co_qualname}"
            found.update(f"{where}: {one}" for one in wrong(frame.f_locals, sizes=called))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_the_watch_sees() -> None:
    one, two = torch.zeros(2, 3), torch.zeros(4)
    assert [*wrong({"x_BT": one, "y_T": two}, True)] == ["T is 4 in y_T and 3 in x_BT"]
    assert [*wrong({"x_BTD": one, "_SIDE": 3, "z": one, "w_XT": one}, False)] == ["x_BTD has shape (2, 3)"]
    assert [*wrong({"x_B1": one, "w_XB1": one}, True)] == ["x_B1 has shape (2, 3)", "w_XB1 has shape (2, 3)"]


@pytest.fixture(scope="module")
def context():
    found, _ = prepare(SMOKE, Asked("world", limit=2), lambda line: None)
    return found


@pytest.mark.parametrize("unit", [*SMOKE.units, MECHANISM.units[0]], ids=lambda unit: unit.name)
def test_names_say_the_shape(context, unit) -> None:
    wrongs: set[str] = set()
    with watched(wrongs):
        records = compute(unit, context.items(unit)[:2], context)
    assert {record.status for record in records} == {"done"}
    assert not wrongs, "\n".join(sorted(wrongs))


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_names_say_the_shape_in_every_family(family: str, tmp_path: Path) -> None:
    folder = MODELS / f"tiny-{family}"
    if family == "llama":  # with grouped heads
        folder = write_folder(tmp_path / "llama", llama_module())
    wrongs: set[str] = set()
    with watched(wrongs):
        model = load(str(folder))
        model.decoder.run(model.decoder.words(torch.tensor([[1, 2, 3]])))
    assert not wrongs, "\n".join(sorted(wrongs))
