"""Second moments: the published files, what edits solve with them, and collecting them from texts."""

import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from artifact.editing.collect import PARTIAL, SAMPLES, collect, moment_layers
from artifact.editing.moments import PROVENANCE, Moments, files_below, read_moments
from artifact.editing.sums import KeySums, compute_moments, write_moments
from artifact.editing.texts import Source, open_source, world_source
from artifact.errors import DeviceError, Interrupted, RunError, SettingError
from artifact.lm.device import Memory
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


def test_published_moments_from_any_folder_above(reference, tiny) -> None:
    model = tiny("tiny-gpt2")
    folder = reference / "moments" / "tiny-gpt2"
    expected = np.load(next(folder.rglob("transformer.h.2.*.npz")))
    matrix = read_moments(folder).matrix(model.decoder, 2)
    np.testing.assert_allclose(matrix, expected["mom2.mom2"].astype(np.float64) / expected["mom2.count"])
    assert torch.equal(matrix, read_moments(folder / "wikipedia_stats").matrix(model.decoder, 2))
    keys = torch.randn(3, 256, dtype=torch.float64)
    solved = read_moments(folder).solve(model.decoder, 2, keys)
    torch.testing.assert_close(solved @ matrix, keys)
    with pytest.raises(SettingError, match="no file transformer.h.5"):
        read_moments(folder).matrix(model.decoder, 5)
    with pytest.raises(SettingError, match="is not a folder"):
        read_moments(folder / "absent")


