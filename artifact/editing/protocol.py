"""The two protocols: what the released code does, and the same with its defects mended; one named switch a defect.

Covers causal tracing, the five editing methods, and precision. A run records the protocol's name and every switch. What
each defect is and how it was found: docs/protocol.md.
"""

from dataclasses import asdict, dataclass, fields
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
    memit_all_removal_prefixes: bool
    """Relation MEMIT takes every prefixed removal prompt: its slice of five is over groups, not prefixes."""
    ft_at_last_position: bool
    """Fine-tuning scores all target tokens at the prompt's last position instead of teacher forced."""
    ft_bias: bool
    """Fine-tuning trains the projection's bias beside its weight."""
    kn_without_space: bool
    """KN attributes and writes its texts without their leading space."""
    kn_undone: bool
    """KN's edit is undone before the evaluation, so that its row scores the unedited model."""
    mend_steps_swapped: bool
    """MEND's learned step sizes, learned in the order of its inner weights, are applied in the order of the model's."""
    mend_training_mode: bool
    """MEND's rows are normalised by statistics over all edits so far instead of the trained file's."""
    severed_fresh_noise: bool
    """Severed tracing freezes values that came from other noise than the scored run's."""
    tf32: bool
    """Matrix products in TF32 where the GPU has it, as torch 1.11 did by default; float32 otherwise."""

    def switches(self) -> dict[str, bool]:
        """Every switch by name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


_SWITCHES = [field.name for field in fields(Protocol) if field.name != "name"]
PROTOCOLS: dict[str, Protocol] = {
    "released": Protocol("released", **dict.fromkeys(_SWITCHES, True)),
    "corrected": Protocol("corrected", **dict.fromkeys(_SWITCHES, False)),
}
