"""From what the user asked for to all that a run needs: model, facts, settings, and the description stored with it.

Covers the choice of `--model auto`, hyperparameters, prefixes and moments. Data are inputs.py's, noise is noise.py's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import torch

from artifact.editing.method import unread
from artifact.editing.methods import METHODS, moment_layers
from artifact.editing.moments.files import key_width, width_of
from artifact.editing.moments.source import moments_sha256
from artifact.editing.protocol import Protocol, protocol_of
from artifact.errors import DeviceError, FactError, SettingError
from artifact.facts.dataset import Data
from artifact.lm.device import Memory, choose_device, default_memory, free_memory, in_one, parse_bytes, use_tf32
from artifact.lm.dtype import DtypeName, torch_dtype
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import Sizes
from artifact.lm.load import LanguageModel, load
from artifact.plans.paper import SMOKE, SMOKE_FEW_FACTS
from artifact.plans.tasks import picks_models
from artifact.plans.unit import Plan
from artifact.runs.answered import answered_statements, only_answered
from artifact.runs.context import SAMPLES, Context
from artifact.runs.describe import MomentsUsed, RunInfo, TracedData
from artifact.runs.editors import begun_prefixes, corrected_settings
from artifact.runs.inputs import (
    Given,
    Inputs,
    data_set,
    evidence,
    real_facts,
    run_inputs,
    run_mend_weights,
    run_moments,
)
from artifact.runs.noise import kept_level, noise_level, readable
from artifact.runs.refused import counted, in_one_piece, unaskable, without_refused
from artifact.runs.took import part
from artifact.sizes import size_words
from artifact.sources.catalogue import HUB_MODELS
from artifact.sources.fetch import cached, fetch, hub_answers

_MOST_FACTS = 1_000_000_000
SMALL_EMBEDDING = 1_000_000
"""Entries of the embedding below which a model is too small for a second thread to help."""


def choose_model(asked: str, say: Callable[[str], None], begun_with: str | None = None) -> tuple[str, str]:
    """The model to use and why, in words. `auto`: GPT-2 small when cached or the hub answers, else the world.

    A resumed run keeps the model that it began with.
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


@dataclass(frozen=True)
class Asked:
    """What the user asks of a run, besides the plan."""

    model: str = "auto"
    protocol: str = "released"
    limit: int | None = None
    memory: str | None = None
    device: str | None = None
    given: Given = Given()
    shard: tuple[int, int] | None = None
    correct: tuple[str, ...] = ()
    """Switches of the released protocol that are corrected one by one."""
    model_reason: str = ""
    """Why this model, where `auto` chose it (run_model)."""
    dtype: DtypeName = "float32"
    methods: tuple[str, ...] = ()
    """Methods that are asked for by name: one that the model's family refuses is not left out but an error."""
    gpus_per_worker: int = 1
    """GPUs that each worker of a Ray cluster holds; a model larger than one of them is spread over these."""


def prepare(
    plan: Plan, asked: Asked, say: Callable[[str], None], begun: RunInfo | None = None
) -> tuple[Context, RunInfo]:
    """Load the model and resolve every setting. Raises ArtifactErrors for anything the user can mend.

    `begun` is the run that goes on: its prefixes, its budget and its noise are taken, whatever would be drawn or free
    today.
    """
    protocol, given = check_asked(asked), asked.given
    name, reason = (asked.model, asked.model_reason) if asked.model_reason else run_model(plan, asked.model, say)
    say(f"model: {name} ({reason})")
    # Data first: what is missing is said before gigabytes are read.
    with part("facts"):
        inputs = run_inputs(plan, name, given, protocol)
    _check_cases(plan, inputs.edited, say)
    moments_folder = run_moments(plan, name, given)
    mend_weights, mend_missing = run_mend_weights(name, given)
    model, device = _loaded(plan, name, asked, protocol, say)
    plan, left_out = without_refused(_fitting(plan, model, device, say), model.kind, asked.methods)
    budget = _budget(asked, begun, model, plan.methods, say)
    level, relation_level = _noise(model, inputs, begun, say)
    inputs, without, unasked = _askable(model, inputs, begun)
    context = Context(
        model,
        _answered(plan, name, asked, model, inputs, budget),
        protocol,
        level,
        budget,
        plan.methods,
        moments_folder,
        mend_weights,
        mend_missing,
        relation_level,
        any_model=given.any_model,
        named=[
            path for path in (moments_folder, mend_weights) if path not in (None, given.moments, given.mend_weights)
        ],
        prefixes=begun_prefixes(begun),
        controlled=plan.moved,
        hparams=given.hparams,
        of_text=real_facts(plan, name, given),
        seed=given.seed,
        unaskable=unasked,
    )
    info = _described(plan, name, reason, device, asked, context)
    info = msgspec.structs.replace(info, left_out=left_out | without)
    for line in (*_unused(given, plan), *info.file_notes, *(f"left out: {one}" for one in info.left_out_lines)):
        say(line)
    context.batches = msgspec.structs.replace(info, shard=None).batches
    return context, info


