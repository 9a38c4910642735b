"""kloc mend-train: train MEND's network on a fact file, for models that no published network is for."""

import hashlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import Device, Model, app, check_inputs, check_outputs, load_model
from artifact.cli.bounds import between, count
from artifact.errors import SettingError
from artifact.facts.fact import parse_facts
from artifact.io import is_device
from artifact.reading import decode_json, read_bytes
from artifact.terminal import say


@app.command
def mend_train(
    *,
    model: Model,
    out: Annotated[Path, Parameter(help="safetensors file for the network; FILE.partial is its checkpoint.")],
    facts: Annotated[
        Path | None, Parameter(help="JSON file of CounterFact-style records; default: the model's built-in facts.")
    ] = None,
    steps: Annotated[int | None, count("Most training steps.")] = None,
    seed: Annotated[
        int | None, Parameter(help="Decides the split, the start and every draw.", validator=between(0, 2**63 - 1))
    ] = None,
    validation: Annotated[
        float | None, Parameter(help="Share of the facts that is held out.", validator=between(0, 1))
    ] = None,
    rank: Annotated[int | None, count("Rank of the network's layers.", 100_000)] = None,
    batch: Annotated[int | None, count("Views edited in a step.", 1_000_000)] = None,
    lr: Annotated[float | None, Parameter(help="Adam's step size.", validator=between(0, 1000))] = None,
    hparams: Annotated[
        Path | None, Parameter(help="JSON of hyperparameters that replace the model's: which layers are edited.")
    ] = None,
    device: Device = None,
    half: Annotated[bool, Parameter(help="Store the network's layers in float16, at half the size.")] = False,
) -> int:
    """Train MEND's network from both perspectives. Stopped, the same command goes on from its checkpoint."""
    import msgspec
    import torch

    from artifact.editing import made_for
    from artifact.editing.hparams import hparams_hash
    from artifact.editing.mend_train import FIGURES, UNFINISHED, MendTraining, train
    from artifact.editing.mend_weights import write_network
    from artifact.editing.methods.mend import METHOD
    from artifact.facts.datasets import built_in_for
    from artifact.lm.device import use_tf32
    from artifact.runs.resolve import SMALL_EMBEDDING

    given = {"steps": steps, "seed": seed, "validation": validation, "rank": rank, "batch": batch, "lr": lr}
    try:
        training = msgspec.convert({key: value for key, value in given.items() if value is not None}, MendTraining)
    except msgspec.ValidationError as error:
        raise SettingError(f"mend-train: {error}; give another value") from None
    if is_device(out):
        raise SettingError(f"--out {out}: is a device, beside which no checkpoint can stand; name a file")
    check_outputs({"--out": out}, (facts, hparams, model))
    check_inputs({"--hparams": hparams})
    loaded = load_model(model, device)
    use_tf32(False)
    if loaded.decoder.device.type == "cpu" and loaded.decoder.embedding_VD.numel() < SMALL_EMBEDDING:
        torch.set_num_threads(1)  # sums in another order would give another network
    if facts is None:
        data = built_in_for(loaded.name)
        records, source, sha256 = data.facts, data.source, data.sha256
    else:
        content = read_bytes(facts)  # once: a pipe gives its content a single time
        records, source = parse_facts(decode_json(content, str(facts)), str(facts)), facts.name
        sha256 = hashlib.sha256(content).hexdigest()
    resolved = METHOD.hparams_for(loaded.name, loaded.decoder.layers, hparams, loaded.decoder)
    weights = loaded.weights_sha256
    say(f"model {loaded.name}, {len(records)} facts ({source}), layers {', '.join(map(str, resolved.layers))}")
    dtype = torch.float16 if half else torch.float32
    checkpoint = out.with_name(f"{out.name}{UNFINISHED}")
    found = train(
        loaded,
        records,
        resolved,
        training,
        checkpoint=checkpoint,
        identity=f"{weights} {sha256}",
        dtype=dtype,
        say=say,
    )
    about = {
        "model": loaded.name,
        "revision": loaded.revision,
        made_for.KEY: weights,
        "facts": source,
        "facts_sha256": sha256,
        "hparams": msgspec.to_builtins(resolved),
        "hparams_hash": hparams_hash(resolved),
        "training": msgspec.to_builtins(training),
        "steps": found.steps,
        "best_step": found.best_step,
        "held_out": found.held_out,
        "figures": found.figures,
        "pad_row_note": "no [PAD] row: trained without the extra logit of the published code",
        "torch": torch.__version__,
    }
    write_network(found.network, out, about, dtype)
    checkpoint.unlink(missing_ok=True)
    for name, figures in found.figures.items():
        say(f"held out, {FIGURES[name]}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    say(out)
    return 0
