"""`kloc bench edit`: an editing method of this package, many facts together, against one fact at a time.

Covers the methods that have a loop (ROME, MEMIT, EMMET, AlphaEdit, KN, FT, MEND) on random weights of a shape and
synthetic facts: the same requests, prefixes, second moments and network on both sides, the same number of steps
(stated), and the largest relative difference of the weight changes beside the ratio. MEMIT's solve is timed alone as
well. The peers' way is in loops.py and loops_gradient.py; tests hold the accuracy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import msgspec
import torch
from torch import Tensor

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.facts import synthetic_facts
from artifact.bench.given import random_given, random_model
from artifact.bench.loops import Looped, Peer
from artifact.bench.shapes import timed
from artifact.editing.edit import Change, Dense, Edit, Edited, LowRank
from artifact.editing.editor import Editor
from artifact.editing.method import Method
from artifact.editing.methods import METHODS
from artifact.editing.methods.kn import KnHparams
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.moments.files import Moments, key_width
from artifact.editing.protocol import protocol_of
from artifact.errors import EditError, SettingError
from artifact.facts.fact import View
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class Solve:
    """MEMIT's solves alone, for all facts and layers: seconds a fact, and once for the factors of all layers."""

    facts: int
    layers: int
    width: int
    seconds: float
    factor_seconds: float

    @property
    def words(self) -> str:
        return (
            f"solve alone {1e3 * self.seconds:.2f} ms a fact ({self.layers} layers of width {self.width}, "
            f"{self.facts} facts together); factors of all layers, once, {self.factor_seconds:.2f} s"
        )


@dataclass(frozen=True)
class EditBench:
    """One method's comparison: timing, steps of every fact each way, and how far the weight changes are apart."""

    method: str
    timing: Timing
    our_steps: tuple[int, ...]
    loop_steps: tuple[int, ...]
    difference: float
    """Largest norm of the two changes' difference over that of the loop's, of the facts that both computed."""
    neurons: tuple[int, int] | None = None
    """KN: how many neurons the loop chose in all its facts, and how many only one of the two did."""
    solve: Solve | None = None

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield from self.timing.lines(self.method)
        ours, loop = (_range(steps) for steps in (self.our_steps, self.loop_steps))
        same = "the same steps" if self.our_steps[: len(self.loop_steps)] == self.loop_steps else "NOT the same steps"
        yield f"{self.method}: {same} both ways (ours {ours}, loop {loop})"
        if self.neurons is not None:
            yield f"{self.method}: {self.neurons[0]} neurons chosen by the loop, {self.neurons[1]} by one way only"
        if self.solve is not None:
            yield f"{self.method}: {self.solve.words}"
        yield f"{self.method}: {self.timing.ratio:.1f} times as fast; largest relative difference {self.difference:.1e}"


def bench_edit(
    shape: str,
    device: str,
    method: str,
    *,
    facts: int,
    loop_facts: int,
    memory: Memory | None = None,
    target_tokens: int = 1,
    hparams: Any = None,
    count: bool = True,
) -> EditBench:
    """Compare `facts` facts together with the loop over the first `loop_facts` of them, in float32, as released.

    `hparams` default to the shape's; `count` adds counted operations, which takes one run more. SettingError for a
    method without a loop.
    """
    chosen = METHODS[method]
    if not chosen.loop:
        raise SettingError(f"{method} has no one-at-a-time way to compare with; give its Method.loop one")
    model, module = random_model(shape, device)
    decoder = model.decoder
    hparams = hparams or chosen.hparams_for(shape, decoder.layers)
    if memory is None:  # of what weights and factors leave
        factored = hparams.edited if chosen.moments else ()
        memory = Memory(default_memory(decoder.device, sum(8 * key_width(decoder, at) ** 2 for at in factored)))
    bench = _Bench(model, Peer(module, decoder.family, model.tokens), chosen, hparams, memory)
    views = [fact.view("entity") for fact in synthetic_facts(module.config.vocab_size, facts, target_tokens)]
    few = views[: min(loop_facts, facts)]
    work = Work(
        facts=facts,
        loop_facts=len(few),
        ours=lambda: bench.ours(views, hparams),
        loop=lambda: [bench.loop(view, hparams) for view in few],
        warm=lambda: bench.ours(views, bench.short),
        warm_loop=lambda: bench.loop(views[0], bench.short),
    )
    ours, looped, timing = compare(work, device, count)
    return EditBench(
        method=method,
        timing=timing,
        our_steps=tuple(bench.steps(edited) for edited in ours),
        loop_steps=tuple(fact.steps for fact in looped),
        difference=max(relative_difference(edited.edit, fact.edit) for edited, fact in zip(ours, looped, strict=False)),
        neurons=_neurons(ours, looped) if isinstance(hparams, KnHparams) else None,
        solve=_solve(bench, hparams.layers, facts, device) if type(hparams) is MemitHparams else None,
    )


