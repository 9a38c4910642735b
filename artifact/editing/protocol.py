"""The two protocols: what the released code does, and the same with its defects mended; one named switch a defect.

Covers the switches of what this package runs today: causal tracing, ROME from both perspectives, and precision. A run
records the protocol's name and every switch. What each defect is and how it was found: docs/protocol.md.
"""

from dataclasses import asdict, dataclass
from typing import Literal

ProtocolName = Literal["released", "corrected"]


@dataclass(frozen=True)
class Protocol:
    """Every way in which the released code's behaviour is followed (True as it does) or corrected."""

    name: ProtocolName
    removal_without_space: bool
    """Relation edits train the word "None" without its leading space, glued to the prompt, and score it with one."""
    removal_nll_by_relation_length: bool
    """The NLL of a removal row is divided by the relation's token count instead of its own target's."""
    severed_fresh_noise: bool
    """Severed tracing freezes values that came from other noise than the scored run's."""
    tf32: bool
    """Matrix products in TF32 where the GPU has it, as torch 1.11 did by default; float32 otherwise."""

    def switches(self) -> dict[str, bool]:
        """Every switch by name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


PROTOCOLS: dict[str, Protocol] = {
    "released": Protocol("released", True, True, True, True),
    "corrected": Protocol("corrected", False, False, False, False),
}
