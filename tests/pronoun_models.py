"""The paper's two sentences, a tokenizer for them, and tiny masked language models."""

from __future__ import annotations

import math

import torch
from tiny_models import bert
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from attnflow_hf.evaluation import PronounSentence

AUTHOR = PronounSentence("The author talked to Sara about [MASK] book.", ("author", "Sara"), (None, "female"))
MARY = PronounSentence("Mary convinced John of [MASK] love.", ("Mary", "John"), ("female", "male"), referent="second")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = "the author talked to sar ##a about his her book . mary convince ##d john of love".split()


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's tokenizer; "Sara" and "convinced" are two pieces each."""
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(SPECIALS + PIECES)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, sep_token="[SEP]", model_max_length=64, **names)


def model(n_layers: int = 2, **options: object) -> PreTrainedModel:
    return bert("BertForMaskedLM", vocab_size=len(SPECIALS + PIECES), num_hidden_layers=n_layers, **options)


def id_of(word: str) -> int:
    return len(SPECIALS) + PIECES.index(word)


@torch.no_grad()
def known_model(p_his: float, p_her: float) -> PreTrainedModel:
    """A model of two layers that attends to all tokens evenly, and says these probabilities whatever it reads."""
    known = model()
    for layer in known.bert.encoder.layer:
        layer.attention.self.query.weight.zero_()
        layer.attention.self.query.bias.zero_()
    head = known.cls.predictions
    head.transform.LayerNorm.weight.zero_()
    head.transform.LayerNorm.bias.zero_()
    others = (1 - p_his - p_her) / (known.config.vocab_size - 2)
    head.bias.fill_(math.log(others))
    head.bias[id_of("his")], head.bias[id_of("her")] = math.log(p_his), math.log(p_her)
    return known
