"""`BlockWatch`: finds out, while a model runs, what its blocks make of the output of their attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from attnflow_hf.model_facts import count_decoder_layers, count_layers

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far two ways to the same numbers may be apart, as a share of the largest."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is around the attention of one layer, of a batch.

    Attributes:
        weight: Of the output projection, `[value, hidden]`.
        residual: What is added to the projection's output, the layer's input, `[batch, query, hidden]`.
        total: The sum of both and the projection's bias.
        norm: The layer norm that the sum goes through at once; `None` where the sum itself goes on.
        output: What goes on, `[batch, query, hidden]`.
    """

    weight: torch.Tensor
    residual: torch.Tensor
    total: torch.Tensor
    norm: nn.LayerNorm | None
    output: torch.Tensor


class BlockWatch:
    """Follows an attention's output through its layer, by what modules are given and not by their names.

    The first linear module that reads it is the output projection. The first norm that reads the sum of that and of
    the layer's input tells that there is a residual connection. Where the layer's output is that of a norm, so is what
    goes on from the sum (post-layer-norm, as in BERT); else the sum itself goes on (pre-layer-norm, as in GPT-2).

    Args:
        model: The model.
        is_active: Whether the pass that runs is the one that is followed.
        found: Called when a layer is done with what is around its last attention, or why that is not known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        is_active: Callable[[], bool],
        found: Callable[[Surroundings | str], None],
    ) -> None:
        """Take note of what is followed."""
        self.model, self.is_active, self.found = model, is_active, found
        self.carried: torch.Tensor | None = None
        self.projected: torch.Tensor | None = None
        self.weight: torch.Tensor | None = None
        self.last_normed: torch.Tensor | None = None
        self._start(None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the passes of the model."""
        sizes = {count_layers(self.model.config), count_decoder_layers(self.model.config)}
        stacks = [each for each in self.model.modules() if isinstance(each, nn.ModuleList) and len(each) in sizes]
        handles = []
        for layer in [layer for stack in stacks for layer in stack]:
            handles.append(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(layer.register_forward_hook(self._leave))
            inner = [each for each in layer.modules() if each is not layer]
            handles += [each.register_forward_hook(self._see) for each in inner if _is_linear(each) or _is_norm(each)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def is_inside(self) -> bool:
        """Whether a layer is running."""
        return self.entered is not None

    def attended(self, output: torch.Tensor) -> None:
        """Take the output of an attention, `[batch, query, ...]`."""
        self.carried = output
        self.projected = self.weight = None

    def _start(self, entered: torch.Tensor | None) -> None:
        self.entered = entered
        self.is_normed_first = False
        self.carried = self.projected = self.weight = self.last_normed = None
        self.joined: tuple[nn.Module, torch.Tensor, torch.Tensor] | None = None

    def _enter(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.is_active():
            given = args[0] if args else named.get("hidden_states")
            self._start(given if isinstance(given, torch.Tensor) else None)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.is_active():
            return
        given = output[0] if isinstance(output, tuple) else output
        if self.carried is not None:
            self.found(self._surroundings(isinstance(given, torch.Tensor) and self._is_normed(given)))
        self._start(None)

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self.is_active() or self.entered is None or not args or not isinstance(args[0], torch.Tensor):
            return
        given = args[0]
        if _is_norm(module):
            self.last_normed = output
            if self.carried is None:
                self.is_normed_first |= _are_same(given, self.entered)
            elif self.projected is not None and self.joined is None and self._is_sum(given):
                self.joined = module, given, output
        elif self.carried is not None and self.projected is None and _are_same(given, self.carried):
            self.projected, self.weight = output, _weight_of(module, given, output)

    def _is_sum(self, given: torch.Tensor) -> bool:
        assert self.entered is not None
        assert self.projected is not None
        return self.entered.shape == self.projected.shape and _are_same(given, self.entered + self.projected)

    def _is_normed(self, output: torch.Tensor) -> bool:
        return self.last_normed is not None and _are_same(output, self.last_normed)

    def _surroundings(self, is_normed_last: bool) -> Surroundings | str:
        """Return what is known when the layer is done, or why it is not."""
        if self.projected is None:
            return "no linear module reads the attention's output as it is"
        if self.joined is None:
            return "the attention's projected output is not added to the layer's input, with a norm behind the sum"
        if self.weight is None:
            return "the attention's output projection does not multiply by its weight alone (is it quantized?)"
        assert self.entered is not None
        norm, total, normed = self.joined
        if not is_normed_last:
            return Surroundings(self.weight, self.entered, total, None, total)
        if self.is_normed_first:
            return "there are norms both in front of the attention and at the end of the layer"
        if not isinstance(norm, nn.LayerNorm) or len(norm.normalized_shape) != 1:
            return f"a {type(norm).__name__} follows the residual connection, where LayerNorm is needed"
        return Surroundings(self.weight, self.entered, total, norm, normed)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")


def _weight_of(module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
    """Return the weight of a linear module, `[in, out]`; `None` where it does not make this output of what is given.

    Quantized weights are integers, or floating-point numbers of 8 bits with a scale beside them.
    """
    weight, bias = module.weight, module.bias
    assert isinstance(weight, torch.Tensor)
    if not weight.is_floating_point():
        return None
    weight = weight if isinstance(module, Conv1D) else weight.T
    made = given @ weight.to(given.dtype)
    made = made if bias is None else made + bias.to(given.dtype)  # type: ignore[operator]
    return weight if _are_same(made, output) else None


def _are_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors `[batch, query, ...]` are the same but for rounding, and how their axes are cut."""
    if first.shape[:2] != second.shape[:2] or first.numel() != second.numel():
        return False
    second = second.reshape(first.shape)
    difference = (first - second).abs().amax()
    return bool(difference <= ROUNDING.get(first.dtype, 5e-2) * second.abs().amax())
