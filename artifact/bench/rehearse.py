"""`kloc doctor --rehearse`: one batch of each unit of a plan at full shape, with random weights, on this device.

Covers seconds a batch, peak memory, and the hours that all the plan's facts take by them: at most, with every step of
every optimisation, and expected, with early stops as in a stated run (work.py). A run's own code computes the
batches (runs/local.py); weights, second moments, prefixes, facts and MEND's network are random, of the lengths and
shapes of the paper's, so that nothing is fetched and no number of a record means anything. Fetching, loading and
hashing are not included.
"""

import gc
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import mean
from typing import Any

import msgspec
import torch

from artifact.bench.estimate import planned_facts, plans_on, unit_efficiency, unit_work
from artifact.bench.facts import paper_facts, paper_statements
from artifact.bench.given import random_given, random_model, random_moments
from artifact.bench.planned import planned
from artifact.bench.shapes import ShapeName, Timed, matrix_rate, timed
from artifact.bench.work import STEPS_SOURCE
from artifact.editing.editor import Editor
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import Moments, key_width
from artifact.editing.protocol import Protocol, corrected_switches, protocol_of
from artifact.errors import DeviceError, RunError, SettingError
from artifact.facts.dataset import Data
from artifact.io import reason
from artifact.lm.device import Memory, check_fits, default_memory, free_memory, in_one, use_tf32
from artifact.plans import find_plans
from artifact.plans.unit import Plan, Unit
from artifact.runs.context import Context
from artifact.runs.environment import environment
from artifact.runs.inputs import Inputs
from artifact.runs.local import compute
from artifact.runs.noise import noise_level
from artifact.runs.record import Record
from artifact.runs.rehearsed import Rehearsed, keep
from artifact.runs.resolve import Asked, factor_bytes, run_device
from artifact.sizes import size_words, spell
from artifact.sources.catalogue import HUB_MODELS

UNIT_SECONDS = 3.0
"""On a CPU a unit takes as many facts as the estimate gives this time, at least one and at most a batch."""
_NO_ROOM = "not fit the device's memory"
"""What the reason of a record says that ran out of memory with one fact alone."""
Say = Callable[[str], None]


class UnitRehearsal(msgspec.Struct, frozen=True):
    """One unit: facts computed together and their seconds, peak memory in bytes, and seconds for all the plan's facts.

    `most` has every step of an optimisation, `expected` early stops (work.py). The peak is the device's; on a CPU that
    of the process until then.
    """

    name: str
    batch: int
    seconds: float
    peak: int
    facts: int
    most: float
    expected: float


class Rehearsal(msgspec.Struct, frozen=True):
    """One model's part of a plan: `free` bytes before it began, `factoring` seconds of all second moments, once."""

    plan: str
    model: str
    protocol: str
    limit: int | None
    device: str
    environment: dict[str, Any]
    free: int
    factoring: float
    units: list[UnitRehearsal]
    said: list[str]
    """What was said of batches that were halved."""
    corrected: tuple[str, ...] = ()
    """Switches of the released protocol that were corrected one by one, sorted."""

    @property
    def most(self) -> float:
        return self.factoring + sum(unit.most for unit in self.units)

    @property
    def expected(self) -> float:
        return self.factoring + sum(unit.expected for unit in self.units)


def rehearse(
    name: str,
    protocol: str,
    say: Say,
    *,
    limit: int | None = None,
    device: str | None = None,
    correct: Sequence[str] = (),
) -> list[Rehearsal]:
    """Rehearse the plan called `name`, model by model; `say` is called with each line as soon as it is known.

    `limit` facts a unit at most, as a run takes it. `device` and `correct` are a run's options. Raises SettingError for
    an unknown plan or switch, DeviceError as a run does, and ModelError or RunError where a model or a unit does not
    fit the device.
    """
    plans = find_plans(name)
    if any(unit.does == "task" for plan in plans for unit in plan.units):
        raise SettingError(
            f"plan {name}: its tasks have no rehearsal; kloc doctor --estimate {name} computes what they take, and "
            "kloc status says how long a fact of a begun run takes"
        )
    device, _ = run_device(plans[0], Asked(device=device))
    followed = protocol_of(protocol, correct)
    use_tf32(followed.tf32)
    cuda = device.startswith("cuda")
    rate = None if cuda else matrix_rate(device, torch.float32)
    rehearsals = []
    for plan, model in plans_on(name, cuda):
        rehearsals.append(_Stage(plan, model, followed, limit, device, rate, say).rehearsal())
        if cuda:  # room for the next model
            gc.collect()
            torch.cuda.empty_cache()
    most, expected = (sum(getattr(model, name) for model in rehearsals) for name in ("most", "expected"))
    say("")
    say(f"at most: every step of every optimisation is taken. Expected: with early stops as in {STEPS_SOURCE}.")
    say(
        f"{name}: at most {spell(most)}, expected {spell(expected)}, measured on {_device_name(device)}; fetching, "
        "loading and hashing are not included"
    )
    return rehearsals


