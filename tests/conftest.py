"""What many tests share: the golden numbers' folder, the tiny models they were made with, and their facts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from artifact.editing.method import Default
from artifact.editing.methods import METHODS
from artifact.facts.fact import Fact
from artifact.facts.records import read_facts
from artifact.lm.load import LanguageModel, load_folder

REFERENCE = Path(__file__).parent / "reference"
TINY = ("tiny-gpt2", "tiny-gptj")


SLOW = ("test_smoke.py", "test_full.py", "test_load.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest go first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name not in SLOW)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    """Optimisations on the embedded world take so many steps: for what is true of every step."""
    few = 4
    for name, method in METHODS.items():
        if method.steps:
            hparams = msgspec.structs.replace(method.hparams_for("world", 6), **{method.steps: few})
            fewer = {**method.defaults, "world": Default(hparams, "fewer steps than chosen")}
            monkeypatch.setitem(METHODS, name, replace(method, defaults=fewer))
    return few
