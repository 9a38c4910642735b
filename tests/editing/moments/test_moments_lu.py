"""Second moments that are not positive definite, not symmetric, or singular: solved by LU and noted, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from artifact.editing.memit import memit
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import Moments, read_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import rome
from artifact.errors import EditError, SettingError


def indefinite(reference: Path, layer: int, share: float = 0.02) -> np.ndarray:
    """A layer's golden moments with their smallest eigenvalues turned below zero: symmetric, not positive definite."""
    file = next((reference / "moments" / "tiny-gpt2").rglob(f"transformer.h.{layer}.*.npz"))
    with np.load(file) as golden:
        matrix_MM = golden["mom2.mom2"].astype(np.float64) / float(golden["mom2.count"])
    values_M, vectors_MM = np.linalg.eigh(matrix_MM)
    turned_M = np.where(np.arange(len(values_M)) < 20, -share * values_M[-1], values_M + share * values_M[-1])
    return (vectors_MM * turned_M) @ vectors_MM.T


def relative_norm(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_moments_that_are_not_positive_definite_are_solved_by_lu(tiny, reference) -> None:
    """As numpy solves it in float64: C^-1 k, and MEMIT's systems, which are not positive definite either."""
    decoder, matrix_MM = tiny("tiny-gpt2").decoder, indefinite(reference, 2)
    assert np.linalg.eigvalsh(matrix_MM)[0] < 0
    matrix_MM = (matrix_MM + matrix_MM.T) / 2
    moments = Moments("test", given_MM={2: torch.from_numpy(matrix_MM)})
    keys_NM = torch.randn(3, 256, generator=torch.Generator().manual_seed(1))
    keys = keys_NM.double().numpy()
    assert moments.note([2]) == ""
    assert relative_norm(moments.solve(decoder, 2, keys_NM).numpy(), np.linalg.solve(matrix_MM, keys.T).T) < 1e-9
    system_MM = 5.0 * matrix_MM + keys.T @ keys
    assert np.linalg.eigvalsh(system_MM)[0] < 0
    found = moments.regularised(decoder, 2, keys_NM, 5.0).numpy()
    assert relative_norm(found, np.linalg.solve(system_MM, keys.T).T) < 1e-9
    for one, each in zip(keys, moments.regularised_each(decoder, 2, keys_NM, 5.0).numpy(), strict=True):
        assert relative_norm(each, np.linalg.solve(5.0 * matrix_MM + np.outer(one, one), one)) < 1e-9
    assert moments.note([1, 2]) == "second moments of layer 2 are not positive definite: solved by LU"


def written_folder(folder: Path, matrix_MM: np.ndarray, layer: int = 2, count: int = 1000) -> Path:
    """A folder in the published layout with one matrix, kept as a float32 sum."""
    folder.mkdir(exist_ok=True)
    arrays = {"mom2.mom2": (matrix_MM * count).astype(np.float32), "mom2.count": count, "sample_size": 10}
    np.savez(folder / f"transformer.h.{layer}.mlp.c_proj_float32_mom2_100000.npz", **arrays)
    return folder


def test_an_asymmetric_matrix_is_an_error_of_its_file(tiny, reference, tmp_path) -> None:
    """Rounding of a float32 sum is no asymmetry; one entry of another size is."""
    decoder, keys_NM = tiny("tiny-gpt2").decoder, torch.ones(1, 256)
    good_MM = read_moments(reference / "moments" / "tiny-gpt2").matrix(decoder, 2).numpy()
    rounded_MM = good_MM * (1 + 1e-6 * np.random.RandomState(0).randn(256, 256))
    read_moments(written_folder(tmp_path / "rounded", rounded_MM)).solve(decoder, 2, keys_NM)
    for number, damage in enumerate((np.triu(good_MM), np.roll(good_MM, 1, axis=0), good_MM + np.eye(256, k=7))):
        moments = read_moments(written_folder(tmp_path / str(number), damage))
        with pytest.raises(SettingError, match=r"mom2_100000\.npz: the matrix of layer 2 is not symmetric"):
            moments.solve(decoder, 2, keys_NM)


def test_a_singular_file_is_named(tiny, reference, tmp_path) -> None:
    """A dimension that no key has; and fewer keys than dimensions, where float32 rounding hides that it is singular."""
    decoder, keys_NM = tiny("tiny-gpt2").decoder, torch.ones(1, 256)
    dead_MM = indefinite(reference, 2)
    dead_MM[3], dead_MM[:, 3] = 0, 0
    few_NM = np.random.RandomState(0).randn(100, 256)
    for number, (matrix_MM, count) in enumerate(((dead_MM, 1000), (few_NM.T @ few_NM / 100, 100))):
        moments = read_moments(written_folder(tmp_path / str(number), matrix_MM, count=count))
        with pytest.raises(SettingError, match=r"mom2_100000\.npz: the matrix of layer 2 is singular"):
            moments.solve(decoder, 2, keys_NM)
    ridge_MM = torch.eye(256, dtype=torch.float64)
    added = moments.with_added("ridge", lambda decoder, layer: ridge_MM)  # which makes the few keys' matrix regular
    solved_NM = added.solve(decoder, 2, keys_NM)
    expected_NM = np.linalg.solve(few_NM.T @ few_NM / 100 + np.eye(256), np.ones(256))
    np.testing.assert_allclose(solved_NM[0], expected_NM, rtol=1e-3)


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_edits_with_indefinite_moments_say_so(method, tiny, facts, reference, tmp_path) -> None:
    """Every case is edited, as numpy's solve says, and its record holds the note; no note with the moments as given."""
    model, released = tiny("tiny-gpt2"), PROTOCOLS["released"]
    golden = reference / ("rome" if method == "rome" else "memit")
    hparams = METHODS[method].hparams_for("tiny-gpt2", 6, golden / "hparams_tiny-gpt2.json")
    for layer in hparams.layers:
        folder = written_folder(tmp_path / "moments", indefinite(reference, layer), layer)
    moments, view = read_moments(folder), facts[0].view("entity")
    given = read_moments(reference / "moments" / "tiny-gpt2")
    templates = ["{}", "Yesterday, {}"]
    if method == "rome":
        (found,) = rome(model, [view], hparams, templates, moments, released)
        (plain,) = rome(model, [view], hparams, templates, given, released)
        # u is C^-1 k: with the other matrix's k = C u back again, up to its length.
        key_M = given.matrix(model.decoder, 2).numpy() @ plain.left_M.double().numpy()
        u_M = np.linalg.solve(moments.matrix(model.decoder, 2).numpy(), key_M)
        assert relative_norm(found.left_M.numpy(), u_M / np.linalg.norm(u_M)) < 1e-4
    else:
        (found,) = memit(model, [[view]], hparams, [templates[:1], templates[1:]], moments, released)
        (plain,) = memit(model, [[view]], hparams, [templates[:1], templates[1:]], given, released)
        for layer, written in found.written.items():
            key_M = written.keys_NM[0].numpy()
            weight = hparams.mom2_update_weight
            system_MM = weight * moments.matrix(model.decoder, layer).numpy() + np.outer(key_M, key_M)
            assert relative_norm(written.adjusted_NM[0].numpy(), np.linalg.solve(system_MM, key_M)) < 1e-8
    layers = ", ".join(map(str, hparams.layers))
    named = f"layer{'s' if len(hparams.layers) > 1 else ''} {layers}"
    assert found.told()["note"] == f"second moments of {named} are not positive definite: solved by LU"
    assert "note" not in plain.told() and found.norm > 0


def test_a_system_that_is_singular_fails_its_case(tiny) -> None:
    """weight C + K K^T loses a rank where an indefinite C takes away just what a key adds."""
    decoder = tiny("tiny-gpt2").decoder
    matrix_MM, keys_NM = torch.eye(256, dtype=torch.float64), torch.zeros(2, 256, dtype=torch.float64)
    matrix_MM[0, 0], keys_NM[0, 0], keys_NM[1, 1] = -1.0, 1.0, 1.0
    with pytest.raises(EditError, match=r"K K\^T is singular for these keys of layer 2"):
        Moments("test", given_MM={2: matrix_MM}).regularised(decoder, 2, keys_NM, 1.0)
