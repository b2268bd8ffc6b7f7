"""What a probe learns from hooks: which layer is running, and which module returns the attentions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attnflow_hf.model_facts import count_decoder_layers, count_layers


@dataclass
class Running:
    """The layer that is running; `None` before the first, or where the model does not keep its layers in a list."""

    layer: int | None = None

    def enter(self, index: int) -> Callable[..., None]:
        """Return a hook that takes note of layer `index`."""

        def hook(*_: Any) -> None:
            self.layer = index

        return hook


@contextmanager
def watched_layers(model: PreTrainedModel) -> Iterator[Running]:
    """Give the layer that is running, where the model keeps its layers in a list of their number."""
    running = Running()
    sizes = {count_layers(model.config), count_decoder_layers(model.config)}
    handles = [
        layer.register_forward_pre_hook(running.enter(index))
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) in sizes
        for index, layer in enumerate(module)
    ]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def found_weights(model: PreTrainedModel) -> Iterator[dict[int, tuple[str, int]]]:
    """Give the ids of all `[batch, head, query, key]` tensors with the module that returns each first, and where.

    They come in the order of the calls, of this thread's passes alone.
    """
    found: dict[int, tuple[str, int]] = {}
    kept: list[torch.Tensor] = []  # an id stands for one tensor only while that lives
    thread = threading.get_ident()

    def hook_of(name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread and type(output) in (tuple, list):
                for index, part in enumerate(output):
                    if isinstance(part, torch.Tensor) and part.ndim == 4 and id(part) not in found:
                        found[id(part)] = name, index
                        kept.append(part)

        return look

    handles = [module.register_forward_hook(hook_of(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
