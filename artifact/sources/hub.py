"""A model's files from the hub by huggingface_hub, with every request and answer checked first.

Its client uses an ETag and a commit from the hub as names of files, follows any redirect and `next` link, waits as long
as a Retry-After says, and accepts bodies of any length. Here a guard checks that what names a file is a plain name,
that the bytes fit the model's pinned size, and that they arrive at a least rate. The accelerated transfer (Xet) is off,
since the guard cannot see it.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import msgspec

from artifact.errors import ArtifactError, ModelError
from artifact.io import fit, reason
from artifact.sources import download
from artifact.sources.answer import number
from artifact.sources.cache import hub_cache
from artifact.sources.catalogue import HubModel
from artifact.sources.connection import Misled, Watch, check_address
from artifact.sources.download import Patience, Tell

SMALL = 50_000_000
"""Most bytes of a file beside the weights, and of a listing; the largest here has 1.4 MB."""
MOST_REQUESTS = 500
"""Most requests for one model, which takes about 20."""
_SECONDS_BETWEEN_LOOKS = 0.5
_RESET = re.compile(r"\bt\s*=\s*(\d+)")
COMMIT = re.compile("[0-9a-f]{40}")
PLAIN_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
"""What may become the name of a file in the hub's cache."""


class ListedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file as the hub lists it: bytes, and its sha256 where the hub knows it."""

    size: int
    sha256: str | None = None


def listing(model: HubModel, revision: str) -> tuple[str, dict[str, ListedFile]]:
    """The commit that a revision of the model's repository stands for, and its files.

    Raises ModelError, with what the hub did.
    """
    hub_cache()
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    guard = _Guard(model, download.PATIENCE, any_commit=True)
    try:
        if constants.HF_HUB_OFFLINE:
            guard.refuse("HF_HUB_OFFLINE is set")
        with _guarded(guard):
            info = HfApi().model_info(model.repo, revision=revision, files_metadata=True)
    except ArtifactError:
        raise
    except Exception as error:  # hub and network errors share no base class
        raise _not_fetched(model, revision, guard.refused or reason(error)) from None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise _not_fetched(model, revision, f"the hub names the revision {_quoted(str(info.sha))}")
    files = {}
    for one in info.siblings or ():
        if PLAIN_NAME.fullmatch(one.rfilename) and isinstance(one.size, int):
            digest = one.lfs.sha256 if one.lfs is not None else None
            files[one.rfilename] = ListedFile(one.size, digest)
    return info.sha, files


def _not_fetched(model: HubModel, revision: str, why: str) -> ModelError:
    return ModelError(
        f"{model.name}: {model.repo}@{revision[:8]} cannot be fetched ({why}); "
        "connect to the hub, set HF_ENDPOINT to a mirror, or name a folder that holds the model"
    )


def snapshot(model: HubModel, tell: Tell | None, names: Sequence[str] = ()) -> Path:
    """The folder of the model's files in the hub's cache, downloaded where they are not there: `names`, or all.

    Raises ModelError, with what the hub did. Their hashes are verify.py's to check.
    """
    cache = hub_cache()
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it retries is said in the one line, when nothing helped
    guard = _Guard(model, download.PATIENCE)
    try:
        with _telling(model, tell), _guarded(guard):
            folder = snapshot_download(
                model.repo, revision=model.revision, allow_patterns=list(names or model.files), cache_dir=cache
            )
    except ArtifactError:
        raise
    except Exception as error:  # hub, network and disk errors share no base class
        raise _not_fetched(model, model.revision, guard.refused or reason(error)) from None
    return Path(folder)


def hub_bytes(model: HubModel) -> int:
    """Bytes of the model in the hub's cache, whole files and begun ones."""
    from huggingface_hub.file_download import repo_folder_name

    sizes = []
    for path in (hub_cache() / repo_folder_name(repo_id=model.repo, repo_type="model") / "blobs").glob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # renamed between the two, or a link to nothing
            continue
    return sum(sizes)


class _GuardRefused(Exception):
    """The hub's answer is refused."""


