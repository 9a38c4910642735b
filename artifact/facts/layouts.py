"""Layouts of other projects' fact files, recognised by their fields, so that an error can name them and the remedy."""

from typing import Literal

from artifact.errors import FactError

LayoutName = Literal["easyedit", "knowedit", "zsre", "lre"]
"""Those that convert.py turns into our records."""
_LAYOUTS: tuple[tuple[str, frozenset[str], LayoutName | None], ...] = (
    ("KnowEdit's layout", frozenset({"target_new", "portability"}), "knowedit"),
    ("KnowEdit's layout", frozenset({"target_new", "locality"}), "knowedit"),
    ("EasyEdit's layout", frozenset({"target_new"}), "easyedit"),
    ("zsRE's layout", frozenset({"src", "answers"}), "zsre"),
    ("zsRE's layout", frozenset({"src", "alt"}), "zsre"),
    ("zsRE's layout", frozenset({"input", "output", "rephrases"}), None),
    ("LRE's layout of relations", frozenset({"prompt_templates", "samples"}), "lre"),
    ("RippleEdits' layout", frozenset({"example_type", "edit"}), None),
    ("KnowEdit's WikiBio layout", frozenset({"concept", "labels"}), None),
)


def refuse_other_layouts(raw: object, source: str) -> None:
    """Raise FactError where the first record is of another project's layout, with its fields and the remedy."""
    first = raw[0] if isinstance(raw, list) and raw else raw
    if not isinstance(first, dict):
        return
    fields = first.keys()
    named, convert = next(((name, known) for name, own, known in _LAYOUTS if own <= fields), (None, None))
    if "requested_rewrite" in fields:
        # One edit a record is CounterFact; MQuAKE has a list of them.
        named, convert = "MQuAKE's layout" if isinstance(first["requested_rewrite"], list) else None, None
    elif {"subject", "prompt"} <= fields and "target_new" not in fields:
        named = None  # known facts, with whatever else
    if named is not None:
        remedy = f"`kloc facts convert FILE --from {convert} --out NEW` makes them" if convert else "see docs/facts.md"
        raise FactError(
            f"{source}: no edit case in this file: it looks like {named} ({', '.join(map(repr, list(fields)[:6]))}); "
            f"expected CounterFact-style records, with requested_rewrite (`kloc facts new` shows two); {remedy}"
        )
