"""An attention function for Transformers' interface: a model's own eager attention, block by block of queries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.errors import CaptureError, check_index
from attnflow_hf.query_blocks import Part, QueryBlocks

IMPLEMENTATION = "attnflow_hf"
_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


class Recorder:
    """Takes the attention weights of one forward pass, layer by layer, with their heads reduced.

    Args:
        receive: Called with each layer's `[batch, query, key]`, float32 on the model's device, in the order of the
            calls; in front of the keys stands the attention sink, where `has_sinks`.
        head_reduction: How the heads become one.
        block_size: How many queries go through the model's eager attention at once; `None` for all.
        has_sinks: Whether rows may sum to less than 1; what is missing was given to a sink.
        look: Called with the values, the output and the weights of each block; for a probe.
        silent: Let the attentions give nothing, zeros; for a probe.
    """

    def __init__(
        self,
        receive: Callable[[torch.Tensor], None],
        head_reduction: HeadReduction = "mean",
        *,
        block_size: int | None = None,
        has_sinks: bool = False,
        look: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
        silent: bool = False,
    ) -> None:
        """Take note of what is wanted."""
        self.receive = receive
        self.head_reduction = head_reduction
        self.blocks = QueryBlocks(block_size)
        self.has_sinks = has_sinks
        self.look = look
        self.silent = silent
        self.n_calls = 0

    def recording(self) -> AbstractContextManager[None]:
        """Take what the attention functions of this thread compute."""
        return recording(self)

    def is_active(self) -> bool:
        """Return whether this thread's forward pass is the one that is recorded."""
        return _recorder.get() is self

    def take(self, weights: torch.Tensor) -> None:
        """Reduce and hand on one layer's whole `[batch, head, query, key]`."""
        self.n_calls += 1
        self.receive(self.reduce(weights))

    def reduce(self, weights: torch.Tensor) -> torch.Tensor:
        """Return `[batch, head, query, key]` with its heads reduced, float32 `[batch, query, key]`."""
        if self.has_sinks:
            missing = 1 - weights.sum(dim=-1, keepdim=True, dtype=torch.float32)
            weights = torch.cat([missing.clamp_min(0), weights], dim=-1)
        return self.reduce_heads(weights)

    def reduce_heads(self, weights: torch.Tensor) -> torch.Tensor:
        """Return numbers `[batch, head, query, key]` with their heads as one, float32."""
        if isinstance(self.head_reduction, str):
            if self.head_reduction in ("mean", "sum"):
                reduction = weights.mean if self.head_reduction == "mean" else weights.sum
                return reduction(dim=1, dtype=torch.float32)
            return (weights.amax(dim=1) if self.head_reduction == "max" else weights.amin(dim=1)).float()
        heads = [self.head_reduction] if isinstance(self.head_reduction, (int, np.integer)) else self.head_reduction
        name = f"head (of layer {self.n_calls - 1})"
        indices = [check_index(name, head, weights.shape[1]) for head in heads]
        return weights[:, indices].mean(dim=1, dtype=torch.float32)

    def attend(
        self,
        eager: Callable[..., Any],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **named: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of the model's eager attention, and record its weights."""
        self.n_calls += 1
        parts = self.blocks.parts(query, key, attention_mask, named)
        if len(parts) == 1 and parts[0].is_whole:
            return self._attend_at_once(eager, module, query, key, value, attention_mask, **named)
        n_queries, n_keys = query.shape[2], key.shape[2]
        arguments = arguments_of(query, as_read(key, parts), value, attention_mask, named)
        output = matrix = None
        for each in parts:
            given = each.of(arguments)
            part, weights = call_eager(eager, module, given)
            if self.look is not None:
                self.look(given["value"], part, weights)
            reduced = self.reduce(weights)
            del weights
            if output is None or matrix is None:
                output = part.new_empty(len(query), n_queries, *part.shape[2:])
                new = reduced.new_zeros if any(p.keys != slice(0, n_keys) for p in parts) else reduced.new_empty
                matrix = new(len(query), n_queries, n_keys + self.has_sinks)
            output[each.samples, each.rows] = part
            self.put(matrix, each, reduced)
        assert output is not None
        assert matrix is not None
        self.receive(matrix)
        return (torch.zeros_like(output) if self.silent else output), None

    def put(self, matrix: torch.Tensor, part: Part, reduced: torch.Tensor) -> None:
        """Write the reduced weights of a part into the `[batch, query, key]` of all."""
        if self.has_sinks:
            matrix[part.samples, part.rows, 0] = reduced[..., 0]
        matrix[part.samples, part.rows, self.has_sinks :][..., part.keys] = reduced[..., self.has_sinks :]

    def _attend_at_once(
        self,
        eager: Callable[..., Any],
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **named: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of all queries and keys, and record their weights."""
        output, weights = eager(module, query, key, value, attention_mask, **named)
        if self.look is not None:
            self.look(value, output, weights)
        self.receive(self.reduce(weights))
        return (torch.zeros_like(output) if self.silent else output), None


def as_read(key: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    """Return the keys as the product of each block of queries wants to read them."""
    has_blocks = parts[0].rows != slice(0, parts[0].size[1])
    return key.transpose(2, 3).contiguous().transpose(2, 3) if has_blocks and key.device.type == "cpu" else key


def arguments_of(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, named: dict[str, Any]
) -> dict[str, Any]:
    """Return an attention's arguments by name, those that it takes by their place first."""
    return {"query": query, "key": key, "value": value, "attention_mask": mask, **named}


def call_eager(eager: Callable[..., Any], module: nn.Module, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Return the output and the weights of an eager attention, of what `arguments_of` returned."""
    named = dict(arguments)
    placed = [named.pop(name) for name in ("query", "key", "value", "attention_mask")]  # some call them otherwise
    output, weights = eager(module, *placed, **named)
    return output, weights


@contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """Let a recorder, or none, take what the attention functions of this thread compute."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def attend(module: nn.Module, query: torch.Tensor, *rest: Any, **named: Any) -> Any:
    """Compute a module's attention as its own eager function does; record it where a recorder is active."""
    eager = eager_function(type(module).forward)
    recorder = _recorder.get()
    if recorder is None:
        return eager(module, query, *rest, **named)
    return recorder.attend(eager, module, query, *rest, **named)


def eager_function(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the eager attention function that the forward of an attention module hands to the interface.

    Raises:
        CaptureError: It names none, or several.
    """
    plain: Any = inspect.unwrap(forward)
    names = [name for name in _eager_names(plain.__code__) if name in plain.__globals__]
    if len(names) != 1:
        raise CaptureError(f"{plain.__qualname__} names {len(names)} eager attention functions where one is needed")
    found: Callable[..., Any] = plain.__globals__[names[0]]
    return found


@lru_cache(maxsize=1024)
def _eager_names(code: CodeType) -> tuple[str, ...]:
    return tuple(name for name in code.co_names if name.endswith("eager_attention_forward"))


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)
