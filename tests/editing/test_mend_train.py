"""Training MEND: deterministic, lowering its loss, resumable to the bit; and the world's committed network."""

import json
import math
import os
import signal
from contextlib import nullcontext
from dataclasses import replace

import msgspec
import pytest
import torch
from safetensors import safe_open

from artifact.cli import call
from artifact.editing import mend_train
from artifact.editing.edit import Edit, LowRank
from artifact.editing.mend import MendEdit, mend
from artifact.editing.mend_objective import Objective, items_of
from artifact.editing.mend_train import MendTraining, initial, split, train
from artifact.editing.mend_weights import network_of, read_network, tensors_hash, tensors_of
from artifact.editing.methods import METHODS
from artifact.editing.methods.mend import MendHparams
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.tensor_file import read_file, replace_file
from artifact.errors import EditError, FactError, Interrupted, SettingError
from artifact.evaluation.score import score_cases
from artifact.facts.records import read_facts
from artifact.lm.load import load
from artifact.sources.catalogue import WORLD, own_network

HPARAMS = MendHparams(layers=(2, 3))
SHORT = MendTraining(steps=6, batch=4, rank=4, check_every=2, check_views=4, variants=1, validation=0.25)


@pytest.fixture(scope="module")
def few(facts):
    return [facts[case] for case in range(8)]


def objective_of(model, items, hparams=HPARAMS) -> Objective:
    return Objective(model, hparams, items, edit_weight=0.3, keep_weight=1.0, batch=4)


def digest(network) -> str:
    return tensors_hash({key: tensor.detach() for key, tensor in tensors_of(network).items()})


def test_a_short_training_is_deterministic_and_lowers_the_loss(model, few) -> None:
    # From step sizes near zero, so that the start leaves the model nearly as it is.
    training = MendTraining(
        steps=30, batch=4, rank=4, check_every=30, validation=0.25, variants=1, first_step=-1e-5, step_lr=1e-4
    )
    one = train(model, few, HPARAMS, training)
    assert digest(one.network) == digest(train(model, few, HPARAMS, training).network)
    learning, held_out = split(few, training)
    assert one.held_out == [fact.case_id for fact in held_out] and len(held_out) == 2
    items = items_of(model, learning)
    objective = objective_of(model, items)
    start = network_of(initial(objective, items, training), "start")
    assert objective.held_out(one.network, items)["objective"] < 0.9 * objective.held_out(start, items)["objective"]


@pytest.mark.parametrize("cached", [True, False])
def test_a_stopped_training_goes_on_to_the_same_network(cached, tiny, few, tmp_path, monkeypatch) -> None:
    """Stopped at any look, whether the model's constants fit in memory or not: the same bytes in the end."""
    if not cached:
        monkeypatch.setattr("artifact.editing.mend_objective.CACHE_BYTES", 0)
    model, checkpoint = tiny("tiny-gpt2"), tmp_path / "out.safetensors.partial"
    whole = train(model, few, HPARAMS, SHORT)

    def stop_at(words: str):
        def say(line: str) -> None:
            if line.startswith(words):
                raise KeyboardInterrupt

        return say

    for words in ("step 2/", "step 4/", "step 6/"):
        with pytest.raises(KeyboardInterrupt):
            train(model, few, HPARAMS, SHORT, checkpoint=checkpoint, say=stop_at(words))
    lines: list[str] = []
    found = train(model, few, HPARAMS, SHORT, checkpoint=checkpoint, say=lines.append)
    assert lines[0] == "going on after step 4" and found.steps == 6
    assert digest(found.network) == digest(whole.network)
    assert found.figures == whole.figures
    held, metadata = read_file(checkpoint)
    for part in ("now edit_lrs", "best edit_lrs", "moments exp_avg edit_lrs", "moments step edit_lrs"):
        replace_file(checkpoint, {key: tensor for key, tensor in held.items() if key != part}, metadata)
        with pytest.raises(SettingError, match=r"partial: (is damaged|no edit_lrs)"):
            train(model, few, HPARAMS, SHORT, checkpoint=checkpoint)
        for changed in (held[part].double(), held[part] > 0, held[part] * torch.nan):
            replace_file(checkpoint, held | {part: changed}, metadata)
            with pytest.raises(SettingError, match="edit_lrs is not of finite float32 numbers"):
                train(model, few, HPARAMS, SHORT, checkpoint=checkpoint)
    for numbers in ("[" * 9000, '{"step": true}', '{"step": "1"}', '{"best_value": 1}', '{"losses": [1]}'):
        replace_file(checkpoint, held, metadata | {"numbers": numbers})
        with pytest.raises(SettingError, match=r"partial: is damaged .*; remove it to start over"):
            train(model, few, HPARAMS, SHORT, checkpoint=checkpoint)
    replace_file(checkpoint, held, metadata)
    with pytest.raises(SettingError, match="checkpoint of another training"):
        train(model, few, HPARAMS, SHORT, checkpoint=checkpoint, identity="other facts")


