"""What many tests share: the golden numbers' folder, the tiny models they were made with, and their facts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artifact.facts.fact import Fact, read_facts
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
