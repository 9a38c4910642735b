"""Editors as a run or a command needs them: hyperparameters, prefixes, second moments and MEND's weights resolved.

Covers the choice where the user names a file and where not: prefixes are drawn from the model, moments come from the
world's corpus or the model's own samples, MEND's weights from the world's folder. An encoder draws no texts: it has no
prefixes, and its moments come from a real text.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifact.editing import made_for
from artifact.editing.editor import Editor
from artifact.editing.hparams import Hparams
from artifact.editing.mend_weights import read_network
from artifact.editing.method import Method
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import Moments, key_width, read_moments
from artifact.editing.moments.source import moments_note
from artifact.editing.moments.sums import compute_moments
from artifact.editing.prefixes import (
    BARE,
    SEED,
    are_groups,
    are_templates,
    draw_groups,
    draw_prefixes,
    read_groups,
    read_prefixes,
    sample,
)
from artifact.editing.protocol import Protocol
from artifact.editing.published import notes
from artifact.editing.site import Module, Place
from artifact.editing.texts import documentation
from artifact.editing.tuned import is_tuned, tuned_of, words
from artifact.errors import PromptError, SettingError
from artifact.facts.dataset import Data
from artifact.facts.datasets import OWN, built_in_for
from artifact.lm.device import Memory, default_memory
from artifact.lm.load import LanguageModel, ModelKind
from artifact.reading import read_json
from artifact.runs.describe import RunInfo
from artifact.runs.took import part
from artifact.sources.catalogue import WORLDS, own_network

_KEYS = 16
"""Keys a dimension that are read of a real text; the published moments are of thousands."""
CORRECTED = "corrected_prefixes"
"""Entry of a method's settings."""
RIDGE = 1e-4
"""Share of the mean diagonal added to second moments of small corpora; published moments are taken as they are."""


def make_editor(
    model: LanguageModel,
    name: str,
    protocol: Protocol,
    memory: Memory | None = None,
    *,
    hparams: Path | Hparams | None = None,
    prefixes: Path | Sequence[Any] | None = None,
    moments: Path | Moments | None = None,
    mend_weights: Path | None = None,
    facts: Path | Data | None = None,
    place: Place | None = None,
    any_model: bool = False,
    named: Collection[Path] = (),
    seed: int | None = None,
) -> Editor:
    """The editing method called `name` (editing/methods) on a model, every setting resolved.

    `hparams`, `prefixes`, `moments`, `mend_weights` and `facts` are files or folders as `kloc edit` takes them, or
    hyperparameters as they are; what is not given is drawn (prefixes by `seed`, default SEED), computed, the world's
    own, or the facts that come with the package. `place` says where to edit, where not as published. Batches fit
    `memory` (default: by what is free on the device).

    The notes say of files that they were made for another model (with `any_model`), or for an unknown one; those in
    `named` were fetched by the model's name. Raises SettingError for a file that cannot be used, for a method whose
    network is missing, and for one that does not edit encoders.
    """
    method, memory = METHODS[name], memory or Memory(default_memory(model.decoder.device))
    if refused := unfit(model.kind, method):
        raise SettingError(refused)
    file = None if isinstance(hparams, Hparams) else hparams
    resolved: Any = hparams
    if file is hparams:
        resolved = method.hparams_for(model.name, model.decoder.layers, file, model.decoder, place)
    prefix_seed = SEED if seed is None else seed
    editor = Editor(model, method, resolved, protocol, memory, prefix_seed=prefix_seed, source=_tuned_words(file))
    if method.network:
        editor = _with_network(editor, mend_weights, any_model, named)
    if method.moments:
        editor = _with_moments(editor, moments, any_model, named)
    if method.facts:
        data = _data(model, facts)
        editor = replace(editor, facts=data.facts, facts_source=data.source)
    differences = notes(file, model, editor.moments, editor.network)
    return replace(editor, prefixes=_prefixes(editor, prefixes), notes=(*differences, *filter(None, editor.notes)))


