"""Second moments of an output projection's inputs, C = E[k k^T]: their files, and what edits solve with them.

Covers the MLP's and the attention's projection (site.py), the published npz layout (a sum with its count), reading it,
solving (C^-1 k for ROME, (lambda C + K K^T)^-1 K for MEMIT), and the null space of C for AlphaEdit. Summing over texts
is sums.py's, reading texts and checkpoints collect.py's.

What is kept where: a matrix that is read from a file is dropped as soon as it is factored; its Cholesky factor stays on
the model's device in float64 (8 M^2 bytes a layer: 0.33 GB for GPT-2 XL, so 1.6 GB for its five layers, and 2.1 GB for
GPT-J, so 12.9 GB for its six). Matrices computed here stay in the computer's own memory. Factoring needs two such
matrices for a moment, reading a file one in float32 in the computer's memory.

A matrix that is symmetric and not positive definite (published sums are float32) is factored by LU, as the released
code inverts every matrix, and each edit's record says so; a singular or asymmetric one is an error that names the file.

Shape letters: M key width (the MLP's, or that of all heads), N key, B key solved for on its own, R row of a part of a
matrix.
"""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np
import torch
from torch import Tensor

from artifact.editing.npz import UNREADABLE, array_form, read_array
from artifact.editing.site import PROJECTIONS, Module
from artifact.errors import EditError, SettingError
from artifact.io import NOT_JSON, open_regular, reason
from artifact.lm.decoder import Decoder
from artifact.lm.device import in_one
from artifact.lm.family import Family
from artifact.reading import read_bytes, whole_number

OTHER_CORPUS = "other corpus"
PROVENANCE = "moments.json"
"""Beside the files of `kloc moments`: where they come from."""


@dataclass(frozen=True)
class _Cholesky:
    """C = L L^T."""

    lower_MM: Tensor

    def solve(self, keys_MN: Tensor) -> Tensor:
        # Two triangular solves: several times as fast as cholesky_solve where keys are few.
        half_MN = torch.linalg.solve_triangular(self.lower_MM, keys_MN, upper=False)
        return torch.linalg.solve_triangular(self.lower_MM.t(), half_MN, upper=True)


@dataclass(frozen=True)
class _LU:
    """P C = L U, for a C that is not positive definite."""

    both_MM: Tensor
    pivots_M: Tensor

    def solve(self, keys_MN: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.both_MM, self.pivots_M, keys_MN)