def test_asked_to_stop_between_two_looks_it_keeps_every_step(tiny, few, tmp_path) -> None:
    """A stop asked for at any step ends after it; no step is taken twice, and the network is the same in the end. Looks
    say the same, too: the loss is that of all steps since the look before.
    """
    model, checkpoint = tiny("tiny-gpt2"), tmp_path / "out.safetensors.partial"
    training = msgspec.structs.replace(SHORT, steps=5, check_every=4)
    said: list[str] = []
    whole = train(model, few, HPARAMS, training, say=said.append)
    again: list[str] = []
    for step in range(1, 6):
        with pytest.raises(Interrupted, match=rf"^stopped after step {step}; .*partial keeps what was trained, and"):
            train(
                model, few, HPARAMS, training, checkpoint=checkpoint, say=again.append,
                stopping=lambda: nullcontext(lambda: True),
            )  # fmt: skip
    looks = [[line for line in lines if line.startswith("step ")] for lines in (said, again)]
    assert looks[0] == looks[1] and len(looks[0]) == 2
    found = train(model, few, HPARAMS, training, checkpoint=checkpoint, stopping=lambda: nullcontext(lambda: True))
    assert (found.steps, digest(found.network), found.figures) == (5, digest(whole.network), whole.figures)
    with pytest.raises(Interrupted, match=r"^stopped after step 1; nothing is kept$"):
        train(model, few, HPARAMS, training, stopping=lambda: nullcontext(lambda: True))


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tiny, few, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.partial")
    with pytest.raises(SettingError, match="pipe.partial: is damaged .*not a regular file.*remove it"):
        train(tiny("tiny-gpt2"), few, HPARAMS, SHORT, checkpoint=tmp_path / "pipe.partial")


def test_constants_kept_or_made_anew_give_the_same_numbers(model, few, monkeypatch) -> None:
    items = items_of(model, few, variants=2)
    kept = objective_of(model, items)
    monkeypatch.setattr("artifact.editing.mend_objective.CACHE_BYTES", 0)
    anew = objective_of(model, items)
    network = network_of(initial(kept, items, SHORT), "start")
    for name, value in kept.held_out(network, items).items():
        assert anew.held_out(network, items)[name] == pytest.approx(value, rel=1e-4)


def test_the_objective_scores_what_mend_writes(model, few) -> None:
    """Success and NLL under the trained form of an edit are those of the edit itself, both step orders."""
    items = items_of(model, few[:3])
    objective = objective_of(model, items)
    tensors = initial(objective, items, SHORT)
    tensors["edit_lrs"] = torch.tensor([-1e-3, -4e-3, 2e-3, -1e-3])
    network = network_of(tensors, "test")
    for swapped in (False, True):
        protocol = replace(PROTOCOLS["corrected"], mend_steps_swapped=swapped)
        found = objective.success(network, items, swapped=swapped)
        won: dict[str, list[float]] = {}
        for item, edited in zip(
            items, mend(model, [[item.view] for item in items], HPARAMS, network, protocol), strict=True
        ):
            assert isinstance(edited, MendEdit)
            (score,) = score_cases(model, [few[item.fact]], [edited.edit])
            for group, metrics in score.views[item.view.perspective].metrics.items():
                if metrics["success"] is not None:
                    won.setdefault(f"{item.view.perspective} {group}", []).append(metrics["success"])
        assert found == {name: pytest.approx(sum(v) / len(v), abs=1e-4) for name, v in sorted(won.items())}
    # The divergence is that of the next-token distributions, unedited against edited.
    changes = objective.changes(network, items[:1])
    edit = Edit({name: LowRank(left[0], right[0]) for name, (left, right) in changes.items()})
    ids = items[0].prompt
    _, kl_P = objective.score(changes, [(0, items[0].asked[0])], [(0, ids)])
    decoder = model.decoder
    with torch.no_grad():
        entering = decoder.embed(decoder.words(torch.tensor([ids.ids])))
        before_V, after_V = (
            decoder.logits(decoder.blocks(entering, edits=edits)[:, -1])[0].log_softmax(-1)
            for edits in (None, edit.changes)
        )
    assert kl_P[0].item() == pytest.approx(float((before_V.exp() * (before_V - after_V)).sum()), rel=1e-3, abs=1e-6)


