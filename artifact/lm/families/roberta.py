"""RoBERTa: BERT whose positions are counted after that of padding, and whose head has names of its own."""

import re
from dataclasses import replace
from typing import Any, Self

from artifact.errors import ModelError
from artifact.lm.families.bert import Bert
from artifact.lm.families.sizes import Sizes


class Roberta(Bert):
    """Family of RoBERTa in all sizes."""

    model_type = "roberta"
    skips_padding = True
    blocks = "roberta.encoder.layer"
    embedding = "roberta.embeddings.word_embeddings"
    final_norm = "lm_head.layer_norm"
    head = "lm_head.decoder"
    head_bias = "lm_head.bias"
    transform = "lm_head.dense"
    also_read = (*Bert.also_read, "pad_token_id")
    buffers = re.compile(
        r"roberta\.(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))|lm_head\.decoder\.bias"
    )

    @classmethod
    def of(cls, config: Any) -> Self:
        """The family as a configuration has it; ModelError for heads that do not divide the width, and where no
        position is left after that of padding.
        """
        family, pad = super().of(config), config.pad_token_id
        if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < config.max_position_embeddings - 1:
            raise ModelError(
                f"configuration pad_token_id = {pad!r} is not possible; expected a whole number from 0 to "
                f"{config.max_position_embeddings - 2}, after which positions are counted"
            )
        family.first_position = pad + 1
        family._transform_approximate = "none"  # whatever the blocks' activation function is
        return family

    def sizes(self, config: Any) -> Sizes:
        sizes = super().sizes(config)
        return replace(sizes, positions=sizes.positions - self.first_position)


FAMILY = Roberta
