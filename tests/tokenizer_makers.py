"""Fast tokenizers of every kind in use, trained here on a few lines, and a tokenizer written in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tiny_models import minilm_folder
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

CORPUS = [
    "the keys to the old cabinet don't open; the fox's den, isn't it?",
    "of the end of the year, in the middle of the night: New York, state-of-the-art",
    "un café crème, naïve façade, über straße",
    "def f(x):\n    return x  # two  spaces\n\treturn 0",
] * 3
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LLAMA_SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]


@lru_cache
def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, accents off, punctuation parted, unknown words whole."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=BERT_SPECIALS))
    return _with_specials(backend, cls="[CLS]", sep="[SEP]", pad="[PAD]", unk="[UNK]", mask="[MASK]")


@lru_cache
def byte_bpe(*, trim_offsets: bool = True, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's (offsets trimmed as in RoBERTa, or not as in Llama 3): every byte is known, no special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    backend.train_from_iterator(CORPUS, trainer)
    name = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=name, eos_token=name, unk_token=name)


@lru_cache
def metaspace_bpe(*, prepend_scheme: str = "always", split: bool = True) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE; without `split` its merges pass over spaces, so that a token may span several words."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=split)
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=LLAMA_SPECIALS))
    return _with_specials(backend, cls="<s>", sep="</s>", unk="<unk>")


@lru_cache
def unigram() -> PreTrainedTokenizerFast:
    """T5's and XLM-R's: compatibility characters folded, runs of spaces squeezed."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    names = [*LLAMA_SPECIALS, "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=names, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return _with_specials(backend, cls="<s>", sep="</s>", unk="<unk>", mask="<mask>")


@lru_cache
def llama() -> PreTrainedTokenizerFast:
    """Llama 2's: no pre-tokenizer, a space in front, unknown characters as bytes."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, special_tokens=LLAMA_SPECIALS))
    model = json.loads(trained.to_str())["model"]
    vocabulary = [*LLAMA_SPECIALS, *BYTES, *(token for token in model["vocab"] if token not in LLAMA_SPECIALS)]
    merges = [tuple(pair) for pair in model["merges"]]
    ids = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", ids["<s>"])]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)


@lru_cache
def minilm() -> Any:
    """The tokenizer of the pretrained MiniLM encoder, or skip the test."""
    return AutoTokenizer.from_pretrained(minilm_folder())


@lru_cache
def byt5() -> ByT5Tokenizer:
    """A tokenizer written in Python: it tells no offsets."""
    return ByT5Tokenizer()


FAST: dict[str, Callable[[], Any]] = {
    "wordpiece": wordpiece,
    "minilm": minilm,
    "byte_bpe": byte_bpe,
    "byte_bpe_untrimmed": lambda: byte_bpe(trim_offsets=False),
    "byte_bpe_prefix": lambda: byte_bpe(add_prefix_space=True),
    "metaspace_bpe": metaspace_bpe,
    "metaspace_bpe_first": lambda: metaspace_bpe(prepend_scheme="first"),
    "metaspace_bpe_spanning": lambda: metaspace_bpe(split=False),
    "unigram": unigram,
    "llama": llama,
}


def _with_specials(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in (cls, sep)],
    )
    tokens = {f"{kind}_token": name for kind, name in names.items()} | {"pad_token": names.get("pad", sep)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
