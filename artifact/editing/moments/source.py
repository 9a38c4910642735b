"""What second moments follow from, as a run records it: the hash of their files or texts, and the model they are of."""

import hashlib
from collections.abc import Sequence

from artifact.editing import made_for
from artifact.editing.moments.files import PROVENANCE, Moments, comment_of, provenance
from artifact.io import sha256_of
from artifact.lm.decoder import Decoder
from artifact.lm.load import LanguageModel


def moments_sha256(moments: Moments, decoder: Decoder, layers: Sequence[int]) -> str:
    """The hash of these layers' files; of matrices computed here that of the texts they are the sums over.

    Not that of the sums: their last bits differ from machine to machine.
    """
    if moments.folder is None:
        return moments.texts_sha256
    digest = hashlib.sha256()
    for layer in layers:
        file = moments.file(moments.folder, decoder, layer)
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def moments_note(
    moments: Moments, model: LanguageModel, layers: Sequence[int], any_model: bool, named: bool = False
) -> str:
    """A line on the model that these layers' files were made for (made_for.note, whose errors it raises)."""
    if moments.folder is None:
        return ""
    theirs = dict.fromkeys(_made_for(moments, model.decoder, layer) for layer in layers)
    notes = (made_for.note(str(moments.folder), sha256, model, any_model, named) for sha256 in theirs)
    return "; ".join(filter(None, notes))


def _made_for(moments: Moments, decoder: Decoder, layer: int) -> str | None:
    """The hash that a layer's file holds, or moments.json beside it, or in the folder that was named."""
    assert moments.folder is not None
    file = moments.file(moments.folder, decoder, layer)
    key, _, sha256 = comment_of(file).partition("=")
    if key == made_for.KEY:
        return made_for.hash_in(str(file), {key: sha256})
    for folder in (file.parent, moments.folder):
        if about := provenance(folder):
            return made_for.hash_in(str(folder / PROVENANCE), about)
    return None
