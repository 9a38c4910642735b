"""`kloc doctor --estimate`: what a plan takes on this machine or on one that is named: time, memory, disk.

Covers the efficiency of every kind of unit with its source, and two sums: at most, with every step of every
optimisation, and expected, with early stops as in a stated run (work.py). The machine's rates are machine.py's.
On a CPU the efficiencies are measured shares of the matrix rate, all included. No GPU has been measured: there the
share is assumed, and memory traffic and the start of kernels are added.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pkgutil import resolve_name
from typing import cast

import torch

from artifact.bench.machine import Machine
from artifact.bench.planned import Card, Planned, card_lines, cards_of, planned
from artifact.bench.shapes import ShapeName
from artifact.bench.work import (
    STEPS_SOURCE,
    factor_bytes,
    factor_products,
    knocked,
    scored,
    solve_bytes,
    traced,
    with_steps,
)
from artifact.editing.method import Method
from artifact.editing.methods import METHODS, moment_layers
from artifact.editing.protocol import Protocol, protocol_of
from artifact.facts.datasets import default_for, traced_for
from artifact.facts.lengths import PAPER_LENGTHS
from artifact.lm.decoder import Decoder
from artifact.lm.device import CPU_BUDGET, GPU_SHARE, Memory
from artifact.lm.families.gpt2 import GPT2
from artifact.lm.work import Efficiency, Shape, Work
from artifact.plans import find_plans
from artifact.plans.paper import SMOKE, SMOKE_FEW_FACTS
from artifact.plans.tasks import TASKS
from artifact.plans.unit import Plan, Unit
from artifact.runs.controls import other_layers
from artifact.runs.describe import left_out_lines
from artifact.runs.inputs import Given, needed_sources
from artifact.runs.refused import without_refused
from artifact.sizes import hours, size_words, spell
from artifact.sources.catalogue import SOURCES
from artifact.sources.fetch import remaining
from artifact.tracing.edges import EDGES

RECORD_BYTES = 7_600
"""Of one case in the journal: what `kloc bench report` prints for a run of the paper's proportions."""
LOAD_RATE = 0.25e9
"""Bytes a second at which weights are read and hashed before and after a run, assumed: 0.5 GB/s once, 1 GB/s twice."""
_CONTEXT = 1.0e9
"""Memory of the process or of CUDA itself, assumed."""
_PASS_SECONDS = 2e-4
"""Start of a block's kernels on a GPU, assumed: 25 kernels of 8 microseconds."""
_FACTOR_RATE = 1e12
"""Float64 operations a second of a factorisation on a GPU, assumed: what a workstation's card reaches."""


EFFICIENCY = {
    "trace": Efficiency(0.54, "54 to 65% measured", 0.40),
    "unedited": Efficiency(0.55, "55 to 70% measured", 0.40),
    "knockout": Efficiency(0.40, "assumed", 0.30),
}
"""Of units that edit nothing; methods have their own. CPU figures were measured on two cores of an Intel Xeon (198
GFLOP/s, GPT-2 small) before rows were packed; BENCHMARKS.md has newer ratios. Seconds become a share with the
operations counted here."""


def unit_efficiency(unit: Unit) -> Efficiency:
    """The share of the matrix rate that a unit reaches."""
    if unit.does == "task":  # edits by a method, or traces
        return EFFICIENCY["trace"] if unit.method == "none" else METHODS[unit.method].efficiency
    return METHODS[unit.method].efficiency if unit.does == "edit" else EFFICIENCY[unit.does]


@dataclass(frozen=True)
class UnitEstimate:
    """One unit: its facts, the most work of a fact, the efficiency, and the seconds of all facts: at most, expected."""

    name: str
    facts: int
    work: Work
    efficiency: float
    seconds: float
    expected: float
    ahead: float = 0.0
    """Seconds in which a shard counts the rows that the edits of other shards leave: at most those of all facts."""


@dataclass(frozen=True)
class PlanEstimate:
    """One model's part of a plan. `device` holds the parts of the device's memory by name, `cards` what each of several
    cards holds of it (none: there is one device), `host` the host's memory, `load` the seconds before and after the
    work, `downloads` what is still to be fetched, `left_out` the units that the model cannot do, by the reason; sizes
    in bytes.
    """

    plan: str
    model: str
    units: Sequence[UnitEstimate]
    device: dict[str, float]
    cards: Sequence[Card]
    host: float
    load: float
    downloads: int
    results: int
    left_out: Mapping[str, Sequence[str]]

    @property
    def seconds(self) -> float:
        """Of the work, every step taken."""
        return sum(unit.seconds for unit in self.units)

    @property
    def expected(self) -> float:
        """Of the work, with early stops."""
        return sum(unit.expected for unit in self.units)

    @property
    def ahead(self) -> float:
        """Of each shard, besides its share of the work."""
        return sum(unit.ahead for unit in self.units)

    @property
    def least(self) -> float:
        """The least memory of the device, or of the fullest of several cards."""
        return max((card.size for card in self.cards), default=sum(self.device.values()))