def keep_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[str]:
    """Keep each for the runs of this machine (runs/rehearsed.py); the lines that say where, or why not."""
    lines = []
    for part in rehearsals:
        seconds = {unit.name: (unit.most / unit.facts, unit.expected / unit.facts) for unit in part.units}
        try:
            path = keep(Rehearsed(part.plan, part.model, part.protocol, part.environment, seconds, part.corrected))
            lines.append(f"kept for the report of a run on this machine: {path}")
        except SettingError as error:
            lines.append(f"not kept for later runs: {error}")
        except OSError as error:
            lines.append(f"not kept for later runs: the cache folder cannot be written ({reason(error)})")
    return lines


class _RandomContext(Context):
    """A run's context whose second moments, prefixes and MEND's network are random, of the paper's shapes."""

    def _made(self, method: str) -> Editor:
        chosen, decoder = METHODS[method], self.model.decoder
        hparams = chosen.hparams_for(self.model.name, decoder.layers)
        given = random_given(chosen, decoder, hparams, moments=False)
        return Editor(
            self.model,
            chosen,
            hparams,
            self.protocol,
            self.memory,
            prefixes=given.prefixes,
            moments=self.moments if chosen.moments else None,
            network=given.network,
        )

    def items(self, unit: Unit) -> Sequence[Any]:
        """As of a run; knockouts take statements without an answer, which random weights need not give."""
        return self.inputs.traced.statements if unit.does == "knockout" else super().items(unit)

    def lacking(self, method: str) -> str | None:
        return None

    @cached_property
    def moments(self) -> Moments:
        """Random matrices, each factored and then dropped, as a run does with a published file."""
        decoder, moments = self.model.decoder, Moments("random")
        for layer in self.moment_layers:
            moments.given_MM[layer] = random_moments(decoder, layer)
            moments.solve(decoder, layer, torch.zeros(1, key_width(decoder, layer), device=decoder.device))
            del moments.given_MM[layer]
        return moments


