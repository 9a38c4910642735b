"""Collecting second moments from a source of texts: read as a stream, summed in batches, resumable.

Covers windows and batches, the checkpoint `moments.partial`, and the published files with `moments.json` beside them.
The first texts of the source count: none is drawn at random, so shuffle a sorted source first.

As in the published statistics each text is cut at the model's number of positions; tokens that the tokenizer sets
around a text are put there. Texts are read WINDOW at a time, ordered by length, and run longest first in batches of at
most so many tokens with padding. A checkpoint holds the float64 sums and how far the window is done, and each window
follows from the source alone: a resumed run makes the same batches in the same order, hence the same bits where the
arithmetic is the same and the device's memory, which cuts batches too, is not short. It takes 8 M^2 bytes a layer on
disk (13 GB for six layers of GPT-J), twice while it is replaced.
"""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from zipfile import ZipFile

import msgspec
import numpy as np
import torch

from artifact.editing.moments.files import PROVENANCE, any_moment_file
from artifact.editing.moments.sums import KeySums
from artifact.editing.moments.sums import write_moments as write_files
from artifact.editing.npz import UNREADABLE, read_array, write_arrays
from artifact.editing.site import MODULES, Module
from artifact.editing.texts import Reader, Source
from artifact.errors import DeviceError, Interrupted, PromptError, RunError, SettingError
from artifact.io import NOT_JSON, check_writable, reason, write_atomically
from artifact.lm.device import Memory, batches, default_memory, in_one
from artifact.lm.load import LanguageModel
from artifact.lm.tokens import Tokens
from artifact.sizes import dtype_word

SAMPLES = 100_000
"""Texts of the published statistics."""
BATCH_TOKENS = 4096
WINDOW = 1024
_MOST = 10**12
PARTIAL = "moments.partial"


class CollectionSettings(msgspec.Struct, frozen=True):
    """What makes two collections the same, but for their texts."""

    weights_sha256: str
    layers: tuple[int, ...]
    samples: int
    form: str
    window: int = WINDOW
    site: Module = "mlp"


class Progress(msgspec.Struct):
    """How far a collection is. `texts` to `sha256` stand at the start of the window in hand, whose `done` longest texts
    are in the sums.

    `skipped` texts were empty or had unknown words, `cut` ones were longer than the model's positions, `longest` is in
    tokens after the cut; `bytes`, `lines` and their `sha256` are what was read of the source.
    """

    texts: int = 0
    skipped: int = 0
    cut: int = 0
    longest: int = 0
    bytes: int = 0
    lines: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    done: int = 0


class _Checkpoint(msgspec.Struct, frozen=True):
    model: str
    settings: CollectionSettings
    progress: Progress
    tokens: int


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """The content of moments.json: `samples` texts were asked for and `texts` found; `source_sha256` is that of the
    `source_bytes` bytes that were read of the source; the other figures are Progress's.
    """

    model: str
    revision: str
    weights_sha256: str
    dtype: str
    positions: int
    layers: tuple[int, ...]
    source: str
    form: str
    source_sha256: str
    source_bytes: int
    samples: int
    texts: int
    tokens: int
    longest: int
    cut: int
    skipped: int
    batch_tokens: int
    site: Module = "mlp"


def collect(
    model: LanguageModel,
    source: Source,
    layers: Sequence[int],
    out: Path,
    *,
    site: Module = "mlp",
    samples: int = SAMPLES,
    batch_tokens: int = BATCH_TOKENS,
    checkpoint_seconds: float = 600,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[int, int], None] = lambda texts, tokens: None,
    say: Callable[[str], None] = lambda line: None,
) -> Collected:
    """Second moments of the keys of `site` in `layers` over the first `samples` texts of `source`, as published files
    in the folder `out`.

    Resumes from `out`'s checkpoint where there is one; where the same moments are there already, returns what they are.
    Calls tell(texts, tokens so far) at the start and after every batch, stop() after every batch, and say(line) when
    memory runs out and batches are halved.
    Raises Interrupted on `stop`, with the checkpoint written; SettingError for a text or setting that cannot be used, a
    checkpoint that is damaged or of other settings; DeviceError for too little memory; RunError when `out` cannot be
    written.
    """
    checked = _checked(model, layers, samples, batch_tokens)
    settings = CollectionSettings(model.weights_sha256, checked, samples, source.form, site=site)
    collection = _Collection(model, source, settings, out, batch_tokens, say)
    if collection.finished is not None:
        return collection.finished
    collection.resume()
    saved = -math.inf  # the first checkpoint comes at once: a folder that is full or another's is found out early
    progress = collection.progress
    tell(progress.texts + progress.done, collection.sums.tokens)
    while progress.texts < samples:
        rows, end = collection.window()
        if not rows:
            collection.progress = progress = end
            break
        for part in collection.added(rows[progress.done :]):
            progress.done += len(part)
            tell(progress.texts + progress.done, collection.sums.tokens)
            if stop():
                collection.save()
                kept = f"{collection.partial} keeps what was done, and the same command goes on from there"
                raise Interrupted(f"stopped; {kept}")
            if time.monotonic() - saved >= checkpoint_seconds:
                collection.save()
                saved = time.monotonic()
        collection.progress = progress = end
    return collection.finish()


