"""Layouts of other projects' fact files, recognised by their fields, so that an error can name them."""

from artifact.errors import FactError

_LAYOUTS: tuple[tuple[str, frozenset[str]], ...] = (
    ("EasyEdit's or KnowEdit's layout", frozenset({"target_new"})),
    ("zsRE's layout", frozenset({"src", "answers"})),
    ("zsRE's layout", frozenset({"src", "alt"})),
    ("zsRE's layout", frozenset({"input", "output", "rephrases"})),
    ("the layout of relations (LRE)", frozenset({"prompt_templates", "samples"})),
    ("RippleEdits' layout", frozenset({"example_type", "edit"})),
    ("KnowEdit's WikiBio layout", frozenset({"concept", "labels"})),
)


def refuse_other_layouts(raw: object, source: str) -> None:
    """Raise FactError where the first record is of another project's layout, with the fields that show it."""
    first = raw[0] if isinstance(raw, list) and raw else raw
    if not isinstance(first, dict):
        return
    fields = first.keys()
    named = next((name for name, own in _LAYOUTS if own <= fields), None)
    if "requested_rewrite" in fields:
        # One edit a record is CounterFact; MQuAKE has a list of them.
        named = "MQuAKE's layout" if isinstance(first["requested_rewrite"], list) else None
    elif {"subject", "prompt"} <= fields and "target_new" not in fields:
        named = None  # known facts, with whatever else
    if named is not None:
        raise FactError(
            f"{source}: no edit case in this file: it looks like {named} ({', '.join(map(repr, list(fields)[:6]))}); "
            "expected CounterFact-style records, with requested_rewrite (an example: "
            "artifact/facts/data/world/facts.json)"
        )
