"""What computing a run's records needs: the model, the inputs, the protocol, and editors made when they are asked for.

Covers second moments for every method of the plan, the order of edits that depend on those before them, and what a unit
may take. How all of it is found is resolve.py's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from artifact.editing.editor import Editor
from artifact.editing.methods import METHODS, moment_layers
from artifact.editing.moments.files import Moments, read_moments
from artifact.editing.protocol import Protocol
from artifact.editing.tuned import read_tuned
from artifact.errors import EditError, FactError
from artifact.facts.fact import Fact, Statement, View
from artifact.facts.odd import OddRecord
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.plans.unit import Unit
from artifact.runs.controls import other_layers
from artifact.runs.editors import corrected_editor, default_moments, lacking, make_editor
from artifact.runs.inputs import Inputs
from artifact.runs.order import Order
from artifact.runs.took import part

SAMPLES = 10
"""Of noise, in every trace of a run."""


@dataclass
class Context:
    """What computing a record needs. Editors are made when a unit first asks for them."""

    model: LanguageModel
    inputs: Inputs
    protocol: Protocol
    noise_level: float
    memory: Memory
    methods: tuple[str, ...]
    moments_folder: Path | None = None
    mend_weights: Path | None = None
    mend_missing: str = ""
    relation_noise_level: float | None = None
    """That of relation traces where the authors' file names their words."""
    batches: Callable[[Unit], Sequence[Sequence[int]]] = lambda unit: ()
    """Each unit's case ids as the whole run cuts them, before sharding."""
    any_model: bool = False
    """Whether files made for another model are used all the same."""
    named: Sequence[Path] = ()
    """Files and folders that were fetched by the model's name."""
    prefixes: dict[str, Sequence[Any]] = field(default_factory=dict)
    """By method, those of the run that goes on; others are drawn. Those of corrected edits are kept here, too."""
    controlled: Sequence[str] = ()
    """Methods of which the plan edits another layer, too (controls.py)."""
    seed: int | None = None
    """By which they are drawn; None takes the package's own."""
    hparams: Path | None = None
    """A file of kloc tune; methods that it does not have keep the model's values."""
    of_text: bool = False
    """Whether second moments that nobody gave are those of a real text."""
    unaskable: Mapping[int, str] = field(default_factory=dict)
    """Why the model cannot be asked some of the facts, by case (refused.py)."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What a task makes once for all of its cases, by the task's name and its own."""
    _editors: dict[tuple[str, tuple[str, ...]], Editor] = field(default_factory=dict)
    _orders: dict[str, Order] = field(default_factory=dict)

    def with_own(self, **changes: Any) -> "Context":
        """The same with other fields, and with editors and kept things of its own."""
        return replace(self, **changes, kept={}, _editors={}, _orders={})

    def editor(self, method: str, correct: tuple[str, ...] = ()) -> Editor:
        """The method with its settings on this model, made once; with `correct` under a protocol with these switches
        corrected, too.
        """
        if (method, correct) not in self._editors:
            own = corrected_editor(self.editor(method), correct, self.prefixes) if correct else self._made(method)
            self._editors[method, correct] = own
        return self._editors[method, correct]

    def _made(self, method: str) -> Editor:
        return make_editor(
            self.model,
            method,
            self.protocol,
            self.memory,
            prefixes=self.prefixes.get(method),
            moments=self.moments if METHODS[method].moments else None,
            mend_weights=self.mend_weights if METHODS[method].network else None,
            hparams=self.hparams_of(method),
            facts=self.inputs.every,
            any_model=self.any_model,
            named=self.named,
            seed=self.seed,
        )

    def order(self, unit: Unit) -> Order | None:
        """The order of a unit's edits where each depends on those before it; None where none does."""
        assert unit.method != "none"
        editor = self.editor(unit.method, unit.correct)
        if not editor.ordered:
            return None
        if unit.name not in self._orders:
            facts = {fact.case_id: fact for fact in self.inputs.edited.facts}

            def view(case: int) -> View | None:
                try:
                    return facts[case].view(unit.perspective)
                except (KeyError, FactError):  # an odd record, or one without the relation's fields
                    return None

            self._orders[unit.name] = Order(editor, self.batches(unit), view)
        return self._orders[unit.name]

    def lacking(self, method: str) -> str | None:
        """Why the method cannot run here, with the remedy; None when it can."""
        if METHODS[method].network and self.mend_missing:
            return self.mend_missing
        return lacking(self.model, method, self.mend_weights)

    @property
    def moment_layers(self) -> list[int]:
        """The layers whose second moments the plan's methods read."""
        return moment_layers(self.methods, self.model.name, self.model.decoder.layers, self.hparams_of)

    def hparams_of(self, method: str) -> Path | None:
        """The user's file of hyperparameters, if it has the method's."""
        return self.hparams if self.hparams is not None and method in read_tuned(self.hparams).methods else None

    @cached_property
    def moments(self) -> Moments:
        """One set of second moments for every method of the plan."""
        if self.moments_folder is not None:
            with part("second moments"):
                return read_moments(self.moments_folder)
        depth = self.model.decoder.layers
        layers = {*self.moment_layers, *other_layers(self.controlled, self.model.name, depth, self.hparams_of)}
        return default_moments(self.model, sorted(layers), self.memory, of_text=self.of_text)

    def following(self, fact: Fact) -> Fact:
        """The next fact of the data with another subject, the first after the last: of those of which every perspective
        can be asked, where there are any. EditError where no fact has another subject.
        """
        facts, place = self._whole
        at = place.get(fact.case_id, 0) + 1
        after = (facts[(at + step) % len(facts)] for step in range(len(facts)))
        found = next((one for one in after if one.subject != fact.subject), None)
        if found is None:
            raise EditError("no other fact has another subject, which the control would take; give more facts")
        return found

    @cached_property
    def _whole(self) -> tuple[list[Fact], dict[int, int]]:
        """The facts of which every perspective can be asked, or all where there are none, and the place of each by its
        case id.
        """
        every = self.inputs.every.facts
        facts = [one for one in every if one.relation is not None] or list(every)
        return facts, {one.case_id: at for at, one in enumerate(facts)}

    def items(self, unit: Unit) -> Sequence[Fact | Statement | OddRecord]:
        """What a unit may take: statements to trace, or facts to edit and score, odd records among them."""
        if unit.does == "trace":
            return self.inputs.traced.statements
        return [*self.inputs.edited.facts, *self.inputs.edited.odd]
