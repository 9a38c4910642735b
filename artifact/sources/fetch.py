"""Real inputs, fetched once and verified always: models from the hub, and plain files into the cache folder.

Covers fetching, the room it takes, and the paths of what was fetched. Downloading a file is download.py's, a model's
files hub.py's, hashes are lock.py's, checking without a network is verify.py's. Converting pickles needs torch and is
convert.py's and editing/mend_weights.py's; what they made is found here. Parsing is facts/records.py's.

Sizes are checked whenever a path is given out, against the pinned or recorded ones. Hashes are checked when a file is
fetched, by `kloc fetch` also for files that were there, and by `kloc fetch --check`. A file without a known hash must
be of the kind that its name says; its hash is then recorded.

Environment: KLOC_CACHE, KLOC_MIRROR (a base URL that is tried before every plain file's own, host and path kept below
it), HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, and the usual ones for proxies.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from artifact.errors import ArtifactError, FactError, ModelError, NotFetched, SettingError
from artifact.io import UNFINISHED, reason, sha256_of
from artifact.sizes import size_words
from artifact.sources import download
from artifact.sources.cache import (
    check_endpoint,
    converted_file,
    converted_folder,
    hub_cache,
    hub_file,
    is_address,
    source_folder,
)
from artifact.sources.catalogue import PLAIN_SOURCES, HubModel, PlainFile, PlainSource, Source, file_named
from artifact.sources.download import Say, Tell, Wanted, no_room
from artifact.sources.hub import hub_bytes, snapshot
from artifact.sources.lock import (
    Entry,
    entry_of,
    expected_of,
    forget,
    holding,
    record,
    recorded,
    recorded_keys,
    unusable,
)
from artifact.sources.unpack import Unusable, unpack
from artifact.sources.verify import Finding, examine, examine_file, wrong_sizes


def cached(model: HubModel) -> bool:
    """Whether all that loading needs is there already, converted or in the hub cache, at the pinned revision."""
    return converted_folder(model).is_dir() or all(hub_file(model, name) for name in model.needed)


def hub_answers(model: HubModel, seconds: float = 10.0) -> tuple[bool, str]:
    """Whether the hub says within `seconds` that it has the weights, and what it said, in words.

    Asked in a thread of its own, since neither name resolution nor a slow proxy keeps a client's time-outs.
    """
    try:
        if offline():
            return False, "HF_HUB_OFFLINE is set"
    except SettingError as error:
        return False, str(error)
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    answer: list[tuple[bool, str]] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(model.repo, model.weights, revision=model.revision), timeout=seconds)
            answer.append((True, "the hub answers"))
        except Exception as error:  # any failure means the same here: no answer that helps
            answer.append((False, f"the hub does not answer ({type(error).__name__})"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else (False, f"the hub did not answer within {seconds:g} s")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set: then nothing is fetched from any host. SettingError: HF_ENDPOINT is bad."""
    check_endpoint()
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def fetch(model: HubModel, say: Say = lambda line: None, tell: Tell | None = None) -> Path:
    """The folder of `model`, converted or in the hub cache, downloaded at its pinned revision if it is not there yet.

    What is there has its sizes compared; what is downloaded is verified, and new hashes are recorded. huggingface_hub
    honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and proxies; it shows its own progress unless `tell` does. Raises
    ModelError, SettingError, and FactError when the disk has no room.
    """
    if cached(model):
        for wrong in wrong_sizes(model):
            raise ModelError(f"{wrong.path}: {wrong.words}; run kloc fetch {model.name} to fetch it again")
        return _folder(model)
    if not offline():
        check_room([model])
    say(f"fetching {model.repo}@{model.revision[:8]}: {size_words(model.size)}")
    return _fetch_anew(model, tell)


def _folder(model: HubModel) -> Path:
    weights = hub_file(model, model.weights)
    return converted_folder(model) if converted_folder(model).is_dir() or weights is None else weights.parent


def fetch_source(source: Source, say: Say, tell: Tell) -> Path:
    """Fetch what is missing of a source, verify every file by its hash, and return its folder.

    Damaged files are fetched again; a hash seen for the first time is recorded. Two processes take turns. Raises
    FactError or ModelError; the same call goes on where it stopped.
    """
    if isinstance(source, HubModel):
        return _fetch_model(source, say, tell)
    folder = source_folder(source)
    with holding(folder, say):
        for file in source.files:
            fetched = _fetch_file(source, file, folder / file.name, say, tell)
            if source.members:
                _unpack(source, folder / file.name, fetched.sha256, say)
            if not unusable(f"{source.name}/{file.name}", folder / file.name, fetched.sha256):
                record(f"{source.name}/{file.name}", fetched)
    return folder


