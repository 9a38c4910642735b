"""The paper's models and sources under their real names, small, served from loopback, for runs of whole plans.

The models are random, of the paper's depths, with a vocabulary of 800: no number of such a run means anything.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from conftest import take_few_steps
from filehost import FileHost, hosting
from hub import Hub, serving_all
from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

from artifact.facts.relations import RELATIONS
from artifact.plans.paper import PAPER_MODELS
from artifact.sources import download
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES, SOURCES, PlainSource
from artifact.sources.download import Patience

REFERENCE = Path(__file__).parent / "reference"
WIDTH, POSITIONS, VOCABULARY = 16, 128, 800
ANSWER = " Rome"
"""What both models say to anything, so that the traced statements count."""
FACTS = [
    record
    for record in json.loads((REFERENCE / "facts.json").read_text())
    if record["requested_rewrite"]["relation_id"] in RELATIONS
][:12]


def plain_facts() -> list[dict]:
    """FACTS as CounterFact has them, without relation fields."""
    found = json.loads(json.dumps(FACTS))
    for record in found:
        del record["rel_prompts"]
        for field in ("relation", "add_rel_prompt", "rm_rel_prompt"):
            del record["requested_rewrite"][field]
    return found


def known_facts() -> list[dict]:
    """Statements of FACTS; the first two expect what the models answer."""
    found = []
    for number, record in enumerate(FACTS):
        rewrite = record["requested_rewrite"]
        subject, template = rewrite["subject"], rewrite["prompt"]
        attribute = ANSWER.strip() if number < 2 else rewrite["target_true"]["str"]
        one = {"known_id": number, "subject": subject, "attribute": attribute, "template": template}
        one |= {"prediction": f" {attribute}.", "prompt": template.replace("{}", subject)}
        found.append(one | {"relation_id": rewrite["relation_id"]})
    return found


def relation_words() -> list[dict]:
    """The known facts as the authors' file of relation traces has them: `subject` holds the words to corrupt."""
    return [one | {"subject": one["template"].partition("{}")[2].strip()} for one in known_facts()]


def publish_models(folder: Path) -> dict[str, Path]:
    """GPT-2 XL as safetensors and GPT-J as a pickle, each in a folder of its own, as the hub has them."""
    reference = REFERENCE / "models" / "tiny-gpt2"
    answer = json.loads((reference / "tokenizer.json").read_text())["model"]["vocab"][ANSWER.replace(" ", "Ġ")]
    shape = {"n_embd": WIDTH, "n_head": 2, "n_positions": POSITIONS, "vocab_size": VOCABULARY, "initializer_range": 0.2}
    torch.manual_seed(0)
    xl = GPT2LMHeadModel(GPT2Config(n_layer=48, bos_token_id=0, eos_token_id=0, **shape))
    embedding_VD = xl.transformer.wte.weight.data
    embedding_VD[:, 0], embedding_VD[answer, 0] = 0, 1
    xl.transformer.ln_f.bias.data[0] = 5
    j = GPTJForCausalLM(GPTJConfig(n_layer=28, rotary_dim=4, bos_token_id=0, eos_token_id=0, **shape))
    j.lm_head.bias.data[answer] += 5
    found = {"gpt2-xl": folder / "gpt2-xl", "gpt-j": folder / "gpt-j"}
    xl.save_pretrained(found["gpt2-xl"])
    j.config.save_pretrained(found["gpt-j"])
    torch.save(j.state_dict(), found["gpt-j"] / "pytorch_model.bin")
    for one in found.values():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(reference / name, one / name)
    return found


def moments(seed: int) -> bytes:
    """A layer's second moments in the published layout: a sum with its count."""
    rows = np.random.default_rng(seed).normal(size=(1000, 4 * WIDTH)).astype(np.float32)
    buffer = BytesIO()
    np.savez(buffer, **{"mom2.mom2": rows.T @ rows, "mom2.count": len(rows), "sample_size": 100_000})
    return buffer.getvalue()