def _unused(given: Given, plan: Plan) -> Iterator[str]:
    files = {"moments": given.moments, "mend_weights": given.mend_weights}
    return unread(files, [METHODS[method] for method in plan.methods])


def _noise(
    model: LanguageModel, inputs: Inputs, begun: RunInfo | None, say: Callable[[str], None]
) -> tuple[float, float | None]:
    """The noise level of traces, and that of relation traces where it is another."""
    subjects = readable(model, [one.subject for one in inputs.traced.statements], "subjects", say)
    relations = readable(model, inputs.relation_words, "relation words", say)
    level = kept_level(noise_level("s3", model, subjects), None if begun is None else begun.noise_level)
    if not relations:
        return level, None
    return level, kept_level(noise_level("s3", model, relations), None if begun is None else begun.relation_noise_level)


@part("model")
def _loaded(
    plan: Plan, name: str, asked: Asked, protocol: Protocol, say: Callable[[str], None]
) -> tuple[LanguageModel, str]:
    """The model on the run's device, in the protocol's precision, and that device."""
    device, why = run_device(plan, asked)
    use_tf32(protocol.tf32)
    say(f"device: {device} ({why}), {asked.dtype}, protocol {protocol.words}")
    factors = partial(_factors, name, plan.methods)
    model = in_one(lambda: load(name, device, torch_dtype(asked.dtype), say, factors), f"model {name}")
    for line in model.tokens.notes:
        say(line)
    return model, device


def _fitting(plan: Plan, model: LanguageModel, device: str, say: Callable[[str], None]) -> Plan:
    """The plan with its windows for the model's depth, with few facts for a smoke run of a large model on a CPU; one
    thread for a tiny model there.
    """
    if plan.facts:
        plan = plan.at_depth(model.decoder.layers)
    if device != "cpu":
        return plan
    if model.decoder.embedding_VD.numel() < SMALL_EMBEDDING:
        torch.set_num_threads(1)
        return plan
    if plan.name != SMOKE.name:
        return plan
    kept = {unit.name for unit in plan.units}
    few = tuple(unit for unit in SMOKE_FEW_FACTS.units if unit.name in kept)
    say("plan: few facts, as this model takes seconds for each without a GPU")
    return msgspec.structs.replace(SMOKE_FEW_FACTS, units=few)


def _described(plan: Plan, name: str, reason: str, device: str, asked: Asked, context: Context) -> RunInfo:
    """The run's description, every setting resolved: the editors are made here."""
    model, protocol, inputs = context.model, context.protocol, context.inputs
    editors = {method: context.editor(method) for method in context.methods if context.lacking(method) is None}
    settings = {method: editor.described() for method, editor in editors.items()}
    for unit in (unit for unit in plan.units if unit.correct and unit.method in editors):
        settings[unit.method] |= corrected_settings(editors[unit.method], context.editor(unit.method, unit.correct))
    counts, note = evidence(plan, name, inputs, asked.given, asked.dtype)
    return RunInfo(
        plan=plan,
        model=name,
        model_reason=reason,
        revision=model.revision,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        layers=model.decoder.layers,
        parameters=sum(weight.numel() for weight in model.decoder.weights.values()),
        device=device,
        dtype=asked.dtype,
        protocol=protocol.name,
        switches=protocol.switches(),
        data_source=inputs.edited.source,
        data_sha256=inputs.edited.sha256,
        data_note=inputs.edited.note,
        reconstructed=inputs.edited.reconstructed,
        evidence=counts,
        evidence_note=note,
        settings=settings,
        noise_level=context.noise_level,
        relation_noise_level=context.relation_noise_level,
        samples=SAMPLES,
        cases=inputs.edited.case_ids,
        relations=inputs.edited.relations(),
        traced_relations=inputs.traced.statement_relations(),
        by_relation=data_set(plan, name, asked.given).by_relation,
        traced=TracedData(
            inputs.traced.source,
            inputs.traced.sha256,
            inputs.traced.note,
            [statement.case_id for statement in inputs.traced.statements],
        ),
        limit=asked.limit,
        moments=_moments_used(context),
        file_notes=list(dict.fromkeys(line for editor in editors.values() for line in editor.notes)),
        given=asked.given.options() | ({"--dtype": asked.dtype} if asked.dtype != "float32" else {}),
        shard=asked.shard,
        memory=context.memory.most,
    )


def _budget(
    asked: Asked, begun: RunInfo | None, model: LanguageModel, methods: Sequence[str], say: Callable[[str], None]
) -> Memory:
    """What a batch may take: as asked for, as when the run began, or by what is free."""
    if asked.memory is not None:
        limit = parse_bytes(asked.memory)
    elif begun is not None and begun.memory is not None:
        limit = begun.memory
    else:
        limit = default_memory(model.decoder.device, factor_bytes(model, methods))
    if limit > (free := free_memory(str(model.decoder.device))):
        say(f"batches may take {size_words(limit)}, but {size_words(free)} are free; give less --memory")
    return Memory(limit, say)


