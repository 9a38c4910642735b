"""Edits that depend on the edits before them: a unit's cases in their order, however they are dealt out.

As released, MEND normalises each edit with the rows of all edits before it (editing/mend_history.py), so a case's
numbers follow from the unit's whole list of cases. Batches, shards, Ray workers, resumed and limited runs must give the
numbers of one sequence. Rows of earlier batches that this process did not edit itself are counted again, in the same
batches, so that they are the same bit for bit on a CPU. That takes one gradient pass a batch; a run in sequence counts
nothing twice. Which methods have an order: Method.ordered_by.
"""

from collections.abc import Callable, Sequence

from artifact.editing.editor import Editor
from artifact.editing.mend_history import History
from artifact.facts.fact import View


class Order:
    """The edits of one unit in order. `batches` are the unit's case ids as the whole run cuts them, `view` a case's
    request, None for a case that cannot be asked. A case that is in no batch has none before it.
    """

    def __init__(self, editor: Editor, batches: Sequence[Sequence[int]], view: Callable[[int], View | None]) -> None:
        self._editor, self._batches, self._view = editor, batches, view
        self._place = {case: (b, at) for b, batch in enumerate(batches) for at, case in enumerate(batch)}
        self._first = [sum(map(len, batches[:b])) for b in range(len(batches))]
        # 0.3 MB a batch of GPT-2 XL, in the computer's memory.
        self._before: dict[int, History] = {0: History()}

    def position(self, case: int) -> int:
        """How many cases of the unit come before this one."""
        b, at = self._place.get(case, (0, 0))
        return self._first[b] + at if self._first else 0

    def before(self, case: int) -> History:
        """The rows of the edits of all earlier cases."""
        b, at = self._place.get(case, (0, 0))
        done = max(number for number in self._before if number <= b)
        history = self._before[done].copy(self._editor.model.decoder.device)
        for number in range(done, b):
            self._editor.count_rows(self._groups(number), history)
            self._keep(number + 1, history)
        if at:
            self._editor.count_rows(self._groups(b), history, most=at)
        return history

    def after(self, cases: Sequence[int], history: History) -> None:
        """Keep the rows after `cases`, a whole batch, were edited; those of a part of a batch are not kept."""
        b, _ = self._place.get(cases[0], (0, 0))
        if b < len(self._batches) and tuple(cases) == tuple(self._batches[b]):
            self._keep(b + 1, history)

    def _keep(self, number: int, history: History) -> None:
        self._before.setdefault(number, history.copy("cpu"))

    def _groups(self, number: int) -> list[list[View]]:
        views = [self._view(case) for case in self._batches[number]]
        return [[] if view is None else [view] for view in views]