def test_normalisation_and_start(tiny, few) -> None:
    """Over the training gradients each input has mean zero and spread one, and the networks pass it on unchanged."""
    model = tiny("tiny-gpt2")
    items = items_of(model, few)
    objective = objective_of(model, items)
    network = network_of(initial(objective, items, SHORT), "start")
    for shape, transform in network.transforms.items():
        chosen = [w for w, weight in enumerate(objective.inner) if weight.shape == shape]
        x_NI = torch.cat([read.x_W[w] for read in objective.reads(items) for w in chosen])
        delta_NO = torch.cat([read.delta_W[w] for read in objective.reads(items) for w in chosen])
        for rows in transform(x_NI, delta_NO, 0):
            assert rows.mean(0).abs().max() < 1e-4
            assert (rows.std(0) - 1).abs().max() < 1e-2


def test_what_cannot_be_trained_is_said(tiny, few) -> None:
    model = tiny("tiny-gpt2")
    with pytest.raises(FactError, match="of 2 facts 1 would be held out"):
        train(model, few[:2], HPARAMS, SHORT)
    wild = MendTraining(steps=5, batch=4, rank=4, validation=0.25, first_step=1e30)
    with pytest.raises(EditError, match="diverged at step 0"):
        train(model, few, HPARAMS, wild)


def test_the_command(reference, tmp_path, capsys, monkeypatch) -> None:
    """A signal ends it after the step in hand, and it goes on from there. The file says what it was trained on and how;
    errors are one line; no checkpoint is left.
    """
    raw = json.loads((reference / "facts.json").read_text())[:8]
    (tmp_path / "facts.json").write_text(json.dumps(raw))
    (tmp_path / "hparams.json").write_text(json.dumps({"layers": [2, 3]}))
    out = tmp_path / "out" / "m.safetensors"
    given = {
        "--model": str(reference / "models" / "tiny-gpt2"),
        "--facts": str(tmp_path / "facts.json"),
        "--out": str(out),
        "--steps": "3",
        "--rank": "4",
        "--batch": "4",
        "--validation": "0.25",
        "--hparams": str(tmp_path / "hparams.json"),
    }

    def run(**changed: str) -> int:
        options = given | {f"--{name}": value for name, value in changed.items()}
        return call(["mend-train", "--half", *(word for pair in options.items() for word in pair)])

    steps: list[int] = []
    within = mend_train._loss

    def signalled(*given) -> torch.Tensor:
        steps.append(given[-1])
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return within(*given)

    monkeypatch.setattr(mend_train, "_loss", signalled)
    assert run() == 3
    assert capsys.readouterr().err == (
        f"kloc: stopped after step 2; {out}.partial keeps what was trained, and the same command goes on from there\n"
    )
    assert run() == 0 and steps == [0, 1, 2]
    assert (
        "held out, success, the file's statistics, step sizes as learned (--protocol corrected): entity generality"
        in capsys.readouterr().out
    )
    assert [file.name for file in out.parent.iterdir()] == ["m.safetensors"]
    network = read_network(out)
    assert network.pad_embedding is None and not network.pad_is_mean
    with safe_open(out, framework="pt") as file:
        about = file.metadata()
    assert {"weights_sha256", "facts_sha256", "figures", "pad_row", "tensors_sha256", "hparams_hash"} <= about.keys()
    assert (about["pad_row"], about["facts"], about["steps"]) == ("none", "facts.json", "3")
    assert json.loads(about["training"])["seed"] == 0
    for wrong, says in (
        ({"steps": "0"}, "steps"),
        ({"validation": "1.5"}, "validation"),
        ({"facts": str(tmp_path / "absent.json")}, "cannot be read"),
        ({"out": str(tmp_path / "facts.json" / "m.safetensors")}, "cannot be written"),
    ):
        assert run(**wrong) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_the_worlds_network(swapped: bool) -> None:
    """The committed network edits facts that it was not trained on, from both perspectives; its figures are its own."""
    file = own_network("world")
    assert file is not None and file.stat().st_size < 1_500_000
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    name = "steps swapped" if swapped else "corrected"
    figures, held_out = json.loads(about["figures"])[name], json.loads(about["held_out"])
    protocol = replace(PROTOCOLS["corrected"], mend_steps_swapped=swapped)
    model, network = load("world", "cpu"), read_network(file)
    assert about["weights_sha256"] == model.weights_hash()
    facts = [fact for fact in read_facts(WORLD / "facts.json") if fact.case_id in held_out]
    assert len(facts) == len(held_out) == 38
    hparams = METHODS["mend"].hparams_for("world", model.decoder.layers)
    for perspective in ("entity", "relation"):
        edits = mend(model, [[fact.view(perspective)] for fact in facts], hparams, network, protocol)
        scores = score_cases(model, facts, [edited.edit for edited in edits])
        for group in ("reliability", "generality", "specificity"):
            values = [score.views[perspective].metrics[group]["success"] for score in scores]
            if values[0] is None:  # the relation perspective has no unrelated prompts
                continue
            mean = math.fsum(values) / len(values)
            assert mean == pytest.approx(figures[f"{perspective} {group}"], abs=0.03)
            assert mean > 0.8
