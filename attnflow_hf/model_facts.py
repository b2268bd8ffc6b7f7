"""What a model tells of itself: its layers, how much it can read, what its attention may see."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attnflow_hf.errors import CaptureError


def declares_causal(model: PreTrainedModel) -> bool:
    """Return whether the model's self attention is declared causal: no token sees a later one."""
    declared = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    return bool(declared) and all(declared)


def max_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens the model can read, or `None` where its positions have no end."""
    text_config = model.config.get_text_config(decoder=not model.config.is_encoder_decoder)
    limit = getattr(text_config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's positions start behind its padding id
    return limit if isinstance(limit, int) and limit > 0 else None


def n_embeddings(model: PreTrainedModel) -> int | None:
    """Return how many token ids the model knows, or `None` where it does not tell."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    except (AttributeError, NotImplementedError):
        return None


def input_device(model: PreTrainedModel) -> torch.device:
    """Return where the model takes its inputs; the weights of a dispatched or offloaded model may lie elsewhere.

    Raises:
        CaptureError: The model has no weights: it lies on the `meta` device.
    """
    hooks: list[Any] = [module._hf_hook for module in model.modules() if hasattr(module, "_hf_hook")]  # accelerate's
    devices = [hook.execution_device for hook in hooks if getattr(hook, "execution_device", None) is not None]
    if devices:
        return torch.device(devices[0])
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CaptureError(
            f"{type(model).__name__} lies on the meta device: it has no weights to compute with; load it with "
            "from_pretrained(...)"
        )
    return model.device


def padding_id(model: PreTrainedModel, *further: int | None) -> int:
    """Return the id to pad with: the model's own, one of `further`, or any; but one that has an embedding."""
    limit = n_embeddings(model)
    known = model.config.get_text_config().pad_token_id, *further
    valid = [each for each in known if isinstance(each, int) and each >= 0 and (limit is None or each < limit)]
    return valid[0] if valid else 0


def reads_padding(model: PreTrainedModel) -> bool:
    """Return whether padding can change what real tokens become: convolutions mix neighbors and know no mask."""
    convolutions = (nn.Conv1d, nn.Conv2d)
    return any(isinstance(module, convolutions) and max(module.kernel_size) > 1 for module in model.modules())


def counts_by_padding(model: PreTrainedModel) -> bool:
    """Return whether positions are counted by ids that are not the padding's, as in RoBERTa."""
    return any(
        isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
        for name, module in model.named_modules()
    )


def count_layers(config: Any) -> int | None:
    """Return how many layers the config tells of; a decoder half counts under another name than its encoder."""
    if getattr(config, "is_decoder", False) and hasattr(config, "decoder_layers"):
        return int(config.decoder_layers)
    return getattr(config.get_text_config(), "num_hidden_layers", None)


def count_encoder_layers(config: Any) -> int | None:
    """Return how many layers the encoder of an encoder-decoder model has, or `None` where its config does not tell."""
    return _count(config, "encoder") or count_layers(config)


def count_decoder_layers(config: Any) -> int | None:
    """Return how many layers the decoder of an encoder-decoder model has, or `None` where its config does not tell."""
    return _count(config, "decoder")


def _count(config: Any, half: str) -> int | None:
    """Return the layers of a half, by one of the names that they have, or by the config of its own."""
    names = (f"{half}_layers", f"num_{half}_layers", f"{half}_num_hidden_layers")
    known = [getattr(config, name, None) for name in names]
    known.append(getattr(getattr(config, half, None), "num_hidden_layers", None))
    return next((value for value in known if isinstance(value, int)), None)


def layers_without_attention(config: Any) -> frozenset[int]:
    """Return the layers of a hybrid that its config declares to be something else than attention over all tokens."""
    types = getattr(config.get_text_config(), "layer_types", None) or getattr(config, "layers_block_type", None) or []
    is_attention = [name == "hybrid" or ("attention" in name and name != "linear_attention") for name in types]
    return frozenset(layer for layer, is_one in enumerate(is_attention) if not is_one)