def _odd_zip(field: int, value: int) -> bytes:
    """A moment file with one number of each entry in the archive's directory changed."""
    file = io.BytesIO()
    np.savez(file, **{"mom2.mom2": np.eye(4), "mom2.count": 3})
    content = bytearray(file.getvalue())
    for found in re.finditer(b"PK\x01\x02", bytes(content)):
        content[found.start() + field] = value
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"PK damaged",
        b"",
        _odd_zip(8, 1),  # encrypted
        _odd_zip(10, 14),  # said to be compressed by LZMA
        _odd_zip(10, 97),  # by what nobody knows
        {"mom2.mom2": np.eye(4)},
        {"mom2.mom2": np.eye(4), "mom2.count": 0},
        {"mom2.mom2": np.eye(4), "mom2.count": -1},
        {"mom2.mom2": np.eye(4), "mom2.count": np.nan},
        {"mom2.mom2": np.eye(4), "mom2.count": np.inf},
        {"mom2.mom2": np.eye(4), "mom2.count": [3, 3]},
        {"mom2.mom2": np.eye(4), "mom2.count": True},
        {"mom2.mom2": np.eye(4, dtype=int), "mom2.count": 1},
        {"mom2.mom2": np.eye(4, dtype=complex), "mom2.count": 1},
        {"mom2.mom2": np.eye(4, dtype=np.longdouble), "mom2.count": 1},
        {"mom2.mom2": np.ones(4), "mom2.count": 1},
        {"mom2.mom2": np.full((4, 4), np.nan), "mom2.count": 1},
        {"mom2.mom2": np.array([{}]), "mom2.count": 1},
    ],
)
def test_damaged_moments(content, tiny, tmp_path) -> None:
    path = tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(SettingError, match="is not a moment file|holds no finite matrix|its count is"):
        read_moments(tmp_path).matrix(tiny("tiny-gpt2").decoder, 2)


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**18, 10**18), (3, 10**11)])
def test_a_header_that_claims_gigabytes_is_not_believed(shape, tiny, tmp_path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    count = io.BytesIO()
    np.lib.format.write_array(count, np.int64(3))
    with ZipFile(tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz", "w") as archive:
        archive.writestr("mom2.mom2.npy", header.getvalue())
        archive.writestr("mom2.count.npy", count.getvalue())
    with pytest.raises(SettingError, match="this model needs"):
        read_moments(tmp_path).matrix(tiny("tiny-gpt2").decoder, 2)


def test_a_folder_of_much_else_is_not_searched_through(tmp_path, monkeypatch) -> None:
    for depth in (4, 5):
        file = tmp_path.joinpath(str(depth), *map(str, range(depth - 1)), "one.npz")
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [file.relative_to(tmp_path).parts[0] for file in files_below(tmp_path, "*.npz")] == ["4"]
    monkeypatch.setattr("artifact.editing.moments._ENTRIES", 5)
    with pytest.raises(SettingError, match="holds more than 5 files and folders; give the moments' own folder"):
        list(files_below(tmp_path, "*.npz"))


def test_files_that_block_are_refused(tiny, tmp_path) -> None:
    os.mkfifo(tmp_path / PROVENANCE)
    os.mkfifo(tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz")
    with pytest.raises(SettingError, match="is not a regular file"):
        read_moments(tmp_path).matrix(tiny("tiny-gpt2").decoder, 2)


def test_two_files_of_one_layer_are_not_chosen_between(tiny, reference, tmp_path) -> None:
    original = next((reference / "moments" / "tiny-gpt2").rglob("transformer.h.2.*.npz"))
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / original.name).write_bytes(original.read_bytes())
    with pytest.raises(SettingError, match=r"layer 2 has more than one file \(one/.* and other/"):
        read_moments(tmp_path).matrix(tiny("tiny-gpt2").decoder, 2)
    read_moments(tmp_path / "one").matrix(tiny("tiny-gpt2").decoder, 2)


@pytest.mark.parametrize("weight", [0.1, 5.0, 20000.0])
@pytest.mark.parametrize("count", [1, 4])
def test_regularised_solves_equal_the_dense_system(model, reference, weight, count) -> None:
    moments = read_moments(reference / "moments" / Path(model.name).name)
    decoder = model.decoder
    matrix_MM = weight * moments.matrix(decoder, 1)
    keys_NM = torch.randn(count, 256, generator=torch.Generator().manual_seed(count))
    keys_MN = keys_NM.double().t()
    expected = torch.linalg.solve(matrix_MM + keys_MN @ keys_MN.t(), keys_MN).t()
    found = moments.regularised(decoder, 1, keys_NM, weight)
    assert found.dtype == torch.float64 and found.shape == (count, 256)
    assert relative(found, expected) < 1e-9
    each = moments.regularised_each(decoder, 1, keys_NM, weight)
    for key_M, found_M in zip(keys_NM.double(), each, strict=True):
        assert relative(found_M, torch.linalg.solve(matrix_MM + torch.outer(key_M, key_M), key_M)) < 1e-9
    if count == 1:
        torch.testing.assert_close(each, found, rtol=1e-12, atol=0)


def test_a_matrix_that_is_read_is_factored_once_and_not_kept(tiny, reference, tmp_path) -> None:
    decoder = tiny("tiny-gpt2").decoder
    file = next((reference / "moments" / "tiny-gpt2").rglob("transformer.h.2.*.npz"))
    (tmp_path / file.name).write_bytes(file.read_bytes())
    moments, key = read_moments(tmp_path), torch.ones(1, 256)
    first = moments.solve(decoder, 2, key)
    (tmp_path / file.name).unlink()
    assert torch.equal(moments.solve(decoder, 2, key), first)
    assert not moments.given_MM


@pytest.mark.parametrize("rank", [1, 100, 255])
def test_singular_moments_are_refused_by_every_solve(rank, tiny) -> None:
    """Also where rounding leaves every pivot above zero."""
    decoder, keys = tiny("tiny-gpt2").decoder, torch.ones(2, 256)
    few_NM = torch.randn(rank, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = Moments("test", given_MM={2: few_NM.t() @ few_NM})
    for solve in (
        lambda: moments.solve(decoder, 2, keys),
        lambda: moments.regularised(decoder, 2, keys, 5.0),
        lambda: moments.regularised_each(decoder, 2, keys, 5.0),
    ):
        with pytest.raises(SettingError, match="layer 2 is singular"):
            solve()


def test_computed_moments_are_means_over_real_tokens(model) -> None:
    """Padding does not count, and batches do not matter: equal to one text at a time, from the whole pass."""
    texts = ["The capital of France is Paris", "The report said", "Yes"]
    decoder = model.decoder
    total, count = torch.zeros(256, 256, dtype=torch.float64), 0
    for text in texts:
        ids_BT = torch.tensor([model.tokens.ids(text)])
        with torch.no_grad():
            keys = decoder.run(decoder.words(ids_BT), keep=("key",)).outputs["key"][1][0].double()
        total, count = total + keys.t() @ keys, count + len(keys)
    found = compute_moments(model, [model.tokens.ids(text) for text in texts], (1,), "test").matrix(decoder, 1)
    torch.testing.assert_close(found, total / count, rtol=1e-5, atol=1e-6)
    ids = [model.tokens.ids(text) for text in texts]
    ridged = compute_moments(model, ids, (1,), "test", ridge=0.5).matrix(decoder, 1)
    torch.testing.assert_close(ridged - found, 0.5 * found.diagonal().mean() * torch.eye(256, dtype=torch.float64))


def test_written_sums_have_the_published_layout(model, reference, tmp_path) -> None:
    sums = KeySums(model, (0, 2))
    sums.add([model.tokens.ids(text) for text in TEXTS[:5]])
    paths = write_moments(tmp_path, model, sums, 5)
    for path, (layer, total_MM) in zip(paths, sums.totals_MM.items(), strict=True):
        golden = np.load(next((reference / "moments" / Path(model.name).name).rglob(f"transformer.h.{layer}.*.npz")))
        assert path.name == f"{model.decoder.family.name('mlp_down', layer)}_float32_mom2_5.npz"
        found = np.load(path)
        assert {name: found[name].dtype for name in found} == {name: golden[name].dtype for name in golden}
        assert (found["mom2.count"], found["sample_size"]) == (sums.tokens, 5)
        np.testing.assert_array_equal(found["mom2.mom2"], total_MM.float())
        read = read_moments(tmp_path).matrix(model.decoder, layer)
        assert torch.equal(read, total_MM.float().double() / sums.tokens)


def test_streaming_equals_moments_in_memory(world, tmp_path, monkeypatch) -> None:
    """A part of the world's corpus in more than one window."""
    monkeypatch.setattr("artifact.editing.collect.WINDOW", 100)
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


def test_layers_of_rome_and_memit(tiny, world) -> None:
    assert moment_layers(world) == (0, 1)
    assert moment_layers(tiny("tiny-gpt2")) == (2,)


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
    monkeypatch.setattr("artifact.editing.collect.WINDOW", 8)
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
    monkeypatch.setattr("artifact.editing.collect.WINDOW", 4)
    model = tiny("tiny-gpt2")
    stopped_after(model, 5, tmp_path)
    for texts in (["Another text", *TEXTS[1:]], TEXTS[:1]):
        with pytest.raises(SettingError, match="was begun with other texts than texts.txt"):
            collect(model, lines(texts), (0, 2), tmp_path)
    assert collect(model, lines(TEXTS), (0, 2), tmp_path).texts == len(TEXTS)


def test_a_damaged_checkpoint_is_refused(tiny, tmp_path) -> None:
    model = tiny("tiny-gpt2")
    stopped_after(model, 2, tmp_path)
    good = (tmp_path / PARTIAL).read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    with ZipFile(tmp_path / PARTIAL) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) > 2 * 256 * 256 * 8
    for bad in (b"", b"PK", good[: len(good) // 2], good[:-40], bytes(flipped), bytes(1000)):
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
    block, refused = model.decoder.block, []

    def short(layer: int, hidden_BTD: torch.Tensor, *given: Any, **named: Any) -> Any:
        if layer == 1 and len(hidden_BTD) > 2:
            refused.append(len(hidden_BTD))
            raise torch.OutOfMemoryError
        return block(layer, hidden_BTD, *given, **named)

    monkeypatch.setattr(model.decoder, "block", short)
    halved = collect(model, lines(TEXTS), (0, 1), tmp_path / "halved")
    assert refused and (halved.tokens, halved.texts) == (whole.tokens, whole.texts)
    for path in (tmp_path / "whole").glob("*.npz"):
        one, other = (np.load(folder / path.name)["mom2.mom2"] for folder in (path.parent, tmp_path / "halved"))
        assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()


def test_a_batch_of_texts_fits_the_budget(model) -> None:
    sums, texts = KeySums(model, (0,)), [[1] * 8] * 64
    counts = [sums.fitting(texts, Memory(limit)) for limit in (1, 10**6, 10**9)]
    assert counts[0] == 1 < counts[1] < counts[2] == 64
