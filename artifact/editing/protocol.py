"""The two protocols: what the released code does, and the same with its defects mended; one named switch a defect.

Covers causal tracing, the five editing methods, and precision. A run records the protocol's name and every switch; of
the released protocol single switches can be corrected (`--correct`). What each defect is and how it was found:
docs/protocol.md.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from artifact.errors import SettingError

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
    prefixes_as_released: bool
    """ROME's and MEMIT's prefixes: a length counts the token that opens the text, the end token may be drawn, and the
    text is not stripped. Corrected: a length counts what is drawn, no end token is drawn, and the text is stripped."""
    target_as_text: bool
    """ROME and MEMIT decode a target of several tokens, write its text after the prompt, and tokenise the whole: a
    target cut inside a character is scored one place late; corrected, its ids are appended. They are in both for a
    tokenizer that is not byte-level, which the released code never ran on."""
    target_spaces_cleaned: bool
    """A target written after its prompt as text (target_as_text) is decoded with transformers' clean-up of spaces,
    where the tokenizer's files ask for it or say nothing; corrected, every space is kept (ROME, MEMIT)."""
    ft_at_last_position: bool
    """Fine-tuning scores all target tokens at the prompt's last position instead of teacher forced."""
    ft_bias: bool
    """Fine-tuning trains the projection's bias beside its weight."""
    kn_without_space: bool
    """KN attributes and writes its texts without their leading space."""
    kn_undone: bool
    """KN's edit is undone before the evaluation, so that its row scores the unedited model."""
    kn_without_neuron_scored: bool
    """A KN edit with no neuron above the threshold is the unedited model, scored and counted, not a failed case."""
    mend_steps_swapped: bool
    """MEND's learned step sizes, learned in the order of its inner weights, are applied in the order of the model's."""
    mend_training_mode: bool
    """MEND's rows are normalised by statistics over all edits so far instead of the trained file's."""
    records_in_file_order: bool
    """Records are taken in the order of their file, the first 7,500 of them, instead of by case id."""
    relation_span_from_file: bool
    """Relation traces corrupt the words that the authors' rel_known_1000.json names, with the noise of these words'
    embeddings, where that file is there; otherwise the prompt without its subject, with the subjects' noise."""
    severed_fresh_noise: bool
    """Severed tracing freezes values that came from other noise than the scored run's."""
    tf32: bool
    """Matrix products in TF32 where the GPU has it, as torch 1.11 did by default; float32 otherwise."""

    def switches(self) -> dict[str, bool]:
        """Every switch by name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


SWITCHES: tuple[str, ...] = tuple(field.name for field in fields(Protocol) if field.name != "name")
PROTOCOLS: dict[str, Protocol] = {
    "released": Protocol("released", **dict.fromkeys(SWITCHES, True)),
    "corrected": Protocol("corrected", **dict.fromkeys(SWITCHES, False)),
}
_LONGEST = 60
"""Letters of a run folder's part above which the switches' names are shortened to their number and a hash."""


def protocol_of(name: str, correct: Sequence[str] = ()) -> Protocol:
    """The protocol called `name`, with the defects named in `correct` (switches) corrected.

    Raises SettingError for an unknown name or switch, and for a switch beside the corrected protocol.
    """
    if name not in PROTOCOLS:
        raise SettingError(f"protocol {name!r} is unknown; expected one of {', '.join(PROTOCOLS)}")
    for switch in correct:
        if switch not in SWITCHES:
            raise SettingError(f"--correct {switch!r} is not a switch; expected one of {', '.join(SWITCHES)}")
    if correct and name == "corrected":
        raise SettingError("--correct names single defects and --protocol corrected corrects all; give one of the two")
    named = PROTOCOLS[name]
    return Protocol(named.name, **(named.switches() | dict.fromkeys(correct, False)))


def corrected_switches(name: str, switches: Mapping[str, bool]) -> list[str]:
    """The switches that a record of the released protocol has corrected, sorted; none of the corrected protocol."""
    return sorted(switch for switch, on in switches.items() if not on) if name == "released" else []


def protocol_words(name: str, switches: Mapping[str, bool]) -> str:
    """A record's protocol in words: its name, and the switches that were corrected one by one."""
    corrected = corrected_switches(name, switches)
    return f"{name}, but for {', '.join(corrected)} (corrected)" if corrected else name


def protocol_part(correct: Sequence[str]) -> str:
    """The part of a run folder's name that says which switches were corrected: their names, or a hash of them."""
    named = "+".join(sorted(set(correct)))
    if len(named) > _LONGEST:
        named = f"{len(set(correct))}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"
    return f"correct-{named}"
