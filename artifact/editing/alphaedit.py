"""AlphaEdit: MEMIT whose change cannot move what the second moments say is in use, and which keeps earlier edits' keys.

Covers both perspectives, with MEMIT's values, keys and sharing out over layers (memit.py), and sequences of edits. With
P the projection onto the null space of C (eigenvalues below a threshold) and K_p the keys of the edits before, as the
edited model has them: change = (P (K K^T + K_p K_p^T) + L2 I)^-1 P K R^T. It lies in the null space, so it is solved
there: with N the null space's columns and A = N^T [K K_p], the adjusted keys are N times those columns of
(A A^T + L2 I)^-1 A that belong to K; by Woodbury's identity A (A^T A + L2 I)^-1, whose system is as large as there are
keys. The released code solves M by M in float32, here it is float64.
Source: arXiv 2410.02355; golden numbers: tests/reference/{alphaedit,alphaedit_B}, 1e-4 relative.

Shape letters as in memit.py, and P keys of earlier edits, Z columns of the null space.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from artifact.editing.memit import MemitEdit, keys_of, memit
from artifact.editing.methods.alphaedit import AlphaEditHparams
from artifact.editing.moments.files import Moments
from artifact.editing.protocol import Protocol
from artifact.errors import EditError, SettingError
from artifact.facts.fact import View
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel

Cache = Mapping[int, Tensor]
"""By layer, the keys (P, M) of the edits that the model carries."""


def alphaedit(
    model: LanguageModel,
    groups: Sequence[Sequence[View]],
    hparams: AlphaEditHparams,
    templates: Sequence[Sequence[str]],
    moments: Moments,
    protocol: Protocol,
    memory: Memory | None = None,
    cache: Cache | None = None,
) -> list[MemitEdit | EditError]:
    """An edit for each group of views, as `memit` makes them; `cache` is what earlier edits of `model` left (`kept`).

    SettingError where the second moments leave no null space.
    """

    def adjust(layer: int, key_FM: Tensor, sizes: Sequence[int]) -> Tensor:
        space_MZ = moments.null_space(model.decoder, layer, hparams.nullspace_threshold)
        if not space_MZ.shape[1]:
            raise SettingError(
                f"moments ({moments.source}): no direction of layer {layer} is below nullspace_threshold "
                f"{hparams.nullspace_threshold:g}; give a larger one with --hparams"
            )
        inside_FZ = key_FM.double() @ space_MZ
        before_PZ = inside_FZ[:0] if cache is None else cache[layer].double() @ space_MZ
        parts = inside_FZ.split(list(sizes))
        return torch.cat([_adjusted(part_NZ, before_PZ, hparams.l2) for part_NZ in parts]) @ space_MZ.t()

    return memit(model, groups, hparams, templates, moments, protocol, memory, adjust)


def kept(
    model: LanguageModel,
    views: Sequence[View],
    layers: Sequence[int],
    templates: Sequence[Sequence[str]],
    cache: Cache | None = None,
) -> Cache:
    """The cache after an edit of these views: the keys before, and theirs on the `model` that carries the edit."""
    keys = keys_of(model, views, layers, templates)
    return {layer: torch.cat((cache[layer], own_NM)) if cache else own_NM for layer, own_NM in keys.items()}


def _adjusted(inside_NZ: Tensor, before_PZ: Tensor, l2: float) -> Tensor:
    """(A A^T + L2 I)^-1 of one group's keys (N, Z), in the null space's coordinates."""
    if len(inside_NZ) == 1 and not len(before_PZ):
        return inside_NZ / (inside_NZ.square().sum() + l2)
    every_XZ = torch.cat((inside_NZ, before_PZ))
    system_XX = every_XZ @ every_XZ.t()
    system_XX.diagonal().add_(l2)
    # (A^T A + L2 I)^-1 is symmetric: its first N columns give the group's own adjusted keys.
    own_XN = torch.linalg.solve(system_XX, torch.eye(len(every_XZ), len(inside_NZ), dtype=torch.float64).to(system_XX))
    return own_XN.t() @ every_XZ
