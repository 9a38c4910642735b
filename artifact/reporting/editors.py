"""The table of a run's editors: what each changes and where, and what its edits say of the claims about the tables.

Covers every method that the run edits by, a line each. The claims are asked of one method's rows as of the paper's
(elsewhere.py); their bounds are the paper's numbers, whatever the model, so on another one they are a yardstick.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from artifact.editing.methods import METHODS, printed_name
from artifact.editing.site import PRINTED_MODULE, TOKEN_WORDS
from artifact.facts.fact import PERSPECTIVES
from artifact.reporting.cells import SCALES, Cell, Grid, Line
from artifact.reporting.elsewhere import answers_of_methods
from artifact.reporting.expected import load_expected
from artifact.reporting.tables import MeasuredRow
from artifact.runs.store import Store


def editors_grids(store: Store, rows: Sequence[MeasuredRow]) -> tuple[Grid, ...]:
    """The table; none for a run without edits."""
    claims = [claim for claim in load_expected().claims if not claim.kinds]
    answers = answers_of_methods(claims, rows, store)
    if not answers:
        return ()
    settings = store.info().settings
    gaps = {(row.method, row.edited): row.gaps.get(("success", "reliability")) for row in rows if not row.control}
    lines = []
    for method, own in answers.items():
        found = [gaps.get((method, perspective)) for perspective in PERSPECTIVES]
        numbers = [Cell.of(gap.change if gap else None, SCALES["success"].of_change) for gap in found]
        changes, where = edited_place(method, settings.get(method, {}))
        cells: tuple[Cell | str, ...] = (*(one.state for one in own), *numbers)
        lines.append(Line((changes, printed_name(method), where), cells))
    asked = "; ".join(f"{claim.id}: {claim.sentence}" for claim in claims)
    caption = (
        f"{asked}. Each is asked of the method's own edits, by the paper's bounds and by intervals alone. Transfer "
        "gap: the rise in success on the edited perspective's prompts minus the rise on the other's, in points, with "
        "its 95% interval."
    )
    for one in METHODS.values():
        if one.alone_as:
            caption += f" For a fact edited alone {one.printed} is {printed_name(one.alone_as)}."
    return (
        Grid(
            name="editors",
            title="Editors, and the paper's questions asked of each",
            caption=caption,
            heads=("changes", "method", "where"),
            columns=(*(claim.id for claim in claims), *(f"gap, {one} edit" for one in PERSPECTIVES)),
            lines=tuple(lines),
        ),
    )


def edited_place(method: str, setting: Mapping[str, Any]) -> tuple[str, str]:
    """What a method changes, and where: module, token and layers as the run's hyperparameters have them."""
    known, hparams = METHODS.get(method), setting.get("hparams", {})
    if known is None:
        return "", ""
    place = known.place
    if not place and "fact_token" in hparams:
        modules = hparams.get("modules", [hparams.get("site", "mlp")])
        place = f"{' and '.join(PRINTED_MODULE[one] for one in modules)}, {TOKEN_WORDS[hparams['fact_token']]}"
    layers = [*hparams.get("layers", ())]
    words = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers else ""
    return "weights" if known.carries else "context", ", ".join(one for one in (place, words) if one)