@part("the trained network")
def _with_network(editor: Editor, given: Path | None, any_model: bool, named: Collection[Path]) -> Editor:
    """The editor with its trained network, put on the device once, for all batches."""
    model = editor.model
    missing = lacking(model, editor.method.name, given)
    if missing is not None:
        raise SettingError(missing)
    path = given or own_network(model.name)
    assert path is not None
    network = read_network(path).to(model.decoder.device)
    note = made_for.note(str(path), network.weights_sha256, model, any_model, path in named)
    return replace(editor, network=network, notes=(*editor.notes, note))


def _with_moments(editor: Editor, given: Path | Moments | None, any_model: bool, named: Collection[Path]) -> Editor:
    """The editor with second moments of each module that it reads: of a folder, as given, or computed."""
    model, hparams, made = editor.model, editor.hparams, {}
    for site in hparams.moment_sites:
        if isinstance(given, Path):
            made[site] = read_moments(given, site)
        elif given is not None and not made and given.site == site:
            made[site] = given
        else:
            made[site] = default_moments(model, hparams.edited, editor.memory, site)
    told = [moments_note(one, model, hparams.edited, any_model, one.folder in named) for one in made.values()]
    first = made.pop(hparams.moment_sites[0])
    return replace(editor, moments=first, more_moments=made, notes=(*editor.notes, *told))


def _tuned_words(hparams: Path | None) -> str:
    """Where the values of a tuned file come from; empty for none and for another file, which Method speaks of."""
    if hparams is None or not is_tuned(content := read_json(hparams)):
        return ""
    return words(tuned_of(content, hparams), hparams)


def _data(model: LanguageModel, given: Path | Data | None) -> Data:
    """The facts that a method reads beside the edited one: of a file, or those that come with the package."""
    if isinstance(given, Data):
        return given
    return OWN.load(given, "authors", False) if given else built_in_for(model.name)


@part("context prefixes")
def _prefixes(editor: Editor, given: Path | Sequence[Any] | None) -> Sequence[Any]:
    """The context prefixes in the method's form: as given, of a file, or drawn."""
    method, seed, as_released = editor.method, editor.prefix_seed, editor.protocol.prefixes_as_released
    if method.prefixes is None or not (given is None or isinstance(given, Path)):
        return given if method.prefixes and not isinstance(given, Path) and given else ()
    if method.prefixes == "groups":
        return read_groups(given) if given else draw_groups(editor.model, seed, as_released)
    if given is None and not editor.model.decoder.family.causal:
        return [BARE]  # an encoder draws no texts
    lengths = editor.hparams.context_template_length_params
    return read_prefixes(given) if given else draw_prefixes(editor.model, lengths, seed, as_released)


def corrected_editor(editor: Editor, correct: Sequence[str], drawn: dict[str, Sequence[Any]]) -> Editor:
    """The editor with these switches of its protocol corrected. Prefixes that follow from them are drawn once and kept
    in `drawn`.
    """
    switches: dict[str, Any] = dict.fromkeys(correct, False)
    corrected = replace(editor, protocol=replace(editor.protocol, **switches))
    if not editor.prefixes or corrected.protocol.prefixes_as_released == editor.protocol.prefixes_as_released:
        return corrected
    key = _corrected_key(editor.method.name)
    if key not in drawn:
        drawn[key] = _prefixes(corrected, None)
    return replace(corrected, prefixes=drawn[key])


def corrected_settings(own: Editor, corrected: Editor) -> dict[str, Any]:
    """What a run keeps of a corrected editor's settings beside its own."""
    return {CORRECTED: corrected.prefixes} if corrected.prefixes != own.prefixes else {}