def estimate(
    name: str,
    machine: Machine,
    protocol: str,
    limit: int | None = None,
    correct: Sequence[str] = (),
    model: Planned | None = None,
    cards: int = 1,
) -> list[PlanEstimate]:
    """What the plan called `name` takes on `machine`, model by model, or on the `model` given. SettingError for an
    unknown plan.

    A plan that names no model is estimated on GPT-2 small. Layers are spread over so many `cards`, each as the machine
    describes one.
    """
    followed = protocol_of(protocol, correct)
    plans = plans_on(name, machine.cuda)
    if model is not None:
        plan, left_out = without_refused(plans[0][0], model.kind)
        return [_plan(plan, model, machine, followed, limit, cards, left_out)]
    return [_plan(plan, planned(of), machine, followed, limit, cards, {}) for plan, of in plans]


def plans_on(name: str, cuda: bool) -> list[tuple[Plan, ShapeName]]:
    """The plans of that name, each with the model it is estimated and rehearsed on; SettingError for an unknown one."""
    plans = find_plans(name)
    if plans == (SMOKE,) and not cuda:
        plans = (SMOKE_FEW_FACTS,)
    return [(plan, cast(ShapeName, model)) for plan in plans for model in plan.models or ("gpt2",)]


def planned_facts(unit: Unit, limit: int | None = None) -> int:
    """How many facts a unit takes of the paper's data."""
    data = default_for("", of_the_paper=True)
    if unit.does == "trace":
        data = traced_for(data)
    return min(n for n in (unit.most, limit, data.cases) if n is not None)


def lines(estimates: Sequence[PlanEstimate], machine: Machine, gpus: int = 1) -> Iterator[str]:
    """The estimate in words and figures; `gpus` machines share every unit's facts."""
    yield machine.words
    for plan in estimates:
        yield from ("", f"{plan.plan} on {plan.model}", *_unit_lines(plan), *_memory_lines(plan, machine))
        yield from (f"left out: {line}" for line in left_out_lines(plan.left_out))
    yield ""
    yield from _efficiency_lines(machine)
    yield from _total_lines(estimates, machine, gpus)


def _unit_lines(plan: PlanEstimate) -> Iterator[str]:
    wide = max(30, *(len(unit.name) + 2 for unit in plan.units))
    yield (
        f"{'unit':<{wide}}{'facts':>7}{'GFLOP/fact':>12}{'GB/fact':>9}{'TFLOP':>10}{'efficiency':>12}{'at most':>9}"
        f"{'expected':>10}"
    )
    for unit in plan.units:
        yield (
            f"{unit.name:<{wide}}{unit.facts:>7}{unit.work.products / 1e9:>12.0f}{unit.work.bytes / 1e9:>9.1f}"
            f"{unit.facts * unit.work.products / 1e12:>10.0f}{unit.efficiency:>12.0%}{hours(unit.seconds):>9}"
            f"{hours(unit.expected):>10}"
        )
    products = sum(unit.facts * unit.work.products for unit in plan.units)
    words = f"{'in all, hours':<{wide + 28}}{products / 1e12:>10.0f}{'':>12}"
    yield f"{words}{hours(plan.seconds):>9}{hours(plan.expected):>10}"


def _plan(
    plan: Plan,
    model: Planned,
    machine: Machine,
    protocol: Protocol,
    limit: int | None,
    cards: int,
    left_out: Mapping[str, Sequence[str]],
) -> PlanEstimate:
    shape, name = model.shape, model.name
    units = [_unit(unit, model, machine, protocol, limit) for unit in plan.units]
    methods = plan.methods
    layers = sorted({*moment_layers(methods, name, shape.layers), *other_layers(plan.moved, name, shape.layers)})
    tasks = [(unit, TASKS[unit.task].moments) for unit in plan.units if unit.task]
    own = {layer for unit, function in tasks if function for layer in resolve_name(function)(unit, model)}
    layers = sorted({*layers, *own})
    names, optional = needed_sources(plan, name, Given())
    names = names if name in names or name not in SOURCES else (name, *names)
    file = factor_bytes(shape) / 2 if layers else 0  # a published matrix is float32
    device = _device_memory(shape, name, methods, len(layers), "CUDA itself" if machine.cuda else "the process")
    rate = _FACTOR_RATE if machine.cuda else machine.rate / 2
    return PlanEstimate(
        plan=plan.name,
        model=name,
        units=units,
        device=device,
        cards=cards_of(shape, sum(device.values()) - device["weights"], cards),
        # Second moments that the run computes stay in main memory, as float64.
        host=shape.weights + file + len(own) * factor_bytes(shape) + _CONTEXT
        if machine.cuda
        else sum(device.values()) + CPU_BUDGET,
        load=shape.weights / LOAD_RATE + len(layers) * factor_products(shape) / rate,
        downloads=model.downloads + sum(remaining(SOURCES[source]) for source in (*names, *optional)),
        results=RECORD_BYTES * sum(unit.facts for unit in units),
        left_out=left_out,
    )


