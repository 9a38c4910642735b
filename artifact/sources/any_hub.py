"""A model of any repository of the hub: which revision, which files, and fetching them (`--model org/name@revision`).

Covers the name, the revision that a branch stands for (asked once, then kept in the cache folder, so that one name is
one model until another revision is named), the choice of files, and their sizes and hashes as the hub lists them.
Weights are safetensors where there are any, else torch's files. What is pinned with the package is catalogue.py's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from artifact.errors import ModelError
from artifact.io import NOT_JSON, reason, sha256_of, write_atomically
from artifact.reading import read_bytes
from artifact.sizes import size_words
from artifact.sources.cache import cache_folder, hub_file
from artifact.sources.catalogue import SMALL_FILES, HubModel
from artifact.sources.download import Say, Tell
from artifact.sources.fetch import offline
from artifact.sources.hub import COMMIT, PLAIN_NAME, ListedFile, listing, snapshot
from artifact.sources.lock import holding
from artifact.sources.verify import SHA256

_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,199}))?", re.ASCII)
_SHARD = re.compile(r"(?:model|pytorch_model)-\d{5}-of-\d{5}\.(?:safetensors|bin)")
_MAIN = "main"
_STATE_LIMIT = 16_000_000
_ASK_AGAIN = "delete {}, and the hub is asked again"


@dataclass(frozen=True)
class HubId:
    """A repository, and the branch, tag or commit that is asked for."""

    repo: str
    revision: str = _MAIN


@dataclass(frozen=True, kw_only=True)
class AnyModel(HubModel):
    """A model of the hub at a commit, with all the files that are taken, as the hub lists them."""

    listed: Mapping[str, ListedFile]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.listed)

    @property
    def needed(self) -> tuple[str, ...]:
        return self.files

    @property
    def small(self) -> tuple[str, ...]:
        """Configuration, tokenizer, and the index of the weights."""
        return tuple(name for name in self.files if not _is_weights(name))

    def size_of(self, name: str) -> int | None:
        return self.listed[name].size if name in self.listed else None

    def most_of(self, name: str | None, small: int) -> int:
        return small if name is None or name not in self.listed else self.listed[name].size


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What was found of one repository: commits by branch, and the files of each commit."""

    revisions: dict[str, str] = {}
    files: dict[str, dict[str, ListedFile]] = {}


def hub_id(name: str) -> HubId | None:
    """The repository that a model's name means, such as EleutherAI/pythia-70m@main; None where it means none."""
    found = _NAME.fullmatch(name)
    if found is None or ".." in name or Path(name).exists():
        return None
    return HubId(found[1], found[2] or _MAIN)


