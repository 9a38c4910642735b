"""Real inputs, fetched once and verified always: models from the hub, and plain files into the cache folder.

Covers fetching, the room it takes, and the paths of what was fetched. Downloading a file is download.py's, hashes are
lock.py's, checking without a network is verify.py's. Converting pickles needs torch and is convert.py's and
editing/mend_weights.py's; what they made is found here. Parsing is facts/fact.py's.

Environment: KLOC_CACHE, KLOC_MIRROR (a base URL that is tried before every plain file's own, host and path kept below
it), HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, and the usual ones for proxies.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from artifact.errors import ArtifactError, FactError, ModelError, NotFetched, SettingError
from artifact.io import UNFINISHED, reason, sha256_of
from artifact.sizes import size_words
from artifact.sources import download
from artifact.sources.cache import converted_file, converted_folder, hub_file, source_folder
from artifact.sources.catalogue import PLAIN_SOURCES, HubModel, PlainFile, PlainSource, Source
from artifact.sources.download import Say, Tell, Wanted, no_room
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
from artifact.sources.verify import Finding, examine

_SECONDS_BETWEEN_LOOKS = 0.5


def cached(model: HubModel) -> bool:
    """Whether all that loading needs is there already, converted or in the hub cache, at the pinned revision."""
    return converted_folder(model).is_dir() or all(hub_file(model, name) for name in model.needed)


def hub_answers(model: HubModel, seconds: float = 10.0) -> tuple[bool, str]:
    """Whether the hub says within `seconds` that it has the weights, and what it said, in words.

    Asked in a thread of its own, since neither name resolution nor a slow proxy keeps a client's time-outs.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if offline():
        return False, "HF_HUB_OFFLINE is set"
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
    """Whether HF_HUB_OFFLINE is set: then nothing is fetched, from whatever host."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def fetch(model: HubModel, say: Say = lambda line: None, tell: Tell | None = None) -> Path:
    """The folder of `model`, converted or in the hub cache, downloaded at its pinned revision if it is not there yet.

    huggingface_hub resumes and honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and proxies; it shows its own progress
    unless `tell` does. Raises ModelError, and FactError when the disk has no room.
    """
    if converted_folder(model).is_dir():
        return converted_folder(model)
    if cached(model) and (weights := hub_file(model, model.weights)):
        return weights.parent
    if not offline():
        check_room([model])
    say(f"fetching {model.repo}@{model.revision[:8]}: {size_words(model.size)}")
    return _snapshot(model, tell)


def _snapshot(model: HubModel, tell: Tell | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it retries is said in the one line, when nothing helped
    try:
        with _telling(model, tell):
            return Path(snapshot_download(model.repo, revision=model.revision, allow_patterns=list(model.files)))
    except Exception as error:  # hub, network and disk errors share no base class
        raise ModelError(
            f"{model.name}: {model.repo}@{model.revision[:8]} cannot be fetched ({reason(error)}); connect to the hub, "
            "set HF_ENDPOINT to a mirror, or name a folder that holds the model"
        ) from None


def fetch_source(source: Source, say: Say, tell: Tell) -> Path:
    """The folder of a source after every file that lacked was fetched, and every file verified by its hash.

    What is damaged is fetched again; a hash seen for the first time is recorded. Two processes take turns. Raises
    FactError or ModelError in one line; the same call goes on where it stopped.
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
            shutil.rmtree(converted_folder(source), ignore_errors=True)
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


def path_of(name: str) -> Path:
    """The fetched file called counterfact, known, rel_counterfact, rel_known, mend-gpt2-xl or mend-gpt-j.

    MEND's is the converted one where it is there. Its size is checked, its hash is not (`kloc fetch --check` does).
    Raises FactError, for MEND ModelError, when it is not in the cache, with the command that fetches it.
    """
    for source in PLAIN_SOURCES.values():
        for member in source.members:
            if member.key == name:
                return _there(source, member.name)
        if source.name == name and not source.members and len(source.files) == 1:
            return _there(source, source.files[0].name)
    raise FactError(f"{name!r} is no file that is fetched; see kloc fetch for those that are")


def moments_folder(model: str) -> Path:
    """The folder of the published second moments of `model` (gpt2-xl, gpt-j), every layer there.

    Raises ModelError when none are published, or a file is not in the cache.
    """
    source = PLAIN_SOURCES.get(f"moments-{model}")
    if source is None:
        raise ModelError(f"{model}: no second moments are published for it; give --moments, as kloc moments writes it")
    for file in source.files:
        _there(source, file.name)
    return source_folder(source)


def remaining(source: Source) -> int:
    """Bytes that fetching a source would still write, about; a pickle's conversion counted."""
    made = isinstance(source, HubModel) and source.pickled and not converted_folder(source).is_dir()
    return to_fetch(source) + source.size * made


def to_fetch(source: Source) -> int:
    """Bytes of a source that are still to come over the network, about."""
    if isinstance(source, HubModel):
        whole = converted_folder(source).is_dir() or cached(source)
        return 0 if whole else max(0, source.size - _hub_bytes(source))
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
        return "here"
    left = remaining(source)
    return "here" if left == 0 else "partly" if left < source.size else "missing"