@part("what the model answers")
def _answered(plan: Plan, name: str, asked: Asked, model: LanguageModel, inputs: Inputs, budget: Memory) -> Inputs:
    """Of the inputs what the model answers, where the run is about that."""
    if real_facts(plan, name, asked.given):
        return only_answered(model, inputs, plan, asked.limit, budget)
    if data_set(plan, name, asked.given).selected and not plan.of_the_paper:
        # Another model would leave the few that a small plan traces out, one by one.
        return replace(inputs, traced=answered_statements(model, inputs.traced, plan, budget))
    return inputs


def _askable(
    model: LanguageModel, inputs: Inputs, begun: RunInfo | None
) -> tuple[Inputs, dict[str, list[str]], dict[int, str]]:
    """The inputs without the facts, and the texts that a fact can do without, that the model cannot be asked; and what
    is left out, by the reason. Where it can be asked none, all stay, with the reason of each by case; so they do in a
    run that was begun with some of them.
    """
    facts, without = in_one_piece(model, inputs.edited.facts)
    unasked = unaskable(model, facts)
    left_out = without | counted(unasked, facts)
    left = [fact for fact in facts if fact.case_id not in unasked]
    if not left or (begun is not None and not unasked.keys().isdisjoint(begun.cases)):
        return replace(inputs, edited=replace(inputs.edited, facts=facts)), left_out, unasked
    cases = tuple(case for case in inputs.edited.cases if case not in unasked)
    return replace(inputs, edited=replace(inputs.edited, facts=left, cases=cases)), left_out, {}


@part("second moments")
def _moments_used(context: Context) -> MomentsUsed | None:
    layers = context.moment_layers
    if not layers:
        return None
    used = context.moments
    return MomentsUsed(used.source, moments_sha256(used, context.model.decoder, layers))


def run_model(plan: Plan, asked: str, say: Callable[[str], None], begun_with: str | None = None) -> tuple[str, str]:
    """The model of a run and why: the plan's own where `auto` is asked of a plan that names one (choose_model)."""
    if asked == "auto" and plan.models:
        return plan.models[0], f"the plan {plan.name} is for it"
    if asked == "auto" and begun_with is None and picks_models(plan):
        return "world", f"auto: the plan {plan.name} does not take GPT-2 small; the embedded world stands in"
    return choose_model(asked, say, begun_with)


def check_asked(asked: Asked) -> Protocol:
    """The protocol that is asked for; SettingError for an unknown protocol or switch, and for a limit below one."""
    if asked.limit is not None and not 1 <= asked.limit <= _MOST_FACTS:
        raise SettingError(
            f"--limit must be at least 1 and at most {_MOST_FACTS}, got {asked.limit}; give a number of facts"
        )
    return protocol_of(asked.protocol, asked.correct)


def _check_cases(plan: Plan, edited: Data, say: Callable[[str], None]) -> None:
    """Raise FactError where a plan that edits or scores has no case; say where no case has the relation's fields."""
    if all(unit.does == "trace" for unit in plan.units):
        return
    if not edited.facts:
        raise FactError(
            f"{edited.source}: no edit case in it ({edited.note}); give CounterFact-style records with --facts"
        )
    relation = [unit.name for unit in plan.units if unit.does == "edit" and unit.perspective == "relation"]
    if relation and all(fact.relation is None for fact in edited.facts):
        say(
            f"{edited.source}: no record has the relation's fields, so {', '.join(relation)} are left out; give "
            "records that have them, or --relation-source templates"
        )


def run_device(plan: Plan, asked: Asked) -> tuple[str, str]:
    """The device of a run and why.

    Raises DeviceError as `choose_device` does, and for a plan of the paper on a CPU that was not asked for: its models
    take days there.
    """
    device, why = choose_device(asked.device)
    if plan.of_the_paper and device == "cpu" and asked.device is None:
        raise DeviceError(
            f"plan {plan.name}: takes days on a CPU, and {why}; run it where there is a GPU, or give --device cpu"
        )
    return device, why


def factor_bytes(model: LanguageModel, methods: Sequence[str]) -> int:
    """Bytes of the factored second moments that stay on the device, in float64, for all layers that are edited."""
    layers = moment_layers(methods, model.name, model.decoder.layers)
    return sum(8 * key_width(model.decoder, layer) ** 2 for layer in layers)


def _factors(name: str, methods: Sequence[str], family: Base, sizes: Sizes) -> int:
    """The same of a model that is not loaded yet: over several cards they stand on the first."""
    shapes, layers = family.tensors(sizes), moment_layers(methods, name, sizes.layers)
    return sum(8 * width_of(family, shapes, layer) ** 2 for layer in layers)
