"""`kloc bench edit`: an editing method of this package, many facts together, against one fact at a time.

Covers ROME, MEMIT, KN, FT and MEND on random weights of a shape and synthetic facts: the same requests, prefixes,
second moments and network on both sides, the same number of steps (stated), the largest relative difference of the
weight change beside the ratio. MEMIT's solve is timed alone as well. The peers' way is loops.py's and
loops_gradient.py's. It asserts nothing: tests hold the accuracy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.facts import synthetic_facts, synthetic_prefixes, word_tokens
from artifact.bench.loops import Looped, Peer, memit_loop, rome_loop
from artifact.bench.loops_gradient import ft_loop, kn_loop, mend_loop
from artifact.bench.shapes import random_module, timed
from artifact.editing.edit import Change, Dense, Edit, Edited, LowRank
from artifact.editing.hparams import MethodName, hparams_for
from artifact.editing.mend import inner_weights
from artifact.editing.mend_gradients import InnerWeight
from artifact.editing.mend_network import LowRankLayer, Network, Transform
from artifact.editing.methods import Editor
from artifact.editing.moments import Moments, key_width
from artifact.editing.protocol import protocol_of
from artifact.errors import EditError
from artifact.facts.fact import View
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import LanguageModel, from_module

ROME_PREFIXES = ((5, 10), (10, 10))
MEMIT_PREFIXES = ((10, 5),)
MEND_RANK = 1920
"""Rank of the published networks, capped by the width of their input."""
_STEPS = {"rome": "v_num_grad_steps", "memit": "v_num_grad_steps", "ft": "num_steps", "kn": "steps"}


@dataclass(frozen=True)
class Solve:
    """MEMIT's solves alone, for all facts and layers: seconds a fact, and once for the factors of all layers."""

    facts: int
    layers: int
    width: int
    seconds: float
    factor_seconds: float


@dataclass(frozen=True)
class EditBench:
    """One method's comparison: timing, steps of every fact each way, and how far the weight changes are apart."""

    method: MethodName
    timing: Timing
    our_steps: tuple[int, ...]
    loop_steps: tuple[int, ...]
    difference: float
    """Largest norm of the two changes' difference over that of the loop's, of the facts that both computed."""
    neurons: tuple[int, int] | None = None
    """KN: how many neurons the loop chose in all its facts, and how many only one of the two did."""
    solve: Solve | None = None

    @property
    def ratio(self) -> float:
        return self.timing.ratio

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield from self.timing.lines(self.method)
        ours, loop = (_range(steps) for steps in (self.our_steps, self.loop_steps))
        same = "the same steps" if self.our_steps[: len(self.loop_steps)] == self.loop_steps else "NOT the same steps"
        yield f"{self.method}: {same} both ways (ours {ours}, loop {loop})"
        if self.neurons is not None:
            yield f"{self.method}: {self.neurons[0]} neurons chosen by the loop, {self.neurons[1]} by one way only"
        if self.solve is not None:
            one = self.solve
            yield (
                f"{self.method}: solve alone {1e3 * one.seconds:.2f} ms a fact ({one.layers} layers of width "
                f"{one.width}, {one.facts} facts together); factors of all layers, once, {one.factor_seconds:.2f} s"
            )
        yield f"{self.method}: {self.ratio:.1f} times as fast; largest relative difference {self.difference:.1e}"


def bench_edit(
    shape: str,
    device: str,
    method: MethodName,
    *,
    facts: int,
    loop_facts: int,
    memory: Memory | None = None,
    target_tokens: int = 1,
    hparams: Any = None,
    count: bool = True,
) -> EditBench:
    """Compare `facts` facts together with the loop over the first `loop_facts` of them, in float32, as released.

    `hparams` are the shape's unless given; `count` adds counted operations, which takes one run more.
    """
    module = random_module(shape, device, torch.float32).requires_grad_(False)
    decoder = from_module(module, device)
    tokens = word_tokens(module.config.vocab_size, decoder.positions)
    model = LanguageModel(shape, "random weights", decoder, tokens)
    hparams = hparams or hparams_for(method, shape, decoder.layers)
    made = synthetic_facts(module.config.vocab_size, facts, target_tokens)
    if memory is None:  # of what weights and factors leave
        edited = hparams.layers if method in ("rome", "memit") else ()
        memory = Memory(default_memory(decoder.device, sum(8 * key_width(decoder, at) ** 2 for at in edited)))
    bench = _Bench(model, Peer(module, decoder.family, tokens), method, hparams, memory)
    views = [fact.view("entity") for fact in made]
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
        loop_steps=tuple(one.steps for one in looped),
        difference=max(_difference(edited.edit, one.edit) for edited, one in zip(ours, looped, strict=False)),
        neurons=_neurons(ours, looped) if method == "kn" else None,
        solve=_solve(bench, hparams.layers, facts, device) if method == "memit" else None,
    )


