"""Every kind of input with the commands that read it: how a case of the kind is drawn from a seed."""

import json
import random
from collections.abc import Callable
from typing import Any

from . import checkpoints, codes, hosts, journals, packs, processes, tensors, words
from .box import Box, Case, written
from .damage import byte_damage, json_damage
from .material import LATER, PROMPT, SUBJECT

Draw = random.Random


def trace(box: Box, model: str = "model", more: str = "") -> list[str]:
    command = box.command(f"trace --model in/{model} --samples 2 {more} --json out/t.json")
    return [*command, "--prompt", PROMPT, "--subject", SUBJECT]


def score(box: Box, model: str = "model", more: str = "") -> list[str]:
    return box.command(f"score --model in/{model} --cases in/facts.json {more} --json out/s.json")


def knockout(box: Box) -> list[str]:
    command = box.command("knockout --model in/model --from last --to subject --window 2 --json out/k.json")
    return [*command, "--prompt", PROMPT, "--subject", SUBJECT]


def replaced(box: Box) -> list[str]:
    """A trace whose corrupted run has other names in the place of the subject's noise."""
    return [*trace(box, more="--corruption replace"), "--donor", "Sony"]


_LIST = "--moments in/moments --prefixes in/prefixes.json"
_GROUPS = "--moments in/moments --prefixes in/memit_prefixes.json"
_OWN = {
    "ft": "--hparams in/ft.json",
    "kn": "",
    "rome": f"--hparams in/rome.json {_LIST}",
    "memit": f"--hparams in/memit.json {_GROUPS}",
    "mend": "--mend-weights in/mend.safetensors",
    "rrome": f"--hparams in/rrome.json {_LIST}",
    "emmet": f"--hparams in/emmet.json {_GROUPS}",
    "alphaedit": f"--hparams in/alphaedit.json {_GROUPS}",
    "memit_merge": f"--hparams in/memit.json {_GROUPS}",
    "pmet": f"--hparams in/pmet.json {_GROUPS}",
    "rets": f"--hparams in/rets.json {_LIST}",
    "ike": "--facts in/facts.json",
}
NEEDS = {
    method: tuple(word.removeprefix("in/") for word in line.split() if word.startswith("in/"))
    for method, line in _OWN.items()
}


def edit(box: Box, method: str = "rome", more: str = "") -> list[str]:
    line = f"edit --model in/model --method {method} --request in/request.json {_OWN[method]} {more}"
    return box.command(f"{line} --out out/e.safetensors")


def needs(*names: str) -> dict[str, str]:
    return {name: name for name in ("model", *names)}


def _json_file(
    draw: Draw, box: Box, name: str, within: tuple[Any, ...] = ()
) -> tuple[bytes, str, tuple[Any, ...], str]:
    """Damage by structure as a rule, by bytes now and then."""
    content = (box.material / name).read_bytes()
    if draw.random() < 0.75:
        return json_damage(draw, content, within)
    made, said, how = byte_damage(draw, content)
    return made, said, (), how


