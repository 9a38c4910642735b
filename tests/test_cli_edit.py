"""`kloc edit` and `kloc score` as a user types them: every method's golden changes, and scores that transformers' own
model gives with the change added to its weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from artifact.cli import call

REFERENCE = Path(__file__).parent / "reference"
MODELS = REFERENCE / "models"
RECORDS = json.loads((REFERENCE / "facts.json").read_text())
FLAT = ["{}", "Yesterday, {}", "The report said. {}"]
GROUPS = [FLAT[:1], FLAT[1:]]


def edit(
    tmp_path: Path, name: str, method: str, cases: list[int], *options: object, perspective: str = "entity"
) -> Path:
    """The file written by `kloc edit` for these cases, with the goldens' prefixes, moments and MEND network."""
    request, prefixes, out = (tmp_path / file for file in ("request.json", "prefixes.json", "out/edit.safetensors"))
    request.write_text(json.dumps([RECORDS[case] for case in cases] if len(cases) > 1 else RECORDS[cases[0]]))
    prefixes.write_text(json.dumps(GROUPS if method == "memit" else FLAT))
    command = ["edit", "--model", MODELS / name, "--method", method, "--request", request]
    command += ["--perspective", perspective, "--out", out, *options]
    if method in ("rome", "memit"):
        command += ["--moments", REFERENCE / "moments" / name, "--prefixes", prefixes]
    if method == "mend":
        command += ["--mend-weights", REFERENCE / "mend" / "mend_network.npz"]
    assert call([str(word) for word in command]) == 0
    return out


def golden_changes(file: Path, prefix: str, name: str, whole: bool) -> dict[str, np.ndarray]:
    """A golden file's changes by parameter; `whole` where it keeps the edited weight."""
    before = load_file(MODELS / name / "model.safetensors")
    golden = np.load(file)
    found = {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}
    return {key: value - before[key].numpy() if whole else value for key, value in found.items()}


def assert_changes(found: Path, expected: dict[str, np.ndarray]) -> None:
    deltas = load_file(found)
    assert deltas.keys() == expected.keys()
    for parameter, delta in deltas.items():
        assert np.linalg.norm(delta.numpy() - expected[parameter]) <= 1e-4 * np.linalg.norm(expected[parameter])


