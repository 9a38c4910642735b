"""Choosing hyperparameters for a model without published ones: `kloc tune`.

Covers the facts that candidates are judged on (set aside, and answered by the model), the search on a method's grid,
what a candidate is judged by, and the checkpoint that a stopped search goes on from. A search takes one hyperparameter
of the grid at a time and tries its values, the others at their best so far.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec

from artifact.editing.edit import Edited
from artifact.editing.editor import Editor
from artifact.editing.hparams import Hparams, hparams_hash
from artifact.editing.mend_history import History
from artifact.editing.tuned import Chosen, Tried
from artifact.errors import EditError, FactError, PromptError, SettingError
from artifact.evaluation.metrics import UNTOUCHED, ViewScore
from artifact.evaluation.score import score_cases
from artifact.facts.aside import aside
from artifact.facts.fact import PERSPECTIVES, Fact, Perspective
from artifact.io import NOT_JSON, reason, write_atomically
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.tracing.trace import answered

FEWEST = 4
"""Facts without which nothing is chosen."""
MARGIN = 0.05
"""Successes that differ by at most this much count as equal."""
CRITERION = (
    "success of the edited perspective: the mean over its reliability and generality, harder foil included, over facts "
    f"and over both perspectives edited; among candidates within {100 * MARGIN:g} points of the best, the best "
    "specificity (other subjects and other relations); then the first of the grid"
)
_ASKED_TOGETHER = 16
Grid = Mapping[str, Sequence[Any]]


def facts_to_tune_on(
    model: LanguageModel, facts: Sequence[Fact], most: int, source: str, memory: Memory, fewest: int = FEWEST
) -> list[Fact]:
    """The first `most` facts that are set aside, have both perspectives, and that the model answers.

    Raises FactError where these are fewer than `fewest`.
    """
    found: list[Fact] = []
    candidates = [fact for fact in aside(facts) if fact.relation is not None]
    for start in range(0, len(candidates), _ASKED_TOGETHER):
        if len(found) >= most:
            break
        part = candidates[start : start + _ASKED_TOGETHER]
        found += compress(part, answered(model, [fact.statement for fact in part], memory))
    if len(found) < fewest:
        raise FactError(
            f"{source}: {len(candidates)} of {len(facts)} facts are set aside with both perspectives, and {model.name} "
            f"answers {len(found)} of them; expected at least {fewest}, so give more facts"
        )
    return found[:most]


def checked_grid(name: str, grid: Grid, start: Hparams, layers: int) -> dict[str, list[Any]]:
    """The grid with every value that the method can take; SettingError for an empty one and a value of another kind."""
    if not any(grid.values()):
        raise SettingError(f"{name}: the grid is empty; give a value to try for at least one hyperparameter (--grid)")
    for key, values in grid.items():
        if key not in type(start).__struct_encode_fields__:
            known = ", ".join(type(start).__struct_encode_fields__)
            raise SettingError(f"{name}: the grid names {key!r}; the hyperparameters are {known}")
        for value in values:
            with_values(name, start, {key: value}, layers)
    return {key: list(values) for key, values in grid.items()}


def with_values(name: str, start: Hparams, values: Mapping[str, Any], layers: int) -> Any:
    """The hyperparameters with some values in the place of the start's; SettingError for one that does not fit."""
    try:
        made = msgspec.convert({**msgspec.to_builtins(start), **values}, type(start))
        made.check(layers)
    except (msgspec.ValidationError, SettingError) as error:
        raise SettingError(f"{name}: the grid's {dict(values)}: {error}; correct the grid") from None
    return made


