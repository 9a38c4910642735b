"""Sentence-piece tokenizers of a few hundred pieces, as Llama 2's are made."""

from tiny_llama import TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MORE = [*TEXTS, "New Delhi is the capital of India. None of it is a town.", "a the is a"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def pieces(scheme: str | None, *, over_spaces: bool = False) -> PreTrainedTokenizerFast:
    """Sentence-piece BPE with bytes for what it does not know. `scheme` is Metaspace's; None: the normaliser of the
    older files. `over_spaces`: its tokens may go over a space.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = None if over_spaces else pre_tokenizers.Metaspace(prepend_scheme=scheme or "first")
    marked = ["<unk>", "<s>", "</s>"]
    special = [AddedToken(token, normalized=False, special=True) for token in marked]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *BYTES], show_progress=False)
    texts = [text.replace(" ", "▁") for text in MORE * 3] if over_spaces else MORE
    trained.train_from_iterator(texts, trainer)
    if scheme is None:
        replaced = normalizers.Replace(" ", "▁")
        trained.normalizer = replaced if over_spaces else normalizers.Sequence([normalizers.Prepend("▁"), replaced])
        trained.pre_tokenizer = None
    else:
        trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trained.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trained.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