def assert_scores(model: str, case: int, edit_file: Path, tmp_path: Path) -> None:
    """NLLs of `kloc score` are those of transformers' model with the change added to its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cases, out = tmp_path / "cases.json", tmp_path / "scores.json"
    cases.write_text(json.dumps([RECORDS[case]]))
    command = ["score", "--model", MODELS / model, "--cases", cases, "--edit", edit_file, "--json", out]
    assert call([str(word) for word in command]) == 0
    (scored,) = json.loads(out.read_text())["cases"]
    module = AutoModelForCausalLM.from_pretrained(MODELS / model)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / model)
    with torch.no_grad():
        for parameter, delta in load_file(edit_file).items():
            module.get_parameter(parameter).add_(delta)
        relation = RECORDS[case]["requested_rewrite"]["relation"]["strs"][0]
        for view, target in (
            ("entity", RECORDS[case]["requested_rewrite"]["target_new"]["str"]),
            ("relation", relation),
        ):
            for prompt in scored[view]["reliability"]["prompts"] + scored[view]["generality"]["prompts"][:1]:
                start = tokenizer(prompt["prompt"])["input_ids"]
                ids = tokenizer(f" {target.strip()}")["input_ids"]
                logits = module(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
                nll = -float(logits.gather(1, torch.tensor(ids)[:, None]).mean())
                assert prompt["target_new"] == pytest.approx(nll, abs=1e-4)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gptj"])
@pytest.mark.parametrize("perspective", ["entity", "relation"])
@pytest.mark.parametrize("method", ["rome", "memit", "ft"])
def test_golden_of_both_families(method, perspective, name, tmp_path, capsys) -> None:
    folder = {"rome": "rake_rome", "memit": "rake_memit", "ft": "ft" if perspective == "entity" else "rake_ft"}[method]
    case = 0 if method == "memit" else 10
    variant = "_constr" if method == "ft" else ""
    options = ["--hparams", REFERENCE / folder / f"hparams_{name}{variant}.json"]
    out = edit(tmp_path, name, method, [case], *options, perspective=perspective)
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    file, prefix = {
        "rome": (f"{name}_case{case}_{perspective}.npz", "edited_weight"),
        "memit": (f"{name}_{perspective}_cases{case}.npz", "edited_delta."),
        "ft": (f"{name}_constr_{perspective}_cases{case}.npz", "delta."),
    }[method]
    if method == "rome":
        ((parameter, _),) = load_file(out).items()
        weight = np.load(REFERENCE / folder / file)["edited_weight"]
        expected = {parameter: weight - load_file(MODELS / name / "model.safetensors")[parameter].numpy()}
    else:
        expected = golden_changes(REFERENCE / folder / file, prefix, name, whole=False)
    assert_changes(out, expected)
    assert_scores(name, case, out, tmp_path)


@pytest.mark.parametrize("perspective", ["entity", "relation"])
@pytest.mark.parametrize(("protocol", "spaces"), [("released", "nospace"), ("corrected", "space")])
def test_golden_of_kn(protocol, spaces, perspective, tmp_path, capsys) -> None:
    options = ["--hparams", REFERENCE / "kn_rake" / "hparams.json", "--protocol", protocol]
    out = edit(tmp_path, "tiny-gpt2", "kn", [15], *options, perspective=perspective)
    file = REFERENCE / "kn_rake" / f"tiny-gpt2_case15_{perspective}_{spaces}.npz"
    assert_changes(out, golden_changes(file, "edited.", "tiny-gpt2", whole=True))
    assert ("undoes KN's edit" in capsys.readouterr().out) == (protocol == "released")
    assert_scores("tiny-gpt2", 15, out, tmp_path)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--correct", "mend_training_mode"], "edit_via_mend_main"),
        (["--protocol", "corrected"], "edit_via_mend_edit"),
    ],
)
def test_golden_of_mend(options, key, tmp_path) -> None:
    out = edit(tmp_path, "tiny-gpt2", "mend", [0], *options)
    golden = np.load(REFERENCE / "mend" / "tiny-gpt2_cases0.npz")
    assert_changes(out, {name.removesuffix(f".{key}"): golden[name] for name in golden if name.endswith(f".{key}")})
    assert_scores("tiny-gpt2", 0, out, tmp_path)


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_golden_of_mend_after_other_edits(perspective, tmp_path, capsys) -> None:
    """As released an edit depends on those before it: --history names them, in order."""
    history = tmp_path / "history.json"
    history.write_text(json.dumps([RECORDS[0], RECORDS[10]]))
    out = edit(tmp_path, "tiny-gpt2", "mend", [7], "--history", str(history), perspective=perspective)
    assert "normalised with the rows of 2 edits before it" in capsys.readouterr().out
    golden = np.load(REFERENCE / "mend_released" / f"{perspective}_2_case7.npz")
    names = [name.removesuffix(".lr") for name in golden.files if name.endswith(".lr")]
    changes = {n: golden[f"{n}.lr"] * golden[f"{n}.x_tilde"].T @ golden[f"{n}.delta_tilde"] for n in names}
    assert len(changes) == 6
    assert_changes(out, changes)
    with safe_open(out, framework="pt") as opened:
        assert opened.metadata()["history"] == "2"


@pytest.mark.parametrize(
    ("method", "options"), [("rome", []), ("mend", ["--protocol", "corrected"])], ids=["rome", "corrected"]
)
def test_a_history_that_changes_nothing_is_refused(method, options, tmp_path, capsys) -> None:
    history = tmp_path / "history.json"
    history.write_text(json.dumps([RECORDS[0]]))
    command = [
        "--model",
        MODELS / "tiny-gpt2",
        "--method",
        method,
        "--request",
        history,
        "--history",
        history,
        *options,
    ]
    assert call(["edit", *map(str, command), "--out", str(tmp_path / "e.safetensors")]) == 2
    assert "--history is for mend as released" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["ft", "memit", "mend"])
def test_a_list_is_written_jointly(method, tmp_path, capsys) -> None:
    out = edit(tmp_path, "tiny-gpt2", method, [0, 10, 7])
    assert "and 2 more" in capsys.readouterr().out
    alone = edit(tmp_path / "alone" if (tmp_path / "alone").mkdir() is None else tmp_path, "tiny-gpt2", method, [0])
    together, single = load_file(out), load_file(alone)
    assert together.keys() == single.keys()
    assert all(not torch.allclose(together[name], single[name]) for name in together if name.endswith("weight"))
    assert_scores("tiny-gpt2", 10, out, tmp_path)


@pytest.mark.parametrize("method", ["rome", "kn"])
def test_a_method_for_single_facts_refuses_a_list(method, tmp_path, capsys) -> None:
    command = ["edit", "--model", MODELS / "tiny-gpt2", "--method", method, "--request", REFERENCE / "facts.json"]
    assert call([*map(str, command), "--out", str(tmp_path / "e.safetensors")]) == 2
    assert f"holds 30 records and {method} edits single facts" in capsys.readouterr().err
    assert not (tmp_path / "e.safetensors").exists()


def test_what_a_file_says_and_what_is_not_used(tmp_path, capsys) -> None:
    out = edit(tmp_path, "tiny-gpt2", "ft", [10], "--moments", REFERENCE / "moments" / "tiny-gpt2")
    with safe_open(out, "pt") as file:
        described = file.metadata()
    assert described["method"] == "ft" and described["protocol"] == "released" and len(described["hparams"]) == 12
    assert "is not used: ft reads no such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("mend", [], "MEND needs weights trained for"),
        ("rome", ["--moments", MODELS], "no file transformer.h.2"),
        ("rome", ["--moments", REFERENCE / "moments" / "tiny-gptj"], "no file transformer.h.2"),
        ("memit", ["--prefixes", REFERENCE / "facts.json"], "list of lists of templates"),
        ("ft", ["--hparams", REFERENCE / "kn_rake" / "hparams.json"], "unknown field"),
        ("kn", ["--hparams", REFERENCE / "absent.json"], "cannot be read"),
        ("mend", ["--mend-weights", REFERENCE / "README.md"], "README.md"),
        ("mend", ["--mend-weights", REFERENCE / "absent.pt"], "absent.pt"),
    ],
)
def test_bad_files_are_one_line_and_exit_code_2(method, options, says, tmp_path, capsys) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(RECORDS[10]))
    command = ["edit", "--model", MODELS / "tiny-gpt2", "--method", method, "--request", request]
    if method == "rome":
        command += ["--hparams", REFERENCE / "rome" / "hparams_tiny-gpt2.json"]
    assert call([*map(str, [*command, "--out", tmp_path / "e.safetensors", *options])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert not (tmp_path / "e.safetensors").exists()


def test_an_edit_of_another_model_is_refused_by_score(tmp_path, capsys) -> None:
    save_file({"transformer.h.0.mlp.fc_out.weight": torch.ones(64, 256)}, tmp_path / "e.safetensors")
    command = ["score", "--model", MODELS / "tiny-gpt2", "--cases", REFERENCE / "facts.json"]
    assert call([*map(str, command), "--edit", str(tmp_path / "e.safetensors")]) == 2
    assert "is not a weight of this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "the released code scores the unedited model, and no change is written"),
        (["--correct", "kn_without_neuron_scored"], "above the threshold; give a lower adaptive_threshold or p"),
    ],
)
def test_kn_without_a_neuron_writes_no_file(options, says, tmp_path, capsys) -> None:
    request, hparams, out = (tmp_path / name for name in ("request.json", "h.json", "e.safetensors"))
    request.write_text(json.dumps(RECORDS[15]))
    hparams.write_text(json.dumps({"steps": 4, "refine": True, "p": 0.99}))
    command = ["edit", "--model", MODELS / "tiny-gpt2", "--method", "kn", "--request", request, "--out", out]
    assert call([str(word) for word in [*command, "--perspective", "relation", "--hparams", hparams, *options]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: no neuron's attribution") and error.count("\n") == 1 and says in error
    assert not out.exists()


def test_indefinite_moments_are_said(tmp_path, capsys) -> None:
    """The edit is made, and the command says how."""
    (name,) = (REFERENCE / "moments" / "tiny-gpt2").rglob("transformer.h.2.*.npz")
    golden = np.load(name)
    matrix_MM = golden["mom2.mom2"] - 0.5 * np.eye(256, dtype=np.float32) * np.linalg.norm(golden["mom2.mom2"], 2)
    np.savez(tmp_path / name.name, **{**golden, "mom2.mom2": matrix_MM})
    options = ["--hparams", REFERENCE / "rome" / "hparams_tiny-gpt2.json", "--moments", tmp_path]
    request, prefixes, out = (tmp_path / file for file in ("request.json", "prefixes.json", "e.safetensors"))
    request.write_text(json.dumps(RECORDS[0]))
    prefixes.write_text(json.dumps(FLAT))
    command = ["edit", "--model", MODELS / "tiny-gpt2", "--method", "rome", "--request", request, "--out", out]
    assert call([str(word) for word in [*command, "--prefixes", prefixes, *options]]) == 0
    assert "second moments of layer 2 are not positive definite: solved by LU\n" in capsys.readouterr().out


def test_one_defect_is_corrected(tmp_path, capsys) -> None:
    """--correct kn_without_space gives the corrected protocol's edit, and the file says what it followed."""
    options = ["--hparams", REFERENCE / "kn_rake" / "hparams.json", "--correct", "kn_without_space,tf32"]
    out = edit(tmp_path, "tiny-gpt2", "kn", [15], *options)
    file = REFERENCE / "kn_rake" / "tiny-gpt2_case15_entity_space.npz"
    assert_changes(out, golden_changes(file, "edited.", "tiny-gpt2", whole=True))
    with safe_open(out, "pt") as tensors:
        assert tensors.metadata()["protocol"] == "released, but for kn_without_space, tf32 (corrected)"
    assert "protocol released, but for kn_without_space, tf32 (corrected)" in capsys.readouterr().out
