"""Training MEND's network on a fact file: held-out facts decide when to stop, and a stopped training goes on.

Covers the settings, the split, the network's start with its normalisation, the optimisation, its checkpoints and its
figures on held-out facts.

Both perspectives are trained where the records carry them. Step sizes are trained in the order in which `corrected`
applies them. Every draw is a function of the seed and the step, so that a checkpoint holds no generator.
Shape letters as in mend.py.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from artifact.editing.mend_gradients import Request
from artifact.editing.mend_network import Network
from artifact.editing.mend_objective import Item, Objective, items_of, mean
from artifact.editing.mend_weights import network_of, stored
from artifact.editing.methods.mend import MendHparams
from artifact.editing.tensor_file import read_file, replace_file
from artifact.errors import EditError, FactError, Interrupted, SettingError
from artifact.facts.fact import Fact
from artifact.io import reason
from artifact.lm.adam import Adam
from artifact.lm.load import LanguageModel

FIGURES = {
    "objective": "objective",
    "corrected": "success, the file's statistics, step sizes as learned (--protocol corrected)",
    "steps swapped": "success, the file's statistics, step sizes swapped (--correct mend_training_mode)",
}
"""What each figure of a network's file is, in words: by what normalisation and step sizes, under which protocol. As
released altogether, a success depends on the edits before it (mend_history.py), so a file has no figure for it."""
UNFINISHED = ".partial"
"""Ending of the checkpoint beside the file that is being trained."""


def _says(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class MendTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network is trained; the defaults were chosen on the embedded world."""

    seed: Annotated[int, _says("Decides the split, the start and every draw.", ge=0)] = 0
    steps: Annotated[int, _says("Most training steps.", ge=1)] = 200
    batch: Annotated[int, _says("Views edited in a step.", ge=1)] = 16
    variants: Annotated[int, _says("Requests made of each view: its own, and others in its other words.", ge=1)] = 3
    kept: Annotated[int, _says("Unrelated prompts of each view in a step.", ge=1)] = 1
    rank: Annotated[int, _says("Rank of the network's layers.", ge=1)] = 32
    layers: Annotated[int, _says("Low-rank layers of each network.", ge=1)] = 2
    lr: Annotated[float, _says("Adam's step size for the networks, falling to zero as a cosine.", gt=0)] = 3e-3
    step_lr: Annotated[float, _says("Adam's step size for the learned step sizes, likewise.", gt=0)] = 2e-5
    first_step: Annotated[float, _says("Where the learned step sizes start.")] = -7e-4
    edit_weight: Annotated[float, _says("Weight of the target's NLL; published: 0.1.", gt=0)] = 0.3
    keep_weight: Annotated[float, _says("Weight of the divergence at unrelated prompts.", ge=0)] = 1.0
    clip: Annotated[float, _says("Largest gradient norm of a step; published: 100.", gt=0)] = 1.0
    validation: Annotated[float, _says("Share of the facts that is held out.", gt=0, lt=1)] = 0.15
    check_every: Annotated[int, _says("Steps between two looks at the held-out facts.", ge=1)] = 50
    check_views: Annotated[int, _says("Held-out views looked at while training; all at the end.", ge=1)] = 128
    patience: Annotated[int, _says("Looks without improvement after which training stops.", ge=1)] = 6
    norm_views: Annotated[int, _says("Training views whose gradients give the normalisation.", ge=1)] = 1024


@dataclass(frozen=True)
class Trained:
    """A trained network, the step it was best at, the steps taken, and figures on the held-out facts.

    `figures` are FIGURES' on the held-out facts: the objective with NLL and KL, and success.
    """

    network: Network
    best_step: int
    steps: int
    figures: dict[str, dict[str, float]]
    held_out: list[int]


