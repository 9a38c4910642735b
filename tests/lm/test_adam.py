"""Adam's steps: torch.optim's, bit for bit, without what torch.optim loads."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.lm.adam import Adam

REFERENCE = Path(__file__).parents[1] / "reference"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([(3,), (2, 5), (4, 1, 3)]), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.sampled_from([(0.9, 0.999), (0.9, 0.98)]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
)
def test_steps_are_those_of_torchs_classes(shapes, decay, betas, seed, again) -> None:
    """A tensor without a gradient stays; an Adam made again from its averages, here after `again` steps, goes on."""
    torch.manual_seed(seed)
    ours = {f"{number}": torch.randn(shape).requires_grad_() for number, shape in enumerate(shapes)}
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours.values()]
    adam = Adam(ours, 0.1, betas, decay)
    reference = torch.optim.AdamW(theirs, 0.1, betas, weight_decay=decay)
    for step in range(5):
        if step == again:
            adam = Adam(ours, 0.1, betas, decay, adam.averages)
        adam.lr = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        for one, other in zip(ours.values(), theirs, strict=True):
            still = torch.rand(()) < 0.2
            one.grad = None if still else torch.randn(one.shape)
            other.grad = None if one.grad is None else one.grad.clone()
        adam.step()
        reference.step()
        assert all(one.grad is None for one in ours.values())
        assert all(torch.equal(one, other) for one, other in zip(ours.values(), theirs, strict=True))


def test_without_decay_they_are_those_of_plain_adam() -> None:
    plain, beside = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    plain.grad, beside.grad = torch.full((2,), 0.5), torch.full((2,), 0.5)
    Adam({"": plain}, 0.5).step()
    torch.optim.Adam([beside], 0.5).step()
    assert torch.equal(plain, beside)


LOADS = """
import json, sys
from artifact.cli import call
codes = [call(command) for command in json.loads(sys.argv[1])]
assert not any(codes), codes
assert not {"torch._dynamo", "torch.fx.experimental.symbolic_shapes"} & sys.modules.keys()
"""


def test_edits_and_training_do_not_load_torchs_compiler(tmp_path) -> None:
    """It takes seconds of every process."""
    records = json.loads((REFERENCE / "facts.json").read_text())
    files = {"facts.json": records[:10], "request.json": records[0], "prefixes.json": ["{}"]}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    model = ("--model", f"{REFERENCE}/models/tiny-gpt2")
    edit = ("edit", *model, "--request", "request.json", "--out", "edit.safetensors", "--prefixes", "prefixes.json")
    commands = [
        (*edit, "--method", "rome", "--moments", f"{REFERENCE}/moments/tiny-gpt2"),
        (*edit, "--method", "pmet", "--moments", f"{REFERENCE}/moments/tiny-gpt2"),
        (*edit[:-2], "--method", "kn"),
        ("mend-train", *model, "--facts", "facts.json", "--steps", "1", "--out", "mend.safetensors"),
    ]
    ran = subprocess.run(
        [sys.executable, "-c", LOADS, json.dumps(commands)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
