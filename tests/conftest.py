"""What many tests share: the golden numbers' folder, the tiny models they were made with, and their facts."""

import gc
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

from artifact.editing.hparams import Hparams
from artifact.editing.method import Method
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import Moments
from artifact.facts.fact import Fact
from artifact.facts.records import read_facts
from artifact.lm.load import LanguageModel, load_folder
from artifact.reporting import drawing
from artifact.runs import editors
from artifact.sources.catalogue import WORLDS

REFERENCE = Path(__file__).parent / "reference"
TINY = ("tiny-gpt2", "tiny-gptj")


SLOW = ("test_smoke.py", "test_full.py", "test_load.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest go first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name not in SLOW)


def pytest_collection_finish() -> None:
    """What is loaded by now stays, so no collection need look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too
    torch.set_num_threads(1)


_DRAW = drawing.draw_here


@pytest.fixture(scope="session", autouse=True)
def _blank_figures() -> Iterator[None]:
    """Reports hold blanks of a figure's size: drawing takes most of the time of a small run."""
    blank = io.BytesIO()
    Image.new("RGB", (1050, 1100), "white").save(blank, "png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "draw_here", lambda one, forms, width: [blank.getvalue()] * len(forms))
        yield


@pytest.fixture(scope="session", autouse=True)
def _world_moments() -> Iterator[None]:
    """The embedded models' second moments are summed once for all tests that ask for the same."""
    kept: dict[tuple[object, ...], Moments] = {}
    summed = editors.compute_moments

    def once(model: LanguageModel, texts: Any, layers: Sequence[int], *given: Any, **more: Any) -> Moments:
        if model.name not in WORLDS or model.decoder.device.type != "cpu":
            return summed(model, texts, layers, *given, **more)
        memory = more.get("memory")
        key = (model.weights_hash(), tuple(layers), *given, more.get("site"), memory and memory.limit)
        if key not in kept:
            kept[key] = summed(model, texts, layers, *given, **more)
        return replace(kept[key], given_MM=dict(kept[key].given_MM), _factors={}, _derived={}, _spaces={}, _counts={})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editors, "compute_moments", once)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports hold their figures, for a test that looks at them."""
    monkeypatch.setattr(drawing, "draw_here", _DRAW)


@pytest.fixture(scope="session")
def reference() -> Path:
    return REFERENCE


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], LanguageModel]:
    """A tiny model by name, loaded once."""
    loaded: dict[str, LanguageModel] = {}

    def get(name: str) -> LanguageModel:
        if name not in loaded:
            loaded[name] = load_folder(REFERENCE / "models" / name)
        return loaded[name]

    return get


@pytest.fixture(scope="session", params=TINY)
def model(request: pytest.FixtureRequest, tiny: Callable[[str], LanguageModel]) -> LanguageModel:
    """Each tiny model in turn: both families."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def facts() -> dict[int, Fact]:
    return {fact.case_id: fact for fact in read_facts(REFERENCE / "facts.json")}


FEW = 2


def take_few_steps(patch: pytest.MonkeyPatch) -> None:
    """Optimisations take FEW steps on every model, whatever its own values are."""

    def fewer(method: Method, layers: int) -> Hparams:
        return msgspec.structs.replace(method.scaled(layers), **{method.steps: FEW})

    for name, method in METHODS.items():
        if method.steps:
            own = {**method.defaults, **({"world": world} if (world := method.default("world")) else {})}
            defaults = {
                model: replace(one, hparams=msgspec.structs.replace(one.hparams, **{method.steps: FEW}))
                for model, one in own.items()
            }
            patch.setitem(METHODS, name, replace(method, defaults=defaults, scaled=partial(fewer, method)))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    """Optimisations take so many steps: for what is true of every step."""
    take_few_steps(monkeypatch)
    return FEW
