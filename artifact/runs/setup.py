"""From what the user asked for to all that a run needs: model, facts, settings, and the description stored with it.

Covers the choice of `--model auto`, the data each model runs on, hyperparameters, prefixes, moments and noise. It
computes no record (local.py) and keeps no journal (store.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from artifact.editing.hparams import MethodName, hparams_for
from artifact.editing.methods import Editor
from artifact.editing.moments import Moments, read_moments
from artifact.editing.protocol import PROTOCOLS, Protocol
from artifact.errors import SettingError
from artifact.facts.dataset import Data, data_for
from artifact.facts.fetch import cached, fetch, hub_answers
from artifact.facts.sources import HUB_MODELS
from artifact.lm.load import LanguageModel, auto_device, load
from artifact.lm.memory import Memory, default_memory, parse_bytes
from artifact.plan import SMOKE, SMOKE_FEW_FACTS, Plan
from artifact.runs.editors import Given, default_moments, lacking, make_editor
from artifact.runs.store import RunInfo
from artifact.tracing.corruption import embedding_spread

SAMPLES = 10
USE_MOMENTS: frozenset[MethodName] = frozenset({"rome", "memit"})
SMALL_EMBEDDING = 1_000_000
"""Entries of the embedding below which a model is too small for a second thread to help."""
WORLD_NOTE = (
    "The embedded world is a list of made-up facts and a small GPT-2 trained on them, so that editing works at a known "
    "site."
)
OTHER_NOTE = (
    "The paper's numbers are for GPT-2 XL and GPT-J on CounterFact; this run took another model or other facts."
)


def choose_model(asked: str, say: Callable[[str], None], begun_with: str | None = None) -> tuple[str, str]:
    """The model to use and why, in words. `auto`: GPT-2 small when cached or the hub answers, else the world.

    A run that was begun with a model goes on with it, whatever `auto` would take today.
    """
    if asked != "auto":
        return asked, f"asked for with --model {asked}"
    if begun_with is not None:
        return begun_with, "auto: the run in this folder was begun with it"
    small = HUB_MODELS["gpt2"]
    if cached(small):
        return "gpt2", "auto: GPT-2 small is in the hub cache"
    answers, words = hub_answers(small)
    if answers:
        try:
            fetch(small, say)
        except Exception as error:  # the hub went away between its answer and the end of the download
            return "world", f"auto: {error}; the embedded world stands in"
        return "gpt2", f"auto: {words}"
    return "world", f"auto: {words} and GPT-2 small is not in the cache; the embedded world stands in"


def noise_level(asked: str, model: LanguageModel, subjects: list[str] | None = None) -> float:
    """The level of `--noise`: a number, or s3, three standard deviations of the subjects' word embeddings.

    Without `subjects` those of the model's built-in facts are taken.
    """
    if asked == "s3":
        subjects = subjects or [fact.subject for fact in data_for(model.name).facts]
        return 3 * embedding_spread(model.decoder, model.tokens, subjects)
    try:
        return float(asked)
    except ValueError:
        raise SettingError(f"noise {asked!r} is neither s3 nor a number; give one of these") from None


@dataclass
class Context:
    """What computing a record needs. Editors are made when a unit first asks for them."""

    model: LanguageModel
    data: Data
    protocol: Protocol
    noise_level: float
    memory: Memory
    methods: tuple[MethodName, ...]
    given: Given = Given()
    _editors: dict[MethodName, Editor] = field(default_factory=dict)

    def editor(self, method: MethodName) -> Editor:
        """The method with its settings on this model, made once."""
        if method not in self._editors:
            moments = self.moments if method in USE_MOMENTS else None
            self._editors[method] = make_editor(
                self.model,
                method,
                self.protocol,
                self.memory,
                moments=moments,
                mend_weights=self.given.mend_weights if method == "mend" else None,
            )
        return self._editors[method]

    def lacking(self, method: MethodName) -> str | None:
        """Why the method cannot run here, with the remedy; None when it can."""
        return lacking(self.model, method, self.given.mend_weights)

    @cached_property
    def moments(self) -> Moments:
        """One set of second moments for every method of the plan."""
        if self.given.moments is not None:
            return read_moments(self.given.moments)
        chosen = [hparams_for(m, self.model.name, self.model.decoder.layers) for m in self.methods if m in USE_MOMENTS]
        return default_moments(self.model, sorted({layer for one in chosen for layer in one.layers}))


def prepare(
    plan: Plan,
    asked: str,
    protocol_name: str,
    limit: int | None,
    say: Callable[[str], None],
    begun_with: str | None = None,
    memory: str | None = None,
    given: Given | None = None,
) -> tuple[Context, RunInfo]:
    """Load the model and resolve every setting. Raises ArtifactErrors for anything the user can mend."""
    if protocol_name not in PROTOCOLS:
        raise SettingError(f"protocol {protocol_name!r} is unknown; expected one of {', '.join(PROTOCOLS)}")
    if limit is not None and limit < 1:
        raise SettingError(f"--limit must be at least 1, got {limit}; give a number of facts")
    protocol = PROTOCOLS[protocol_name]
    name, reason = choose_model(asked, say, begun_with)
    say(f"model: {name} ({reason})")
    if name in HUB_MODELS:
        fetch(HUB_MODELS[name], say)
    device, why = auto_device()
    use_tf32(protocol.tf32)
    say(f"device: {device} ({why}), float32, protocol {protocol.name}")
    model = load(name, device)
    if device == "cpu" and model.decoder.embedding_VD.numel() < SMALL_EMBEDDING:
        torch.set_num_threads(1)
    elif device == "cpu" and plan is SMOKE:
        plan = SMOKE_FEW_FACTS
        say("plan: few facts, as this model takes seconds for each without a GPU")
    data = data_for(name)
    budget = Memory(default_memory(model.decoder.device) if memory is None else parse_bytes(memory), say)
    methods = tuple(dict.fromkeys(unit.method for unit in plan.units if unit.method != "none"))
    context = Context(model, data, protocol, noise_level("s3", model), budget, methods, given or Given())
    settings: dict[str, Any] = {
        method: context.editor(method).described() for method in methods if context.lacking(method) is None
    }
    info = RunInfo(
        plan=plan,
        model=name,
        model_reason=reason,
        revision=model.revision,
        weights_sha256=model.weights_hash(),
        layers=model.decoder.layers,
        device=device,
        dtype="float32",
        protocol=protocol.name,
        switches=protocol.switches(),
        data_source=data.source,
        data_sha256=data.sha256,
        data_note=data.note,
        evidence=False,  # no plan runs the paper's models on the paper's data yet
        evidence_note=WORLD_NOTE if name == "world" else OTHER_NOTE,
        settings=settings,
        noise_level=context.noise_level,
        samples=SAMPLES,
        cases=[fact.case_id for fact in data.facts],
        limit=limit,
        given=context.given.options(),
    )
    return context, info


def use_tf32(on: bool) -> None:
    """Matrix products in TF32 on GPUs that have it, or in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
