"""Each method names the switches of the protocol that its edits follow: those that it reads, and no others."""

from dataclasses import replace
from typing import Any

import pytest

from artifact.editing.methods import METHODS
from artifact.editing.protocol import PROTOCOLS, SWITCHES, Protocol
from artifact.facts.fact import PERSPECTIVES
from artifact.plans.multiverse import MULTIVERSE
from artifact.runs.resolve import Asked, Context, prepare

NAMED = [method.name for method in METHODS.values() if method.switches]
AROUND = {"prefixes_as_released", "kn_undone", "kn_without_neuron_scored", "target_spaces_cleaned"}
"""Read where prefixes are drawn, where an edit is scored, or only of some facts."""


class Read(Protocol):
    """A protocol that notes which switches were asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name in SWITCHES:
            object.__getattribute__(self, "__dict__").setdefault("asked", set()).add(name)
        return object.__getattribute__(self, name)


@pytest.fixture(scope="module")
def context() -> Context:
    found, _ = prepare(MULTIVERSE, Asked("world", limit=2), lambda line: None)
    return found


def test_the_papers_methods_name_them() -> None:
    assert set(NAMED) >= {"rome", "memit", "mend", "ft", "kn"}


@pytest.mark.parametrize("perspective", PERSPECTIVES)
@pytest.mark.parametrize("method", NAMED)
def test_an_edit_reads_the_switches_that_its_method_names(context: Context, method: str, perspective: str) -> None:
    read = Read("released", **PROTOCOLS["released"].switches())
    read.__dict__["asked"] = set()
    editor = replace(context.editor(method), protocol=read)
    made = editor.method.edits(editor, [[context.inputs.edited.facts[0].view(perspective)]], None)
    assert len(made) == 1
    named = set(METHODS[method].switches[perspective])
    asked = read.__dict__["asked"]
    # What matters to relation edits alone, MEMIT reads for entity edits, too.
    assert asked <= named | set(METHODS[method].switches["relation"]) and named - asked <= AROUND


def test_a_corrected_unit_has_its_own_protocol_and_prefixes(context: Context) -> None:
    own, prefixes = context.editor("rome"), context.editor("rome", ("prefixes_as_released",))
    other = context.editor("rome", ("removal_without_space",))
    assert own.protocol.prefixes_as_released and not prefixes.protocol.prefixes_as_released
    assert prefixes.prefixes != own.prefixes and other.prefixes == own.prefixes
    assert prefixes.prefixes == context.editor("rome", ("prefixes_as_released", "target_as_text")).prefixes
    assert not other.protocol.removal_without_space and other.protocol.target_as_text