def train(
    model: LanguageModel,
    facts: Sequence[Fact],
    hparams: MendHparams,
    training: MendTraining,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
    dtype: torch.dtype = torch.float32,
    say: Callable[[str], None] = lambda line: None,
    stopping: Callable[[], AbstractContextManager[Callable[[], bool]]] = lambda: nullcontext(lambda: False),
) -> Trained:
    """Train a network on `facts`; with `checkpoint`, go on from that file, which is kept up to date.

    `stopping()` is entered for the steps alone, and what it gives is asked after each of them whether to stop: then the
    checkpoint is written, and Interrupted raised.

    `identity` tells what else the training depends on (model, facts); the checkpoint of another one is refused. The
    network is rounded to what a file of `dtype` holds. On one thread of one machine the same arguments give the same
    bytes, stopped and continued or not. Raises FactError for too few facts, SettingError for a checkpoint of something
    else, EditError when the training diverges, ModelError for an encoder.
    """
    model.kind.needs_decoder("training MEND's network")
    learning, held_out = split(facts, training)
    items = items_of(model, learning, training.variants, training.seed)
    judged = items_of(model, held_out)
    identity = json.dumps(
        [identity, msgspec.to_builtins(hparams), msgspec.to_builtins(training), str(dtype)], allow_nan=False
    )
    state = _State.read(checkpoint, identity, model.decoder.device) if checkpoint and checkpoint.exists() else None
    if state is not None:
        say(f"going on after step {state.step}")
    else:
        say(f"{len(items)} requests of {len(learning)} facts to train on, {len(judged)} of {len(held_out)} held out")
    looked_at = judged[: training.check_views]
    objective = Objective(
        model,
        hparams,
        [*items, *looked_at],
        edit_weight=training.edit_weight,
        keep_weight=training.keep_weight,
        batch=training.batch,
    )
    if state is None:
        state = _State.new(initial(objective, items, training), identity)
    with stopping() as stop:
        _optimise(objective, items, looked_at, training, state, checkpoint, say, stop)
    network = _rounded(state.best, f"trained on {model.name}, step {state.best_step}", dtype)
    figures = _figures(objective, network.to(model.decoder.device), judged)
    return Trained(network, state.best_step, state.step, figures, [fact.case_id for fact in held_out])


def _rounded(best: dict[str, Tensor], source: str, dtype: torch.dtype) -> Network:
    """The network as a file of `dtype` holds it."""
    return network_of({key: tensor.float() for key, tensor in stored(network_of(best, source), dtype).items()}, source)


def _figures(objective: Objective, network: Network, judged: Sequence[Item]) -> dict[str, dict[str, float]]:
    """FIGURES' on the held-out facts."""
    return {
        "objective": objective.held_out(network, judged),
        "corrected": objective.success(network, judged, swapped=False),
        "steps swapped": objective.success(network, judged, swapped=True),
    }


def split(facts: Sequence[Fact], training: MendTraining) -> tuple[list[Fact], list[Fact]]:
    """Facts to train on and facts held out, by the seed; FactError where too few would be left to train on."""
    count = max(1, round(training.validation * len(facts)))
    if len(facts) - count < 2:
        raise FactError(f"of {len(facts)} facts {count} would be held out, which leaves fewer than two; give more")
    order = np.random.default_rng([training.seed, 0]).permutation(len(facts)).tolist()
    learning, held_out = sorted(order[count:]), sorted(order[:count])
    return [facts[f] for f in learning], [facts[f] for f in held_out]


def initial(objective: Objective, items: Sequence[Item], training: MendTraining) -> dict[str, Tensor]:
    """A network that passes normalised inputs on unchanged (u zero, v random), by published keys.

    Normalisation: mean and standard deviation of all rows of the training views' gradients, by weight shape.
    """
    inner = objective.inner
    draw = torch.Generator().manual_seed(training.seed)
    tensors = {"edit_lrs": torch.full((len(inner),), training.first_step)}
    tensors |= _normalisation(objective, items[: training.norm_views], training.batch)
    for shape in sorted({weight.shape for weight in inner}):
        width, modes = sum(shape), sum(weight.shape == shape for weight in inner)
        for number in range(training.layers):
            place = f"({shape[0]}, {shape[1]}).mlp.layers.{number}"
            tensors |= {
                f"{place}.u": torch.zeros(width, training.rank),
                f"{place}.v": torch.randn(training.rank, width, generator=draw) / math.sqrt(width),
                f"{place}.bias": torch.zeros(width),
                f"{place}.mode_shift.weight": torch.zeros(modes, width),
                f"{place}.mode_scale.weight": torch.ones(modes, width),
            }
    return {key: tensor.to(objective.model.decoder.device) for key, tensor in tensors.items()}