class _Stage:
    """One model of a plan on one device; `rate` is a CPU's matrix rate, None on a GPU."""

    def __init__(
        self,
        plan: Plan,
        model: ShapeName,
        protocol: Protocol,
        limit: int | None,
        device: str,
        rate: float | None,
        say: Say,
    ) -> None:
        self._plan, self._model, self._protocol, self._limit = plan, model, protocol, limit
        self._device, self._rate, self._say = device, rate, say
        self._cuda = device.startswith("cuda")
        self._notes: list[str] = []
        self._batches = {unit.name: self._batch(unit) for unit in plan.units}

    def rehearsal(self) -> Rehearsal:
        """Every unit once, its row said as soon as it is measured."""
        say, plan = self._say, self._plan
        # What a run checks first, so that what cannot fit is said before minutes of work.
        check_fits(self._model, HUB_MODELS[self._model].size, self._device)
        free = free_memory(self._device)
        words = self._protocol.words
        say("")
        say(f"{plan.name} on {self._model}'s shape, random weights, protocol {words}; {size_words(free)} free")
        if self._rate is not None:
            say(f"without a GPU a unit takes {UNIT_SECONDS:.0f} s or one fact: about {spell(self._predicted())} in all")
        context, factoring = self._held("the model with its second moments", self._context)
        if layers := len(context.moment_layers):
            say(f"second moments factored in {factoring:.1f} s, once a run (layers: {layers})")
        say(
            f"{'unit':<30}{'batch':>6}{'s/batch':>10}{'s/fact':>9}{'peak GB':>9}{'facts':>7}{'at most':>10}"
            f"{'expected':>10}"
        )
        units = [self._unit(unit, context) for unit in plan.units]
        rehearsal = Rehearsal(
            plan=plan.name,
            model=self._model,
            protocol=self._protocol.name,
            corrected=tuple(corrected_switches(self._protocol.name, self._protocol.switches())),
            limit=self._limit,
            device=self._device,
            environment=environment(self._device),
            free=free,
            factoring=factoring,
            units=units,
            said=self._notes,
        )
        say(f"{'in all':<71}{spell(rehearsal.most):>10}{spell(rehearsal.expected):>10}")
        most = max(units, key=lambda unit: unit.peak)
        where = f"the device's peak ({most.name})" if self._cuda else "the process's peak"
        say(f"memory suffices: {size_words(most.peak)} at {where}, {size_words(free)} were free before")
        return rehearsal

    def _context(self) -> tuple[Context, float]:
        """Model, facts and factored second moments, and the seconds of factoring."""
        model, _ = random_model(self._model, self._device)
        vocabulary = len(model.decoder.embedding_VD)
        methods = self._plan.methods
        most = max(self._batches.values())
        data = Data(paper_facts(vocabulary, most), paper_statements(vocabulary, most), "random words", "", "")
        context = _RandomContext(
            model,
            Inputs(data, data),
            self._protocol,
            noise_level("s3", model, [statement.subject for statement in data.statements]),
            Memory(default_memory(model.decoder.device, factor_bytes(model, methods)), self._note),
            methods,
        )
        return context, timed(lambda: context.moments, self._device).seconds

    def _unit(self, unit: Unit, context: Context) -> UnitRehearsal:
        items = context.items(unit)[: self._batches[unit.name]]

        def batch() -> Timed:
            if self._cuda or unit == self._plan.units[0]:  # libraries and kernels are loaded at their first use
                compute(unit, items[:1], context)
            return timed(lambda: compute(unit, items, context), self._device)

        ran: Timed = self._held(unit.name, batch)
        records: list[Record] = ran.result
        failed = [record.reason for record in records if record.status != "done"]
        if any(_NO_ROOM in reason for reason in failed):
            raise self._does_not_fit(unit.name)
        if failed:
            raise RunError(f"{unit.name}: {len(failed)} of {len(items)} facts failed in the rehearsal ({failed[0]})")
        facts = planned_facts(unit, self._limit)
        for_all = ran.seconds * facts / len(items) / self._work(unit, _share(unit, context, records))
        unit_rehearsal = UnitRehearsal(
            name=unit.name,
            batch=len(items),
            seconds=ran.seconds,
            peak=ran.peak,
            facts=facts,
            most=for_all * self._work(unit, 1.0),
            expected=for_all * self._work(unit, None),
        )
        self._say(
            f"{unit.name:<30}{len(items):>6}{ran.seconds:>10.3f}{ran.seconds / len(items):>9.3f}{ran.peak / 1e9:>9.1f}"
            f"{facts:>7}{spell(unit_rehearsal.most):>10}{spell(unit_rehearsal.expected):>10}"
        )
        return unit_rehearsal

    def _batch(self, unit: Unit) -> int:
        """How many facts are computed together: the plan's batch, on a CPU fewer."""
        most = min(unit.batch, planned_facts(unit, self._limit))
        return most if self._rate is None else max(1, min(most, int(UNIT_SECONDS / self._predicted_fact(unit))))

    def _predicted(self) -> float:
        return sum(self._batches[unit.name] * self._predicted_fact(unit) for unit in self._plan.units)

    def _predicted_fact(self, unit: Unit) -> float:
        """Seconds of one fact on this CPU by the estimate, every step taken."""
        assert self._rate is not None
        return self._work(unit, 1.0) / (unit_efficiency(unit).cpu * self._rate)

    def _work(self, unit: Unit, share: float | None) -> float:
        return unit_work(unit, planned(self._model), self._protocol, share).products

    def _held(self, what: str, work: Callable[[], Any]) -> Any:
        """The result of `work`; RunError in one line where it runs out of memory."""
        try:
            return in_one(work, what)
        except DeviceError:
            raise self._does_not_fit(what) from None

    def _does_not_fit(self, what: str) -> RunError:
        total = torch.cuda.mem_get_info(self._device)[1] if self._cuda else free_memory(self._device)
        return RunError(
            f"{self._plan.name} on {self._model}: {what} does not fit {_device_name(self._device)} with "
            f"{size_words(total)}; take a larger device (kloc doctor --estimate {self._plan.name} says what is needed)"
        )

    def _note(self, line: str) -> None:
        self._notes.append(line)
        self._say(line)


def _share(unit: Unit, context: Context, records: Sequence[Record]) -> float:
    """The share of the most steps that the records took; 1 where nothing stops early."""
    method = METHODS.get(unit.method)
    if method is None or not method.stops:
        return 1.0
    most = getattr(context.editor(method.name).hparams, method.steps)
    return mean(record.payload["steps"] for record in records) / most


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"