def begun_prefixes(begun: RunInfo | None) -> dict[str, Sequence[Any]]:
    """By method, the prefixes that a run was begun with, and those of its corrected edits (_corrected_key); none of a
    shape that the method cannot take.
    """
    fits = {"list": are_templates, "groups": are_groups}
    prefixes: dict[str, Sequence[Any]] = {}
    for name, method in METHODS.items():
        settings = {} if begun is None else begun.settings.get(name, {})
        for key, entry in ((name, "prefixes"), (_corrected_key(name), CORRECTED)):
            stored = settings.get(entry)
            if method.prefixes is not None and stored is not None and fits[method.prefixes](stored):
                prefixes[key] = stored
    return prefixes


def _corrected_key(method: str) -> str:
    """The name of the prefixes of a method's corrected edits (Unit.correct)."""
    return f"{method} {CORRECTED}"


def lacking(model: LanguageModel, method: str, mend_weights: Path | None = None) -> str | None:
    """What the method needs and this package does not have for the model, with the remedy; None when nothing."""
    wording, printed = METHODS[method].wording, METHODS[method].printed
    if wording:
        try:
            model.tokens.encode(wording)
        except PromptError as error:
            return f"{printed} writes {wording!r} into prompts: {error}"
    if METHODS[method].network and own_network(model.name) is None and mend_weights is None:
        return (
            f"{printed} needs weights trained for {model.name} and none are given; name a file with "
            "--mend-weights, or train one with kloc mend-train"
        )
    return None


def unfit(model: ModelKind, method: Method) -> str:
    """Why a method cannot edit a model of this family, with the remedy; empty where it can."""
    family = model.family
    if not (family.causal or method.encoders):
        others = [one.printed for one in METHODS.values() if one.encoders]
        return f"{method.printed} edits decoders, and {model.name} is an encoder; give a decoder" + (
            f", or {' or '.join(others)}" if others else ""
        )
    norms = [family.name(part, 0) for part in ("attn_after", "mlp_after") if family.has(part)]
    if method.spreads and norms:
        return (
            f"{method.printed} spreads a change of the state over modules' outputs, and {model.name} norms them before "
            f"they are added ({norms[-1]}); use another method"
        )
    return ""


@part("second moments")
def default_moments(
    model: LanguageModel,
    layers: Sequence[int],
    memory: Memory | None = None,
    site: Module = "mlp",
    of_text: bool = False,
) -> Moments:
    """Second moments where the user gave none: the world's corpus, or seeded samples of the model itself; with
    `of_text`, and of an encoder, a real text that every Python brings (texts.documentation).
    """
    texts, source = moment_texts(model, key_width(model.decoder, layers[0], site), of_text)
    batch = 64 if model.name in WORLDS else 16  # the world's texts are short
    return compute_moments(model, texts, layers, source, RIDGE, batch=batch, memory=memory, site=site)


def moment_texts(model: LanguageModel, width: int, of_text: bool) -> tuple[list[list[int]], str]:
    """The texts (ids) that `default_moments` reads for keys of this width, and what they are."""
    causal = model.decoder.family.causal
    if model.name in WORLDS:
        from artifact.world.facts import DEFAULT_SEED, generate

        world = generate(DEFAULT_SEED)
        if causal:
            corpus = [model.tokens.ids(text) for text in world.corpus()]
        else:  # as it was trained: with the answer masked
            corpus = [list(model.tokens.encode(one.prompt).ids) for one in world.statements()]
        return corpus, "the embedded world's corpus"
    if of_text or not causal:
        paragraphs, source = documentation()
        read: list[list[int]] = []
        for text in paragraphs:
            if sum(map(len, read)) >= _KEYS * width:
                break
            with suppress(PromptError):  # longer than the model reads, or with words that it does not know
                read.append(model.tokens.whole(model.tokens.ids(text)))
        return read, f"the first {len(read)} that it reads of {source}"
    # Four keys a dimension make the matrix regular; the published moments use thousands.
    length = min(128, model.decoder.positions - 1)  # the token they follow takes a position
    count = -(-4 * width // length)
    texts = [[*model.tokens.opening, *drawn] for drawn in sample(model, count, length, SEED, top=50)]
    return texts, f"{count} texts drawn from the model itself"
