"""`kloc full` and `kloc run` the whole way on small models under the real names, everything fetched from loopback.

The models are random, of the paper's depths, with a vocabulary of 800: no number of these runs means anything.
"""

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from filehost import FileHost, hosting
from hub import Hub, serving_all
from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

from artifact.cli import call
from artifact.editing.mend_weights import convert
from artifact.facts import download
from artifact.facts.download import Patience
from artifact.facts.relations import RELATIONS
from artifact.facts.sources import HUB_MODELS, PLAIN_SOURCES, SOURCES, PlainSource
from artifact.plan import PAPER_METHODS, PAPER_MODELS

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
        attribute = ANSWER.strip() if number < 2 else rewrite["target_true"]["str"]
        prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
        found.append(
            {
                "known_id": number,
                "subject": rewrite["subject"],
                "attribute": attribute,
                "template": rewrite["prompt"],
                "prediction": f" {attribute}.",
                "prompt": prompt,
                "relation_id": rewrite["relation_id"],
            }
        )
    return found


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
        archive.writestr("rel_data/rel_known_1000.json", json.dumps(known_facts()))
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


@dataclass
class House:
    """The loopback hosts, a cache that was filled by `kloc full`, and the folder that it ran in."""

    patch: pytest.MonkeyPatch
    host: FileHost
    hub: Hub
    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def asked(self) -> int:
        return len(self.host.asked) + len(self.hub.asked)

    def place(self, name: str, folder: Path | None = None) -> None:
        """Run in `folder` of its own, with a copy of what `kloc full` fetched."""


def small(source: PlainSource, contents: Sequence[bytes]) -> PlainSource:
    """The source with the sizes of `contents`, and their hashes where the real one's are pinned."""
    files = [
        replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest() if file.sha256 else None)
        for file, content in zip(source.files, contents, strict=True)
    ]
    return replace(source, files=tuple(files))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("full")
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
                patch.setitem(table, name, replace(model, size=len(weights), sha256=sha256))
            models[model.repo] = (published_folder, model.revision)
        hub = stack.enter_context(serving_all(models))
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        resolve = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(download, "PATIENCE", Patience(stall_seconds=5, tries=1, first_wait=0.01))
        patch.setenv("KLOC_CACHE", str(folder / "cache"))
        patch.setenv("KLOC_MIRROR", host.url)
        patch.chdir(folder)
        yield House(patch, host, hub, folder)


def test_x(house, capsys):
    import time, os
    L=os.environ["LIM"]
    t=time.process_time()
    code = call(["full","--limit",L])
    out=capsys.readouterr()
    print(code, time.process_time()-t); 
    for m in PAPER_MODELS:
        with sqlite3.connect(house.folder/"results/full"/m/"run.sqlite") as c:
            for r in c.execute("select unit,status,count(*), min(payload) from records where status!='done' group by 1,2"): print(m, r[0],r[1],r[2], r[3][:200] if r[1]!="done" else "")
    t=time.process_time()
    print(call(["full","--limit",L]), time.process_time()-t)
    t=time.process_time()
    print(call(["report","results/full"]), time.process_time()-t)
    t=time.process_time()
    print(call("run gpt2-xl --only table1 --methods rome --limit 1".split()), time.process_time()-t)
    assert 0
