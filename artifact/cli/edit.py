"""kloc edit and score: one edit as a file, and what it does to the prompts of its cases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from artifact.cli.app import (
    ANY_MACHINE,
    AS_RELEASED,
    NO_FILES,
    AnyModel,
    Edits,
    Following,
    Machine,
    Model,
    by_option,
    check_inputs,
    check_outputs,
    write_json,
)
from artifact.editing.method import Method, unread
from artifact.editing.methods import METHODS, MethodName
from artifact.editing.site import TOKEN_WORDS, FactToken, Module, Place, after_words
from artifact.errors import EditError, FactError, SettingError
from artifact.facts.fact import PERSPECTIVES, Perspective, View
from artifact.facts.joint import refuse_conflicts
from artifact.facts.records import read_facts
from artifact.io import sha256_of
from artifact.sizes import count_of
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.editing.edit import Edited
    from artifact.editing.editor import Editor
    from artifact.editing.protocol import Protocol as Followed
    from artifact.evaluation.further import FurtherScore
    from artifact.lm.device import Memory as Budget
    from artifact.lm.load import LanguageModel


def _named(what: str) -> str:
    """The methods that have something, in words: "ft, mend and memit"."""
    *names, last = [name for name, method in METHODS.items() if getattr(method, what)]
    return f"{', '.join(names)} and {last}" if names else last


@Parameter(name="*")
@dataclass
class EditFiles:
    """The files and folders that an edit may read."""

    on: Annotated[
        Path | None,
        Parameter(help="A file of kloc edit: compute this edit on the model that carries that one. Score with both."),
    ] = None
    moments: Annotated[
        Path | None, Parameter(help=f"Folder of second moments in the published layout, for {_named('moments')}.")
    ] = None
    prefixes: Annotated[
        Path | None,
        Parameter(help="JSON list of context templates (memit: a list of lists). Default: drawn from the model."),
    ] = None
    hparams: Annotated[
        Path | None, Parameter(help="JSON object of hyperparameters; the others keep the model's values.")
    ] = None
    mend_weights: Annotated[
        Path | None, Parameter(help="MEND's trained network: .safetensors, .npz, or the published .pt.")
    ] = None
    facts: Annotated[
        Path | None,
        Parameter(
            help=f"JSON file of other facts, for {_named('facts')}. Default: the facts that come with the package."
        ),
    ] = None
    history: Annotated[
        Path | None,
        Parameter(help="JSON list of records edited before, in order: MEND's edit, as released, depends on them."),
    ] = None

    def check(self, out: Path, request: Path, model: str) -> None:
        """Refuse files that cannot be read, and an `out` in the place of one of them; moments are a folder."""
        files = by_option(self, "moments")
        check_outputs({"--out": out}, (request, *files.values(), self.moments, model))
        check_inputs(files)


_FILES = EditFiles()


def edit(
    *,
    model: Model,
    method: Annotated[MethodName, Parameter(help="Editing method.")],
    request: Annotated[
        Path, Parameter(help=f"JSON file with one CounterFact-style record; {_named('joint')} also take a list.")
    ],
    out: Annotated[Path, Parameter(help="safetensors file to write: new weights minus old ones.")],
    perspective: Annotated[
        Perspective, Parameter(help="The perspective to edit from: the entity's or the relation's.")
    ] = "entity",
    site: Annotated[
        Module | None,
        Parameter(help=f"The module whose output projection is edited, for {_named('sites')} (default: mlp)."),
    ] = None,
    token: Annotated[
        FactToken | None,
        Parameter(
            help=f"The token whose key is edited, for {_named('sites')} (default: subject_last). The layer is that of "
            "--hparams.",
        ),
    ] = None,
    files: EditFiles = _FILES,
    any_model: AnyModel = False,
    machine: Machine = ANY_MACHINE,
    following: Following = AS_RELEASED,
) -> int:
    """Edit one fact, or several jointly, and write the weight change to a file. The model's files do not change."""
    from artifact.editing.edit_file import write_edit

    followed, chosen = following.followed, METHODS[method]
    _refuse_history(files.history, chosen, followed)
    files.check(out, request, model)
    cases, views = _requests(request, chosen, perspective)
    earlier = [] if files.history is None else [[fact.view(perspective)] for fact in read_facts(files.history)]
    loaded, budget = machine.load(model, followed.tf32)
    editor = _editor(loaded, method, followed, budget, files, Place(site, token), any_model)
    edited = _edited(editor, views, earlier)
    of_request = {"cases": cases} | ({"request_sha256": sha256_of(request)} if request.is_file() else {})
    description = _description(editor, perspective, len(earlier)) | of_request
    if files.on is not None:
        description |= {"on": f"{files.on.name}, sha256 {sha256_of(files.on)}"}
    write_edit(out, edited.edit, loaded, description)
    for line in (*_lines(editor, edited, views, description), *unread(vars(files), [chosen])):
        say(line)
    if chosen.undone(followed.switches()):
        say(f"the released evaluation undoes {chosen.printed}'s edit before it scores; this file holds the edit itself")
    say(out)
    return 0


