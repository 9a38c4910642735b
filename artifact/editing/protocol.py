"""The two protocols: what the released code does, and the same with its defects mended; one named switch a defect.

Covers causal tracing, the five editing methods, and precision. A run records the protocol's name and every switch; of
the released protocol single switches can be corrected (`--correct`). What each defect is and how it was found:
docs/protocol.md.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from artifact.errors import SettingError

ProtocolName = Literal["released", "corrected"]


def _switch(released: str, corrected: str) -> Any:
    """A switch, with what the released code does and what is done where it is corrected, in words."""
    return field(metadata={"released": released, "corrected": corrected})


@dataclass(frozen=True)
class Protocol:
    """Every way in which the released code's behaviour is followed (True as it does) or corrected."""

    name: ProtocolName
    removal_without_space: bool = _switch(
        'relation edits train the word "None" glued to the prompt, without its leading space, and score it with one',
        "trained with the space, too",
    )
    removal_nll_by_relation_length: bool = _switch(
        'the NLL of a removal prompt (its target is "None") is divided by the relation\'s number of tokens',
        "divided by its own number of tokens",
    )
    memit_all_removal_prefixes: bool = _switch(
        "relation MEMIT takes all six prefixed removal prompts: its slice [:5] is over groups of prefixes",
        "takes five",
    )
    prefixes_as_released: bool = _switch(
        "ROME's and MEMIT's prefixes: a length counts the token that opens the text (ROME draws 4 and 9 tokens, "
        "MEMIT's ten count the opener's own), the end token may be drawn, nothing is stripped",
        "lengths count drawn tokens alone, the end token is never drawn, texts are stripped",
    )
    target_as_text: bool = _switch(
        "ROME, MEMIT: a target of several tokens is decoded, written after its prompt as text, and read again. A "
        "target whose tokens hold parts of characters, as in Japanese, then has one token more, and each of its tokens "
        "is scored one place late. Only for byte-level tokenizers, the kind that the released code ran on; with "
        "others the ids are appended",
        "the target's ids are appended",
    )
    target_spaces_cleaned: bool = _switch(
        "ROME, MEMIT: a target written as text (target_as_text) is decoded as in transformers 4: spaces before "
        "punctuation are cleaned up if the tokenizer's files ask for it or say nothing, as GPT-2's do",
        "every space is kept",
    )
    ft_at_last_position: bool = _switch(
        "FT scores all target tokens at the prompt's last position", "each token is scored at its own place"
    )
    ft_bias: bool = _switch("FT trains the projection's bias beside its weight", "the weight alone")
    kn_without_space: bool = _switch("KN takes its ground truth and target without their leading space", "with it")
    kn_undone: bool = _switch(
        "KN's edit is undone before the evaluation: its rows score the unedited model, and say so", "the edited model"
    )
    kn_without_neuron_scored: bool = _switch(
        "a KN edit with no neuron above the threshold is the unedited model: scored, marked in its record, and "
        "counted in the row's name",
        "a failed case",
    )
    mend_steps_swapped: bool = _switch(
        "MEND's step sizes, learned in the order of its inner weights, are applied in the model's own order (GPT-2 "
        "XL: each pair swapped)",
        "each step size goes to the weight it was learned for",
    )
    mend_training_mode: bool = _switch(
        "MEND never leaves training mode: the first edit discards the trained file's normalisation, and each edit "
        "estimates it anew from the rows of all edits so far, so that every number depends on the cases before it",
        "the file's statistics",
    )
    pmet_square_untransposed: bool = _switch(
        "PMET's update of a square weight that is stored input first (GPT-2's attention) is added untransposed",
        "transposed",
    )
    records_in_file_order: bool = _switch(
        "records are taken in the order of their file, the first 7,500", "by case id, the first 7,500"
    )
    relation_span_from_file: bool = _switch(
        "relation traces corrupt the words that the field subject of the authors' rel_known_1000.json names, with "
        "three standard deviations of these words' embeddings as noise",
        "all of the prompt but its subject, with the subjects' noise",
    )
    severed_fresh_noise: bool = _switch(
        "severed traces: the frozen values and the scored run have different noise", "the same noise"
    )
    tf32: bool = _switch("matrix products in TF32 where the GPU has it, as torch did by default then", "float32")

    def switches(self) -> dict[str, bool]:
        """Every switch by name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @property
    def words(self) -> str:
        """The protocol in words (protocol_words)."""
        return protocol_words(self.name, self.switches())


SWITCH_WORDS: dict[str, tuple[str, str]] = {
    one.name: (one.metadata["released"], one.metadata["corrected"]) for one in fields(Protocol) if one.metadata
}
"""By switch: what the released code does, and what is done where the switch is corrected."""
SWITCHES: tuple[str, ...] = tuple(SWITCH_WORDS)
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


def all_switches(recorded: Mapping[str, bool]) -> dict[str, bool]:
    """Every switch of a record: what had no switch yet when it was written followed the released code."""
    return dict.fromkeys(SWITCHES, True) | dict(recorded)


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