# What a configuration can say otherwise without a contradiction to the weights: a change that one can make.
_CHOICES = {
    *("n_head", "layer_norm_epsilon", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    *("reorder_and_upcast_attn", "bos_token_id", "eos_token_id", "rotary_dim", "torch_dtype", "dtype", "n_positions"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "hidden_act"),
    *("max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta", "attention_bias", "mlp_bias"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "layer_types"),
    *("use_sliding_window", "max_window_layers", "use_parallel_residual", "partial_rotary_factor", "layer_norm_eps"),
    *("hidden_activation", "original_max_position_embeddings", "pad_token_id"),
}


def config(draw: Draw, box: Box) -> Case:
    folder = draw.choice(_FOLDERS)
    made, said, path, how = _json_file(draw, box, f"{folder}/config.json")
    free = (path and path[0] in _CHOICES) or how in ("flip", "insert", "repeat", "zero")
    arguments = draw.choice(_asking(box, folder))
    found = Case("config", f"{folder}/config.json: {said}", arguments, "free" if free else "equal")
    found.needs = {**needs("facts.json"), folder: folder}
    found.damage = written(f"{folder}/config.json", made)
    return found


_FOLDERS = ("model", "gptj", "llama", *LATER)


def _asking(box: Box, folder: str) -> list[list[str]]:
    """Commands that ask a model. The tiny encoders are only traced: facts ask for words that they do not have."""
    return [trace(box, folder), *([] if folder in ("bert", "roberta") else [score(box, folder)])]


def tokenizer(draw: Draw, box: Box) -> Case:
    folder, file = draw.choice(_FOLDERS), draw.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    made, said, path, how = _json_file(draw, box, f"{folder}/{file}")
    arguments = [*_asking(box, folder), *([edit(box)] if folder == "model" else [])]
    found = Case("tokenizer", f"{folder}/{file}: {said}", draw.choice(arguments))
    found.expect = "equal" if how in ("order", "cut", "empty") else "free"
    found.needs = {**needs("facts.json", "request.json", *NEEDS["rome"]), folder: folder}
    found.damage = written(f"{folder}/{file}", made)
    return found


def weights(draw: Draw, box: Box) -> Case:
    layout = draw.choice((*_FOLDERS, "shards", "pickle"))
    said, expect, damage = tensors.weights(draw, box, layout)
    arguments = draw.choice(_asking(box, layout))
    return Case(
        "weights", f"{layout}: {said}", arguments, expect, {**needs("facts.json"), layout: layout}, damage=damage
    )


def code(draw: Draw, box: Box) -> Case:
    return codes.case(draw, box, _MAKE)


_USED = {"requested_rewrite", "paraphrase_prompts", "neighborhood_prompts", "rel_prompts", "case_id"}


def facts(draw: Draw, box: Box) -> Case:
    """One record of three is damaged: the others' numbers must stand."""
    at = draw.randrange(3)
    made, said, path, how = _json_file(draw, box, "facts.json", (at,))
    used = len(path) > 1 and path[1] in _USED or len(path) < 2 or how == "swap"
    check = (lambda before, now: _others(before, now, at)) if path and len(path) > 1 else None
    expect = "others" if used else "equal"
    if how in ("order", "cut", "empty", "append", "head"):
        expect, check = "equal", None
    if how in ("flip", "insert", "repeat", "zero"):
        expect = "free"
    arguments = draw.choice((score(box), score(box), score(box, more="--memory 100MB"), _run(box)))
    if arguments[0] == "run" and expect != "free":
        expect, check = "others", lambda before, now: _other_records(before, now, at)
    return Case(
        "facts",
        f"facts.json: {said}",
        arguments,
        expect,
        needs("facts.json"),
        damage=written("facts.json", made),
        check=check,
    )


def _others(before: Any, now: Any, at: int) -> str:
    from .judge import unequal

    old, new = before["s.json"]["cases"], now["s.json"]["cases"]
    if len(old) != len(new):
        return f"{len(old)} cases, now {len(new)}"
    return next((d for n in range(3) if n != at and (d := unequal(old[n], new[n], f"case {n}"))), "")


def _run(box: Box) -> list[str]:
    return box.command("run smoke --model in/model --facts in/facts.json --only table2 --methods ft --out out/run")


def _other_records(before: Any, now: Any, at: int) -> str:
    """Whatever became of the damaged record: those of the other cases are what they were."""
    from .judge import unequal

    old, new = before["run/run.sqlite"], now["run/run.sqlite"]
    kept = [name for name in new if name in old and not name.endswith(f" {at}")]
    return next((d for name in kept if (d := unequal(old[name], new[name], name))), "")


def known(draw: Draw, box: Box) -> Case:
    made, said, path, how = _json_file(draw, box, "known.json")
    expect = (
        "equal"
        if how in ("order", "cut", "empty", "head") or (len(path) > 1 and path[1] not in ("subject", "prompt"))
        else "free"
    )
    if how == "swap":
        expect = "free"
    return Case(
        "known", f"known.json: {said}", trace(box, more="--facts in/known.json"), expect, needs("known.json"),
        damage=written("known.json", made),
    )  # fmt: skip


def own(draw: Draw, box: Box) -> Case:
    """Files that `kloc facts` looks at or converts."""
    name = draw.choice(("facts.json", "known.json", "easyedit.json", "knowedit.json", "zsre.json"))
    made, said, _, how = _json_file(draw, box, name)
    line, expect = f"facts check in/{name} {draw.choice(('', '--model in/model'))}", "free"
    if name in ("easyedit.json", "knowedit.json", "zsre.json"):
        line = f"facts convert in/{name} --from {name.removesuffix('.json')} --out out/f.json"
        expect = "equal" if how in ("order", "cut", "empty", "head") else "free"
    return Case("own", f"{name}: {said}", box.command(line), expect, needs(name), damage=written(name, made))


def requests(draw: Draw, box: Box) -> Case:
    method = draw.choice((*_OWN, "mend"))
    file = draw.choice(("request.json", "history.json")) if method == "mend" else "request.json"
    made, said, path, how = _json_file(draw, box, file)
    more = "--history in/history.json" if file == "history.json" else ""
    if draw.random() < 0.4:
        more += " --perspective relation"
    expect = "equal" if how in ("order", "cut", "empty", "head") else "free"
    return Case(
        "requests", f"{file}: {said}", edit(box, method, more), expect,
        needs("request.json", "history.json", *NEEDS[method]), damage=written(file, made),
    )  # fmt: skip


def settings(draw: Draw, box: Box) -> Case:
    """Hyperparameters and context prefixes, and the other facts that a method reads."""
    method = draw.choice([method for method, files in NEEDS.items() if any(name.endswith(".json") for name in files)])
    file = draw.choice(tuple(name for name in NEEDS[method] if name.endswith(".json")))
    made, said, path, how = _json_file(draw, box, file)
    expect = "equal" if how in ("order", "cut", "empty", "head") else "free"
    if made.strip() == b"{}":  # nothing is set otherwise than for the model, which is a wish one can have
        expect = "free"
    return Case(
        "settings",
        f"{file}: {said}",
        edit(box, method),
        expect,
        needs("request.json", *NEEDS[method]),
        damage=written(file, made),
    )


def edits(draw: Draw, box: Box) -> Case:
    said, expect, damage = tensors.edit(draw, box)
    lines = [
        score(box, more="--edit in/edit.safetensors"),
        box.command("apply --model in/model --edit in/edit.safetensors --out out/m"),
        box.command(f"{words.GENERATE} --edit in/edit.safetensors --json out/g.json"),
        edit(box, draw.choice(("ft", "rome")), "--on in/edit.safetensors"),
    ]
    needed = needs("facts.json", "request.json", "edit.safetensors", *NEEDS["ft"], *NEEDS["rome"])
    return Case("edits", said, draw.choice(lines), expect, needed, damage=damage)


def moments(draw: Draw, box: Box) -> Case:
    method = draw.choice([method for method, files in NEEDS.items() if "moments" in files])
    settings = next(name for name in NEEDS[method] if name.endswith(".json"))
    layer = draw.choice(json.loads((box.material / settings).read_bytes())["layers"])
    said, expect, damage = tensors.moments(draw, box, layer)
    return Case("moments", said, edit(box, method), expect, needs("request.json", *NEEDS[method]), damage=damage)


def mend(draw: Draw, box: Box) -> Case:
    said, expect, damage = tensors.mend(draw, box)
    return Case("mend", said, edit(box, "mend"), expect, needs("request.json", *NEEDS["mend"]), damage=damage)


def texts(draw: Draw, box: Box) -> Case:
    file = draw.choice(("texts.txt", "texts.jsonl"))
    content = (box.material / file).read_bytes()
    if file.endswith("jsonl") and draw.random() < 0.5:
        first, rest = content.split(b"\n", 1)
        made, said, path, how = json_damage(draw, first)
        made = made + b"\n" + rest
    else:
        made, said, how = byte_damage(draw, content)
    command = box.command(f"moments --model in/model --texts in/{file} --layers 1 --samples 60 --out out/m")
    expect = "equal" if how == "order" else "free"
    return Case("texts", f"{file}: {said}", command, expect, needs(file), damage=written(file, made))


def training(draw: Draw, box: Box) -> Case:
    """MEND's training reads facts and hyperparameters."""
    made, said, path, how = _json_file(draw, box, "training.json")
    command = box.command(
        "mend-train --model in/model --facts in/training.json --steps 1 --rank 2 --out out/n.safetensors"
    )
    expect = "equal" if how in ("order", "cut", "empty", "head") else "free"
    return Case(
        "training",
        f"training.json: {said}",
        command,
        expect,
        needs("training.json"),
        damage=written("training.json", made),
    )


def grids(draw: Draw, box: Box) -> Case:
    """What is tried of hyperparameters, and the files that say what was chosen."""
    name = draw.choice(("grid.json", "tuned.json"))
    made, said, path, how = _json_file(draw, box, name)
    command = box.command(f"{words.TUNE} --grid in/grid.json")
    if name == "tuned.json":
        line = "edit --model in/model --method ft --request in/request.json --hparams in/tuned.json"
        command = box.command(f"{line} --out out/e.safetensors")
    # The first value of a grid is tried first.
    expect = "equal" if how in ("cut", "empty", "head") or (name, how) == ("tuned.json", "order") else "free"
    return Case(
        "grids",
        f"{name}: {said}",
        command,
        expect,
        needs("training.json", "request.json", name),
        damage=written(name, made),
    )


def batches(draw: Draw, box: Box) -> Case:
    """Facts that are written one after the other."""
    made, said, path, how = _json_file(draw, box, "history.json")
    method = draw.choice(("ft", "mend", "rome", "alphaedit"))
    line = f"sequence --model in/model --method {method} --cases in/history.json --sequence 1,2 {_OWN[method]}"
    expect = "equal" if how in ("order", "cut", "empty", "head") else "free"
    return Case("batches", f"history.json: {said}", box.command(f"{line} --json out/s.json"), expect,
                needs("history.json", *NEEDS[method]), damage=written("history.json", made))  # fmt: skip


def pack(draw: Draw, box: Box) -> Case:
    return packs.case(draw, box)


def interrupted(draw: Draw, box: Box) -> Case:
    return checkpoints.case(draw, box)


def runs(draw: Draw, box: Box) -> Case:
    return journals.case(draw, box)


def servers(draw: Draw, box: Box) -> Case:
    return hosts.case(draw, box)


_MAKE: dict[str, Any] = {
    "trace": trace, "replaced": replaced, "knockout": knockout, "score": score, "edit": edit, "needs": needs,
}  # fmt: skip


def arguments(draw: Draw, box: Box) -> Case:
    return words.case(draw, box, _MAKE)


def process(draw: Draw, box: Box) -> Case:
    return processes.case(draw, box, _MAKE)


KINDS: dict[str, Callable[[Draw, Box], Case]] = {
    one.__name__: one
    for one in (
        config, tokenizer, weights, code, facts, known, requests, settings, edits, moments, mend, texts, training, runs,
        servers, arguments, process, own, grids, batches, pack, interrupted,
    )
}  # fmt: skip
RARE = {"process": 20}
"""Kinds of which one case comes for so many of the others: they take seconds."""