def discard(source: Source) -> None:
    """Remove all that is there of a source, with the hashes that were recorded of it; pinned ones still hold.

    Raises FactError or ModelError when it cannot be removed.
    """
    try:
        if isinstance(source, HubModel):
            _remove_folder(converted_folder(source))
            _remove([path for name in source.files if (path := hub_file(source, name))])
            keys = [f"hub/{source.name}/{name}" for name in source.files]
            keys += [key for key in recorded_keys() if key.startswith(f"converted/{converted_folder(source).name}/")]
        else:
            folder = source_folder(source)
            with holding(folder):
                names = [file.name for file in source.files] + [member.name for member in source.members]
                names += [converted_file(folder / name).name for name in names if name.endswith(".pt")]
                for name in names:
                    for path in (folder / name, folder / f"{name}{UNFINISHED}"):
                        path.unlink(missing_ok=True)
            keys = [f"{source.name}/{name}" for name in names]
    except OSError as error:
        raise FactError(f"{source.name}: cannot be removed ({reason(error)}); change the folder's owner") from None
    for key in keys:
        forget(key)


def path_of(key: str) -> Path:
    """The path of a fetched file, or the folder of a source of several (catalogue.file_named); MEND's is the converted
    one where it is there.

    Its size is compared with the pinned or the recorded one, or with the most that an estimate lets it have; its hash
    is not (`kloc fetch` and `kloc fetch --check` do).
    Raises FactError, for MEND ModelError, when it is not in the cache, with the command that fetches it.
    """
    file = file_named(key)
    source = PLAIN_SOURCES[file.source]
    if file.name:
        return _there(source, file.name)
    for one in source.files:
        _there(source, one.name)
    return source_folder(source)


def moments_folder(model: str) -> Path:
    """The folder of the published second moments of `model` (gpt2-xl, gpt-j), every layer there.

    Raises ModelError when none are published, or a file is not in the cache.
    """
    if (name := f"moments-{model}") not in PLAIN_SOURCES:
        raise ModelError(f"{model}: no second moments are published for it; give --moments, as kloc moments writes it")
    return path_of(name)


def remaining(source: Source) -> int:
    """Bytes that fetching a source would still write, about; a pickle's conversion counted."""
    made = isinstance(source, HubModel) and source.pickled and not converted_folder(source).is_dir()
    return to_fetch(source) + source.size * made


def to_fetch(source: Source) -> int:
    """Bytes of a source that are still to come over the network, about."""
    if isinstance(source, HubModel):
        whole = converted_folder(source).is_dir() or cached(source)
        return 0 if whole else max(0, source.size - hub_bytes(source))
    left = 0
    for file in source.files:
        path = source_folder(source) / file.name
        if not path.is_file():
            part = path.with_name(path.name + UNFINISHED)
            left += max(0, file.size - (part.stat().st_size if part.is_file() else 0))
    return left


def state_of(source: Source) -> str:
    """Whether a source is here, partly here, or missing; a model that is there as a pickle can be loaded: here."""
    if isinstance(source, HubModel) and cached(source):
        return "partly" if any(wrong_sizes(source)) else "here"
    left = remaining(source)
    return "here" if left == 0 else "partly" if left < source.size else "missing"


def check_room(sources: Sequence[Source]) -> None:
    """Raise FactError when a disk has too little room for all that these sources would still write to it."""
    needs: dict[int, tuple[Path, int]] = {}
    for source in sources:
        for folder, size in _shares(source):
            folder = _existing(folder)
            device = folder.stat().st_dev
            needs[device] = (folder, needs.get(device, (folder, 0))[1] + size)
    for folder, needed in needs.values():
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise no_room(", ".join(source.name for source in sources), folder, needed, free)