@dataclass
class Search:
    """The search for one method: `editor` has the start's hyperparameters, `kept` what was scored before, by hash."""

    editor: Editor
    facts: Sequence[Fact]
    grid: Grid
    kept: dict[str, Tried]
    keep: Callable[[], None]
    tell: Callable[[int, int, str], None] = lambda done, of, words: None

    def run(self, stop: Callable[[], bool]) -> Chosen | None:
        """What is chosen; None when stopped before the end."""
        start: Hparams = self.editor.hparams
        best: dict[str, Any] = {}
        tried: dict[str, Tried] = {}
        own = msgspec.to_builtins(start)
        total = 1 + sum(_plain(value) != _plain(own[key]) for key, values in self.grid.items() for value in values)
        for key, values in self.grid.items():
            here = [best, *({**best, key: _plain(value)} for value in values)]
            candidates = {hparams_hash(self._hparams(one)): one for one in reversed(here)}
            order = list(dict.fromkeys(hparams_hash(self._hparams(one)) for one in here))
            for one in order:
                if one not in tried:
                    if stop():
                        return None
                    tried[one] = self._tried(one, candidates[one])
                    self.tell(len(tried), total, tried[one].words)
            best = tried[chosen_of([(one, tried[one]) for one in order])].values
        made = self._hparams(best)
        grid = {key: [_plain(value) for value in values] for key, values in self.grid.items()}
        assert type(made) is type(start)
        return Chosen(_plain(made), hparams_hash(made), best, grid, list(tried.values()))

    def _hparams(self, values: Mapping[str, Any]) -> Any:
        return with_values(self.editor.method.name, self.editor.hparams, values, self.editor.model.decoder.layers)

    def _tried(self, name: str, values: dict[str, Any]) -> Tried:
        if name not in self.kept:
            editor = replace(self.editor, hparams=self._hparams(values))
            of_edits = [_judged(editor, self.facts, perspective) for perspective in PERSPECTIVES]
            success, specificity = ([one[part] for one in of_edits] for part in (0, 1))
            self.kept[name] = Tried(
                values, _mean(success), _mean(specificity), sum(failed for _, _, failed in of_edits)
            )
            self.keep()
        return msgspec.structs.replace(self.kept[name], values=values)


def chosen_of(candidates: Sequence[tuple[str, Tried]]) -> str:
    """The best candidate by CRITERION."""
    most = max(one.success for _, one in candidates)
    near = [(name, one) for name, one in candidates if one.success >= most - MARGIN - 1e-9]
    return max(near, key=lambda pair: pair[1].specificity)[0]


def _judged(editor: Editor, facts: Sequence[Fact], perspective: Perspective) -> tuple[float, float, int]:
    """Mean success and specificity of the facts' edits from one perspective, and how many edits failed.

    An edit that the released code takes back before scoring (KN's) is scored in place.
    """
    groups = [[fact.view(perspective)] for fact in facts]
    made = editor.edits(groups, History() if editor.ordered else None)
    success, specificity, failed = [], [], 0
    for fact, edited in zip(facts, made, strict=True):
        try:
            if not isinstance(edited, Edited):
                raise edited
            (score,) = score_cases(editor.model, [fact], [edited.edit], editor.memory)
        except (EditError, PromptError):
            success.append(0.0)
            specificity.append(0.0)
            failed += 1
            continue
        success.append(_success(score.views[perspective]))
        kept = [score.views["entity"].metrics.get(group, {}).get("success") for group in UNTOUCHED]
        if any(share is not None for share in kept):
            specificity.append(_mean([share for share in kept if share is not None]))
    return _mean(success), _mean(specificity), failed


def _success(view: ViewScore) -> float:
    shares = [
        groups.get(group, {}).get("success")
        for groups in (view.metrics, view.another)
        for group in ("reliability", "generality")
    ]
    return _mean([share for share in shares if share is not None])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))  # lists, as a file has them


class Checkpoint:
    """What was scored, by method and hash of the hyperparameters, in a file beside the one that is made.

    Searches with another identity (model, facts, settings) that write the same file keep theirs; another grid goes on
    with those that it shares. `damage` says why an earlier file could not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.damage = path, ""
        self._kept: dict[str, dict[str, Tried]] = {}
        self._own: set[str] = set()
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Tried]])
        except FileNotFoundError:
            pass
        except (OSError, *NOT_JSON) as error:
            self.damage = reason(error)

    def of(self, method: str, identity: str) -> dict[str, Tried]:
        """What was scored for a method; what is added to it is kept by `write`."""
        key = f"{method} {sha256(identity.encode()).hexdigest()}"
        self._own.add(key)
        return self._kept.setdefault(key, {})

    def write(self) -> None:
        """Store all that was scored."""
        write_atomically(self.path, msgspec.json.encode(self._kept))

    def finish(self) -> None:
        """Forget what this search has scored, which stands in its result; of others nothing."""
        self._kept = {key: scored for key, scored in self._kept.items() if key not in self._own and scored}
        if self._kept:
            self.write()
        else:
            self.path.unlink(missing_ok=True)
