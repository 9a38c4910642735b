"""kloc mend-train: train MEND's network on a fact file, for models without a published network."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from artifact.cli.app import Device, Dtype, Model, check_inputs, check_outputs, load_model
from artifact.cli.bounds import between, count
from artifact.cli.fetch import named_data
from artifact.errors import SettingError
from artifact.facts.aside import aside
from artifact.facts.datasets import DATASETS, built_in_for
from artifact.facts.fact import Fact
from artifact.facts.layouts import decode_records
from artifact.facts.records import parse_facts
from artifact.io import is_device
from artifact.lm.dtype import DtypeName
from artifact.reading import read_bytes
from artifact.sizes import count_of
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.editing.mend_train import MendTraining, Trained
    from artifact.lm.load import LanguageModel


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained, where not by default."""

    steps: Annotated[int | None, count("Most training steps.")] = None
    seed: Annotated[
        int | None, Parameter(help="Seed of the split, the start and every draw.", validator=between(0, 2**63 - 1))
    ] = None
    validation: Annotated[float | None, Parameter(help="Share of the facts to hold out.", validator=between(0, 1))] = (
        None
    )
    rank: Annotated[int | None, count("Rank of the network's layers.", 100_000)] = None
    batch: Annotated[int | None, count("Views to edit in a step.", 1_000_000)] = None
    lr: Annotated[float | None, Parameter(help="Adam's step size.", validator=between(0, 1000))] = None

    def training(self) -> "MendTraining":
        """All that decides the training; SettingError for a value that is of no use."""
        from artifact.editing.mend_train import MendTraining

        try:
            return msgspec.convert({key: value for key, value in vars(self).items() if value is not None}, MendTraining)
        except msgspec.ValidationError as error:
            raise SettingError(f"mend-train: {error}; give another value") from None


_OPTIONS = TrainingOptions()


def mend_train(
    *,
    model: Model,
    out: Annotated[Path, Parameter(help="safetensors file for the network. Its checkpoint is FILE.partial.")],
    facts: Annotated[
        str | None,
        Parameter(
            help=f"JSON file of CounterFact-style records, or {', '.join(DATASETS)}, of which the facts set aside are "
            "taken (default: the model's built-in facts)."
        ),
    ] = None,
    limit: Annotated[int | None, count("Facts to take at most, from the start.", 1_000_000)] = None,
    options: TrainingOptions = _OPTIONS,
    hparams: Annotated[
        Path | None,
        Parameter(help="JSON object of hyperparameters, such as the layers; the others keep the model's values."),
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    half: Annotated[bool, Parameter(help="Store the network's layers in float16, at half the size.")] = False,
) -> int:
    """Train MEND's network from both perspectives. After an interruption the same command resumes."""
    import torch

    from artifact.editing.mend_train import UNFINISHED, train
    from artifact.editing.mend_weights import write_network
    from artifact.editing.methods.mend import METHOD
    from artifact.runs.stop import stopping

    training = options.training()
    if is_device(out):
        raise SettingError(f"--out {out}: is a device, beside which no checkpoint can stand; name a file")
    check_outputs({"--out": out}, (facts, hparams, model))
    check_inputs({"--hparams": hparams})
    loaded = _loaded(model, device, dtype)
    records, source, sha256 = _records(facts, loaded.name, limit)
    resolved = METHOD.hparams_for(loaded.name, loaded.decoder.layers, hparams, loaded.decoder)
    learnt = f"{count_of(len(records), 'fact')} ({source})"
    say(f"model {loaded.name}, {learnt}, layers {', '.join(map(str, resolved.layers))}")
    stored = torch.float16 if half else torch.float32
    kept, made_of = out.with_name(f"{out.name}{UNFINISHED}"), f"{loaded.weights_sha256} {sha256}"
    trained = train(
        loaded, records, resolved, training, checkpoint=kept, identity=made_of, dtype=stored, say=say, stopping=stopping
    )
    write_network(trained.network, out, _about(loaded, resolved, training, trained, source, sha256), stored)
    kept.unlink(missing_ok=True)
    _say_figures(trained)
    say(out)
    return 0


def _say_figures(trained: "Trained") -> None:
    from artifact.editing.mend_train import FIGURES

    for name, figures in trained.figures.items():
        say(f"held out, {FIGURES[name]}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def _loaded(model: str, device: str | None, dtype: DtypeName) -> "LanguageModel":
    """The model, without TF32 and, where it is small, on one thread: sums in another order give another network."""
    import torch

    from artifact.lm.device import use_tf32
    from artifact.runs.resolve import SMALL_EMBEDDING

    loaded = load_model(model, device, dtype)
    use_tf32(False)
    if loaded.decoder.device.type == "cpu" and loaded.decoder.embedding_VD.numel() < SMALL_EMBEDDING:
        torch.set_num_threads(1)
    return loaded


def _about(
    loaded: "LanguageModel", hparams: Any, training: "MendTraining", trained: "Trained", source: str, sha256: str
) -> dict[str, Any]:
    """What the network's file says of its making."""
    import torch

    from artifact.editing import made_for
    from artifact.editing.hparams import hparams_hash

    return {
        "model": loaded.name,
        "revision": loaded.revision,
        made_for.KEY: loaded.weights_sha256,
        "facts": source,
        "facts_sha256": sha256,
        "hparams": msgspec.to_builtins(hparams),
        "hparams_hash": hparams_hash(hparams),
        "training": msgspec.to_builtins(training),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "held_out": trained.held_out,
        "figures": trained.figures,
        "pad_row_note": "no [PAD] row: trained without the extra logit of the published code",
        "torch": torch.__version__,
    }


def _records(facts: str | None, model: str, limit: int | None) -> tuple[Sequence[Fact], str, str]:
    """The facts of a file, the ones set aside of a data set, or the model's built-in ones, with their source in words
    and its sha256.
    """
    if facts is None:
        data = built_in_for(model)
        return data.facts[:limit], data.source, data.sha256
    if facts in DATASETS:
        data = named_data(facts)
        taken = aside(data.facts)[:limit]
        return taken, f"{count_of(len(taken), 'fact')} set aside of {data.source}", data.sha256
    path = Path(facts)
    content = read_bytes(path)  # once: a pipe gives its content a single time
    records = parse_facts(decode_records(content, str(path)), str(path))[:limit]
    return records, path.name, hashlib.sha256(content).hexdigest()
