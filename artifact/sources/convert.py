"""A model whose weights are published as a pickle, written once as safetensors.

The pickle is read as tensors alone (weights_only), from the mapped file, and written a shard at a time, so that a model
of 24 GB takes a few GB of memory. Names, types and bytes of the tensors stay as they are.
"""

import shutil
from pathlib import Path

from artifact.errors import ArtifactError, ModelError
from artifact.io import new_folder, reason, sha256_of
from artifact.sources.cache import converted_folder
from artifact.sources.catalogue import HubModel
from artifact.sources.lock import entry_of, forget, holding, record, recorded_keys
from artifact.sources.pickles import load_tensors, unshared

SHARD = 2_000_000_000
"""Most bytes of a file, and of what is in memory at once."""


def convert_model(model: HubModel, published: Path, shard: int = SHARD) -> Path:
    """The folder of `model` as safetensors, made from the folder `published` if it is missing; hashes are recorded.

    Raises ModelError when the pickle holds more than tensors, is damaged, or the folder cannot be written.
    """
    out = converted_folder(model)
    with holding(out.parent):
        if not out.is_dir():
            _convert(model, published, out, shard)
    return out


def _convert(model: HubModel, published: Path, out: Path, shard: int) -> None:
    import torch
    from huggingface_hub import save_torch_state_dict

    pickle = published / model.weights
    try:
        weights = load_tensors(pickle)
        tensors = unshared({key: value for key, value in weights.items() if isinstance(value, torch.Tensor)})
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise ModelError(
            f"{pickle}: cannot be read as torch weights ({reason(error)}); kloc fetch {model.name} --check says "
            "whether it is damaged; if it is whole, install the torch of constraints.txt"
        ) from None
    try:
        with new_folder(out) as part:
            for name in model.files:
                if name != model.weights and (published / name).is_file():
                    shutil.copyfile(published / name, part / name)
            save_torch_state_dict(tensors, part, max_shard_size=shard, metadata={"format": "pt"})
            made_from = sha256_of(pickle)
            of_it = f"converted/{out.name}/"
            made = {f"{of_it}{path.name}": path for path in sorted(part.iterdir())}
            for key in recorded_keys():
                if key.startswith(of_it) and key not in made:
                    forget(key)  # of an earlier conversion, in other shards
            for key, path in made.items():
                record(key, entry_of(path, made_from=made_from))
    except ArtifactError:
        raise
    except Exception as error:  # safetensors reports a full disk in an error of its own
        raise ModelError(
            f"{out}: cannot be written ({reason(error)}); make room, or set KLOC_CACHE to a larger disk"
        ) from None
