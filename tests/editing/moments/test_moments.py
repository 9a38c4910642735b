"""Second moments: the published files, and what edits solve with them."""

import io
import os
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from artifact.editing.moments.files import PROVENANCE, Moments, files_below, read_moments
from artifact.errors import SettingError


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


def written_header(header: bytes) -> bytes:
    """A moment file whose matrix has this header."""
    archive_bytes, count = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(count, np.int64(3))
    with ZipFile(archive_bytes, "w") as archive:
        magic = np.lib.format.MAGIC_PREFIX + bytes((3, 0)) + len(header).to_bytes(4, "little")
        archive.writestr("mom2.mom2.npy", magic + header)
        archive.writestr("mom2.count.npy", count.getvalue())
    return archive_bytes.getvalue()


def encrypted() -> bytes:
    """A moment file whose entries say that they are encrypted."""
    content = bytearray(written_header(b"{}"))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 1)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encrypted(), "is encrypted"),
        (written_header(b"-" * 9000 + b"1"), "nested too deeply"),
        (written_header(b"1" + b"+1" * 4000), "(recursion|malformed node)"),  # before Python 3.13, and from it on
    ],
    ids=["encrypted", "signs", "sums"],
)
def test_archives_that_raise_other_errors(content, says, tiny, tmp_path) -> None:
    (tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz").write_bytes(content)
    with pytest.raises(SettingError, match=f"is not a moment file .*{says}"):
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
    monkeypatch.setattr("artifact.editing.moments.files._ENTRIES", 5)
    with pytest.raises(SettingError, match="holds more than 5 files and folders; give the moments' own folder"):
        list(files_below(tmp_path, "*.npz"))


def test_files_that_block_are_refused(tiny, tmp_path) -> None:
    os.mkfifo(tmp_path / PROVENANCE)
    os.mkfifo(tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz")
    with pytest.raises(SettingError, match=r"moments.json: cannot be read \(Is not a regular file\)"):
        read_moments(tmp_path)
    (tmp_path / PROVENANCE).unlink()
    decoder = tiny("tiny-gpt2").decoder
    for read in (lambda: read_moments(tmp_path).matrix(decoder, 2), lambda: read_moments(tmp_path).published(decoder)):
        with pytest.raises(SettingError, match=r"c_proj_float32_mom2_100000.npz: is not a (moment|regular) file"):
            read()


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
