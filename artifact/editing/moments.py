"""Second moments of the down-projection's inputs, C = E[k k^T], and what ROME needs of them: C^-1 k.

Covers the published npz layout (a sum with its count) and moments computed here from any texts, running the model only
up to the layer needed. Streaming checkpoints and downloads are not covered.

Shape letters: M MLP width, N number of keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from artifact.errors import SettingError
from artifact.lm.decoder import Decoder, Site
from artifact.lm.load import LanguageModel


@dataclass
class Moments:
    """Second moments by layer: `source` says where they come from; matrices are read once and factored once."""

    source: str
    folder: Path | None = None
    given_MM: dict[int, Tensor] = field(default_factory=dict)
    _factors: dict[int, Tensor] = field(default_factory=dict)

    def matrix(self, decoder: Decoder, layer: int) -> Tensor:
        """C of one layer (M, M) in float64 on the decoder's device; SettingError when there is none that fits."""
        if layer not in self.given_MM:
            self.given_MM[layer] = self._read(decoder, layer)
        matrix_MM = self.given_MM[layer].to(decoder.device, torch.float64)
        rows, _ = _down_shape(decoder, layer)
        if matrix_MM.shape != (rows, rows):
            raise SettingError(
                f"moments ({self.source}): layer {layer} is {tuple(matrix_MM.shape)}, this model needs {(rows, rows)}; "
                "give the moments of this model"
            )
        return matrix_MM

    def solve(self, decoder: Decoder, layer: int, keys_NM: Tensor) -> Tensor:
        """C^-1 k for each row of keys (N, M), by Cholesky in float64; SettingError when C is not positive definite."""
        if layer not in self._factors:
            factor_MM, failed = torch.linalg.cholesky_ex(self.matrix(decoder, layer))
            if int(failed) != 0:
                raise SettingError(
                    f"moments ({self.source}): the matrix of layer {layer} is singular; use moments of more samples"
                )
            self._factors[layer] = factor_MM
        return torch.cholesky_solve(keys_NM.double().t(), self._factors[layer]).t()

    def _read(self, decoder: Decoder, layer: int) -> Tensor:
        if self.folder is None:
            raise SettingError(f"moments ({self.source}): none for layer {layer}; give a folder with --moments")
        name = f"{decoder.family.name('mlp_down', layer)}_float32_mom2_*.npz"
        files = sorted(self.folder.glob(name)) or sorted(self.folder.rglob(name))
        if not files:
            raise SettingError(f"{self.folder}: no file {name} in it; give a folder in the published layout")
        try:
            with np.load(files[0], allow_pickle=False) as file:
                total, count = file["mom2.mom2"], float(file["mom2.count"])
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise SettingError(f"{files[0]}: is no moment file ({error}); fetch or compute it again") from None
        if total.ndim != 2 or not count > 0 or not np.isfinite(total).all():
            raise SettingError(f"{files[0]}: holds no finite matrix with a count; fetch or compute it again")
        return torch.from_numpy(total).double() / count


def read_moments(folder: Path) -> Moments:
    """Moments from a folder in the published layout: the files' own folder or any above it."""
    if not folder.is_dir():
        raise SettingError(f"{folder}: is no folder; give --moments a folder in the published layout")
    return Moments(source=f"folder {folder.name}", folder=folder)


def compute_moments(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    source: str,
    ridge: float = 0.0,
    batch: int = 64,
) -> Moments:
    """Uncentred second moments of the down-projection's inputs over every token of `texts` (ids), for `layers`.

    Products in float32, summed in float64; padding does not count. The model runs only up to the highest layer.
    `ridge` times the mean of the diagonal is added to the diagonal: few or uniform texts leave C nearly singular, and
    C^-1 k then follows directions that no key has.
    """
    decoder = model.decoder
    encoded = sorted(texts, key=len)
    totals: dict[int, Tensor] = {}
    count = 0
    for start in range(0, len(encoded), batch):
        part = encoded[start : start + batch]
        real_BT = torch.tensor([[t < len(row) for t in range(len(part[-1]))] for row in part], device=decoder.device)
        count += int(real_BT.sum())

        def add(site: Site, layer: int, value_BTM: Tensor, real_BT: Tensor = real_BT) -> None:
            if site == "key" and layer in layers:
                keys_NM = value_BTM[real_BT].float()
                totals[layer] = totals.get(layer, 0) + (keys_NM.t() @ keys_NM).double()

        with torch.no_grad():
            word_BTD = decoder.words(model.tokens.pad(part, decoder.device))
            decoder.blocks(decoder.embed(word_BTD), 0, max(layers) + 1, at_site=add)
    for total_MM in totals.values():
        diagonal_M = total_MM.diagonal()
        diagonal_M += ridge * diagonal_M.mean()
    words = f"{source}, {count} tokens" + (f", ridge {ridge:g}" if ridge else "")
    return Moments(source=words, given_MM={layer: total_MM / count for layer, total_MM in totals.items()})


def _down_shape(decoder: Decoder, layer: int) -> tuple[int, int]:
    shape = decoder.weights[f"{decoder.family.name('mlp_down', layer)}.weight"].shape
    return (shape[0], shape[1]) if decoder.family.input_first else (shape[1], shape[0])
