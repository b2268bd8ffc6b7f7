"""A text continued by its model, and the samples that explain each generated token."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from attnflow_hf.borrowing import borrowed
from attnflow_hf.errors import OptionError
from attnflow_hf.inputs import Sample
from attnflow_hf.model_facts import input_device
from attnflow_hf.tokens import Tokens


def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    sample: Sample,
    *,
    max_new_tokens: int,
    generation_config: GenerationConfig | None = None,
) -> tuple[Sample, list[int]]:
    """Return the sample with what the model generated, without the last token; and the generated ids.

    Args:
        model: A model that can generate.
        tokenizer: Its tokenizer.
        sample: The prompt, or what the encoder reads.
        max_new_tokens: How many tokens at most.
        generation_config: How; by default the model's own, without sampling. One sequence of one beam.

    Raises:
        OptionError: The model cannot generate, or the settings ask for several sequences.
    """
    if not model.can_generate():
        raise OptionError(f"{type(model).__name__} cannot generate text: load it with its language model head")
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be a positive integer, got {max_new_tokens!r}")
    config = copy.deepcopy(generation_config or model.generation_config)
    if generation_config is None:
        config.do_sample, config.num_beams = False, 1
        config.temperature = config.top_p = config.top_k = None
    config.max_new_tokens, config.return_dict_in_generate = max_new_tokens, False
    if (config.num_return_sequences or 1) > 1 or (config.num_beams or 1) > 1:
        raise OptionError("generate explains one sequence of one beam; set num_beams=1 and num_return_sequences=1")
    device = input_device(model)
    features = {name: value[None].to(device) for name, value in sample.features.items()}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    with borrowed(model, implementation=None):
        output = model.generate(  # type: ignore[operator]
            **features, generation_config=config
        )
    ids: list[int] = output[0].tolist()
    if model.config.is_encoder_decoder:
        return Sample(sample.tokens, sample.features, Tokens.from_ids(ids[:-1], tokenizer)), ids[1:]
    n_prompt = len(sample.tokens)
    return continued(sample, ids[:-1], tokenizer), ids[n_prompt:]


def continued(sample: Sample, ids: list[int], tokenizer: Any) -> Sample:
    """Return the prompt with further ids; with character offsets, if the tokenizer reads its own text the same way."""
    n_prompt = len(sample.tokens)
    features = {"input_ids": torch.tensor(ids)}
    new = tokenizer.decode(ids[n_prompt:])
    for space in ("", " ") if len(sample.tokens.texts) == 1 else ():
        text = sample.tokens.texts[0] + space + new
        encoding = tokenizer(text, return_special_tokens_mask=True)
        if encoding.encodings and list(encoding["input_ids"])[: len(ids)] == ids:
            real = np.arange(len(encoding["input_ids"])) < len(ids)
            return Sample(Tokens.from_encoding(encoding.encodings[0], real, texts=(text,)), features)
    known = {"special_tokens_mask": np.append(sample.tokens.special_tokens_mask, np.zeros(len(ids) - n_prompt, bool))}
    return Sample(Tokens.from_ids(ids, tokenizer, **known), features)


def prefixes(sample: Sample, n_new: int) -> list[Sample]:
    """Return what was read when each generated token was predicted: the sample up to each of its last positions.

    Args:
        sample: The prompt and all generated tokens but the last; of an encoder-decoder model what both halves read.
        n_new: How many tokens were generated.
    """
    read = sample.tokens if sample.decoder is None else sample.decoder
    found = []
    for length in range(len(read) - n_new + 1, len(read) + 1):
        kept = np.arange(len(read)) < length
        is_decoded = sample.decoder is not None
        found.append(replace(sample, decoder=read.select(kept)) if is_decoded else sample.select(kept))
    return found
