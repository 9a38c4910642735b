"""What an editing method is: one object that says all that plans, tables and commands ask.

A method is one file in methods/ that ends in METHOD = Method(...), and one line in that folder's registry. Nothing here
or there imports torch before an edit is made, so that help and reports start at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from artifact.editing.hparams import Hparams
from artifact.editing.site import Module, Place
from artifact.editing.tuned import shipped
from artifact.errors import SettingError
from artifact.facts.fact import Perspective
from artifact.facts.lengths import Lengths, Prompt
from artifact.lm.work import Efficiency, Shape, Work, blocks, head, reading

if TYPE_CHECKING:
    from artifact.editing.edit import Edited
    from artifact.editing.editor import Editor
    from artifact.editing.mend_history import History
    from artifact.errors import EditError
    from artifact.facts.fact import View
    from artifact.lm.decoder import Decoder

    Made = Sequence[Edited | EditError]
    """An edit for each group, an error in the place of one that cannot be computed."""

MEAN_PREFIX = 0.75
"""Mean length of the context prefixes over that of the longest."""
Groups = Sequence[Sequence["View"]]
"""Views to edit: a group is written jointly, mostly one view."""


@dataclass(frozen=True)
class Default:
    """Hyperparameters for one model, and where they come from in words."""

    hparams: Hparams
    source: str = "published for this model"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One editing method.

    `defaults` are by model name; `scaled` gives those of any other model of a depth. `edits` makes the edits of groups,
    `work` says what one edit takes, with every step taken. `joint`: it can write several requests into one edit.
    """

    name: str
    printed: str
    defaults: Mapping[str, Default]
    scaled: Callable[[int], Hparams]
    edits: "Callable[[Editor, Groups, History | None], Made]"
    joint: bool = False
    variant_of: "tuple[Method, Callable[[Any], Hparams]] | None" = None
    """The method that it is a variant of, and its values made of that one's: it takes what `kloc tune` chose for that
    method where nothing was chosen for itself."""
    alone_as: str = ""
    """The method that it is for a fact edited alone; empty: itself."""
    moments: bool = False
    """It reads second moments of its layers."""
    prefixes: Literal["list", "groups"] | None = None
    """Context prefixes that it reads (editing/prefixes.py): a list of templates (with the hyperparameter
    context_template_length_params, as RomeHparams has it), or groups that are averaged first."""
    facts: bool = False
    """It reads the other facts of the data (--facts)."""
    wording: str = ""
    """Words that it puts into prompts. It cannot edit a model that does not have them in its vocabulary."""
    network: bool = False
    """It reads a network trained for the model (--mend-weights)."""
    encoders: bool = False
    """It edits encoders (lm/families), too."""
    for_encoders: Default | None = None
    """What an encoder without values of its own takes; None: as any other model."""
    spreads: bool = False
    """It spreads a change of the state over several modules' outputs. Where a model norms these before it adds them, no
    change of a weight gives the change of the state."""
    place: str = ""
    """What it changes, in a few words; empty where its hyperparameters name module and token."""
    dense: bool = False
    """Its change is a whole weight, not a product of two thin matrices."""
    ordered_by: str = ""
    """The protocol's switch under which each edit depends on those before it; empty: never."""
    count_rows: "Callable[[Editor, Groups, History, int | None], None] | None" = None
    """For such a method: adds what the edits of groups would leave to a history, without making them."""
    sites: bool = False
    """It edits either module and any token (site.py)."""
    carries: bool = True
    """A model can carry its edit in its weights, and another edit can follow it."""
    keeps: "Callable[[Editor, Sequence[View], Edited], object] | None" = None
    """What the next edit of a sequence must know of an edit, and of those before it, on the model that carries them."""
    switches: Mapping[Perspective, tuple[str, ...]] = field(default_factory=dict)
    """The protocol's switches that its edits follow, by perspective; empty where that was not needed yet."""
    undone_by: str = ""
    """The protocol's switch under which its edit is undone before scoring, as the released code does; empty: never."""
    unchanged: str = ""
    """How tables mark cases whose edit changes nothing; empty where every edit changes the model."""
    batch: int = 8
    """Facts optimised together in the paper's plans; the memory budget splits a batch without changing a number."""
    smoke_batch: int = 0
    """The same in the smoke plan; 0: the plan leaves it out."""
    work: Callable[[Shape, Any, Lengths, Perspective], Work]
    efficiency: Efficiency
    grid: Callable[[int], Mapping[str, Sequence[Any]]] = lambda layers: {}
    """By hyperparameter, the values that `kloc tune` tries on a model of so many layers, in the order in which it takes
    the hyperparameters."""
    steps: str = ""
    """The hyperparameter that says how many steps its optimisation takes at most."""
    stops: Mapping[Perspective, float] = field(default_factory=dict)
    """The share of these steps that an edit took before it stopped early, in the run that bench/work.py names."""
    value_rows: int = 0
    """Most rows of one fact in its value optimisation."""
    network_bytes: Callable[[Shape], int] = lambda shape: 0
    """Bytes of its network."""
    loop: str = ""
    """The benchmark's loop over single facts, as "module:function"."""

    @property
    def files(self) -> tuple[str, ...]:
        """The options of `kloc edit` whose files it reads."""
        read = {"moments": self.moments, "prefixes": self.prefixes, "mend_weights": self.network, "facts": self.facts}
        return tuple(option for option, reads in read.items() if reads)

    def ordered(self, switches: Mapping[str, bool]) -> bool:
        """Whether each edit depends on those before it, under a protocol's switches."""
        return switches.get(self.ordered_by, False)

    def undone(self, switches: Mapping[str, bool]) -> bool:
        """Whether the edit is undone before scoring, under a protocol's switches."""
        return switches.get(self.undone_by, False)

    def hparams_for(
        self,
        model: str,
        layers: int,
        overrides: Path | None = None,
        decoder: "Decoder | None" = None,
        place: Place | None = None,
    ) -> Any:
        """The hyperparameters for a model of that name and depth, with the overrides of a JSON file, and edited at
        `place` where it says so.

        Raises SettingError for a file with an unknown key, a wrong type, a layer that the model does not have, or
        another module than the one edited (of `decoder`, or without one of any known family), or a place that the
        method does not take.
        """
        place = place or Place()
        hparams = self._override(self._own(model, layers, decoder).hparams, overrides, decoder, place.site)
        if changes := place.changes():
            if not self.sites:
                raise SettingError(f"{self.name} takes no --site and no --token: it edits where it was published")
            hparams = msgspec.structs.replace(hparams, **changes)
        self._check_place(hparams, overrides)
        hparams.check(layers)
        return hparams

    def _check_place(self, hparams: Any, overrides: Path | None) -> None:
        """Raise SettingError where a file moves the edit of a method that has one place."""
        published = self.scaled(1)
        for name in () if self.sites else ("site", "fact_token"):
            own, given = (getattr(one, name, None) for one in (published, hparams))
            if own != given:
                raise SettingError(
                    f"{overrides}: {name} must be {own!r} for {self.name}, which edits where it was published, got "
                    f"{given!r}; leave it out"
                )

    def default(self, model: str) -> Default | None:
        """A model's own values: published, or chosen by `kloc tune` and part of the package, for the method or else for
        the one that it is a variant of; None without any.
        """
        if model in self.defaults:
            return self.defaults[model]
        if self.name in (tuned := shipped(model)):
            values, source = tuned[self.name]
            return Default(msgspec.convert(values, type(self.scaled(1))), source)
        return self._as_variant(model)

    def _as_variant(self, model: str) -> Default | None:
        if self.variant_of is None:
            return None
        other, made_of = self.variant_of
        if other.name not in shipped(model) or (known := other.default(model)) is None:
            return None
        return Default(made_of(known.hparams), f"as {other.printed}'s, {known.source}")

    def start_for(self, model: str, layers: int, decoder: "Decoder | None" = None) -> Any:
        """What a search of `kloc tune` begins with: the values published for the model, else GPT-2 XL's at the same
        fraction of the depth, or of a variant what was chosen for the other method. What an earlier search chose for
        the method itself is left out, so that a search can be repeated.
        """
        known = self.defaults.get(model) or self._as_variant(model)
        return (known or self._of_its_kind(layers, decoder)).hparams

    def hparams_source(self, hparams: Hparams, model: str, layers: int, decoder: "Decoder | None" = None) -> str:
        """Where a model's hyperparameters come from, in words, and whether they are paper values; the arguments as
        `hparams_for` took them.
        """
        own = self._own(model, layers, decoder)
        return own.source if hparams == own.hparams else f"{own.source}; some given instead"

    def _own(self, model: str, layers: int, decoder: "Decoder | None") -> Default:
        """This model's own values; without any, those for encoders, or GPT-2 XL's scaled to its depth."""
        return self.default(model) or self._of_its_kind(layers, decoder)

    def _of_its_kind(self, layers: int, decoder: "Decoder | None") -> Default:
        if self.for_encoders and decoder is not None and not decoder.family.causal:
            return self.for_encoders
        return Default(self.scaled(layers), "GPT-2 XL's at the same fraction of the depth, no paper values")

    def _override(self, hparams: Hparams, path: Path | None, decoder: "Decoder | None", site: Module | None) -> Hparams:
        if path is None:
            return hparams
        from artifact.editing.published import hyperparameters_of

        given = hyperparameters_of(path, decoder, site, self.name)
        try:
            return msgspec.convert({**msgspec.to_builtins(hparams), **given}, type(hparams))
        except msgspec.ValidationError as error:
            known = ", ".join(type(hparams).__struct_encode_fields__)
            raise SettingError(f"{path}: {error}; the hyperparameters are {known}") from None


