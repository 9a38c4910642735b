"""One editing method with all it needs on one model: requests in, Edits out, whatever the method.

Covers the one interface of the five methods and what a record says of their settings. Where prefixes, moments and
MEND's weights come from is the caller's choice (runs/editors.py); how an edit is made stands in one file a method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from artifact.editing.edit import Edited
from artifact.editing.ft import ft
from artifact.editing.hparams import JOINT, Hparams, MethodName, hparams_hash, hparams_source
from artifact.editing.kn import kn
from artifact.editing.memit import memit
from artifact.editing.mend import count_rows, mend
from artifact.editing.mend_history import History
from artifact.editing.mend_network import Network
from artifact.editing.mend_weights import tensors_hash, tensors_of
from artifact.editing.moments import Moments
from artifact.editing.prefixes import SEED
from artifact.editing.protocol import Protocol
from artifact.editing.rome import rome
from artifact.errors import EditError, FactError
from artifact.facts.fact import View
from artifact.facts.joint import refuse_conflicts
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel


def ordered(method: MethodName, protocol: Protocol) -> bool:
    """Whether the method's edits depend on the edits made before them."""
    return method == "mend" and protocol.mend_training_mode


@dataclass(frozen=True)
class Editor:
    """A method on a model. `prefixes` is a list of templates for ROME and a list of groups for MEMIT; `moments` is
    for these two, `network` for MEND. `notes`: what a hyperparameter file says that is not what is used here.
    """

    model: LanguageModel
    method: MethodName
    hparams: Any
    protocol: Protocol
    memory: Memory
    prefixes: Sequence[Any] = ()
    moments: Moments | None = None
    network: Network | None = None
    notes: Sequence[str] = ()

    @property
    def ordered(self) -> bool:
        """Whether an edit depends on the edits made before it (mend_history.py)."""
        return ordered(self.method, self.protocol)

    def count_rows(self, groups: Sequence[Sequence[View]], history: History, most: int | None = None) -> None:
        """Add to `history` what editing the first `most` groups leaves behind, without making their edits (mend.py)."""
        assert self.network is not None
        count_rows(self.model, groups, self.hparams, self.network, history, most)

    def edits(self, groups: Sequence[Sequence[View]], history: History | None = None) -> Sequence[Edited | EditError]:
        """An edit for each group of views written jointly (mostly one view each), as if it were the only one.

        Not so where `ordered`: there each edit depends on those before it, of which `history` keeps what they left.

        A group whose edit cannot be computed has an EditError in its place. Raises other ArtifactErrors when the whole
        batch cannot be computed, and FactError for a list given to a method that edits single facts.
        """
        longest = max(len(group) for group in groups)
        if longest > 1 and self.method not in JOINT:
            raise FactError(f"{longest} records are given and {self.method} edits single facts; give one record")
        for group in groups:
            refuse_conflicts(group, [f"request {number}" for number in range(len(group))], "a group")
        views = [group[0] for group in groups]
        if self.method == "ft":
            return ft(self.model, groups, self.hparams, self.protocol, self.memory)
        if self.method == "kn":
            return kn(self.model, views, self.hparams, self.protocol, self.memory)
        if self.method == "mend":
            assert self.network is not None
            return mend(self.model, groups, self.hparams, self.network, self.protocol, history)
        assert self.moments is not None
        if self.method == "rome":
            return rome(self.model, views, self.hparams, self.prefixes, self.moments, self.protocol, self.memory)
        return memit(self.model, groups, self.hparams, self.prefixes, self.moments, self.protocol, self.memory)

    def described(self) -> dict[str, Any]:
        """What a run keeps of the settings: resolved hyperparameters with their hash, and the sources of the rest."""
        hparams: Hparams = self.hparams
        source = hparams_source(hparams, self.method, self.model.name, self.model.decoder.layers)
        found: dict[str, Any] = {"hparams": msgspec.to_builtins(hparams), "hash": hparams_hash(hparams)}
        found["hparams_source"] = source
        if self.prefixes:
            found |= {"prefixes": self.prefixes, "prefix_seed": SEED}
        if self.moments is not None:
            found["moments"] = self.moments.source
        if self.network is not None:
            found["weights"] = f"{self.network.source}, sha256 {tensors_hash(tensors_of(self.network))[:12]}"
        return found
