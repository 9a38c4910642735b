"""Records written into one edit: two of them must not want different answers of one prompt."""

from collections.abc import Sequence

from artifact.errors import FactError
from artifact.facts.fact import View, fill


def refuse_conflicts(views: Sequence[View], named: Sequence[str], source: str) -> None:
    """Raise FactError, naming both, where two of the views ask one subject with one prompt for different targets."""
    first: dict[tuple[str, str], int] = {}
    for number, view in enumerate(views):
        prompt = fill(view.template, view.subject)
        earlier = first.setdefault((prompt, view.subject), number)
        if views[earlier].target != view.target:
            raise FactError(
                f"{source}: {named[earlier]} and {named[number]} want {views[earlier].target!r} and {view.target!r} as "
                f"the answer to one prompt, {prompt!r}; an edit can write one of them, so take the other out"
            )