def _normalisation(objective: Objective, items: Sequence[Item], batch: int) -> dict[str, Tensor]:
    """Mean and standard deviation of x and delta over all rows of the items, by published keys."""
    sums: dict[tuple[int, int], list[Tensor]] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for start in range(0, len(items), batch):
        for read in objective.reads(items[start : start + batch]):
            for weight, x_NI, delta_NO in zip(objective.inner, read.x_W, read.delta_W, strict=True):
                x_NI, delta_NO = x_NI.double().cpu(), delta_NO.double().cpu()
                parts = [x_NI.sum(0), x_NI.square().sum(0), delta_NO.sum(0), delta_NO.square().sum(0)]
                before = sums.get(weight.shape, [torch.zeros_like(part) for part in parts])
                sums[weight.shape] = [total + part for total, part in zip(before, parts, strict=True)]
                counts[weight.shape] += len(x_NI)
    tensors: dict[str, Tensor] = {}
    for shape, (x_total, x_square, delta_total, delta_square) in sums.items():
        rows = counts[shape]
        for name, total, square in (("u", x_total, x_square), ("v", delta_total, delta_square)):
            spread = ((square - total.square() / rows) / max(1, rows - 1)).clamp(min=0).sqrt()
            if not bool((total.isfinite() & spread.isfinite()).all()):
                raise EditError(
                    "training diverged before its first step: the model's states or gradients are not finite; give a "
                    "model of finite weights"
                )
            key = f"({shape[0]}, {shape[1]}).{name}"
            tensors |= {f"{key}_mean": (total / rows).float(), f"{key}_std": spread.float()}
    return tensors