class _Bench:
    """One method both ways, with what they share."""

    def __init__(self, model: LanguageModel, peer: Peer, method: Method, hparams: Any, memory: Memory) -> None:
        self.model, self.peer, self.method, self.memory = model, peer, method, memory
        self.short = msgspec.structs.replace(hparams, **{method.steps: 2}) if method.steps else hparams
        # Where every step is taken, that many; where an optimisation may stop, its losses are counted.
        self._steps = getattr(hparams, method.steps) if method.steps and not method.stops else None
        self.given = random_given(method, model.decoder, hparams)
        self.moments = Moments("random", given_MM=dict(self.given.moments_MM)) if method.moments else None
        self._loop = resolve_name(method.loop)

    def ours(self, views: Sequence[View], hparams: Any) -> list[Edited]:
        """All facts together, each an edit of its own; the first failure is raised.

        A KN edit without a neuron is a failure: there would be no edit to compare.
        """
        editor = Editor(
            self.model,
            self.method,
            hparams,
            # The loop edits single facts, so none has a history; an edit that changes nothing is a failure here.
            protocol_of("released", ["mend_training_mode", "kn_without_neuron_scored"]),
            self.memory,
            prefixes=self.given.prefixes,
            moments=self.moments,
            network=self.given.network,
        )
        edits: list[Edited] = []
        for edited in editor.edits([[view] for view in views]):
            if isinstance(edited, EditError):
                raise edited
            edits.append(edited)
        return edits

    def loop(self, view: View, hparams: Any) -> Looped:
        """One fact as the peers do it."""
        return self._loop(self.peer, view, hparams, self.given)

    def steps(self, edited: Edited) -> int:
        """Forward passes of an optimisation, points of KN's integral, or MEND's one pass."""
        return self._steps or len(edited.losses)


def relative_difference(ours: Edit, loop: Edit) -> float:
    """Norm of the difference of two edits over the norm of the second."""
    apart = [_apart(ours.changes.get(name), loop.changes.get(name)) for name in {**ours.changes, **loop.changes}]
    return sum(distance * distance for distance in apart) ** 0.5 / loop.norm()


def _apart(one: Change | None, other: Change | None) -> float:
    """Frobenius norm of the difference of two changes; None changes nothing."""
    if one is None or other is None:
        return sum(change.norm() for change in (one, other) if change is not None)
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        left_IR = torch.cat((one.left_IR, -other.left_IR), dim=1)
        return LowRank(left_IR, torch.cat((one.right_RO, other.right_RO))).norm()
    assert isinstance(one, Dense) and isinstance(other, Dense)
    assert one.weight_IO is not None and other.weight_IO is not None
    assert one.bias_O is not None and other.bias_O is not None
    return Dense(one.weight_IO - other.weight_IO, one.bias_O - other.bias_O).norm()


def _neurons(ours: Sequence[Edited], looped: Sequence[Looped]) -> tuple[int, int]:
    """How many neurons the loop changed in all, and how many only one of the two did."""
    both = [({*_changed(edited.edit)}, {*_changed(fact.edit)}) for edited, fact in zip(ours, looped, strict=False)]
    return sum(len(loop) for _, loop in both), sum(len(own ^ loop) for own, loop in both)


def _changed(edit: Edit) -> Iterator[tuple[str, int]]:
    for name, change in edit.changes.items():
        assert isinstance(change, LowRank)
        yield from ((name, int(neuron)) for neuron in change.left_IR[:, 0].nonzero())


def _solve(bench: "_Bench", layers: Sequence[int], facts: int, device: str) -> Solve:
    """Time MEMIT's solves for `facts` keys a layer; the factors are made anew for it, in place of those there are."""
    decoder = bench.model.decoder
    bench.moments = moments = Moments("random", given_MM=dict(bench.given.moments_MM))
    width = bench.given.moments_MM[layers[0]].shape[0]
    generator = torch.Generator(decoder.device).manual_seed(0)
    keys_FM = torch.randn(facts, width, device=decoder.device, generator=generator)

    def work() -> list[Tensor]:
        return [moments.regularised_each(decoder, layer, keys_FM, 15000.0) for layer in layers]

    first, warm = timed(work, device), [timed(work, device).seconds for _ in range(3)]
    return Solve(facts, len(layers), width, min(warm) / facts, first.seconds - min(warm))


def _range(steps: Sequence[int]) -> str:
    least, most = min(steps), max(steps)
    return str(most) if least == most else f"{least} to {most}"
