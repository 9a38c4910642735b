"""Which model a file was made for: second moments, edits and MEND networks carry the hash of that model's weights.

The hash is LanguageModel.weights_sha256: of the weights in the type (--dtype) in which they are held. Published files,
and those of earlier versions, have none: their model is unknown, or known by the name of the source that they were
fetched as.
"""

import re
from typing import TYPE_CHECKING, Any

from artifact.errors import SettingError

if TYPE_CHECKING:
    from artifact.lm.load import LanguageModel

KEY = "weights_sha256"
"""Name of the hash in every kind of file."""
ANY_MODEL = "--any-model"
"""The option that takes files made for another model all the same."""
_SHOWN = 12


def hash_in(what: str, about: Any) -> str | None:
    """The hash in what a file says of itself, None where it has none; SettingError for one that is not a sha256."""
    sha256 = about.get(KEY)
    if sha256 is None or (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        return sha256
    raise SettingError(f"{what}: its {KEY} is not 64 hexadecimal digits; make the file again")


def note(what: str, theirs: str | None, model: "LanguageModel", any_model: bool, named: bool = False) -> str:
    """A line on the file or folder `what`, made for the model whose weights have the hash `theirs`; empty for `model`.

    Without a hash the model is unknown, unless the file was fetched by the model's name (`named`). Raises SettingError
    for another model, unless `any_model`.
    """
    if theirs is None:
        return "" if named else f"{what}: made for an unknown model, as it holds no hash of the model's weights"
    own = model.weights_sha256
    if theirs == own:
        return ""
    words = (
        f"{what}: was made for a model whose weights have the hash {theirs[:_SHOWN]}, and {model.name} has "
        f"{own[:_SHOWN]}"
    )
    if not any_model:
        raise SettingError(
            f"{words}; give what was made for this model with this --dtype, or {ANY_MODEL} to use it all the same"
        )
    return f"{words}; used all the same ({ANY_MODEL})"
