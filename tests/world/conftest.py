"""What the tests of the embedded world share: worlds of two seeds, and the committed model in transformers."""

import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from artifact.sources.catalogue import WORLD
from artifact.world.facts import DEFAULT_SEED, World, generate


@pytest.fixture(scope="session", params=(DEFAULT_SEED, DEFAULT_SEED + 1))
def world(request: pytest.FixtureRequest) -> World:
    return generate(request.param)


@pytest.fixture(scope="session")
def committed() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    model = GPT2LMHeadModel.from_pretrained(WORLD).eval()
    tokenizer = AutoTokenizer.from_pretrained(WORLD)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return model, tokenizer