class _Collection:
    """One collection in the making: its sums, how far it is, and its files."""

    def __init__(
        self,
        model: LanguageModel,
        source: Source,
        settings: CollectionSettings,
        out: Path,
        batch_tokens: int,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._source, self._out, self._batch_tokens = model, source, out, batch_tokens
        self._settings = settings
        self._reader = Reader(source)
        self._refused: str | None = None
        self.partial = out / PARTIAL
        self.progress = Progress()
        self.finished = self._finished()
        if self.finished is None:
            what, remedy = f"the sums of {len(settings.layers)} layers", "give fewer --layers at a time"
            self.sums = in_one(lambda: KeySums(model, settings.layers, settings.site), what, remedy)
            self._memory = Memory(default_memory(model.decoder.device), say)  # of what weights and sums leave

    def window(self) -> tuple[list[list[int]], Progress]:
        """The next texts as ids, longest first, and the progress once all of them are in the sums."""
        before = self.progress
        most = min(WINDOW, self._settings.samples - before.texts)
        whole = _without_limit(self._model.tokens)
        limit = self._model.tokens.limit
        rows: list[list[int]] = []
        skipped, cut = before.skipped, before.cut
        # No line is read beyond the last text taken: what was read is recorded, and the next window begins there.
        texts = self._reader.texts()
        while len(rows) < most and (text := next(texts, None)) is not None:
            try:
                ids = whole.whole(whole.ids(text))
            except PromptError as error:
                skipped += 1
                self._refused = self._refused or str(error)
                continue
            if ids:
                cut += len(ids) > limit
                rows.append(ids[:limit])
            else:  # characters that the tokenizer drops
                skipped += 1
        rows.sort(key=len, reverse=True)
        longest = max(before.longest, len(rows[0]) if rows else 0)
        reader = self._reader
        return rows, Progress(
            before.texts + len(rows), skipped, cut, longest, reader.bytes, reader.lines, reader.sha256
        )

    def added(self, rows: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
        """Each batch of a window's texts (ids), once it is in the sums: of so many tokens that fit the device."""

        def fitting(left: Sequence[Sequence[int]]) -> int:
            return self.sums.fitting(left[: max(1, self._batch_tokens // len(left[0]))], self._memory)

        def alone(row: Sequence[int]) -> None:
            raise DeviceError(
                f"one text of {len(row)} tokens, with the sums of {len(self._settings.layers)} layers, does not fit "
                "the device's memory; give fewer --layers at a time"
            )

        for part, _ in batches(rows, fitting, self.sums.add, self._memory, alone):
            yield part

    def save(self) -> None:
        """Write the checkpoint; none for a source that cannot be read again."""
        _make_folder(self._out)
        if not self._source.resumable:
            return
        record = msgspec.json.encode(_Checkpoint(self._model.name, self._settings, self.progress, self.sums.tokens))
        content: list[tuple[str, object]] = [("record", np.frombuffer(record, dtype=np.uint8))]
        content += [(f"layer{layer}", total_MM) for layer, total_MM in self.sums.totals_MM.items()]
        write_arrays(self.partial, content)

    def resume(self) -> None:
        """Take up the checkpoint if there is one; SettingError when it is not this collection's."""
        if not self.partial.exists():
            return
        remedy = "give the same as then, or delete the file to start over"
        if not self._source.resumable:
            raise SettingError(f"{self.partial}: {self._source.name} cannot be read again to go on from it; {remedy}")
        try:
            with ZipFile(self.partial) as archive:
                checkpoint = msgspec.json.decode(read_array(archive, "record").tobytes(), type=_Checkpoint)
                self._check_same(checkpoint, remedy)
                for layer, total_MM in self.sums.totals_MM.items():
                    total_MM.copy_(_stored_sum(archive, layer, total_MM))
        except (*UNREADABLE, *NOT_JSON) as error:
            raise SettingError(f"{self.partial}: is damaged ({reason(error)}); delete it to start over") from None
        progress = checkpoint.progress
        if not self._reader.go_to(progress.bytes, progress.lines, progress.sha256):
            raise SettingError(f"{self.partial}: was begun with other texts than {self._source.name}; {remedy}")
        self.progress, self.sums.tokens = progress, checkpoint.tokens

    def _check_same(self, checkpoint: _Checkpoint, remedy: str) -> None:
        """SettingError for a checkpoint of other weights or settings."""
        if checkpoint.settings.weights_sha256 != self._settings.weights_sha256:
            raise SettingError(
                f"{self.partial}: was begun with the weights of {checkpoint.model}, not these of {self._model.name}; "
                f"{remedy}"
            )
        for field in CollectionSettings.__struct_fields__:
            then, now = getattr(checkpoint.settings, field), getattr(self._settings, field)
            if then != now:
                raise SettingError(f"{self.partial}: was begun with {field} {then}, not {now}; {remedy}")

    def finish(self) -> Collected:
        """Write the files and what they are, and remove the checkpoint."""
        progress, model, settings = self.progress, self._model, self._settings
        if progress.texts == 0:
            why = f"all {progress.skipped} texts were skipped" if progress.skipped else "holds no text"
            first = f" (the first: {self._refused})" if self._refused else ""
            raise SettingError(f"{self._source.name}: {why}{first}; give other texts")
        self.save()  # what follows can be repeated from here
        write_files(self._out, model, self.sums, progress.texts)
        collected = Collected(
            model=model.name,
            revision=model.revision,
            weights_sha256=settings.weights_sha256,
            dtype=dtype_word(model.decoder.dtype),
            positions=model.tokens.limit,
            layers=settings.layers,
            source=self._source.name,
            form=settings.form,
            source_sha256=progress.sha256,
            source_bytes=progress.bytes,
            samples=settings.samples,
            texts=progress.texts,
            tokens=self.sums.tokens,
            longest=progress.longest,
            cut=progress.cut,
            skipped=progress.skipped,
            batch_tokens=self._batch_tokens,
            site=settings.site,
        )
        try:
            content = msgspec.json.format(msgspec.json.encode(collected), indent=1) + b"\n"
            write_atomically(self._out / PROVENANCE, content)
            self.partial.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self._out, error) from None
        return collected

    def _finished(self) -> Collected | None:
        """These moments where `out` holds them already; SettingError where it holds others, which stay untouched."""
        if self.partial.exists() or not self._out.is_dir():
            return None
        decoder = self._model.decoder
        files = sorted(file for site in MODULES for file in self._out.glob(any_moment_file(decoder, site)))
        if not files:
            return None
        try:
            collected = msgspec.json.decode((self._out / PROVENANCE).read_bytes(), type=Collected)
        except (OSError, *NOT_JSON):
            collected = None
        if collected is not None and self._source.resumable:
            settings = CollectionSettings(
                collected.weights_sha256, collected.layers, collected.samples, collected.form, site=collected.site
            )
            same = settings == self._settings and self._reader.go_to(collected.source_bytes, 0, collected.source_sha256)
            if same and (collected.texts == collected.samples or not self._source.stream.read(1)):
                return collected
        raise SettingError(f"{self._out}: holds other moments ({files[0].name}); give another folder with --out")


def _stored_sum(archive: ZipFile, layer: int, like_MM: torch.Tensor) -> torch.Tensor:
    """A layer's sum of a checkpoint; ValueError for what `save` has not written."""
    stored_MM = torch.from_numpy(read_array(archive, f"layer{layer}"))
    if (stored_MM.shape, stored_MM.dtype) != (like_MM.shape, like_MM.dtype) or not bool(stored_MM.isfinite().all()):
        raise ValueError(f"the sum of layer {layer} is not of finite {dtype_word(like_MM.dtype)} numbers of its shape")
    return stored_MM


def _checked(model: LanguageModel, layers: Sequence[int], samples: int, batch_tokens: int) -> tuple[int, ...]:
    depth = model.decoder.layers
    if not layers or not all(0 <= layer < depth for layer in layers):
        raise SettingError(
            f"layers {list(layers)} are not in this model of {depth} layers; give some of 0 to {depth - 1}"
        )
    check_counts(samples, batch_tokens)
    return tuple(sorted(set(layers)))


def check_counts(samples: int, batch_tokens: int) -> None:
    """Raise SettingError for a number of texts or tokens that cannot be."""
    if samples < 1 or batch_tokens < 1:
        raise SettingError(f"samples and batch tokens must be at least 1, got {samples} and {batch_tokens}; give more")
    if max(samples, batch_tokens) > _MOST:
        raise SettingError(f"samples and batch tokens must be at most {_MOST}, got {samples} and {batch_tokens}")


def _without_limit(tokens: Tokens) -> Tokens:
    """The same tokenizer for texts that are cut instead of refused."""
    whole = copy(tokens)
    whole.limit = sys.maxsize
    return whole


def _make_folder(folder: Path) -> None:
    try:
        check_writable(folder / PROVENANCE)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"{folder}: cannot be written ({error.strerror}); give another folder with --out")