def _optimise(
    objective: Objective,
    items: Sequence[Item],
    looked_at: Sequence[Item],
    training: MendTraining,
    state: "_State",
    checkpoint: Path | None,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> None:
    """Take the steps that are left, keeping `state` up to date in place; Interrupted, with the checkpoint written, when
    asked to stop.
    """
    optimisers = state.optimisers(training)
    network = network_of(state.now, "in training")
    while state.step < training.steps and state.since < training.patience:
        for optimiser, rate in zip(optimisers, (training.lr, training.step_lr), strict=True):
            optimiser.lr = rate * 0.5 * (1 + math.cos(math.pi * state.step / training.steps))
        loss = _loss(objective, network, items, training, state.step)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(state.trained().values(), training.clip)
        if not bool(norm.isfinite()):
            raise EditError(f"training diverged at step {state.step}: its gradient is not finite; give a smaller --lr")
        for optimiser in optimisers:
            optimiser.step()
        state.losses.append(loss.item())
        state.step += 1
        looked = state.step % training.check_every == 0 or state.step == training.steps
        if looked:
            say(_look(objective, network, looked_at, training, state))
            state.losses.clear()
        asked = stop()
        if checkpoint is not None and (looked or asked):
            state.write(checkpoint, optimisers)
        if asked:
            kept = "nothing is kept"
            if checkpoint is not None:
                kept = f"{checkpoint} keeps what was trained, and the same command goes on from there"
            raise Interrupted(f"stopped after step {state.step}; {kept}")


def _look(
    objective: Objective,
    network: Network,
    looked_at: Sequence[Item],
    training: MendTraining,
    state: "_State",
) -> str:
    """Note in `state` how the held-out facts do now, and say it; EditError where their loss is not finite."""
    judged = objective.held_out(network, looked_at)
    value = judged["nll"] + judged["kl"]
    if not math.isfinite(value):
        raise EditError(f"training diverged by step {state.step}: the held-out loss is not finite; give a smaller --lr")
    state.look(value)
    return (
        f"step {state.step}/{training.steps}: loss {mean(state.losses):.4f}, held out {judged['objective']:.4f} "
        f"(NLL {judged['nll']:.3f}, KL {judged['kl']:.3f}), best at step {state.best_step}"
    )


def _loss(objective: Objective, network: Network, items: Sequence[Item], training: MendTraining, step: int) -> Tensor:
    """The objective of a step, whose views and prompts are drawn by the seed and the step."""
    draw = np.random.default_rng([training.seed, 1, step])
    chosen = draw.choice(len(items), min(training.batch, len(items)), replace=False).tolist()
    part = [items[i] for i in chosen]
    asked = [(f, item.asked[int(draw.integers(len(item.asked)))]) for f, item in enumerate(part)]
    kept = [(f, _unrelated(item, items, draw)) for f, item in enumerate(part) for _ in range(training.kept)]
    return objective.value(*objective.score(objective.changes(network, part), asked, kept))


def _unrelated(item: Item, items: Sequence[Item], draw: np.random.Generator) -> Request:
    """A prompt that the edit should leave alone: of its own record, or another fact's."""
    if item.kept and draw.random() < 0.5:
        return item.kept[int(draw.integers(len(item.kept)))]
    while (other := items[int(draw.integers(len(items)))]).fact == item.fact:
        pass
    return other.prompt


@dataclass
class _State:
    """Where a training stands: networks now and at their best, Adam's averages, and the looks without improvement."""

    identity: str
    now: dict[str, Tensor]
    best: dict[str, Tensor]
    averages: dict[str, Tensor]
    step: int = 0
    best_step: int = 0
    best_value: float = math.inf
    since: int = 0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the latest look."""

    @classmethod
    def new(cls, tensors: dict[str, Tensor], identity: str) -> "_State":
        return cls(identity, tensors, {key: tensor.clone() for key, tensor in tensors.items()}, {})

    @classmethod
    def read(cls, path: Path, identity: str, device: torch.device) -> "_State":
        try:
            tensors, metadata = read_file(path)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        if metadata.get("identity") != identity:
            raise SettingError(
                f"{path}: is the checkpoint of another training; give the same model, facts and settings again, or "
                "remove it"
            )
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "moments": {}}
        try:
            for key, tensor in tensors.items():
                part, _, name = key.partition(" ")
                # A copy lies aligned in memory, as the tensors of an uninterrupted training do: sums depend on it.
                parts[part][name] = tensor.clone().to(device)
            numbers = json.loads(metadata["numbers"])
            state = cls(identity, parts["now"], parts["best"], parts["moments"], **numbers)
            state._check(str(path))
            return state
        except (RecursionError, KeyError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None

    def _check(self, where: str) -> None:
        """Raise for what no training has written; SettingError for networks that are not whole."""
        for tensors in (self.now, self.best, self.averages):
            for key, tensor in tensors.items():
                if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
                    raise ValueError(f"{key} is not of finite float32 numbers")
        for tensors in (self.now, self.best):
            network_of(tensors, where)
        for key, tensor in self.now.items():
            if self.best[key].shape != tensor.shape:
                raise ValueError(f"{key} has two shapes")
        for key, tensor in self.trained().items():
            for name in ("exp_avg", "exp_avg_sq"):
                if self.averages[f"{name} {key}"].shape != tensor.shape:
                    raise ValueError(f"{name} of {key} has another shape")
            if self.averages[f"step {key}"].shape != ():
                raise ValueError(f"the step of {key} is not one number")
        if not all(type(count) is int and count >= 0 for count in (self.step, self.best_step, self.since)):
            raise ValueError("its steps are not numbers")
        if type(self.best_value) is not float:
            raise ValueError("its best value is not a number")
        if type(self.losses) is not list or not all(type(loss) is float for loss in self.losses):
            raise ValueError("its losses are not numbers")

    def write(self, path: Path, optimisers: Sequence[Adam]) -> None:
        tensors = {f"now {key}": tensor.detach().clone() for key, tensor in self.now.items()}
        tensors |= {f"best {key}": tensor for key, tensor in self.best.items()}
        for optimiser in optimisers:
            tensors |= {f"moments {name}": tensor.clone() for name, tensor in optimiser.averages.items()}
        numbers = {name: getattr(self, name) for name in ("step", "best_step", "since", "losses")}
        if math.isfinite(self.best_value):  # it is not before the first look, and JSON has no infinity
            numbers["best_value"] = self.best_value
        replace_file(path, tensors, {"identity": self.identity, "numbers": json.dumps(numbers, allow_nan=False)})

    def trained(self) -> dict[str, Tensor]:
        """The tensors that are trained, all but the normalisation, in name order: the gradient's norm is a sum."""
        return {key: self.now[key] for key in sorted(self.now) if key == "edit_lrs" or ".mlp." in key}

    def optimisers(self, training: MendTraining) -> tuple[Adam, Adam]:
        """Adam over the networks' tensors and over the step sizes, averages as they were."""
        trained = self.trained()
        for tensor in trained.values():
            tensor.requires_grad_()
        sizes = {"edit_lrs": trained.pop("edit_lrs")}
        return (
            Adam(trained, training.lr, averages=self.averages),
            Adam(sizes, training.step_lr, averages=self.averages),
        )

    def look(self, value: float) -> None:
        """Note how the held-out facts do at this step: NLL of the targets and KL at unrelated prompts, summed."""
        self.since += 1
        if value < self.best_value:
            self.best_value, self.best_step, self.since = value, self.step, 0
            self.best = {key: tensor.detach().clone() for key, tensor in self.now.items()}


def _damaged(path: Path, error: Exception) -> SettingError:
    return SettingError(f"{path}: is damaged ({reason(error)}); remove it to start over")
