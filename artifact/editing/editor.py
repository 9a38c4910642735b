"""One editing method with all it needs on one model: requests in, Edits out, whatever the method.

Covers the one way in which edits are asked for, and what a record says of their settings. runs/editors.py chooses the
prefixes, moments and MEND's weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from artifact.editing.edit import Edited, with_edit
from artifact.editing.hparams import Hparams, hparams_hash, told
from artifact.editing.mend_history import History
from artifact.editing.mend_network import Network
from artifact.editing.mend_weights import tensors_hash, tensors_of
from artifact.editing.method import Method
from artifact.editing.moments.files import Moments
from artifact.editing.prefixes import SEED
from artifact.editing.protocol import Protocol
from artifact.editing.site import Module
from artifact.errors import EditError, FactError, PromptError
from artifact.facts.fact import Fact, View
from artifact.facts.joint import refuse_conflicts
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


@dataclass(frozen=True)
class Editor:
    """A method on a model, with what it reads: `prefixes` in its form (Method.prefixes), `moments`, `network`.

    `notes`: what a hyperparameter file says that is not what is used here.
    """

    model: LanguageModel
    method: Method
    hparams: Any
    protocol: Protocol
    memory: Memory
    prefixes: Sequence[Any] = ()
    moments: Moments | None = None
    more_moments: Mapping[Module, Moments] = field(default_factory=dict)
    """Those of a second module, where the method rewrites two."""
    network: Network | None = None
    notes: Sequence[str] = ()
    source: str = ""
    """Where hyperparameters come from that a file gave, in words; empty for the model's own."""
    prefix_seed: int = SEED
    """By which prefixes that nobody gave are drawn."""
    facts: Sequence[Fact] = ()
    """The facts of the data, where the method reads them (Method.facts)."""
    facts_source: str = ""
    kept: Any = None
    """What the method keeps of the edits that the model carries (Method.keeps); None of an unedited one."""

    @property
    def ordered(self) -> bool:
        """Whether an edit depends on the edits made before it (mend_history.py)."""
        return self.method.ordered(self.protocol.switches())

    def moments_of(self, module: Module) -> Moments:
        """The second moments of a module's keys."""
        moments = self.more_moments.get(module, self.moments)
        assert moments is not None
        return moments

    def count_rows(self, groups: Sequence[Sequence[View]], history: History, most: int | None = None) -> None:
        """Add to `history` what editing the first `most` groups would leave, without making their edits."""
        assert self.method.count_rows is not None
        self.method.count_rows(self, groups, history, most)

    def edits(self, groups: Sequence[Sequence[View]], history: History | None = None) -> Sequence[Edited | EditError]:
        """An edit for each group of views written jointly (mostly one view each), as if it were the only one; where
        `ordered`, each depends on those before it, whose statistics are in `history`.

        A group whose edit cannot be computed, or with which the model cannot be asked, has an EditError in its place.
        Raises other ArtifactErrors when the whole batch cannot be computed, and FactError for a list given to a method
        that edits single facts.
        """
        longest = max(len(group) for group in groups)
        if longest > 1 and not self.method.joint:
            raise FactError(f"{longest} records are given and {self.method.name} edits single facts; give one record")
        for group in groups:
            refuse_conflicts(group, [f"request {number}" for number in range(len(group))], "a group")
        try:
            return self.method.edits(self, groups, history)
        except PromptError as error:
            if len(groups) == 1:
                return [EditError(str(error))]
        return [edited for group in groups for edited in self.edits([group], history)]

    def after(self, group: Sequence[View], edited: Edited) -> "Editor":
        """The editor for the next edit of a sequence: on the model that carries this one, with what is kept of it.

        Second moments, prefixes and networks stay those of the unedited model, as in the released code.
        """
        carrying = replace(self, model=with_edit(self.model, edited.edit))
        kept = self.method.keeps and self.method.keeps(carrying, group, edited)
        return replace(carrying, kept=kept)

    def described(self) -> dict[str, Any]:
        """What a run keeps of the settings: resolved hyperparameters with their hash, and the sources of the rest."""
        hparams: Hparams = self.hparams
        name, decoder = self.model.name, self.model.decoder
        source = self.source or self.method.hparams_source(hparams, name, decoder.layers, decoder)
        settings: dict[str, Any] = {"hparams": told(hparams), "hash": hparams_hash(hparams)}
        settings["hparams_source"] = source
        if self.prefixes:
            settings |= {"prefixes": self.prefixes, "prefix_seed": self.prefix_seed}
        if self.moments is not None:
            settings["moments"] = self.moments.source
        if self.facts:
            settings["facts"] = f"{len(self.facts)} facts of {self.facts_source}"
        if self.network is not None:
            settings["weights"] = f"{self.network.source}, sha256 {tensors_hash(tensors_of(self.network))[:12]}"
        return settings
