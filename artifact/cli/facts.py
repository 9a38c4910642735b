"""kloc facts: check a fact file, begin one of your own, convert one of another project, describe one to machines."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from artifact.cli.app import Device, Model, check_outputs, load_model, writing
from artifact.editing.methods import METHODS
from artifact.errors import FactError
from artifact.facts.croissant import PUBLISHED
from artifact.facts.layouts import LayoutName
from artifact.sizes import count_of
from artifact.terminal import say

facts_app = App(name="facts", help="Your own facts: check a file, begin one, convert one of another project.")
_SHOWN = 20
"""Most lines of one kind."""
_COUNTED = {
    "paraphrase_prompts": "a rephrasing",
    "neighborhood_prompts": "neighbours",
    "other_subject_prompts": "other subjects of their relation",
    "other_relation_prompts": "other relations of their subject",
}
"""What is counted of converted records, by field."""


def _say_some(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        say(line)
    if len(lines) > _SHOWN:
        say(f"and {len(lines) - _SHOWN} more")


@facts_app.command
def check(
    file: Annotated[Path, Parameter(help="JSON file of CounterFact-style records or known facts.")],
    *,
    model: Model | None = None,
    device: Device = None,
) -> int:
    """Look at every record of a fact file: what is wrong with it, and what can be used.

    With --model also whether the model can be asked with its texts, how many tokens they have there, and how many facts
    it answers before any edit.
    Exit code 2 when a record cannot be used.
    """
    from artifact.facts.check import check_records, uses
    from artifact.facts.dataset import read_records

    raw, _ = read_records(file)
    found, on_model = check_records(raw, str(file)), list[str]()
    if model is not None:
        from artifact.evaluation.score import cannot_be_asked
        from artifact.evaluation.token_lengths import token_lengths
        from artifact.runs.describe import left_out_lines
        from artifact.runs.refused import in_one_piece
        from artifact.tracing.trace import greedy_answers, is_answer

        loaded = load_model(model, device)
        tokens = dict(zip(found.statements, greedy_answers(loaded, found.statements), strict=True))
        refused = {one.case_id: str(token) for one, token in tokens.items() if not isinstance(token, int)}
        facts, without = in_one_piece(loaded, found.facts)
        found = replace(found, facts=facts).also(refused | cannot_be_asked(loaded, facts))
        on_model = [f"left out: {line}" for line in left_out_lines(without)]
        on_model += token_lengths(loaded.tokens, found.facts)
        right = [one for one, token in tokens.items() if isinstance(token, int) and is_answer(loaded, one, token)]
        on_model.append(
            f"{loaded.name} answers {len(right)} of {len(tokens)} facts with the true object before any edit"
        )
    lines, bad = found.lines(), len(found.faults)
    say(f"{file}: {count_of(found.records, 'record')}, {found.records - bad} can be used; faults: {len(lines)}")
    _say_some(lines)
    joint = ", ".join(name for name, method in METHODS.items() if method.joint)
    for line in uses(found, ", ".join(METHODS), joint):
        say(line)
    for line in on_model:
        say(line)
    if bad:
        raise FactError(f"{file}: {bad} of {found.records} records cannot be used; correct them or take them out")
    return 0


@facts_app.command
def new(*, out: Annotated[Path | None, Parameter(help="Write them here (default: print them).")] = None) -> int:
    """Two records with every field of both perspectives, to fill in with facts of your own."""
    from artifact.io import write_atomically
    from artifact.sources.catalogue import NEW_FACTS

    check_outputs({"--out": out})
    if out is None:
        for line in NEW_FACTS.read_text("utf-8").splitlines():
            say(line)
    else:
        with writing(out):
            write_atomically(out, NEW_FACTS.read_bytes())
    return 0


@facts_app.command
def convert(
    file: Annotated[Path, Parameter(help="JSON file, or JSON lines, of the other project.")],
    *,
    layout: Annotated[LayoutName, Parameter(name="--from", help="Whose layout the file has.")],
    out: Annotated[Path, Parameter(help="JSON file of CounterFact-style records to write.")],
) -> int:
    """Turn another project's facts into records that kloc reads, and say what their layout does not have."""
    import msgspec

    from artifact.facts.convert import convert as converted
    from artifact.facts.dataset import read_records
    from artifact.io import write_atomically

    check_outputs({"--out": out}, (file,))
    raw, _ = read_records(file)
    made = converted(raw, layout, str(file))
    records, total = made.records, len(made.records) + len(made.left_out)
    reasons = [f"{count} left out: {why}" for why, count in made.reasons().most_common()]
    if not records:
        why = reasons[0] if reasons else "it holds none"
        raise FactError(f"{file}: no record can be converted from {layout}'s layout ({why}); name its own with --from")
    with writing(out):
        write_atomically(out, msgspec.json.format(msgspec.json.encode(records), indent=1) + b"\n")
    say(f"{len(records)} of {total} records converted: {out}")
    _say_some(reasons)
    _say_some([f"record {number}: {why}" for number, why in made.left_out.items()])
    for prompts, what in _COUNTED.items():
        if any(prompts in record for record in records):
            say(f"with {what}: {sum(bool(record.get(prompts)) for record in records)} of {len(records)} records")
    if made.unused:
        say(
            "prompts about other facts left out, because their answer is not the fact's true object, and they do not "
            f"ask something else of its subject: {made.unused}"
        )
    ids = sum("relation_id" in record["requested_rewrite"] for record in records)
    if related := sum("relation" in record["requested_rewrite"] for record in records):
        say(f"relation perspective: {related} of {len(records)} records, with prompts from templates")
    else:
        say(
            "relation perspective: none; `kloc run` with --relation-source templates builds it for records with a "
            f"known relation_id, which {ids} have; docs/facts.md says how to add it"
        )
    return 0


@facts_app.command
def describe(
    facts: Annotated[str, Parameter(help=f"world, {', '.join(PUBLISHED)}, or a file of records.")],
    *,
    out: Annotated[Path | None, Parameter(help="Write it here, beside the facts (default: print it).")] = None,
) -> int:
    """Describe facts to machines in the Croissant format: file, hash, licence, and the fields of a record."""
    from artifact.facts.croissant import croissant_json
    from artifact.io import write_atomically

    check_outputs({"--out": out}, (facts,))
    content = croissant_json(facts)
    if out is None:
        for line in content.decode().splitlines():
            say(line)
    else:
        with writing(out):
            write_atomically(out, content)
    return 0
