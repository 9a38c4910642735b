"""Inputs that would run code: pickles in every place of one, modules that a configuration names; with "y" typed."""

import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

from .box import Box, Case, written


class _Runs:
    """A pickle of it calls `function(*arguments)` when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._called = function, arguments

    def __reduce__(self) -> Any:
        return self._called


def _payload(draw: random.Random, canary: Path) -> tuple[Any, str]:
    import os
    import subprocess

    source = f"open({str(canary)!r}, 'w').close()"
    return draw.choice(
        (
            (_Runs(os.system, f"touch {canary}"), "os.system"),
            (_Runs(exec, source), "exec"),
            (_Runs(eval, source), "eval"),
            (_Runs(subprocess.call, ["touch", str(canary)]), "subprocess"),
            (_Runs(os.mkdir, str(canary)), "os.mkdir"),
            (_Runs(os.symlink, "/etc", str(canary)), "os.symlink"),
        )
    )


def _pickled(draw: random.Random, box: Box) -> tuple[bytes, str]:
    """A pickle with a payload: alone, in torch's archive, as its older form."""
    import torch

    payload, said = _payload(draw, box.canary)
    content = pickle.dumps({"a": payload}, protocol=draw.choice((0, 2, 4)))
    way = draw.choice(("plain", "archive", "npy"))
    if way == "archive":
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(2)}, stream)
        made = io.BytesIO()
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(made, "w") as new:
            for name in old.namelist():
                new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
        content = made.getvalue()
    elif way == "npy":
        import numpy as np

        stream = io.BytesIO()
        np.save(stream, np.array([payload], dtype=object), allow_pickle=True)
        content = stream.getvalue()
    return content, f"{said} in a pickle ({way})"


_EVIL = "import pathlib\npathlib.Path({canary!r}).touch()\nclass C:\n    pass\nraise SystemExit(9)\n"


def case(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    """The pickle or module stands where a command looks."""
    trace, score, edit, needs = make["trace"], make["score"], make["edit"], make["needs"]
    where = draw.choice(("weights", "beside", "mend", "npz", "auto_map", "tokenizer", "template", "module"))
    stdin = draw.choice((b"", b"y\n", b"yes\ny\ny\n"))
    content, said = _pickled(draw, box)
    if where in ("mend", "npz"):
        file = {"mend": draw.choice(("mend.pt", "mend.npz", "mend.safetensors")), "npz": ""}[where]
        if where == "mend":
            arguments = [word.replace("mend.safetensors", file) for word in edit(box, "mend")]
            found = Case("code", f"{file}: {said}", arguments, "refused", needs("request.json", "mend.safetensors"))
            found.stdin, found.judged = stdin, True
            found.damage = written(file, content)
            return found

        def poison(at: Box) -> None:
            for path in sorted(at["moments"].glob("*.npz")):
                with zipfile.ZipFile(path) as old:
                    members = {name: old.read(name) for name in old.namelist()}
                with zipfile.ZipFile(path, "w") as new:
                    for name, held in members.items():
                        new.writestr(name, content if name.startswith("mom2.mom2") else held)

        pristine = needs("request.json", "rome.json", "moments", "prefixes.json")
        return Case("code", f"moments: {said}", edit(box), "refused", pristine, stdin=stdin, damage=poison)
    evil = _EVIL.format(canary=str(box.canary))
    expect = "refused"

    def damage(at: Box) -> None:
        folder = at["model"]
        config = json.loads((folder / "config.json").read_text())
        tokens = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "evil.py").write_text(evil)
        if where == "weights":
            (folder / "model.safetensors").unlink()
            (folder / "pytorch_model.bin").write_bytes(content)
        elif where == "beside":
            for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "spiece.model"):
                (folder / name).write_bytes(content)
        elif where == "auto_map":
            config["auto_map"] = {
                "AutoConfig": "evil.C",
                "AutoModelForCausalLM": "evil.C",
                "AutoTokenizer": ["evil.C", None],
            }
            config["model_type"] = kind
        elif where == "tokenizer":
            tokens |= {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}, "tokenizer_class": "C"}
        elif where == "template":
            tokens["chat_template"] = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% import os %}"
        else:
            for name in ("configuration_gpt2", "modeling_gpt2", "tokenization_gpt2", "json", "gpt2"):
                (folder / f"{name}.py").write_text(evil)
            (folder / "generation_config.json").write_text('{"custom_generate": "evil.py"}')
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))

    kind = draw.choice(("gpt2", "evil", "llama"))
    if where in ("beside", "template", "module"):
        expect = "equal"
    arguments = draw.choice((trace(box), score(box)))
    words = f"{where}: {said if where in ('weights', 'beside') else f'evil.py, {kind}'}, {stdin!r} typed"
    return Case("code", words, arguments, expect, needs("facts.json"), stdin=stdin, damage=damage)