class _Bench:
    """One method both ways, with what they share: prefixes, second moments, MEND's network."""

    def __init__(self, model: LanguageModel, peer: Peer, method: MethodName, hparams: Any, memory: Memory) -> None:
        self.model, self.peer, self.method, self.memory = model, peer, method, memory
        decoder = model.decoder
        self.short = msgspec.structs.replace(hparams, **{_STEPS[method]: 2}) if method in _STEPS else hparams
        self._points = hparams.steps if method == "kn" else 0
        self.given_MM: dict[int, Tensor] = {}
        self.moments: Moments | None = None
        self.network: Network | None = None
        vocabulary = decoder.embedding_VD.shape[0]
        self.templates = synthetic_prefixes(vocabulary, ROME_PREFIXES if method == "rome" else MEMIT_PREFIXES)
        self.groups = [self.templates[:1], self.templates[1:]]
        if method in ("rome", "memit"):
            self.given_MM = {layer: random_moments(decoder, layer) for layer in hparams.layers}
            self.moments = Moments("random", given_MM=self.given_MM)
        if method == "rome":
            # The peers keep the inverse from fact to fact: it is made once and not timed.
            self._inverse_MM = torch.linalg.inv(self.given_MM[hparams.layer])
        if method == "mend":
            self._inner = inner_weights(decoder, hparams)
            self.network = random_network(self._inner, decoder.device)

    def ours(self, views: Sequence[View], hparams: Any) -> list[Edited]:
        """All facts together, each an edit of its own; the first failure is raised.

        A KN edit without a neuron is one: there would be no edit to compare.
        """
        editor = Editor(
            self.model,
            self.method,
            hparams,
            # The loop edits single facts, so none has a history; an edit that changes nothing is a failure here.
            protocol_of("released", ["mend_training_mode", "kn_without_neuron_scored"]),
            self.memory,
            prefixes=self.templates if self.method == "rome" else self.groups,
            moments=self.moments,
            network=self.network,
        )
        found: list[Edited] = []
        for one in editor.edits([[view] for view in views]):
            if isinstance(one, EditError):
                raise one
            found.append(one)
        return found

    def loop(self, view: View, hparams: Any) -> Looped:
        """One fact as the peers do it."""
        if self.method == "rome":
            return rome_loop(self.peer, view, hparams, self.templates, self._inverse_MM)
        if self.method == "memit":
            return memit_loop(self.peer, view, hparams, self.groups, self.given_MM)
        if self.method == "kn":
            return kn_loop(self.peer, view, hparams)
        if self.method == "ft":
            return ft_loop(self.peer, view, hparams)
        assert self.network is not None
        return mend_loop(self.peer, view, self._inner, self.network)

    def steps(self, edited: Edited) -> int:
        """Forward passes of an optimisation, points of KN's integral, or MEND's one pass."""
        return self._points if self.method == "kn" else len(edited.losses)


def random_moments(decoder: Decoder, layer: int) -> Tensor:
    """A symmetric positive definite matrix (M, M) in float32, of condition about 20, seeded by the layer."""
    width = key_width(decoder, layer)
    generator = torch.Generator(decoder.device).manual_seed(layer)
    factor_MR = torch.randn(width, 64, device=decoder.device, generator=generator) * (8 / width) ** 0.5
    matrix_MM = factor_MR @ factor_MR.t()
    matrix_MM.diagonal().add_(0.5)
    return matrix_MM


def random_network(inner: Sequence[InnerWeight], device: torch.device) -> Network:
    """A network of the published form with random entries for these weights: two low-rank layers a weight shape."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, device=device, generator=generator)

    def layer(both: int, modes: int) -> LowRankLayer:
        rank = min(MEND_RANK, both)
        return LowRankLayer(
            u_ER=normal(both, rank, scale=rank**-0.5),
            v_RE=normal(rank, both, scale=both**-0.5),
            bias_E=normal(both, scale=0.1),
            shift_SE=normal(modes, both, scale=0.1),
            scale_SE=1 + normal(modes, both, scale=0.1),
        )

    transforms = {}
    for inputs, outputs in sorted({weight.shape for weight in inner}):
        modes = sum(weight.shape == (inputs, outputs) for weight in inner)
        transforms[inputs, outputs] = Transform(
            u_mean_I=torch.zeros(inputs, device=device),
            u_std_I=torch.ones(inputs, device=device),
            v_mean_O=torch.zeros(outputs, device=device),
            v_std_O=torch.full((outputs,), 1e-3, device=device),  # gradients are small
            layers=tuple(layer(inputs + outputs, modes) for _ in range(2)),
        )
    return Network(transforms, 1e-3 * torch.arange(1, len(inner) + 1, device=device), None, "random")


def _difference(ours: Edit, loop: Edit) -> float:
    """Norm of the difference of two edits over the norm of the second."""
    apart = [_apart(ours.changes.get(name), loop.changes.get(name)) for name in {**ours.changes, **loop.changes}]
    return sum(one * one for one in apart) ** 0.5 / loop.norm()


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
    both = [({*_changed(edited.edit)}, {*_changed(one.edit)}) for edited, one in zip(ours, looped, strict=False)]
    return sum(len(loop) for _, loop in both), sum(len(own ^ loop) for own, loop in both)


def _changed(edit: Edit) -> Iterator[tuple[str, int]]:
    for name, change in edit.changes.items():
        assert isinstance(change, LowRank)
        yield from ((name, int(neuron)) for neuron in change.left_IR[:, 0].nonzero())


def _solve(bench: "_Bench", layers: Sequence[int], facts: int, device: str) -> Solve:
    """Time MEMIT's solves for `facts` keys a layer; the factors are made anew for it, in place of those there are."""
    decoder = bench.model.decoder
    bench.moments = moments = Moments("random", given_MM=bench.given_MM)
    width = bench.given_MM[layers[0]].shape[0]
    generator = torch.Generator(decoder.device).manual_seed(0)
    keys_FM = torch.randn(facts, width, device=decoder.device, generator=generator)

    def work() -> list[Tensor]:
        return [moments.regularised_each(decoder, layer, keys_FM, 15000.0) for layer in layers]

    first, warm = timed(work, device), [timed(work, device).seconds for _ in range(3)]
    return Solve(facts, len(layers), width, min(warm) / facts, first.seconds - min(warm))


def _range(steps: Sequence[int]) -> str:
    least, most = min(steps), max(steps)
    return str(most) if least == most else f"{least} to {most}"