def _device_memory(shape: Shape, model: str, methods: Sequence[str], layers: int, context: str) -> dict[str, float]:
    """Bytes of each part of the device's memory, for methods that read second moments of so many layers."""
    factor = factor_bytes(shape) if layers else 0
    network = max((METHODS[name].network_bytes(shape) for name in methods), default=0)
    passing = ["factoring"] if layers else []
    passing += [f"{METHODS[name].printed}'s network" for name in methods if METHODS[name].network]
    most = " or ".join([*filter(None, [", ".join(passing)]), "one fact's batch"])
    return {
        "weights": float(shape.weights),
        f"factors of {layers} layers' second moments": float(layers * factor),
        most: max(factor + factor / 2, network, _least_batch(shape, model)),
        context: _CONTEXT,
    }


def unit_work(unit: Unit, model: Planned, protocol: Protocol, share: float | None = None) -> Work:
    """What one fact of the unit takes on the model's shape, its scoring included, solves of a batch apart.

    `share`: how much of the most steps an optimisation takes that may stop early (default: the expected share).
    """
    shape = model.shape
    if unit.does == "trace":
        lengths, fresh = PAPER_LENGTHS.traced[unit.perspective], protocol.severed_fresh_noise
        return traced(shape, unit.trace_kind, unit.window_of(shape.layers), lengths, fresh_noise=fresh)
    if unit.does == "knockout":
        prompt = PAPER_LENGTHS.prompts[unit.perspective]
        # Edges out of the last token are computed at that token alone, the others from the subject on.
        onward = [1 if edge.start == "last" else prompt.onward for edge in EDGES.values()]
        return knocked(shape, unit.window_of(shape.layers), prompt.mean, onward)
    if unit.does == "unedited":
        return scored(shape, PAPER_LENGTHS)
    if unit.does == "task":
        work: Work = resolve_name(TASKS[unit.task].work)(unit, model, share)
        return work
    method = METHODS[unit.method]
    if share is None:
        share = method.stops.get(unit.perspective, 1.0)
    hparams = with_steps(method, method.hparams_for(model.name, shape.layers), share)
    edit = method.work(shape, hparams, PAPER_LENGTHS, unit.perspective)
    return scored(shape, PAPER_LENGTHS, method.dense) + edit


def _unit(unit: Unit, model: Planned, machine: Machine, protocol: Protocol, limit: int | None) -> UnitEstimate:
    shape = model.shape
    facts = planned_facts(unit, limit)
    most, expected = (unit_work(unit, model, protocol, share) for share in (1.0, None))
    reached = unit_efficiency(unit)
    efficiency = reached.gpu if machine.cuda else reached.cpu
    rate = efficiency * machine.rate
    ahead = _ahead(unit, model.name, shape, protocol, facts) / rate
    if not machine.cuda:
        of_most, of_expected = (facts * work.products / rate for work in (most, expected))
        return UnitEstimate(unit.name, facts, most, efficiency, of_most, of_expected, ahead)
    # The facts of a batch stop one by one: its passes end with the last, which is taken to need every step.
    batches = ceil(facts / unit.batch) * most.passes * (shape.block / machine.bandwidth + _PASS_SECONDS)
    if layers := len(moment_layers([unit.method] if unit.method in METHODS else [], model.name, shape.layers)):
        batches += ceil(facts / unit.batch) * solve_bytes(shape, layers).bytes / machine.bandwidth
    of_most, of_expected = (
        facts * (work.products / rate + work.bytes / machine.bandwidth) + batches for work in (most, expected)
    )
    return UnitEstimate(unit.name, facts, most, efficiency, of_most, of_expected, ahead)


def _ahead(unit: Unit, model: str, shape: Shape, protocol: Protocol, facts: int) -> float:
    """Operations of counting every fact's rows once where each edit depends on those before it (runs/order.py)."""
    method = METHODS.get(unit.method)
    if method is None or not method.ordered(protocol.switches() | dict.fromkeys(unit.correct, False)):
        return 0.0
    hparams = method.hparams_for(model, shape.layers)
    return facts * method.work(shape, hparams, PAPER_LENGTHS, unit.perspective).products


