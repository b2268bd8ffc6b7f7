"""A text continued by its model, and the samples that explain each generated token."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from attnflow_hf.borrowing import borrowed
from attnflow_hf.errors import OptionError
from attnflow_hf.inputs import Sample
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
    settings = GenerationConfig(**model.generation_config.to_diff_dict()) if generation_config is None else None
    if settings is not None:
        settings.do_sample, settings.num_beams = False, 1
        settings.temperature = settings.top_p = settings.top_k = None
    config = generation_config or settings
    assert config is not None
    if (config.num_return_sequences or 1) > 1 or (config.num_beams or 1) > 1:
        raise OptionError("generate explains one sequence of one beam; set num_beams=1 and num_return_sequences=1")
    features = {name: value[None].to(model.device) for name, value in sample.features.items()}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    with borrowed(model, implementation=None):
        output = model.generate(  # type: ignore[operator]
            **features, generation_config=config, max_new_tokens=max_new_tokens, return_dict_in_generate=False
        )
    ids: list[int] = output[0].tolist()
    if model.config.is_encoder_decoder:
        return Sample(sample.tokens, sample.features, Tokens.from_ids(ids[:-1], tokenizer)), ids[1:]
    n_prompt = len(sample.tokens)
    return _continued(sample, ids[:-1], tokenizer), ids[n_prompt:]


def _continued(sample: Sample, ids: list[int], tokenizer: Any) -> Sample:
    """Return the prompt with further ids; with character offsets, if the tokenizer reads its own text the same way."""
    n_prompt = len(sample.tokens)
    texts = sample.tokens.texts
    text = (texts[0] if len(texts) == 1 else "") + tokenizer.decode(ids[n_prompt:])
    encoding = tokenizer(text, return_special_tokens_mask=True)
    features = {"input_ids": torch.tensor(ids)}
    n_found = len(ids)
    if encoding.encodings and len(texts) == 1 and list(encoding["input_ids"])[:n_found] == ids:
        real = np.arange(len(encoding["input_ids"])) < n_found
        return Sample(Tokens.from_encoding(encoding.encodings[0], real, texts=(text,)), features)
    known = {"special_tokens_mask": np.append(sample.tokens.special_tokens_mask, np.zeros(len(ids) - n_prompt, bool))}
    return Sample(Tokens.from_ids(ids, tokenizer, **known), features)