def mend(seed: int) -> bytes:
    """MEND's networks for both weight shapes in the published layout, with steps that change something."""
    generator = torch.Generator().manual_seed(seed)
    state, inner, both = {}, 4 * WIDTH, 5 * WIDTH
    for rows, columns in ((inner, WIDTH), (WIDTH, inner)):
        place = f"mend.({rows}, {columns})"
        state |= {f"{place}.u_mean": torch.zeros(rows), f"{place}.u_std": torch.ones(rows)}
        state |= {f"{place}.v_mean": torch.zeros(columns), f"{place}.v_std": torch.ones(columns)}
        for layer in range(2):
            shapes = {"u": (both, 8), "v": (8, both), "bias": (both,)}
            shapes |= {"mode_shift.weight": (3, both), "mode_scale.weight": (3, both)}
            state |= {
                f"{place}.mlp.layers.{layer}.{name}": 0.1 * torch.randn(size, generator=generator)
                for name, size in shapes.items()
            }
    buffer = BytesIO()
    torch.save({"model": {**state, "edit_lrs": torch.full((6,), 1e-2)}, "opt": {}, "config": {}}, buffer)
    return buffer.getvalue()


def zipped(records: Sequence[dict]) -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("rel_data/rel_counterfact.json", json.dumps(records))
        archive.writestr("rel_data/rel_known_1000.json", json.dumps(relation_words()))
    return buffer.getvalue()


def published() -> dict[str, list[bytes]]:
    """Every plain source's files, by source."""
    found = {
        "counterfact": [json.dumps(plain_facts()).encode()],
        "known": [json.dumps(known_facts()).encode()],
        "relation": [zipped(FACTS)],
    }
    for number, model in enumerate(PAPER_MODELS):
        files = PLAIN_SOURCES[f"moments-{model}"].files
        found[f"moments-{model}"] = [moments(100 * number + one) for one in range(len(files))]
        found[f"mend-{model}"] = [mend(number)]
    return found


def path_on(url: str) -> str:
    """Where a mirror keeps what lies at a URL."""
    return f"/{url.split('://')[1]}"


@dataclass(frozen=True)
class House:
    """The loopback hosts, and the folder that commands run in, with its cache."""

    host: FileHost
    hub: Hub
    folder: Path

    @property
    def asked(self) -> int:
        """How many requests reached a host."""
        return len(self.host.asked) + len(self.hub.asked)


def small(source: PlainSource, contents: Sequence[bytes]) -> PlainSource:
    """The source with the sizes of `contents`, and their hashes where the real one's are pinned."""
    files = [
        replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest() if file.sha256 else None)
        for file, content in zip(source.files, contents, strict=True)
    ]
    return replace(source, files=tuple(files))


@contextmanager
def small_paper(folder: Path) -> Iterator[House]:
    """Everything is served, and commands run in `folder`, until the block ends."""
    folders = publish_models(folder / "published")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        host = stack.enter_context(hosting())
        for name, contents in published().items():
            source = PLAIN_SOURCES[name]
            for table in (SOURCES, PLAIN_SOURCES):
                patch.setitem(table, name, small(source, contents))
            for file, content in zip(source.files, contents, strict=True):
                host.files[path_on(file.urls[0])] = content
        models = {}
        for name, published_folder in folders.items():
            model = HUB_MODELS[name]
            weights = (published_folder / model.weights).read_bytes()
            sha256 = hashlib.sha256(weights).hexdigest() if model.sha256 else None
            for table in (SOURCES, HUB_MODELS):
                patch.setitem(table, name, replace(model, size=len(weights), sha256=sha256, hashes={}))
            models[model.repo] = (published_folder, model.revision)
        hub = stack.enter_context(serving_all(models))
        hub.in_use(patch)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(download, "PATIENCE", Patience(stall_seconds=5, tries=1, first_wait=0.01))
        patch.setenv("KLOC_CACHE", str(folder / "cache"))
        patch.setenv("KLOC_MIRROR", host.url)
        patch.chdir(folder)
        take_few_steps(patch)
        yield House(host, hub, folder)