def _least_batch(shape: Shape, model: str) -> float:
    """Bytes of the largest batch of one fact: a value optimisation of a relation, ROME's of 27 rows."""
    prompt = PAPER_LENGTHS.prompts["relation"]
    embedding_VD = torch.empty(shape.vocabulary, shape.width, device="meta")
    decoder = Decoder(
        GPT2(), {"transformer.wte.weight": embedding_VD}, layers=shape.layers, heads=1, epsilon=1e-5, positions=1024
    )
    onward = ceil(prompt.onward + prompt.target - 1)
    left = ceil(PAPER_LENGTHS.prefix + prompt.before)

    def rows_bytes(method: Method) -> int:
        above = shape.layers - method.hparams_for(model, shape.layers).edited[-1] - 1
        return method.value_rows * Memory(1).gradient_row_bytes(decoder, above, left, onward)

    return max(rows_bytes(method) for method in METHODS.values() if method.value_rows)


def _memory_lines(plan: PlanEstimate, machine: Machine) -> Iterator[str]:
    where = "GPU memory" if machine.cuda else "memory"
    parts = " + ".join(f"{name} {size_words(size)}" for name, size in plan.device.items() if size)
    yield f"{where}: {parts} = {size_words(sum(plan.device.values()))} at least; batches use the rest"
    yield from card_lines(plan.cards)
    if machine.cuda:
        yield f"host memory: {size_words(plan.host)}"
        kept = plan.least if plan.cards else sum(list(plan.device.values())[:2]) + _CONTEXT
        budget = GPU_SHARE * (machine.memory - kept)
        if plan.least > machine.memory:
            yield f"does not fit {size_words(machine.memory)}: take a larger device, or more of them (--cards)"
        else:
            batches = f"batches of {size_words(budget)}, 60% of what weights and factors leave"
            yield f"fits {size_words(machine.memory)}: {batches}"
    elif plan.host > machine.memory:
        yield f"does not fit: with batches {size_words(plan.host)} are needed and {size_words(machine.memory)} are free"
    yield f"disk: {size_words(plan.downloads)} still to fetch, about {size_words(plan.results)} of results"
    yield f"loading, hashing and factoring: {spell(plan.load)} (assumed {LOAD_RATE / 1e9:g} GB/s)"


def _efficiency_lines(machine: Machine) -> Iterator[str]:
    yield f"at most: every step of every optimisation is taken. Expected: with early stops as in {STEPS_SOURCE}."
    if machine.cuda:
        yield "efficiency: share of the matrix products' rate, assumed; no GPU has been measured. Memory traffic and"
        yield f"kernel starts ({1e3 * _PASS_SECONDS:g} ms a block, assumed) are added as if nothing overlapped."
    else:
        yield "efficiency: share of the matrix products' rate, all included; BENCHMARKS.md, GPT-2 small on two cores:"
        efficiencies = EFFICIENCY | {name: method.efficiency for name, method in METHODS.items()}
        yield "; ".join(f"{kind} {efficiency.source}" for kind, efficiency in efficiencies.items()) + "."


def _total_lines(estimates: Sequence[PlanEstimate], machine: Machine, gpus: int) -> Iterator[str]:
    name = estimates[0].plan
    work, load = sum(plan.seconds for plan in estimates), sum(plan.load for plan in estimates)
    if gpus > 1:  # MEND as released needs the rows of all earlier cases, whoever edits them
        load += sum(plan.ahead for plan in estimates) * (1 - 1 / gpus)
    expected = sum(plan.expected for plan in estimates)
    most = max(estimates, key=lambda plan: plan.least)
    where = f"{gpus} machines ({machine.name})" if gpus > 1 else machine.name
    yield (
        f"{name}: at most {spell(work / gpus + load)}, expected {spell(expected / gpus + load)}, on {where}, "
        f"{'GPU memory' if machine.cuda else 'memory'} {size_words(most.least)} at least ({most.model}), host memory "
        f"{size_words(max(plan.host for plan in estimates))}, disk "
        f"{size_words(sum(plan.downloads + plan.results for plan in estimates))}"
    )
    if machine.cuda:
        yield f"with {ceil(work / load)} GPUs or more, each spends more time on loading than on the work"
    elif work > 2 * 86400:
        sample_seconds = sum(plan.seconds for plan in estimate("sample", machine, "released"))
        facts = min(200, int(200 * 8 * 3600 / sample_seconds))
        less = f"kloc run sample --limit {facts} takes about 8 h" if facts else "kloc smoke takes much less"
        yield f"without a GPU that is too long: {less}; or give --limit or --only, or estimate a GPU with --rate"