@dataclass
class Moments:
    """Second moments by layer: `source` says where they come from; each layer is factored once.

    `texts_sha256` is the hash of the texts that matrices computed here are the sums over; `site` the module whose
    projection the keys enter.
    """

    source: str
    folder: Path | None = None
    given_MM: dict[int, Tensor] = field(default_factory=dict)
    texts_sha256: str = ""
    site: Module = "mlp"
    added: Callable[[Decoder, int], Tensor] | None = None
    """What is added to each layer's matrix, (M, M) in float64 on the decoder's device."""
    _factors: dict[int, _Cholesky | _LU] = field(default_factory=dict)
    _derived: "dict[Hashable, Moments]" = field(default_factory=dict)
    _spaces: dict[tuple[int, float], Tensor] = field(default_factory=dict)
    _counts: dict[int, float] = field(default_factory=dict)

    def matrix(self, decoder: Decoder, layer: int) -> Tensor:
        """C of one layer (M, M) in float64 on the decoder's device; SettingError when there is none that fits, or when
        it is not finite or not symmetric.

        Read from its file at every call: what solves with it keeps the factor instead.
        """
        given_MM = self.given_MM[layer] if layer in self.given_MM else self._read(decoder, layer)
        self._check_shape(decoder, layer, tuple(given_MM.shape))
        matrix_MM = given_MM.to(decoder.device, torch.float64)
        if not bool(matrix_MM.isfinite().all()):
            raise SettingError(f"{self._named(decoder, layer)}: the matrix of layer {layer} is not finite; {_AGAIN}")
        if not _is_symmetric(matrix_MM):
            raise SettingError(
                f"{self._named(decoder, layer)}: the matrix of layer {layer} is not symmetric, as second moments are; "
                f"{_AGAIN}"
            )
        return matrix_MM if self.added is None else matrix_MM + self.added(decoder, layer)

    def with_added(self, name: Hashable, added: Callable[[Decoder, int], Tensor]) -> "Moments":
        """The same with something added to each layer's matrix, made once under that name."""
        if name not in self._derived:
            self._derived[name] = replace(self, added=added, _factors={}, _derived={}, _spaces={})
        return self._derived[name]

    def null_space(self, decoder: Decoder, layer: int, below: float) -> Tensor:
        """Orthonormal columns (M, N) in float64 that span the directions in which C is below a threshold: AlphaEdit's P
        is their product with themselves. Made once a layer. Raises what `matrix` raises.
        """
        if (layer, below) not in self._spaces:
            what = f"the null space of the second moments of layer {layer}"
            eigenvalue_M, vector_MM = in_one(lambda: torch.linalg.eigh(self.matrix(decoder, layer)), what)
            self._spaces[layer, below] = vector_MM[:, eigenvalue_M.abs() < below].contiguous()
        return self._spaces[layer, below]

    def published(self, decoder: Decoder) -> dict[str, Any] | None:
        """What the published hyperparameter files call these moments by; None for any that are not the published ones'
        kind: computed here, or a folder of another corpus.
        """
        if self.folder is None or OTHER_CORPUS in self.source:
            return None
        files = sorted(files_below(self.folder, any_moment_file(decoder, self.site)))
        if any(comment_of(file) for file in files):  # `kloc moments` writes the model's hash there
            return None
        samples = {file.stem.rpartition("_")[2] for file in files}
        count = whole_number(samples.pop()) if len(samples) == 1 else None
        return {"mom2_dataset": "wikipedia", "mom2_n_samples": count, "mom2_dtype": "float32"}

    def note(self, layers: Sequence[int]) -> str:
        """What a record that solved with these layers says of them: nothing, or which were factored by LU and why."""
        by_lu = [layer for layer in layers if isinstance(self._factors.get(layer), _LU)]
        if not by_lu:
            return ""
        which = f"layer{'s' if len(by_lu) > 1 else ''} {', '.join(map(str, by_lu))}"
        return f"second moments of {which} are not positive definite: solved by LU"

    def solve(self, decoder: Decoder, layer: int, keys_NM: Tensor) -> Tensor:
        """C^-1 k for each row of keys (N, M), in float64 by Cholesky, or by LU where C is not positive definite.

        SettingError when C is singular or not symmetric.
        """
        return self._factor(decoder, layer).solve(keys_NM.double().t()).t()

    def regularised(self, decoder: Decoder, layer: int, keys_NM: Tensor, weight: float) -> Tensor:
        """(weight C + sum of k k^T)^-1 k for each row k of `keys_NM`, the sum over all of them: (N, M) in float64.

        MEMIT's solve for facts written together. By Woodbury's identity X (I + K^T X)^-1 with X = C^-1 K / weight, so
        that the layer's one factor serves every group. Raises what `solve` raises.
        """
        keys_NM = keys_NM.double()
        alone_NM = self.solve(decoder, layer, keys_NM) / weight
        overlap_NN = alone_NM @ keys_NM.t()
        overlap_NN.diagonal().add_(1)
        adjusted_NM, failed = torch.linalg.solve_ex(overlap_NN, alone_NM)
        if int(failed) != 0:
            raise EditError(f"weight C + K K^T is singular for these keys of layer {layer}; change mom2_update_weight")
        return adjusted_NM

    def regularised_each(self, decoder: Decoder, layer: int, keys_BM: Tensor, weight: float) -> Tensor:
        """(weight C + k k^T)^-1 k for each row k of `keys_BM` on its own: (B, M) in float64.

        `regularised` of B groups of one key, in one solve. Raises what `solve` raises.
        """
        keys_BM = keys_BM.double()
        alone_BM = self.solve(decoder, layer, keys_BM) / weight
        return alone_BM / (1 + (alone_BM * keys_BM).sum(1, keepdim=True))

    def _factor(self, decoder: Decoder, layer: int) -> _Cholesky | _LU:
        if layer not in self._factors:
            what = f"factoring the second moments of layer {layer}"
            self._factors[layer] = in_one(lambda: self._factored(decoder, layer), what)
        return self._factors[layer]

    def _factored(self, decoder: Decoder, layer: int) -> _Cholesky | _LU:
        matrix_MM = self.matrix(decoder, layer)
        lower_MM, failed = torch.linalg.cholesky_ex(matrix_MM)
        factor: _Cholesky | _LU = _Cholesky(lower_MM)
        pivot_M = lower_MM.diagonal() ** 2
        if int(failed) != 0:
            del lower_MM
            factor = _LU(*torch.linalg.lu_factor_ex(matrix_MM)[:2])
            pivot_M = factor.both_MM.diagonal().abs()
        # A matrix of too few samples can pass with pivots that are rounding alone.
        noise = len(pivot_M) * torch.finfo(torch.float64).eps * pivot_M.max()
        # Fewer keys than dimensions are singular too, whatever a sum's rounding to float32 has left of it.
        few = self.added is None and self._counts.get(layer, len(pivot_M)) < len(pivot_M)
        if few or not bool(pivot_M.min() > noise):
            raise SettingError(self._singular(decoder, layer))
        return factor

    def _singular(self, decoder: Decoder, layer: int) -> str:
        return f"{self._named(decoder, layer)}: the matrix of layer {layer} is singular; use moments of more samples"

    def _named(self, decoder: Decoder, layer: int) -> str:
        """Where a layer's matrix is from: its file, or the source in words."""
        if layer in self.given_MM or self.folder is None:
            return f"moments ({self.source})"
        return str(self.file(self.folder, decoder, layer))

    def _read(self, decoder: Decoder, layer: int) -> Tensor:
        if self.folder is None:
            raise SettingError(f"moments ({self.source}): none for layer {layer}; give a folder with --moments")
        file = self.file(self.folder, decoder, layer)
        try:
            with open_regular(file) as stream, ZipFile(stream) as archive:
                shape, _ = array_form(archive, "mom2.mom2")
                if prod(shape) > key_width(decoder, layer, self.site) ** 2:
                    self._check_shape(decoder, layer, shape)  # before gigabytes are read
                total, count = read_array(archive, "mom2.mom2"), read_array(archive, "mom2.count", most=_SMALL)
        except UNREADABLE as error:
            raise no_moment_file(file, error) from None
        if total.ndim != 2 or total.dtype not in _FLOATS or not np.isfinite(total).all():
            raise SettingError(f"{file}: holds no finite matrix with a count; {_AGAIN}")
        if count.size != 1 or count.dtype.kind not in "iuf" or not 0 < float(count.item()) < np.inf:
            raise SettingError(f"{file}: its count is not a number above zero; {_AGAIN}")
        self._counts[layer] = float(count.item())
        return torch.from_numpy(total).to(decoder.device).double().div_(self._counts[layer])

    def _check_shape(self, decoder: Decoder, layer: int, shape: tuple[int, ...]) -> None:
        rows = key_width(decoder, layer, self.site)
        if shape != (rows, rows):
            raise SettingError(
                f"moments ({self.source}): layer {layer} is {shape}, this model needs {(rows, rows)}; "
                "give the moments of this model"
            )

    def file(self, folder: Path, decoder: Decoder, layer: int) -> Path:
        """A layer's file in the folder or below it; SettingError unless there is one."""
        name = moment_file(decoder, layer, "*", self.site)
        files = sorted(folder.glob(name)) or sorted(files_below(folder, name))
        if not files:
            raise SettingError(f"{folder}: no file {name} in it; give a folder in the published layout")
        if len(files) > 1:
            both = " and ".join(str(file.relative_to(folder)) for file in files[:2])
            raise SettingError(f"{folder}: layer {layer} has more than one file ({both}); give the folder of one")
        if not files[0].is_file():
            raise SettingError(f"{files[0]}: is not a regular file; give a folder in the published layout")
        return files[0]