def value_work(shape: Shape, layer: int, steps: int, rows: int, lengths: Lengths, prompt: Prompt) -> Work:
    """The value optimisation of one fact (editing/value.py): `rows` prompts with targets and the one that is kept.

    One whole pass is stored; a step goes from the subject's last token and the edited layer on, there and back, but for
    the last, which is not followed by a step.
    """
    onward = prompt.onward + prompt.target - 1
    keys = lengths.prefix + prompt.before + onward
    above, read = shape.layers - layer - 1, rows * prompt.target + 1
    # Rows are packed: they have the lengths that they have.
    excess, prefix = (prompt.before + prompt.onward - prompt.mean) / 2, MEAN_PREFIX * lengths.prefix
    before, onward = prefix + prompt.before - excess, onward - excess
    width = before + onward
    there = reading(shape, above, rows * onward + 1, keys, read) + head(shape, read)
    both = reading(shape, above, rows * onward + 1, keys, read, back=True) + head(shape, read, back=True)
    stored = blocks(shape, layer + 1, rows * width, width) + reading(shape, above, rows * before, before, 0)
    return stored + both.times(steps - 1) + there


def unread(files: Mapping[str, Any], methods: Sequence[Method]) -> Iterator[str]:
    """A line for each file given, by its option's name, that none of the methods reads."""
    names = ", ".join(method.name for method in methods) or "a plan without edits"
    reads = "read" if len(methods) > 1 else "reads"
    for name in ("moments", "prefixes", "mend_weights", "facts"):
        if files.get(name) is not None and not any(name in method.files for method in methods):
            yield f"--{name.replace('_', '-')} {files[name]} is not used: {names} {reads} no such file"