def _refuse_history(history: Path | None, method: Method, followed: "Followed") -> None:
    """SettingError for edits before this one where it does not depend on them."""
    if history is not None and not method.ordered(followed.switches()):
        raise SettingError(
            f"--history is for {_named('ordered_by')} as released, whose edits depend on those before them; this is "
            f"{method.name} under {followed.words}; leave it out"
        )


def _editor(
    loaded: "LanguageModel",
    method: str,
    followed: "Followed",
    budget: "Budget",
    files: EditFiles,
    place: Place,
    any_model: bool,
) -> "Editor":
    """The method with its files, on the model that carries the edit of --on, where one is given."""
    from artifact.editing.edit import with_edit
    from artifact.editing.edit_file import notes_of, read_edit
    from artifact.runs.editors import make_editor

    read = {name: path for name, path in vars(files).items() if name not in ("on", "history")}
    editor = make_editor(loaded, method, followed, budget, **read, place=place, any_model=any_model)
    if files.on is None:
        return editor
    below = read_edit(files.on, loaded, any_model)
    return replace(editor, model=with_edit(loaded, below.edit), notes=(*editor.notes, *notes_of([below])))


def _edited(editor: "Editor", views: Sequence[View], earlier: Sequence[Sequence[View]]) -> "Edited":
    """The edit of all views together, after the earlier ones; EditError where there is none to write."""
    from artifact.editing.mend_history import History

    before = History()
    if earlier:
        editor.count_rows(earlier, before)
    (edited,) = editor.edits([views], before)
    if isinstance(edited, EditError):
        raise edited
    if not (edited.edit.changes or edited.edit.context):
        raise EditError(
            f"{edited.told()['unedited_reason']}: the released code scores the unedited model, and no change is "
            "written; give other hyperparameters with --hparams"
        )
    return edited


def _requests(path: Path, method: Method, perspective: Perspective) -> tuple[str, list[View]]:
    """The case ids in words, and the views to edit.

    FactError for several records where the method edits single facts, and for requests that contradict each other.
    """
    facts = read_facts(path)
    if len(facts) > 1 and not method.joint:
        raise FactError(f"{path}: holds {len(facts)} records and {method.name} edits single facts; give one record")
    views = [fact.view(perspective) for fact in facts]
    refuse_conflicts(views, [f"record {n} (case {fact.case_id})" for n, fact in enumerate(facts)], str(path))
    return ", ".join(str(fact.case_id) for fact in facts), views


def _description(editor: "Editor", perspective: Perspective, earlier: int) -> dict[str, str]:
    """What the edit's file says of its making."""
    settings = editor.described()
    return {
        "method": editor.method.name,
        "perspective": perspective,
        "protocol": editor.protocol.words,
        "model": editor.model.name,
        "revision": editor.model.revision,
        "hparams": settings["hash"],
        "hparams_source": settings["hparams_source"],
        **({"site": editor.hparams.site, "token": editor.hparams.fact_token} if editor.method.sites else {}),
        **{key: str(settings[key]) for key in ("moments", "facts", "weights") if key in settings},
        **({"history": str(earlier)} if editor.ordered else {}),
        **({"notes": "; ".join(editor.notes)} if editor.notes else {}),
    }