def resolved(asked: HubId, say: Say = lambda line: None) -> AnyModel:
    """The model at the commit that `asked` stands for: as found before, else as the hub says now.

    Raises ModelError when the hub does not answer, does not have it, or holds no weights there.
    """
    path = _state_file(asked.repo)
    state = _read(path)
    commit = asked.revision if asked.revision in state.files else state.revisions.get(asked.revision, "")
    if commit not in state.files:
        commit, every = listing(_described(asked.repo, asked.revision, {}), asked.revision)
        say(f"{asked.repo}: {asked.revision} is the revision {commit}")
        taken = _taken(asked, every)
        with holding(path.parent):
            state = _read(path)
            state.files[commit] = taken
            if not COMMIT.fullmatch(asked.revision):
                state.revisions[asked.revision] = commit
            try:
                write_atomically(path, msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
            except OSError as error:
                raise ModelError(f"{path}: cannot be written ({reason(error)}); make room, or set KLOC_CACHE") from None
    return _described(asked.repo, commit, state.files[commit])


def small_files(model: AnyModel) -> Path:
    """The folder of the model's configuration and tokenizer, fetched where they are missing; no weights."""
    return _fetched(model, model.small, None)


def whole(model: AnyModel, say: Say = lambda line: None, tell: Tell | None = None) -> Path:
    """The folder of all its files, fetched where they are missing, each of the size and hash that the hub lists."""
    if missing := _missing(model, model.files):
        size = size_words(sum(model.listed[name].size for name in missing))
        say(f"fetching {model.repo}@{model.revision[:8]}: {size}")
    return _fetched(model, model.files, tell)


def missing_bytes(model: AnyModel) -> int:
    """Bytes of the model's files that are still to be fetched."""
    return sum(model.listed[name].size for name in _missing(model, model.files))


def _described(repo: str, revision: str, files: Mapping[str, ListedFile]) -> AnyModel:
    weights = [name for name in files if _is_weights(name)]
    return AnyModel(
        name=repo,
        repo=repo,
        revision=revision,
        weights=weights[0] if weights else "",
        size=sum(files[name].size for name in weights),
        hashes={},
        licence="as its page on the hub says",
        citation="",
        purpose="a model of your own",
        listed=files,
    )


def _taken(asked: HubId, every: Mapping[str, ListedFile]) -> dict[str, ListedFile]:
    """The files to take: configuration, tokenizer, and the weights in one format."""
    names = [name for name in SMALL_FILES if name in every]
    for whole_file in ("model.safetensors", "pytorch_model.bin"):
        index, ending = f"{whole_file}.index.json", Path(whole_file).suffix
        if whole_file in every:
            names.append(whole_file)
            break
        if index in every:
            shards = [name for name in sorted(every) if _SHARD.fullmatch(name) and name.endswith(ending)]
            names += [index, *shards]
            break
    else:
        raise ModelError(
            f"{asked.repo}@{asked.revision}: holds no weights that are read; expected model.safetensors or "
            "pytorch_model.bin, whole or in shards; name another model"
        )
    if "config.json" not in names:
        raise ModelError(f"{asked.repo}@{asked.revision}: holds no config.json; name a transformers model")
    return {name: every[name] for name in names}


def _missing(model: AnyModel, names: Sequence[str]) -> list[str]:
    found = {name: hub_file(model, name) for name in names}
    return [name for name, path in found.items() if path is None or path.stat().st_size != model.listed[name].size]


def _fetched(model: AnyModel, names: Sequence[str], tell: Tell | None) -> Path:
    missing = _missing(model, names)
    if missing:
        snapshot(model, tell, names)
    paths = {name: hub_file(model, name) for name in names}
    for name in missing:
        path = paths[name]
        if path is None:
            raise ModelError(f"{model.repo}: the hub does not give {name}; set HF_ENDPOINT to another mirror")
        _check(model, name, path)
    config = paths["config.json"]
    assert config is not None
    return config.parent


def _check(model: AnyModel, name: str, path: Path) -> None:
    """ModelError for a file that is not what the hub lists. It is removed, unless it is the list that is wrong, or
    nothing can be fetched.
    """
    listed = model.listed[name]
    digest = sha256_of(path) if listed.sha256 else None
    if (path.stat().st_size, digest) == (listed.size, listed.sha256):
        return
    held, kept = path.resolve(), _state_file(model.repo)
    if held.name == digest:  # the hub names large files by their sha256
        raise ModelError(
            f"{kept}: lists {name} otherwise than it is in the hub's cache, whole; {_ASK_AGAIN.format(kept)}"
        )
    if offline():
        raise ModelError(
            f"{path}: is not the file that the hub lists, and HF_HUB_OFFLINE is set; unset it, or put the right file "
            f"there; {_ASK_AGAIN.format(kept)}"
        )
    held.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise ModelError(
        f"{model.repo}: {name} is not the file that the hub lists; it was removed: run the same command again, or set "
        f"HF_ENDPOINT to another mirror; {_ASK_AGAIN.format(kept)}"
    )


def _state_file(repo: str) -> Path:
    return cache_folder() / "hub" / f"{repo.replace('/', '--')}.json"


def _read(path: Path) -> _State:
    if not path.is_file():
        return _State()
    try:
        state = msgspec.json.decode(read_bytes(path, ModelError, "delete it", _STATE_LIMIT), type=_State)
    except NOT_JSON as error:
        raise ModelError(f"{path}: cannot be read ({reason(error)}); {_ASK_AGAIN.format('it')}") from None
    if not _possible(state):
        raise ModelError(f"{path}: holds what no hub lists, such as a name with slashes; {_ASK_AGAIN.format('it')}")
    return state


def _possible(state: _State) -> bool:
    """Whether commits, names, sizes and hashes are such, and every commit holds a model."""
    commits = (*state.revisions.values(), *state.files)
    every = [entry for files in state.files.values() for entry in files.items()]
    return (
        all(COMMIT.fullmatch(commit) for commit in commits)
        and all(PLAIN_NAME.fullmatch(name) and one.size >= 0 for name, one in every)
        and all(one.sha256 is None or SHA256.fullmatch(one.sha256) for _, one in every)
        and all("config.json" in files and any(map(_is_weights, files)) for files in state.files.values())
    )


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))
