"""The types that weights are held in, by name. Their algebra in edits stays in float32 and float64, whatever it is."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DtypeName = Literal["float32", "bfloat16", "float16"]
BYTES: dict[DtypeName, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


def torch_dtype(name: DtypeName) -> "torch.dtype":
    """torch's type of that name."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
