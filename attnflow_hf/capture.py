"""Read attentions out of a model, and give the model back as it came."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from attnflow_hf.errors import CaptureError

_HOOKS_FLAG = "_output_capturing_hooks_installed"
_lock = threading.RLock()


def _renew_lock() -> None:
    """Give a forked child a lock of its own: a thread of the parent may have held the old one."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, eq=False)
class Capture:
    """What one forward pass gave.

    Attributes:
        attentions: One tensor a layer, `[batch, head, query, key]`, the lowest layer first, on the model's device.
        logits: The output of the model's head, or `None` where it has none.
    """

    attentions: tuple[torch.Tensor, ...]
    logits: torch.Tensor | None


def capture(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> Capture:
    """Return the attentions of one forward pass, whatever attention implementation the model was loaded with.

    The model runs in eval state, without gradients, by its eager attention: sdpa and flash attention return none.
    It is given back as it came, also after an exception: attention implementation, config, train or eval state of
    every module, hooks, and the state of the random number generators. Of an encoder-decoder model the encoder is
    run. Peak memory: batch x layers x heads x n x n numbers.

    Captures of several threads wait for each other. Other use of the model must wait too: while a capture runs, the
    model has another attention implementation, and at its end the random state is that of its start.

    Args:
        model: Any Transformers model whose attention can be had as `[batch, head, query, key]`.
        inputs: `input_ids` and `attention_mask` `[batch, token]`, padded on the right, and what else the model's
            `forward` takes.

    Raises:
        CaptureError: The model fails on these inputs, gives no attentions or too few, or looks ahead although it is
            causal.
    """
    runner = model.get_encoder() if model.config.is_encoder_decoder else model
    with _lock, borrowed(model), torch.no_grad():
        _use_eager_attention(model)
        try:
            outputs = runner(**_forward_arguments(runner, inputs))
        except Exception as error:
            raise CaptureError(f"{type(model).__name__} cannot read these inputs: {error}") from error
    attentions = _read_attentions(model, runner, outputs, inputs["input_ids"].shape[1])
    if is_causal(runner):
        _check_causal(model, attentions, inputs["attention_mask"])
    return Capture(attentions, outputs.get("logits"))


def is_causal(model: PreTrainedModel) -> bool:
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


def reads_padding(model: PreTrainedModel) -> bool:
    """Return whether padding can change what real tokens become: convolutions mix neighbors and know no mask."""
    convolutions = (nn.Conv1d, nn.Conv2d)
    return any(isinstance(module, convolutions) and max(module.kernel_size) > 1 for module in model.modules())


@contextmanager
def borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into eval state; on exit give back all that a forward pass or a capture may have changed."""
    modules = list(model.modules())
    training = [module.training for module in modules]
    hooks = [(set(module._forward_hooks), _HOOKS_FLAG in module.__dict__) for module in modules]
    implementations = [(config, config._attn_implementation_internal) for config in _configs(modules)]
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for config, implementation in implementations:
            config._attn_implementation_internal = implementation
        for module, was_training, (hook_ids, was_flagged) in zip(modules, training, hooks, strict=True):
            module.training = was_training
            for hook_id in set(module._forward_hooks) - hook_ids:
                del module._forward_hooks[hook_id]
            if not was_flagged:
                module.__dict__.pop(_HOOKS_FLAG, None)


def _configs(modules: list[nn.Module]) -> list[PretrainedConfig]:
    """Return every config object that the modules hold, sub-configs included, each once."""
    waiting: list[Any] = [getattr(module, "config", None) for module in modules]
    found: dict[int, PretrainedConfig] = {}
    while waiting:
        config = waiting.pop()
        if isinstance(config, PretrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting.extend(getattr(config, name, None) for name in config.sub_configs)
    return list(found.values())


def _use_eager_attention(model: PreTrainedModel) -> None:
    if model.config._attn_implementation not in ("eager", None) and model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    if model.config._attn_implementation not in ("eager", None):
        raise CaptureError(
            f"{type(model).__name__} was loaded with attn_implementation={model.config._attn_implementation!r}, which "
            "gives no attentions and cannot be changed on a loaded model; load it again with "
            "from_pretrained(..., attn_implementation='eager')"
        )


def _forward_arguments(runner: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return those of `inputs` that `forward` takes, and the flags that make it give its attentions by name."""
    flags = {"output_attentions": True, "return_dict": True}
    accepted = signature(runner.forward).parameters
    if "use_cache" in accepted:
        flags["use_cache"] = False
    named = "input_ids" in accepted  # a wrapped forward may take anything
    return {name: value for name, value in inputs.items() if name in accepted or not named} | flags


def _read_attentions(
    model: PreTrainedModel, runner: PreTrainedModel, outputs: Any, n_tokens: int
) -> tuple[torch.Tensor, ...]:
    name = type(model).__name__
    attentions = outputs.get("attentions")
    if not attentions:
        raise CaptureError(f"{name} gave no attentions: it has no attention layers, or does not tell their weights")
    for layer, attention in enumerate(attentions):
        _check_shape(name, layer, attention, n_tokens)
    expected = _count_layers(getattr(runner, "config", model.config))
    if expected is not None and len(attentions) != expected:
        raise CaptureError(
            f"{name} has {expected} layers but gave attentions of {len(attentions)}, so that a layer graph of them "
            "would not be the model's"
        )
    return tuple(attentions)


def _count_layers(config: Any) -> int | None:
    """Return how many layers the config tells of; a decoder half counts under another name than its encoder."""
    if getattr(config, "is_decoder", False) and hasattr(config, "decoder_layers"):
        return int(config.decoder_layers)
    return getattr(config.get_text_config(), "num_hidden_layers", None)


def _check_shape(name: str, layer: int, attention: Any, n_tokens: int) -> None:
    shape = tuple(attention.shape) if isinstance(attention, torch.Tensor) else None
    if shape is None or len(shape) != 4 or shape[-2:] != (n_tokens, n_tokens):
        raise CaptureError(
            f"{name} gave attentions {shape or type(attention).__name__} in layer {layer} where [batch, head, "
            f"{n_tokens}, {n_tokens}] is needed; local, pooled or projected attention (Longformer, Funnel, ...) does "
            "not make a layer graph"
        )


def _check_causal(model: PreTrainedModel, attentions: tuple[torch.Tensor, ...], mask: torch.Tensor) -> None:
    """Raise `CaptureError` if a real token attends to a later one (padding lies on the right)."""
    for layer, attention in enumerate(attentions):
        ahead = torch.triu(attention, diagonal=1).amax(dim=(1, 3)) * mask.to(attention.device)
        if bool((ahead > 0).any()):
            raise CaptureError(
                f"layer {layer} of {type(model).__name__} attends to later tokens although its attention is causal; "
                "load it again with from_pretrained(..., attn_implementation='eager')"
            )