def files_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Files of that name in the folder and below it, where published ones lie (MODEL/CORPUS_stats); links are not
    followed.

    Raises SettingError for a folder of so much else that it is not one of moments.
    """
    depth, seen = len(folder.parts), 0
    for place, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        if seen > _ENTRIES:
            raise SettingError(f"{folder}: holds more than {_ENTRIES} files and folders; give the moments' own folder")
        if len(Path(place).parts) - depth >= _DEPTH:
            folders.clear()
        yield from (Path(place) / name for name in names if fnmatchcase(name, pattern))


def comment_of(file: Path) -> str:
    """The comment of a moment file's archive; SettingError for a file that cannot be read."""
    try:
        with open_regular(file) as opened, ZipFile(opened) as archive:
            return archive.comment.decode(errors="replace")
    except UNREADABLE as error:
        raise no_moment_file(file, error) from None


def no_moment_file(file: Path, error: Exception) -> SettingError:
    """What is said of a file that cannot be read."""
    return SettingError(f"{file}: is not a moment file ({reason(error)}); {_AGAIN}")


_AGAIN = "give a whole file, or the folder of one"
_WHOLE = "give the folder as kloc moments wrote it"
_FLOATS = (np.dtype("f2"), np.dtype("f4"), np.dtype("f8"))
_SMALL = 4096
"""Most bytes of an entry that is one number or a word."""
_DEPTH = 4
"""How many folders below the one that is given files are looked for."""
_ENTRIES = 20_000
"""Most files and folders that are looked at."""
_ROUNDING = 1e-4
"""Most by which entries (i, j) and (j, i) of a published sum differ, in units of the root of the diagonal's entries i
and j: float32 sums of matrix products need not be symmetric to the last bit."""
_ROWS = 1024