def _existing(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    while True:
        with suppress(OSError):  # one that may not be looked into
            if folder.exists():
                return folder
        folder = folder.parent


def _shares(source: Source) -> Iterator[tuple[Path, int]]:
    """What goes to which folder: a model to the hub's cache and, converted, to ours."""
    if isinstance(source, HubModel):
        made = source.size if source.pickled and not converted_folder(source).is_dir() else 0
        yield converted_folder(source), made
        yield hub_cache(), remaining(source) - made
    else:
        yield source_folder(source), remaining(source)


def _fetch_model(model: HubModel, say: Say, tell: Tell) -> Path:
    if not cached(model):
        return fetch(model, say, tell)
    findings = list(examine(model))
    if damaged := _remove_damaged(model, findings):
        for finding in damaged:
            say(f"{finding.key}: {finding.words or 'is missing'}; fetching it again")
        return _fetch_anew(model, tell)  # files that loading could do without, too
    _record(findings)
    return _folder(model)


def _fetch_anew(model: HubModel, tell: Tell | None) -> Path:
    """The folder of the model from the hub, every file verified and recorded; what is wrong is not kept."""
    try:
        snapshot(model, tell)
    except ModelError:
        # What came before it failed stays, and may suffice for loading, which compares sizes alone.
        _remove_damaged(model, list(examine(model)))
        raise
    findings = list(examine(model))
    if again := _remove_damaged(model, findings):
        raise ModelError(
            f"{again[0].key}: {again[0].words}; nothing of it was kept: run the same command again, or set "
            "HF_ENDPOINT to another mirror"
        )
    for finding in findings:
        if finding.state == "missing":
            raise ModelError(f"{finding.key}: the hub does not have it; set HF_ENDPOINT to another mirror")
    _record(findings)
    return _folder(model)


def _record(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.path and finding.sha256:
            record(finding.key, Entry(finding.sha256, finding.path.stat().st_size))


def _remove_damaged(model: HubModel, findings: Sequence[Finding]) -> list[Finding]:
    """Remove the damaged files, of a converted model every file, as it loads only whole."""
    made = converted_folder(model)
    lost = made.is_dir()  # a converted file that is missing, too: of the hub's a repository holds some
    damaged = [one for one in findings if one.state == "damaged" or (lost and one.state == "missing")]
    try:
        if damaged and lost:
            _remove_folder(made)
        else:
            _remove([finding.path for finding in damaged if finding.path is not None])
    except OSError as error:
        raise ModelError(
            f"{damaged[0].key}: {damaged[0].words}, and cannot be removed ({reason(error)}); remove it yourself"
        ) from None
    return damaged


def _remove_folder(made: Path) -> None:
    if made.is_symlink():  # what the user linked to is not ours to remove
        made.unlink()
    elif made.exists():
        shutil.rmtree(made)


def _remove(paths: Sequence[Path]) -> None:
    """Remove files of the hub's cache, which keeps the bytes elsewhere and links to them.

    A link of the user's own, which leads out of the cache, is removed alone; two files of the same bytes have one.
    """
    for path in paths:
        if (held := path.resolve()).is_relative_to(hub_cache().resolve()):
            held.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _fetch_file(source: PlainSource, file: PlainFile, path: Path, say: Say, tell: Tell) -> Entry:
    key = f"{source.name}/{file.name}"
    there = examine_file(source, file)
    if there.state in ("whole", "new", "unusable") and there.sha256:
        return Entry(there.sha256, path.stat().st_size)
    if there.state == "damaged":
        say(f"{key}: {there.words}; fetching it again")
    hints = "".join(f"; {hint}" for hint in (source.other_bytes, source.instead) if hint)
    if offline():
        raise FactError(
            f"{key}: is {'damaged' if there.state == 'damaged' else 'not'} in the cache, and HF_HUB_OFFLINE is set; "
            f"unset it, or put the file at {path}{hints}"
        )
    say(f"fetching {key}: {'' if file.exact else 'about '}{size_words(file.size)}")
    wanted = Wanted(key, path, _mirrored(file.urls), file.size, file.most, file.exact, expected_of(key, file.sha256))
    try:
        return download.download(wanted, say, tell, download.PATIENCE)
    except FactError as error:
        raise FactError(f"{error}{hints}") from None


def _unpack(source: PlainSource, archive: Path, made_from: str, say: Say) -> None:
    """Take out of the archive what is not there, is damaged, or was taken out of another one."""
    for member in source.members:
        key, path = f"{source.name}/{member.name}", archive.with_name(member.name)
        before = recorded(key)
        if before and before.made_from == made_from and path.is_file() and sha256_of(path) == before.sha256:
            continue
        try:
            taken = unpack(archive, member, path, say)
        except Unusable as error:
            archive.unlink()  # else the next fetch would take it for the right one
            raise Unusable(f"{error}; {source.instead}" if source.instead else str(error)) from None
        if taken is None:
            path.unlink(missing_ok=True)  # that of another archive
            continue
        if not taken.endswith(member.name):
            say(f"{key}: {taken} in {archive.name}, by what its records hold")
        record(key, entry_of(path, made_from=made_from))


def _mirrored(urls: Sequence[str]) -> tuple[str, ...]:
    base = os.environ.get("KLOC_MIRROR", "").rstrip("/")
    if not base:
        return tuple(urls)
    if not is_address(base):
        raise SettingError(
            f"KLOC_MIRROR={base[:80]!r} is not a URL; set it to one that begins with http:// or https://"
        )
    return (*(f"{base}/{urlsplit(url).netloc}{urlsplit(url).path}" for url in urls), *urls)


def _there(source: PlainSource, name: str) -> Path:
    error: type[ArtifactError] = ModelError if source.name.startswith(("mend-", "moments-")) else FactError
    path = source_folder(source) / name
    if converted_file(path).is_file() and path.suffix == ".pt":
        path = converted_file(path)
    if not path.is_file():
        missing = NotFetched if error is FactError else error
        raise missing(f"{source.name}: {path.name} is not in the cache; run kloc fetch {source.name}")
    if why := unusable(f"{source.name}/{path.name}", path):
        raise error(why)
    for wrong in wrong_sizes(source):
        if wrong.path == path:
            raise error(f"{path}: {wrong.words}; run kloc fetch {source.name} to fetch it again")
    return path
