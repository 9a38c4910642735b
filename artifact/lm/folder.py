"""What a model folder holds besides its weights: configuration and tokenizer, read as data.

Nothing in a folder is run. A folder that asks for code of its own is refused before transformers sees it, unless it
names copies of transformers' own classes of its family, as Phi-3's do, which are not run either. The sizes in a
configuration are checked before anything is made from them, and only the keys that a family reads are passed on.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from artifact.errors import ModelError
from artifact.io import NOT_JSON, fit, reason, sha256_of
from artifact.lm.families import FAMILIES, family_type, refuse_quantised, required
from artifact.lm.families.sizes import ORIGINAL, Sizes, check_size
from artifact.lm.tokens import Tokens
from artifact.reading import read_bytes
from artifact.terminal import muted

CONFIG = "config.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""The files that say how a text is cut into tokens."""
_JSON_LIMIT = 16_000_000
"""Most bytes of a JSON file that is read here; configurations have about a thousand."""
_VOCABULARY_LIMIT = 500_000_000
"""Most bytes of a tokenizer's file; those of the largest vocabularies have 40 million."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; ModelError in one line for anything else."""
    try:
        content = msgspec.json.decode(read_bytes(path, ModelError, "give a small, readable JSON object", _JSON_LIMIT))
    except NOT_JSON as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else reason(error)
        raise ModelError(f"{path}: is not valid JSON ({why}); expected one JSON object") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object; expected one with the model's settings by name")
    return content


def read_config(folder: Path) -> Any:
    """The transformers configuration of a folder, of a family known here, every size within its bounds.

    Raises ModelError for a folder that asks for code, an unknown family, quantised weights, and impossible sizes.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder}: holds no {CONFIG}, so it is not a transformers model; name a folder that is one")
    given = read_object(path)
    _refuse_code(path, given, _own_classes(given.get("model_type")))
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        _refuse_code(settings, read_object(settings))
    try:
        refuse_quantised(given.get("quantization_config"))
        family = family_type(given.get("model_type"))
        for key, kind in family.sizes_read.items():
            if key in given:
                check_size(key, given[key], kind, key in family.sizes_optional)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    # Other keys are not passed on: some of them make lists as long as they say.
    read = {*family.sizes_read, *required(family), *family.also_read, "tie_word_embeddings", "tokenizer_class"}
    read -= {ORIGINAL} if given.get(ORIGINAL) is None else set()  # as if it were not there, whatever transformers makes
    read |= {"bos_token_id"} if type(given.get("bos_token_id")) in (int, type(None)) else set()
    return _as_transformers(path, family.model_type, {key: value for key, value in given.items() if key in read})


def _as_transformers(path: Path, model_type: str, given: dict[str, Any]) -> Any:
    """transformers' configuration, which knows the defaults and the older ways to write a value."""
    from transformers import CONFIG_MAPPING
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        config = CONFIG_MAPPING[model_type].from_dict(given)
        if getattr(config, "rope_parameters", None):  # as its models do: by now the configuration is whole
            config.standardize_rope_params()
    except Exception as error:  # its checks raise errors of many kinds
        raise ModelError(
            f"{path}: is not a {model_type} configuration ({_last_line(error)}); correct the file"
        ) from None
    config.name_or_path = str(path.parent)
    return config


def _last_line(error: Exception) -> str:
    """The last line of what transformers' checks say, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return fit(lines[-1] if lines else type(error).__name__, 200)


def _own_classes(model_type: object) -> frozenset[str]:
    """The names of transformers' own classes of a family: a folder may name copies of these, which are not run."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        return frozenset()
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    causal = FAMILIES[model_type].causal
    models = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if causal else MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return frozenset((CONFIG_MAPPING[model_type].__name__, str(models[model_type])))


def _refuse_code(path: Path, given: dict[str, Any], own: frozenset[str] = frozenset()) -> None:
    named = given.get("auto_map")
    if isinstance(named, dict):  # a name without a module, such as a tokenizer's, runs no code of the folder
        classes = (str(one) for one in named.values() if "." in str(one))
        named = {one for one in classes if one.rpartition(".")[2] not in own}
    if named or given.get("custom_pipelines"):
        raise ModelError(
            f"{path}: asks for code of its own (auto_map), which is never run; expected a model that "
            f"transformers knows by itself ({', '.join(FAMILIES)})"
        )


def read_tokens(folder: Path, config: Any, sizes: Sizes) -> Tokens:
    """The folder's tokenizer for a model of these sizes.

    Raises ModelError in one line for a folder without one, and for one that is damaged or cannot be used.
    """
    whole = folder / "tokenizer.json"
    if not whole.is_file() and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise ModelError(f"{folder}: holds no tokenizer; expected a tokenizer.json beside {CONFIG}")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and (folder / name).stat().st_size > _VOCABULARY_LIMIT:
            raise ModelError(f"{folder / name}: is larger than {_VOCABULARY_LIMIT} bytes; give the model's own file")
    from transformers import AutoTokenizer

    try:
        with muted():  # tokenizers names the fields that it ignores
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, use_fast=True
            )
        family = family_type(config.model_type)
        padding = config.pad_token_id if family.skips_padding else None
        rest = config.bos_token_id, sizes.limited_by, not family.causal, padding
        return Tokens(tokenizer, sizes.positions, sizes.vocabulary, *rest)
    except (ModelError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  (tokenizers' panics are not Exceptions)
        raise ModelError(
            f"{folder}: its tokenizer cannot be used ({reason(error)}); give the files that came with the model"
        ) from None


def tokenizer_hash(folder: Path) -> str:
    """sha256 over the name and bytes of each file of the tokenizer that is there."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + bytes.fromhex(sha256_of(folder / name)))
    return digest.hexdigest()
