"""Collecting second moments from texts: windows, checkpoints, what is skipped and cut, and short memory."""

import io
import itertools
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from artifact.editing.methods import METHODS, moment_layers
from artifact.editing.moments.collect import PARTIAL, SAMPLES, collect
from artifact.editing.moments.files import PROVENANCE, read_moments
from artifact.editing.moments.sums import KeySums, compute_moments
from artifact.editing.texts import Source, open_source, world_source
from artifact.errors import DeviceError, Interrupted, RunError, SettingError
from artifact.lm.load import LanguageModel, load

TEXTS = [
    "The capital of France is Paris",
    "The report said",
    "Yes",
    "Île-de-France is a region of France",
    "The mother tongue of Danielle Darrieux is French",
    "word " * 200,
] * 5


@pytest.fixture(scope="module")
def world() -> LanguageModel:
    return load("world", "cpu")


def lines(texts: list[str], name: str = "texts.txt") -> Source:
    return Source(name, io.BytesIO("\n".join(texts).encode()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_streaming_equals_moments_in_memory(world, tmp_path, monkeypatch) -> None:
    """A part of the world's corpus in more than one window."""
    monkeypatch.setattr("artifact.editing.moments.collect.WINDOW", 100)
    corpus = world_source().stream.read().decode().split("\n")[:250]
    expected = compute_moments(world, [world.tokens.ids(text) for text in corpus], (0, 1), "the same")
    found = collect(world, world_source(), (1, 0), tmp_path, samples=len(corpus), batch_tokens=500)
    assert (found.texts, found.skipped, found.cut, found.layers) == (len(corpus), 0, 0, (0, 1))
    assert found.tokens == sum(len(world.tokens.ids(text)) for text in corpus)
    read = read_moments(tmp_path)
    for layer in (0, 1):
        assert relative(read.matrix(world.decoder, layer), expected.matrix(world.decoder, layer)) < 1e-6
    assert f"other corpus: the embedded world's corpus, {len(corpus)} texts, {found.tokens} tokens" in read.source


def test_long_texts_are_cut_and_every_token_counts_once(model, tmp_path) -> None:
    ids = [model.tokens.ids(text) for text in TEXTS[:5]]
    found = collect(model, lines(TEXTS[:6]), (0,), tmp_path, batch_tokens=50)
    assert (found.texts, found.cut, found.positions) == (6, 1, 128)
    assert found.longest == 128 and found.tokens == sum(len(row) for row in ids) + 128
    assert found.dtype == "float32" and found.samples == SAMPLES


def test_only_the_layers_asked_for(model, tmp_path) -> None:
    collect(model, lines(TEXTS), (1,), tmp_path / "one", samples=3)
    assert sorted(contents(tmp_path / "one")) == [
        "moments.json",
        f"{model.decoder.family.name('mlp_down', 1)}_float32_mom2_3.npz",
    ]
    for layers in ([], [0, model.decoder.layers], [-1]):
        with pytest.raises(
            SettingError, match=f"not in this model of {model.decoder.layers} layers; give some of 0 to"
        ):
            collect(model, lines(TEXTS), layers, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_layers_of_every_method_that_reads_moments(tiny, world) -> None:
    assert moment_layers(METHODS, "world", world.decoder.layers) == [0, 1, 3]
    assert moment_layers(METHODS, "tiny-gpt2", tiny("tiny-gpt2").decoder.layers) == [2, 3]


def test_unknown_and_empty_texts_are_skipped_and_counted(world, tmp_path) -> None:
    known = world_source().stream.read().decode().split("\n")[:3]
    collect(world, lines(known), (0,), tmp_path / "known")
    mixed = [known[0], "", "Quantum chromodynamics", known[1], "   ", known[2], "", "Zzz"]
    found = collect(world, lines(mixed), (0,), tmp_path / "mixed")
    assert (found.texts, found.skipped) == (3, 2)
    (name,) = (path.name for path in (tmp_path / "known").glob("*.npz"))
    assert (tmp_path / "known" / name).read_bytes() == (tmp_path / "mixed" / name).read_bytes()
    with pytest.raises(SettingError, match=r"all 2 texts were skipped \(the first: the word 'Zzz'"):
        collect(world, lines(["Zzz", "Yyy"]), (0,), tmp_path / "none")
    with pytest.raises(SettingError, match="texts.txt: holds no text"):
        collect(world, lines(["", " "]), (0,), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def stopped_after(model, batches: int, out: Path, texts: list[str] = TEXTS, **more) -> None:
    """A collection that is stopped on request after so many batches."""
    asked = iter([False] * (batches - 1) + [True])
    with pytest.raises(Interrupted, match="the same command goes on"):
        collect(model, lines(texts), (0, 2), out, batch_tokens=100, stop=lambda: next(asked), **more)


def test_a_stopped_collection_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch) -> None:
    """Stopped after every single batch, within windows and between them."""
    monkeypatch.setattr("artifact.editing.moments.collect.WINDOW", 8)
    told: list[tuple[int, int]] = []
    texts = TEXTS[:20]
    whole = collect(
        model, lines(texts), (0, 2), tmp_path / "whole", batch_tokens=100, tell=lambda *done: told.append(done)
    )
    assert told[0] == (0, 0) and told[-1] == (20, whole.tokens)
    batches = len(told) - 1
    assert batches > 6
    for _ in range(batches):
        stopped_after(model, 1, tmp_path / "parts", texts)
        assert list(contents(tmp_path / "parts")) == [PARTIAL]
    told.clear()
    again = collect(
        model,
        lines(texts, "renamed.txt"),
        (0, 2),
        tmp_path / "parts",
        batch_tokens=100,
        tell=lambda *done: told.append(done),
    )
    assert told == [(20, whole.tokens)] and again.source == "renamed.txt"
    assert sorted(contents(tmp_path / "parts")) == sorted(contents(tmp_path / "whole"))
    for path in (tmp_path / "whole").glob("*.npz"):
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


class Killed(BaseException):
    """What no code of the package catches, as it would not a killed process."""


def test_a_killed_collection_goes_on_to_the_same_bytes(tiny, tmp_path, monkeypatch) -> None:
    """Killed while it writes its third checkpoint, of three arrays each: the second is taken up."""
    model, out = tiny("tiny-gpt2"), tmp_path / "out"
    count, write = itertools.count(1), np.lib.format.write_array

    def killing(*given: object, **more: object) -> None:
        write(*given, **more)
        if next(count) == 8:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(np.lib.format, "write_array", killing)
        collect(model, lines(TEXTS), (0, 2), out, batch_tokens=100, checkpoint_seconds=0)
    assert set(contents(out)) == {PARTIAL}
    told: list[int] = []
    for folder in (tmp_path / "whole", out):
        collect(model, lines(TEXTS), (0, 2), folder, batch_tokens=100, tell=lambda texts, tokens: told.append(texts))
    assert told[told.index(len(TEXTS)) + 1] == told[2] > 0  # two batches were kept
    assert contents(out) == contents(tmp_path / "whole")


def test_a_checkpoint_of_other_settings_is_refused(tiny, tmp_path) -> None:
    model = tiny("tiny-gpt2")
    stopped_after(model, 2, tmp_path)
    before = contents(tmp_path)
    for says, use, source, layers, more in (
        ("was begun with the weights of .*tiny-gpt2", tiny("tiny-gptj"), lines(TEXTS), (0, 2), {}),
        (r"was begun with layers \(0, 2\), not \(0, 1\)", model, lines(TEXTS), (0, 1), {}),
        ("was begun with samples 100000, not 7", model, lines(TEXTS), (0, 2), {"samples": 7}),
        ("was begun with form txt, not jsonl", model, Source("t.jsonl", io.BytesIO(), "jsonl"), (0, 2), {}),
        (
            "standard input cannot be read again",
            model,
            Source("standard input", io.BytesIO(), "txt", False),
            (0, 2),
            {},
        ),
    ):
        with pytest.raises(SettingError, match=rf"{PARTIAL}: {says}.*delete the file to start over"):
            collect(use, source, layers, tmp_path, **more)
    assert contents(tmp_path) == before


def test_a_checkpoint_of_other_texts_is_refused(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("artifact.editing.moments.collect.WINDOW", 4)
    model = tiny("tiny-gpt2")
    stopped_after(model, 5, tmp_path)
    for texts in (["Another text", *TEXTS[1:]], TEXTS[:1]):
        with pytest.raises(SettingError, match="was begun with other texts than texts.txt"):
            collect(model, lines(texts), (0, 2), tmp_path)
    assert collect(model, lines(TEXTS), (0, 2), tmp_path).texts == len(TEXTS)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_a_damaged_checkpoint_is_refused(tiny, tmp_path) -> None:
    model = tiny("tiny-gpt2")
    stopped_after(model, 2, tmp_path)
    good = (tmp_path / PARTIAL).read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    with ZipFile(tmp_path / PARTIAL) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) > 2 * 256 * 256 * 8
    with np.load(io.BytesIO(good)) as stored:
        held = dict(stored)
    sum_MM = held["layer2"]
    others = [sum_MM.astype(np.float32), sum_MM[:1], sum_MM[0, 0], np.full_like(sum_MM, np.nan), sum_MM > 0]
    forged = [_npz(held | {"layer2": other}) for other in others]
    for bad in (b"", b"PK", good[: len(good) // 2], good[:-40], bytes(flipped), bytes(1000), *forged):
        (tmp_path / PARTIAL).write_bytes(bad)
        with pytest.raises(SettingError, match=rf"{PARTIAL}: is damaged .*delete it to start over"):
            collect(model, lines(TEXTS), (0, 2), tmp_path)


def test_finished_moments_are_kept(model, tmp_path) -> None:
    """The same again does nothing; anything else would overwrite them, and is refused."""
    first = collect(model, lines(TEXTS), (0,), tmp_path, samples=4)
    before = contents(tmp_path)
    assert collect(model, lines(TEXTS), (0,), tmp_path, samples=4, stop=lambda: True) == first
    for source, layers, samples in (
        (lines(TEXTS), (0,), 5),
        (lines(TEXTS), (1,), 4),
        (lines(["Other", *TEXTS]), (0,), 4),
        (Source("standard input", io.BytesIO(b"A text"), "txt", False), (0,), 4),
    ):
        with pytest.raises(SettingError, match="holds other moments .*; give another folder"):
            collect(model, source, layers, tmp_path, samples=samples)
    (tmp_path / PROVENANCE).unlink()
    with pytest.raises(SettingError, match="holds other moments"):
        collect(model, lines(TEXTS), (0,), tmp_path, samples=4)
    del before[PROVENANCE]
    assert contents(tmp_path) == before


def test_a_source_that_has_grown_since_its_end_was_read_is_another(model, tmp_path) -> None:
    first = collect(model, lines(TEXTS[:4]), (0,), tmp_path)
    assert collect(model, lines(TEXTS[:4]), (0,), tmp_path) == first
    with pytest.raises(SettingError, match="holds other moments"):
        collect(model, lines(TEXTS[:7]), (0,), tmp_path)


def test_a_full_disk_keeps_the_checkpoint(tiny, tmp_path) -> None:
    """A limit on the size of files stands in for the disk: the checkpoint before stays whole."""
    resource = pytest.importorskip("resource")
    model = tiny("tiny-gpt2")
    stopped_after(model, 2, tmp_path)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(RunError, match=rf"{PARTIAL}: cannot be written \(File too large\)"):
            collect(model, lines(TEXTS), (0, 2), tmp_path, batch_tokens=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


def test_json_lines_and_text_give_the_same(model, tmp_path) -> None:
    texts = TEXTS[:5]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(texts).encode())
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps({"id": 1, "text": text}) for text in [*texts, ""]))
    with open_source(str(tmp_path / "a.txt")) as texts, open_source(str(tmp_path / "a.jsonl")) as objects:
        plain = collect(model, texts, (0,), tmp_path / "txt")
        objects = collect(model, objects, (0,), tmp_path / "jsonl")
    assert (plain.texts, plain.skipped, objects.texts, objects.skipped) == (5, 0, 5, 1)
    for path in (tmp_path / "txt").glob("*.npz"):
        assert path.read_bytes() == (tmp_path / "jsonl" / path.name).read_bytes()


def test_a_device_that_is_too_small_says_what_to_give_less_of(model, tmp_path, monkeypatch) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(KeySums, "add", short)
    with pytest.raises(DeviceError, match=r"one text of \d+ tokens, with the sums of 1 layers, .* give fewer --layers"):
        collect(model, lines(TEXTS), (0,), tmp_path, batch_tokens=64)


def test_little_memory_halves_batches_and_counts_no_text_twice(model, tmp_path, monkeypatch) -> None:
    """The device runs out in the second of two layers: the first has summed the batch by then."""
    whole = collect(model, lines(TEXTS), (0, 1), tmp_path / "whole")
    block, refused = model.decoder._block, []

    def short(layer: int, hidden_BTD: torch.Tensor, *given: Any, **named: Any) -> Any:
        if layer == 1 and len(hidden_BTD) > 2:
            refused.append(len(hidden_BTD))
            raise torch.OutOfMemoryError
        return block(layer, hidden_BTD, *given, **named)

    monkeypatch.setattr(model.decoder, "_block", short)
    said: list[str] = []
    halved = collect(model, lines(TEXTS), (0, 1), tmp_path / "halved", say=said.append)
    assert len(said) == len(refused) > 0 and said[0].startswith("out of memory: going on with batches for")
    assert (halved.tokens, halved.texts) == (whole.tokens, whole.texts)
    for path in (tmp_path / "whole").glob("*.npz"):
        one, other = (np.load(folder / path.name)["mom2.mom2"] for folder in (path.parent, tmp_path / "halved"))
        assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()
