"""Second moments summed over texts: the keys of every token, and their files in the published layout.

Covers what `kloc moments` and runs without a folder of moments compute. Reading and solving is moments.py's, collecting
with checkpoints collect.py's.

Shape letters as in lm/decoder.py, and N key: a real token of a batch.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from artifact.editing import made_for
from artifact.editing.moments.files import Moments, key_width, moment_file
from artifact.editing.npz import write_arrays
from artifact.editing.site import PROJECTIONS, Module
from artifact.errors import SettingError
from artifact.lm.decoder import Site
from artifact.lm.device import Memory, batches, default_memory, full_precision, in_one, row_bytes
from artifact.lm.load import LanguageModel


class KeySums:
    """Sums of k k^T over the tokens of texts, k the input of a layer's output projection (of `site`); uncentred.

    totals_MM: layer -> (M, M) in float64 on the model's device; `tokens`: how many keys are in each.
    """

    def __init__(self, model: LanguageModel, layers: Sequence[int], site: Module = "mlp") -> None:
        decoder = model.decoder
        self.site = site
        self._model = model
        self.tokens = 0
        self._texts = 0
        self._summed = dict.fromkeys(layers, 0)
        self.totals_MM: dict[int, Tensor] = {}
        for layer in layers:
            width = key_width(decoder, layer, site)
            self.totals_MM[layer] = torch.zeros(width, width, dtype=torch.float64, device=decoder.device)

    def add(self, texts: Sequence[Sequence[int]]) -> None:
        """Add every token of `texts` (ids), run as one batch up to the highest layer and no further.

        Products in full float32, whatever the protocol says, added in float64; padding does not count. After an error
        within, the sums can be used once the same texts were added again, in as many parts as one likes: no layer
        counts a text twice.
        """
        decoder = self._model.decoder
        ids_BT = self._model.tokens.pad(texts, decoder.device)
        length_B = torch.tensor([len(text) for text in texts], device=decoder.device)
        real_BT = torch.arange(ids_BT.shape[1], device=decoder.device) < length_B[:, None]
        aligned = decoder.padded([len(text) for text in texts])

        key = PROJECTIONS[self.site].key

        def read(site: Site, layer: int, value_BTM: Tensor) -> None:
            if site == key and layer in self.totals_MM:
                done = self._summed[layer] - self._texts
                keys_NM = value_BTM[done:][real_BT[done:]].float()
                self.totals_MM[layer].add_(keys_NM.t() @ keys_NM)
                self._summed[layer] += max(0, len(texts) - done)

        with torch.no_grad(), full_precision():
            word_BTD = decoder.words(ids_BT)
            hidden_BTD = decoder.embed(word_BTD, aligned=aligned)
            decoder.blocks(hidden_BTD, 0, max(self.totals_MM) + 1, aligned=aligned, at_site=read)
        self.tokens += sum(len(text) for text in texts)
        self._texts += len(texts)

    def fitting(self, texts: Sequence[Sequence[int]], memory: Memory) -> int:
        """How many of the texts, the first or the last of which is the longest, fit the budget as a batch, at least
        one: a block's inside with the keys that are taken from it, and a layer's product.
        """
        decoder = self._model.decoder
        width = max(map(len, self.totals_MM.values()))
        for count, text in enumerate(texts):
            tokens = max(len(texts[0]), len(text))
            row = 2 * row_bytes(decoder, 0, tokens) + 4 * width * tokens
            if count and (count + 1) * row + 4 * width**2 > memory.limit:
                return count
        return len(texts)


def compute_moments(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    source: str,
    ridge: float = 0.0,
    batch: int = 64,
    memory: Memory | None = None,
    site: Module = "mlp",
) -> Moments:
    """Second moments in memory over every token of `texts` (ids), for `layers`: KeySums over the tokens' number.

    `ridge` times the mean of the diagonal is added to the diagonal: few or uniform texts leave C nearly singular, and
    C^-1 k then follows directions that no key has. Texts go in batches of at most `batch` that fit `memory`.

    Raises DeviceError when the device's memory does not hold the sums, SettingError when they are not finite.
    """
    encoded = sorted(texts, key=len)

    def summed() -> KeySums:
        sums = KeySums(model, layers, site)
        budget = memory or Memory(default_memory(model.decoder.device))
        for _ in batches(encoded, lambda left: sums.fitting(left[:batch], budget), sums.add, budget):
            pass
        return sums

    sums = in_one(summed, f"summing the second moments of {len(layers)} layers")
    for layer, total_MM in sums.totals_MM.items():
        _check_sums(model, layer, total_MM)
        diagonal_M = total_MM.diagonal()
        diagonal_M += ridge * diagonal_M.mean()
    words = f"{source}, {sums.tokens} tokens" + (f", ridge {ridge:g}" if ridge else "")
    told = msgspec.json.encode([[list(map(int, text)) for text in encoded], ridge])
    return Moments(
        words,
        given_MM={layer: total.div_(sums.tokens).cpu() for layer, total in sums.totals_MM.items()},
        texts_sha256=hashlib.sha256(told).hexdigest(),
        site=site,
    )


def write_moments(folder: Path, model: LanguageModel, sums: KeySums, texts: int) -> list[Path]:
    """Write sums over `texts` texts in the published layout: one file a layer, the sum in float32. The hash of the
    model's weights is the archive's comment, which readers of that layout pass over.

    Raises RunError when a file cannot be written; each is the old one or the new one, never a part. Raises SettingError
    before any is written when a sum is not finite.
    """
    for layer, total_MM in sums.totals_MM.items():
        _check_sums(model, layer, total_MM)
    comment = f"{made_for.KEY}={model.weights_sha256}"
    paths = []
    for layer, total_MM in sums.totals_MM.items():
        paths.append(folder / moment_file(model.decoder, layer, str(texts), sums.site))
        content = (
            ("mom2.constructor", "util.runningstats.SecondMoment()"),
            ("mom2.count", np.int64(sums.tokens)),
            ("mom2.mom2", total_MM.float()),
            ("sample_size", np.int64(texts)),
        )
        write_arrays(paths[-1], content, comment)
    return paths


def _check_sums(model: LanguageModel, layer: int, total_MM: Tensor) -> None:
    if not bool(total_MM.float().isfinite().all()):
        raise SettingError(
            f"model {model.name}: the second moments of layer {layer} are not finite in float32; give a model whose "
            "weights and states are finite"
        )
