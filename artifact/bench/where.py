"""`kloc bench where`: one fact edited at all layers of a module in one sweep, against one edit a layer.

Covers ROME on random weights of a shape: the same request, prefixes and second moments both ways, in one run, with the
largest relative difference of the weight changes. Both ways are this package's: what is compared is sharing alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from artifact.bench.compare import Timing, Work, compare
from artifact.bench.edit import relative_difference
from artifact.bench.facts import synthetic_facts
from artifact.bench.given import random_given, random_model, random_moments
from artifact.editing.methods import METHODS
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import Moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import RomeEdit, rome
from artifact.editing.site import FactToken, Module
from artifact.errors import EditError
from artifact.lm.device import Memory, default_memory


@dataclass(frozen=True)
class WhereBench:
    """A sweep's comparison: timing a site, and how far the weight changes are apart."""

    site: str
    timing: Timing
    layers: int
    difference: float

    def lines(self) -> Iterator[str]:
        """The comparison in words and figures."""
        yield from self.timing.lines(self.site, "site")
        share = self.timing.our_seconds / self.timing.loop_seconds
        yield (
            f"{self.site}: {self.layers} layers in one sweep take {share:.2f} of as many single edits "
            f"({1 / share:.1f} times as fast); largest relative difference {self.difference:.1e}"
        )


def bench_where(
    shape: str, device: str, site: Module, token: FactToken, *, memory: Memory | None = None, count: bool = True
) -> WhereBench:
    """One fact at every layer of `site`, together and one by one, with the shape's own hyperparameters."""
    model, module = random_model(shape, device)
    decoder, method = model.decoder, METHODS["rome"]
    hparams: RomeHparams = msgspec.structs.replace(
        method.hparams_for(shape, decoder.layers), site=site, fact_token=token
    )
    layers = list(range(decoder.layers))
    memory = memory or Memory(default_memory(decoder.device))
    given = random_given(method, decoder, hparams, moments=False)
    matrices = {layer: random_moments(decoder, layer, site) for layer in layers}
    moments = Moments("random", given_MM=matrices, site=site)
    (fact,) = synthetic_facts(module.config.vocab_size, 1)
    view = fact.view("entity")

    def edits(chosen: Sequence[int], settings: RomeHparams) -> list[RomeEdit]:
        views, released = [view] * len(chosen), PROTOCOLS["released"]
        made = rome(model, views, settings, given.prefixes, moments, released, memory, layers=chosen)
        for one in made:
            if isinstance(one, EditError):
                raise one
        return [one for one in made if isinstance(one, RomeEdit)]

    def single() -> list[RomeEdit]:
        return [edit for layer in layers for edit in edits([layer], hparams)]

    short = msgspec.structs.replace(hparams, v_num_grad_steps=2)
    work = Work(
        facts=len(layers),
        loop_facts=len(layers),
        ours=lambda: edits(layers, hparams),
        loop=single,
        warm=lambda: edits(layers, short),  # the factors of all layers, which both ways read, are made here
        warm_loop=lambda: edits(layers[:1], short),
    )
    ours, alone, timing = compare(work, device, count)
    apart = max(relative_difference(one.edit, other.edit) for one, other in zip(ours, alone, strict=True))
    return WhereBench(f"{site} at {token}", timing, len(layers), apart)