class _Guard:
    """Looks at the requests and answers of huggingface_hub's client while one model is fetched.

    `refused` is why it was ended, in words that follow "cannot be fetched"; from then on every request is refused, so
    that the client's own threads and retries end, too.
    """

    def __init__(self, model: HubModel, patience: Patience, any_commit: bool = False) -> None:
        from huggingface_hub import constants

        self._endpoint = constants.ENDPOINT
        self.refused: str | None = None
        self.arrived = 0
        self._model, self._patience, self._any_commit = model, patience, any_commit
        self._requests = 0
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def refuse(self, words: str) -> NoReturn:
        """End it with these words."""
        with self._lock:
            self.refused = self.refused or words
        raise _GuardRefused(self.refused)

    def on_request(self, request: Any) -> None:
        """Before every request, redirected ones included."""
        if self.refused:
            raise _GuardRefused(self.refused)
        with self._lock:
            self._requests += 1
        if self._requests > MOST_REQUESTS:
            self.refuse(f"the hub has made its client ask {MOST_REQUESTS} times")
        try:
            check_address(str(request.url), self._endpoint)
        except Misled as misled:
            self.refuse(f"the hub {misled}")
        request.headers["Accept-Encoding"] = "identity"
        waits = request.extensions.get("timeout") or {}
        most = self._patience.stall_seconds
        request.extensions["timeout"] = {
            key: min(waits.get(key) or most, most) for key in ("connect", "read", "write", "pool")
        }

    def on_answer(self, response: Any) -> None:
        """Before the client looks at an answer."""
        request, headers = response.request, response.headers
        for name in [name for name in headers if name.lower().startswith("x-xet-")]:
            del headers[name]
        if response.status_code >= 400:
            self._look_at_wait(response.status_code, headers)
        self._look_at_names(headers, request.method, response.status_code)
        name = self._name(str(request.url))
        if (to := headers.get("Location")) is not None:
            self._follow(request.url, to, name)
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            self.refuse(f"the hub sends {_quoted(name or 'its listing')} encoded")
        most = self._most(name)
        self._look_at_size(name, headers, request.method, response.status_code, most)
        response.stream = _bounded(response.stream, self, most)

    def _look_at_wait(self, status: int, headers: Any) -> None:
        """The client waits as many seconds as a number says, however many; it ignores a date."""
        told = [
            re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", "")),
            _RESET.search(headers.get("RateLimit", "")),
        ]
        longest = max((int(match[1][:12]) for match in told if match), default=0)
        if longest > self._patience.longest_wait:
            self.refuse(f"the hub answers {status}, and asks to wait {longest} s")

    def _look_at_names(self, headers: Any, method: str, status: int) -> None:
        commit = headers.get("X-Repo-Commit")
        if commit is not None and commit != self._model.revision and not self._any_commit:
            self.refuse(f"the hub names the revision {_quoted(commit)}, not {self._model.revision}")
        if method != "HEAD" or status >= 400:
            return
        for header in ("X-Linked-ETag", "ETag"):
            told = headers.get(header)
            # As the client normalises it; an address of another host may give any ETag before the next redirect.
            if told is not None and not PLAIN_NAME.fullmatch(told.lstrip("W/").strip('"')):
                self.refuse(f"the hub's {header} {_quoted(told)} cannot be the name of a file")

    def _look_at_size(self, name: str | None, headers: Any, method: str, status: int, most: int) -> None:
        if status >= 300 and "X-Linked-Size" not in headers:
            return
        for header in ("X-Linked-Size", "Content-Length"):
            told = headers.get(header)
            if told is None or (header == "Content-Length" and status >= 300):
                continue
            if (size := number(told)) is None:
                self.refuse(f"the hub's {header} {_quoted(told)} is not a number")
            known = self._model.size_of(name) if name and (method == "HEAD" or status == 200) else None
            exact = known is not None
            if size > most or (exact and size != known):
                self.refuse(f"{name or 'its listing'}: expected {'' if exact else 'at most '}{most} bytes, got {size}")

    def _follow(self, url: Any, to: str, name: str | None) -> None:
        """Note which file a redirect leads to."""
        try:
            target = str(url.join(to))
            check_address(target, str(url))
        except Misled as misled:
            self.refuse(f"the hub {misled}")
        except Exception:  # whatever the client's own URL class raises for what is not an address
            self.refuse(f"the hub redirects to {_quoted(to)}, which is not an address")
        if name is not None:
            self._names[target] = name

    def _name(self, url: str) -> str | None:
        """The model's file that is asked for; None for a listing."""
        if url in self._names:
            return self._names[url]
        path = unquote(urlsplit(url).path)
        beginning = f"/{self._model.repo}/resolve/{self._model.revision}/"
        return path.partition(beginning)[2] or None

    def _most(self, name: str | None) -> int:
        return self._model.most_of(name, SMALL)

    def took(self, count: int) -> None:
        """Count bytes; raises once the transfer was refused."""
        with self._lock:
            self.arrived += count
        if self.refused:
            raise _GuardRefused(self.refused)


def _bounded(stream: Any, guard: _Guard, most: int) -> Any:
    """The body of an answer, that breaks off after `most` bytes."""

    class Bounded(type(stream)):  # type: ignore[misc]  # the client asks for its own class
        def __init__(self) -> None:
            pass

        def __iter__(self) -> Iterator[bytes]:
            count = 0
            for block in stream:
                count += len(block)
                guard.took(len(block))
                if count > most:
                    guard.refuse(f"the hub sends more than {most} bytes")
                yield block

        def close(self) -> None:
            stream.close()

    return Bounded()


@contextmanager
def _guarded(guard: _Guard) -> Iterator[None]:
    """While it is entered, huggingface_hub's client is guarded and watched."""
    from huggingface_hub import close_session, constants, set_client_factory
    from huggingface_hub.utils import _http

    model, patience = guard._model, guard._patience
    usual: Callable[[], Any] = _http.default_client_factory

    def guarded() -> Any:
        client = usual()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], guard.on_request],
            "response": [guard.on_answer, *hooks["response"]],
        }
        return client

    def end() -> None:
        guard.refused = guard.refused or (
            f"less than {patience.rate / 1000:g} kB a second arrived over {patience.window:g} s"
        )
        close_session()

    xet, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    set_client_factory(guarded)
    try:
        # Bytes on the disk count, too: another process may be the one that downloads.
        with Watch(patience.rate, patience.window, lambda: guard.arrived + hub_bytes(model), end):
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet
        set_client_factory(usual)


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
            tell(hub_bytes(model), model.size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _quoted(text: str) -> str:
    return repr(fit(text, 60))