def check_room(sources: Sequence[Source]) -> None:
    """Raise FactError when a disk lacks the room for all that these sources would still write to it."""
    needs: dict[int, tuple[Path, int]] = {}
    for source in sources:
        for folder, size in _shares(source):
            while not folder.exists():
                folder = folder.parent
            device = folder.stat().st_dev
            needs[device] = (folder, needs.get(device, (folder, 0))[1] + size)
    for folder, needed in needs.values():
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise no_room(", ".join(source.name for source in sources), folder, needed, free)


def _shares(source: Source) -> Iterator[tuple[Path, int]]:
    """What goes to which folder: a model to the hub's cache and, converted, to ours."""
    from huggingface_hub import constants

    if isinstance(source, HubModel):
        made = source.size if source.pickled and not converted_folder(source).is_dir() else 0
        yield converted_folder(source), made
        yield Path(constants.HF_HUB_CACHE), remaining(source) - made
    else:
        yield source_folder(source), remaining(source)


def _fetch_model(model: HubModel, say: Say, tell: Tell) -> Path:
    findings = list(examine(model)) if cached(model) else []
    damaged = _remove_damaged(model, findings)
    for finding in damaged:
        say(f"{finding.key}: {finding.words}; fetching it again")
    if damaged or not findings:
        if damaged:
            _snapshot(model, tell)  # files that loading could do without, too
        else:
            fetch(model, say, tell)
        findings = list(examine(model))
        if again := _remove_damaged(model, findings):
            raise ModelError(
                f"{again[0].key}: {again[0].words}; nothing of it was kept: run the same command again, or set "
                "HF_ENDPOINT to another mirror"
            )
    for finding in findings:
        if finding.path and finding.sha256:
            record(finding.key, Entry(finding.sha256, finding.path.stat().st_size))
    return fetch(model)


def _remove_damaged(model: HubModel, findings: Sequence[Finding]) -> list[Finding]:
    """Remove the damaged files, of a converted model every file, as a part of a model is none."""
    damaged = [finding for finding in findings if finding.state == "damaged"]
    if damaged and converted_folder(model).is_dir():
        shutil.rmtree(converted_folder(model))
        return damaged
    _remove([finding.path for finding in damaged if finding.path is not None])
    return damaged


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.resolve().unlink(missing_ok=True)  # the hub's cache keeps the bytes elsewhere and links to them
        path.unlink(missing_ok=True)


def _fetch_file(source: PlainSource, file: PlainFile, path: Path, say: Say, tell: Tell) -> Entry:
    key = f"{source.name}/{file.name}"
    expected = expected_of(key, file.sha256)
    if path.is_file():
        found = entry_of(path)
        if expected is None or found.sha256 == expected.sha256:
            return found
        say(f"{key}: expected sha256 {expected.sha256} ({expected.by}), got {found.sha256}; fetching it again")
    hints = "".join(f"; {hint}" for hint in (source.other_bytes, source.instead) if hint)
    if offline():
        raise FactError(
            f"{key}: is not in the cache, and HF_HUB_OFFLINE is set; unset it, or put the file at {path}{hints}"
        )
    say(f"fetching {key}: {'' if file.exact else 'about '}{size_words(file.size)}")
    wanted = Wanted(key, path, _mirrored(file.urls), file.size, file.exact, expected)
    try:
        url = download.download(wanted, say, tell, download.PATIENCE)
    except FactError as error:
        raise FactError(f"{error}{hints}") from None
    return entry_of(path, url)


def _unpack(source: PlainSource, archive: Path, made_from: str, say: Say) -> None:
    """Take out of the archive what is not there, is damaged, or was taken out of another one."""
    for member in source.members:
        key, path = f"{source.name}/{member.name}", archive.with_name(member.name)
        before = recorded(key)
        if before and before.made_from == made_from and path.is_file() and sha256_of(path) == before.sha256:
            continue
        try:
            taken = unpack(archive, member, path)
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
    if not base.startswith(("http://", "https://")):
        raise SettingError(f"KLOC_MIRROR={base!r} is no URL; set it to one that begins with http:// or https://")
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
    exact = {file.name: file.size for file in source.files if file.exact}.get(path.name)
    entry = recorded(f"{source.name}/{path.name}")
    size = exact if exact is not None else entry.size if entry else None
    if size is not None and path.stat().st_size != size:
        raise error(
            f"{path}: expected {size} bytes, got {path.stat().st_size}; run kloc fetch {source.name} to fetch it again"
        )
    return path


@contextmanager
def _telling(model: HubModel, tell: Tell | None) -> Iterator[None]:
    """Tell how many bytes of the weights are there while the hub's client downloads, in place of its own bars."""
    if tell is None:
        yield
        return
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    done = threading.Event()

    def look() -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            tell(_hub_bytes(model), model.size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _hub_bytes(model: HubModel) -> int:
    """Bytes of the model in the hub's cache, whole files and begun ones."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model.repo, repo_type="model") / "blobs"
    sizes = []
    for path in blobs.glob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # renamed between the two
            continue
    return sum(sizes)