def _is_symmetric(matrix_MM: Tensor) -> bool:
    """Whether a matrix is symmetric up to rounding; a part of its rows at a time, as it may fill half a GPU."""
    scale_M = matrix_MM.diagonal().abs().sqrt()
    for start in range(0, len(matrix_MM), _ROWS):
        rows = slice(start, start + _ROWS)
        away_RM = (matrix_MM[rows] - matrix_MM[:, rows].t()).abs_()
        if bool((away_RM > _ROUNDING * scale_M[rows, None] * scale_M).any()):
            return False
    return True


def read_moments(folder: Path, site: Module = "mlp") -> Moments:
    """Moments of a module's keys from a folder in the published layout: the files' own folder or any above it.

    Files made by `kloc moments` say so in `source`, with the texts they were made from.
    """
    if not folder.is_dir():
        raise SettingError(f"{folder}: is not a folder; give --moments a folder in the published layout")
    source = f"folder {folder.name}"
    if (made := provenance(folder)) is not None:
        parts = made.get("source"), made.get("texts"), made.get("tokens")
        source += f", {OTHER_CORPUS}: " + ("{}, {} texts, {} tokens".format(*parts) if None not in parts else "unknown")
    return Moments(source=source, folder=folder, site=site)


def provenance(folder: Path) -> dict[str, Any] | None:
    """What moments.json in a folder says of its files; None where there is none, as beside the published ones, for
    which a damaged one would let them pass: SettingError.
    """
    path = folder / PROVENANCE
    if not os.path.lexists(path):
        return None
    try:
        return msgspec.json.decode(read_bytes(path, SettingError, _WHOLE, _SMALL), type=dict[str, Any])
    except NOT_JSON as error:
        raise SettingError(f"{path}: does not say where the moments come from ({reason(error)}); {_WHOLE}") from None


def moment_file(decoder: Decoder, layer: int, texts: str, site: Module = "mlp") -> str:
    """The published name of a layer's file over that many texts."""
    return f"{decoder.family.name(PROJECTIONS[site].part, layer)}_float32_mom2_{texts}.npz"


def any_moment_file(decoder: Decoder, site: Module = "mlp") -> str:
    """A pattern for the files of all layers, over any number of texts."""
    return moment_file(decoder, 0, "*", site).replace(".0.", ".*.", 1)


def key_width(decoder: Decoder, layer: int, site: Module = "mlp") -> int:
    """M of a layer: the input width of its module's output projection."""
    return width_of(decoder.family, {name: weight.shape for name, weight in decoder.weights.items()}, layer, site)


def width_of(family: Family, shapes: Mapping[str, Sequence[int]], layer: int, site: Module = "mlp") -> int:
    """The same of a model whose weights have these shapes."""
    shape = shapes[f"{family.name(PROJECTIONS[site].part, layer)}.weight"]
    return shape[0] if family.input_first else shape[1]