def _lines(editor: "Editor", edited: "Edited", views: Sequence[View], description: Mapping[str, str]) -> Iterator[str]:
    """The edit and its settings in words and figures."""
    first, others = views[0], f" and {len(views) - 1} more" if len(views) > 1 else ""
    method, perspective = description["method"], description["perspective"]
    yield f"{method}, {perspective} perspective: {first.subject!r} -> {first.target!r}{others}"
    yield ", ".join(f"{name} {value:.4g}" for name, value in edited.told().items() if not isinstance(value, str))
    if edited.note:
        yield edited.note
    if editor.method.sites:
        module, at = editor.hparams.site, TOKEN_WORDS[editor.hparams.fact_token]
        parallel = editor.model.decoder.family.parallel
        layers = ", ".join(map(str, editor.hparams.edited))
        yield f"site: {module} at {at}, layer {layers}; {after_words(module, parallel)}"
    if "on" in description:
        yield f"on top of {description['on']}: score and apply the two together"
    if editor.ordered:
        earlier = description["history"]
        yield f"as released, normalised with the rows of {earlier} edits before it (--history) and its own"
    shown = [name for name in ("protocol", "hparams", "moments", "facts", "weights") if name in description]
    yield ", ".join(f"{name} {description[name]}" for name in shown)
    yield f"hyperparameters: {description['hparams_source']}"
    yield from editor.notes


def score(
    *,
    model: Model,
    cases: Annotated[Path, Parameter(help="JSON file of CounterFact-style records.")],
    edits: Edits = NO_FILES,
    any_model: AnyModel = False,
    machine: Machine = ANY_MACHINE,
    following: Following = AS_RELEASED,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every prompt's numbers here.")] = None,
) -> int:
    """Score the model, unedited or edited, from both perspectives, and say whether it writes the target by itself.

    Scores: success, accuracy and magnitude, and whether the old relation is gone.
    """
    from artifact.editing.edit_file import notes_of, read_edits
    from artifact.evaluation.further import further_json, further_scores
    from artifact.evaluation.metrics import case_json
    from artifact.evaluation.score import score_cases

    followed = following.followed
    check_outputs({"--json": json_file}, (cases, *edits, model))
    check_inputs({"--edit": edits})
    facts = read_facts(cases)
    loaded, budget = machine.load(model, followed.tf32)
    added, files = read_edits(edits, loaded, any_model)
    scores = score_cases(loaded, facts, added, budget)
    further = further_scores(loaded, facts, added, budget)
    by_case = [case_json(score) | {"further": further_json(more)} for score, more in zip(scores, further, strict=True)]
    notes = notes_of(files)
    described = {"model": loaded.name, "revision": loaded.revision, "protocol": followed.words}
    write_json(json_file, described | {"notes": notes, "cases": by_case})
    edited = f"edited by {', '.join(path.name for path in edits)}" if edits else "unedited"
    say(f"{count_of(len(facts), 'case')}, {edited}, model {loaded.name}, protocol {followed.words}")
    for line in (*_means(by_case, further), *notes):
        say(line)
    return 0


def _means(by_case: Sequence[Mapping[str, Any]], further: Sequence["FurtherScore"]) -> Iterator[str]:
    """The means over the cases, a line for each perspective's group, generation, and the relation's removal."""
    from artifact.evaluation.metrics import GROUPS, METRICS

    for perspective in PERSPECTIVES:
        for group in GROUPS:
            groups = [case[perspective][group] for case in by_case if group in case.get(perspective, {})]
            of_cases = [figures for figures in groups if figures["success"] is not None]
            if of_cases:
                means = {metric: sum(figures[metric] for figures in of_cases) / len(of_cases) for metric in METRICS}
                shown = ", ".join(f"{metric} {mean:.4f}" for metric, mean in means.items())
                yield f"{perspective} {group.replace('_', ' ')}: {shown}"
        written = [one.generation[perspective].exact for one in further if perspective in one.generation]
        if written:
            yield f"{perspective} generation: exact {sum(written) / len(written):.4f}"
    removed = [one.removed for one in further if one.removed is not None]
    if removed:
        yield f"relation removal: success {sum(removed) / len(removed):.4f}"
