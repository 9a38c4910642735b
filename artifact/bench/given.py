"""What a benchmarked or rehearsed edit works on: random models, prefixes, second moments and networks of real shapes.

Shape letters as in lm/decoder.py, and I and O the width of a weight's input and output, E their sum, R rank, S weights
of one shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from artifact.bench.facts import synthetic_prefixes, word_tokens
from artifact.bench.shapes import random_module
from artifact.editing.mend import inner_weights
from artifact.editing.mend_gradients import InnerWeight
from artifact.editing.mend_network import LowRankLayer, Network, Transform
from artifact.editing.method import Method
from artifact.editing.methods.mend import RANK
from artifact.editing.moments.files import key_width
from artifact.editing.prefixes import OPENED_LENGTH, OPENERS
from artifact.editing.site import Module
from artifact.lm.decoder import Decoder
from artifact.lm.load import LanguageModel, from_module


@dataclass(frozen=True)
class Given:
    """What a method reads, the same for both ways of a benchmark; empty where it reads nothing of the kind."""

    prefixes: Sequence[Any] = ()
    moments_MM: Mapping[int, Tensor] = field(default_factory=dict)
    inner: Sequence[InnerWeight] = ()
    network: Network | None = None
    _inverse_MM: dict[int, Tensor] = field(default_factory=dict)
    _null_MM: dict[int, Tensor] = field(default_factory=dict)

    def inverse_MM(self, layer: int) -> Tensor:
        """C^-1 of a layer in float32, made once: the peers keep it from fact to fact."""
        if layer not in self._inverse_MM:
            self._inverse_MM[layer] = torch.linalg.inv(self.moments_MM[layer])
        return self._inverse_MM[layer]

    def null_MM(self, layer: int, below: float) -> Tensor:
        """The projection onto the directions in which C is below a threshold, in float32, made once."""
        if layer not in self._null_MM:
            vector_MM, value_M, _ = torch.linalg.svd(self.moments_MM[layer])
            null_MZ = vector_MM[:, value_M < below]
            self._null_MM[layer] = null_MZ @ null_MZ.t()
        return self._null_MM[layer]


def random_model(shape: str, device: str) -> tuple[LanguageModel, Any]:
    """A model of that shape with random float32 weights, which take no gradient, and transformers' module over them."""
    module = random_module(shape, device, torch.float32).requires_grad_(False)
    decoder = from_module(module, device)
    tokens = word_tokens(module.config.vocab_size, decoder.positions)
    return LanguageModel(shape, "random weights", decoder, tokens), module


def random_given(method: Method, decoder: Decoder, hparams: Any, moments: bool = True) -> Given:
    """Random prefixes, second moments (unless they come from elsewhere) and network, where the method reads them."""
    inner = inner_weights(decoder, hparams) if method.network else []
    return Given(
        prefixes=_prefixes(method, len(decoder.embedding_VD), hparams),
        moments_MM={at: random_moments(decoder, at) for at in hparams.edited} if method.moments and moments else {},
        inner=inner,
        network=random_network(inner, decoder.device) if method.network else None,
    )


def _prefixes(method: Method, vocabulary: int, hparams: Any) -> Sequence[Any]:
    if method.prefixes == "list":
        return synthetic_prefixes(vocabulary, hparams.context_template_length_params)
    if method.prefixes == "groups":
        bare, *drawn = synthetic_prefixes(vocabulary, ((OPENED_LENGTH, len(OPENERS)),))
        return [[bare], drawn]
    return ()


def random_moments(decoder: Decoder, layer: int, site: Module = "mlp") -> Tensor:
    """A symmetric positive definite matrix (M, M) in float32, of condition about 20, seeded by the layer.

    All but 64 of its eigenvalues are 0.015, below AlphaEdit's threshold.
    """
    width = key_width(decoder, layer, site)
    generator = torch.Generator(decoder.device).manual_seed(layer)
    factor_MR = torch.randn(width, 64, device=decoder.device, generator=generator) * (8 / width) ** 0.5
    matrix_MM = factor_MR @ factor_MR.t()
    matrix_MM.diagonal().add_(0.5)
    return 0.03 * matrix_MM


def random_network(inner: Sequence[InnerWeight], device: torch.device) -> Network:
    """A network of the published form with random entries for these weights: two low-rank layers a weight shape."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, device=device, generator=generator)

    def layer(both: int, modes: int) -> LowRankLayer:
        rank = min(RANK, both)
        return LowRankLayer(
            u_ER=normal(both, rank, scale=rank**-0.5),
            v_RE=normal(rank, both, scale=both**-0.5),
            bias_E=normal(both, scale=0.1),
            shift_SE=normal(modes, both, scale=0.1),
            scale_SE=1 + normal(modes, both, scale=0.1),
        )

    transforms = {}
    for inputs, outputs in sorted({weight.shape for weight in inner}):
        modes = sum(weight.shape == (inputs, outputs) for weight in inner)
        transforms[inputs, outputs] = Transform(
            u_mean_I=torch.zeros(inputs, device=device),
            u_std_I=torch.ones(inputs, device=device),
            v_mean_O=torch.zeros(outputs, device=device),
            v_std_O=torch.full((outputs,), 1e-3, device=device),  # gradients are small
            layers=tuple(layer(inputs + outputs, modes) for _ in range(2)),
        )
    return Network(transforms, 1e-3 * torch.arange(1, len(inner) + 1, device=device), None, "random")
