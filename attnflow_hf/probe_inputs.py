"""A short random input for a model of any kind, to try a way of capture on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from attnflow_hf.errors import CaptureError
from attnflow_hf.model_facts import input_device, max_positions, n_embeddings, padding_id

N_TOKENS, N_PADDING, N_DECODER_TOKENS = 13, 3, 5


def probe_inputs(
    model: PreTrainedModel, *, with_decoder: bool, like: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Return one random input of `model`; a text of 13 tokens, the last 3 of them padding.

    Args:
        model: The model, or the encoder of one.
        with_decoder: Add 5 tokens for the decoder.
        like: Images or sound that the model shall read: the random ones get their size. Else the config tells it.

    Raises:
        CaptureError: The model reads neither text, images nor sound.
    """
    generator = torch.Generator().manual_seed(0)
    device = input_device(model)
    name = model.main_input_name
    if like is not None and name in like and name != "input_ids":
        inputs = {name: torch.randn(1, *like[name].shape[1:], generator=generator).to(model.dtype)}
    else:
        inputs = _INPUTS.get(name, _refuse)(model, generator)
    if with_decoder:
        decoder_ids = _random_ids(model, N_DECODER_TOKENS, generator)
        start = getattr(model.config, "decoder_start_token_id", None)
        if isinstance(start, int) and 0 <= start < (n_embeddings(model) or 0):
            decoder_ids[0, 0] = start
        inputs["decoder_input_ids"] = decoder_ids
    return {name: value.to(device) for name, value in inputs.items()}


def _refuse(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    raise CaptureError(
        f"{type(model).__name__} reads {model.main_input_name}; only text (input_ids), images (pixel_values) and sound "
        "(input_values, input_features) can be explained"
    )


def _random_text(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    n_tokens = min(N_TOKENS, max_positions(model) or N_TOKENS)
    ids = _random_ids(model, n_tokens, generator)
    mask = torch.ones_like(ids)
    n_padding = min(N_PADDING, n_tokens - 1)
    mask[:, n_tokens - n_padding :] = 0
    ids[:, n_tokens - n_padding :] = padding_id(model)
    return {"input_ids": ids, "attention_mask": mask}


def _random_ids(model: PreTrainedModel, n_tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Return ids `[1, token]` without those that mean something special to the model."""
    config = model.config.get_text_config()
    size = n_embeddings(model) or getattr(config, "vocab_size", None) or 2
    special = {value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    plain = [token_id for token_id in range(min(size, 1000)) if token_id not in special] or [0]
    return torch.tensor(plain)[torch.randint(len(plain), (1, n_tokens), generator=generator)]


def _random_image(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    config = model.config
    size: Any = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    pixels = torch.rand(1, getattr(config, "num_channels", 3), height, width, generator=generator)
    return {"pixel_values": pixels.to(model.dtype)}


def _random_sound(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    strides = getattr(model.config, "conv_stride", (320,))
    n_samples = N_TOKENS * int(torch.tensor(strides).prod()) + 400
    return {"input_values": torch.randn(1, n_samples, generator=generator).to(model.dtype)}


def _random_features(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    config = model.config
    names = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
    n_bins = next((int(size) for name in names if (size := getattr(config, name, None))), 80)
    n_frames = 2 * int(getattr(config, "max_source_positions", 50))
    shape = (1, n_bins, n_frames) if config.model_type == "whisper" else (1, min(n_frames, 40), n_bins)
    return {"input_features": torch.randn(shape, generator=generator).to(model.dtype)}


_INPUTS = {
    "input_ids": _random_text,
    "pixel_values": _random_image,
    "input_values": _random_sound,
    "input_features": _random_features,
}
