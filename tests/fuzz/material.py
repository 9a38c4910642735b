"""The undamaged inputs, made once by the commands: models, facts, an edit, moments, MEND's network, runs; all small."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from . import checkpoints
from .box import Box

TESTS = Path(__file__).parents[1]
REFERENCE = TESTS / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"
RECORDS = json.loads((REFERENCE / "facts.json").read_text("utf-8"))
REQUEST = RECORDS[10]
PROMPT = REQUEST["requested_rewrite"]["prompt"].replace("{}", REQUEST["requested_rewrite"]["subject"])
SUBJECT = REQUEST["requested_rewrite"]["subject"]

LATER = ("gpt_neox", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3_text", "phi3", "bert", "roberta")
"""Families with a folder of their own, beside GPT-2, GPT-J and Llama."""


def models(at: Path) -> None:
    """The models' folders. transformers' own models write most of them: their imports take longer than all the rest."""
    import family_models
    import tiny_llama

    at.mkdir()
    shutil.copytree(TINY, at / "model")
    shutil.copytree(REFERENCE / "models" / "tiny-gptj", at / "gptj")
    tiny_llama.write_folder(at / "llama", tiny_llama.llama_module(), begins=True)
    for family in LATER:
        choose, vocabulary = random.Random(family).choice, tiny_llama.VOCABULARY
        config = family_models.configuration(family, choose, vocabulary=vocabulary, layers=2, positions=256)
        family_models.write_model(at / family, family_models.module_of(config))
    _other_layouts(at)


def make(box: Box) -> None:
    """Everything under `box.material`; the models only if nobody made them."""
    import cheap

    from artifact.cli import call

    def kloc(*words: Any) -> None:
        assert call([str(word) for word in words]) == 0, words

    box.empty()
    at = box.material
    if not at.exists():
        models(at)
    _texts(at)
    kloc("moments", "--model", at / "model", "--texts", at / "texts.txt", "--layers", "1,2,3", "--out", at / "moments")
    kloc("mend-train", "--model", at / "model", "--facts", at / "training.json", "--steps", 2, "--rank", 8,
         "--out", at / "mend.safetensors")  # fmt: skip
    ft = ("--method", "ft", "--request", at / "request.json", "--hparams", at / "ft.json")
    kloc("edit", "--model", at / "model", *ft, "--out", at / "edit.safetensors")
    tune = ("--method", "ft", "--facts", at / "training.json", "--cases", 1, "--grid", at / "grid.json")
    kloc("tune", "--model", at / "model", *tune, "--out", at / "tuned.json")
    cheap.run(at / "run")
    small = cheap.description(8)
    cheap.run(at / "run2", cheap.Cheap(small))
    kloc("contribute", at / "run", "--out", at / "pack.zip")
    kloc("report", at / "run")
    checkpoints.make(box)


def _texts(at: Path) -> None:
    known = [
        {"known_id": n, "subject": r["subject"], "attribute": r["target_true"]["str"], "template": r["prompt"],
         "prompt": r["prompt"].replace("{}", r["subject"]), "relation_id": r["relation_id"]}
        for n, r in enumerate(record["requested_rewrite"] for record in RECORDS)
    ]  # fmt: skip
    files = {
        "facts.json": RECORDS[:3],
        "training.json": RECORDS[:10],
        "request.json": REQUEST,
        "history.json": RECORDS[:2],
        "known.json": known,
        "grid.json": {"ft": {"num_steps": [2], "lr": [0.001]}},
        **_of_other_projects(known),
        "prefixes.json": ["{}", "Yesterday, {}", "The report said. {}"],
        "memit_prefixes.json": [["{}"], ["Yesterday, {}", "The report said. {}"]],
    }
    for name, content in files.items():
        (at / name).write_text(json.dumps(content), "utf-8")
    for method, file, steps in (
        *((method, "hparams_tiny-gpt2.json", "v_num_grad_steps") for method in ("rome", "memit", "emmet", "alphaedit")),
        ("rrome", "hparams_tiny-gpt2_r_rome.json", "v_num_grad_steps"),
        ("pmet", "hparams_tiny-gpt2_mlp.json", "v_num_grad_steps"),
        ("rets", "hparams_tiny-gpt2.json", "v_num_grad_steps"),
        ("ft", "hparams_tiny-gpt2_constr.json", "num_steps"),
    ):
        hparams = json.loads((REFERENCE / method / file).read_text("utf-8"))
        (at / f"{method}.json").write_text(json.dumps({**hparams, steps: 3}), "utf-8")
    words, draw = sorted({word for one in known for word in one["prompt"].split()}), random.Random(0)
    lines = [f"{one['prompt']} {one['attribute']}." for one in known] + [
        " ".join(draw.choices(words, k=9)) for _ in range(200)
    ]
    (at / "texts.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (at / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")


def _of_other_projects(known: list[dict[str, Any]]) -> dict[str, Any]:
    """The first known facts in the layouts that `kloc facts convert` reads."""
    found: dict[str, Any] = {"easyedit.json": [], "knowedit.json": [], "zsre.json": []}
    for one in known[:3]:
        edit = {"subject": one["subject"], "prompt": one["prompt"], "target_new": "Rome"}
        other = {"prompt": "Microsoft is", "ground_truth": [[one["attribute"]]]}
        found["easyedit.json"].append(
            edit | {"case_id": one["known_id"], "ground_truth": one["attribute"], "rephrase_prompt": "It is",
                    "locality_prompt": "Microsoft is", "locality_ground_truth": one["attribute"]}
        )  # fmt: skip
        found["knowedit.json"].append(
            edit | {"ground_truth": [one["attribute"]], "portability": {}, "locality": {"Forgetfulness": [other]}}
        )
        found["zsre.json"].append(
            {"subject": one["subject"], "src": one["prompt"], "alt": "Rome", "answers": [one["attribute"]],
             "rephrase": "It is", "loc": "nq question: who", "loc_ans": "me"}
        )  # fmt: skip
    return found


def _other_layouts(at: Path) -> None:
    """The same model in shards, and as a pickle."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(at / "model" / "model.safetensors")
    names = sorted(weights)
    for layout in ("shards", "pickle"):
        shutil.copytree(at / "model", at / layout)
        (at / layout / "model.safetensors").unlink()
    torch.save(weights, at / "pickle" / "pytorch_model.bin")
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, kept in halves.items():
        save_file({name: weights[name] for name in kept}, at / "shards" / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())},
             "weight_map": {name: file for file, kept in halves.items() for name in kept}}  # fmt: skip
    (at / "shards" / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
