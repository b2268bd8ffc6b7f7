"""`LayerRecorder`: edge weights that a function makes of each layer, one text after the other, while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attnflow_hf.attention_function import Recorder
from attnflow_hf.block_watch import BlockWatch, Surroundings
from attnflow_hf.capture_report import DECODER, ENCODER, CaptureReport
from attnflow_hf.captured_layer import Block, CapturedLayer
from attnflow_hf.errors import AttnFlowError, CaptureError

EdgeFunction = Callable[[CapturedLayer], Any]
"""From a layer of one text to its edge weights `[query, key]`; or to these and what the residual adds, `[query]`."""


@dataclass(frozen=True, eq=False)
class _Attention:
    """One attention of a batch, until it is known what is around it."""

    index: int
    weights: torch.Tensor
    values: torch.Tensor | str


class LayerRecorder(Recorder):
    """Hands on the edge weights of each layer when the layer is done; of one layer all heads are there as a whole.

    Args:
        model: The model.
        report: How it is captured.
        name: What the edge weights are called.
        function: Makes those of a layer.
        real: Which tokens are no padding, bool `[batch, token]`, of encoder and decoder; all, where that is not told.
        put: Called with the index of each attention and its `[batch, query, key]`, nonnegative float32 on the model's
            device, zero for padding; with a column of zeros in front for a sink.
        put_residual: Called with the same index and `[batch, query]`, where the function tells the residual's part.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        report: CaptureReport,
        name: str,
        function: EdgeFunction,
        real: Mapping[str, torch.Tensor],
        put: Callable[[int, torch.Tensor], None],
        put_residual: Callable[[int, torch.Tensor], None],
    ) -> None:
        """Take note of what is wanted."""
        super().__init__(lambda _: None, has_sinks=report.has_sinks)
        self.report, self.name, self.function, self.real = report, name, function, real
        self.put_matrix, self.put_residual = put, put_residual
        self.watch = BlockWatch(model, self.is_active, self._found)
        self.waiting: _Attention | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take what the attention functions of this thread compute, and what becomes of it."""
        watching: AbstractContextManager[None] = self.watch.watching()
        with super().recording(), watching:
            yield

    def take(self, weights: torch.Tensor) -> None:
        """Make the edge weights of one layer's whole `[batch, head, query, key]`, of which nothing else is known."""
        index, self.n_calls = self.n_calls, self.n_calls + 1
        why = f"its attention is captured by {self.report.step}, which shows no values"
        self._finish(_Attention(index, weights, self._refusal(why)), why)

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
        """Return the output of the model's eager attention, and keep what it was made of until its layer is done."""
        if self.waiting is not None:
            self._found("it has a second attention")
        index, self.n_calls = self.n_calls, self.n_calls + 1
        output, weights = eager(module, query, key, value, attention_mask, **named)
        self.waiting = _Attention(index, weights, value)
        if self.watch.is_inside:
            self.watch.attended(output)
        else:
            self._found("its layers do not stand in a list")
        return output, None

    def _found(self, surroundings: Surroundings | str) -> None:
        """Make the edge weights of the attention that waits."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            self._finish(waiting, surroundings)

    def _finish(self, attention: _Attention, surroundings: Surroundings | str) -> None:
        batch, _, n_queries, n_keys = attention.weights.shape
        device = attention.weights.device
        matrix = torch.zeros(batch, n_queries, n_keys + self.has_sinks, device=device)
        residual = torch.zeros(batch, n_queries, device=device)
        has_residual = False
        for row in range(batch):
            layer, queries, keys = self._layer(attention, surroundings, row)
            edges, own = self._edges(layer)
            matrix[row, queries[:, None], keys + self.has_sinks] = edges
            if own is not None:
                residual[row, queries], has_residual = own, True
        self.put_matrix(attention.index, matrix)
        if has_residual:
            self.put_residual(attention.index, residual)

    def _layer(
        self, attention: _Attention, surroundings: Surroundings | str, row: int
    ) -> tuple[CapturedLayer, torch.Tensor, torch.Tensor]:
        """Return one text's layer, and which queries and keys of the batch are its own."""
        sites = self.report.sites
        site = sites[min(attention.index, len(sites) - 1)]  # too many are told of at the end
        weights, values = attention.weights[row], attention.values
        queries = self._own(row, weights.shape[1], ENCODER if site.part == ENCODER else DECODER, like=weights)
        keys = self._own(row, weights.shape[2], DECODER if site.part == DECODER else ENCODER, like=weights)
        if isinstance(values, torch.Tensor):
            values = values[row].repeat_interleave(len(weights) // values.shape[1], dim=0)[:, keys].float()
        if isinstance(surroundings, str):
            around: Block | str = self._refusal(surroundings)
        else:
            around = _block_of(surroundings, row, queries)
        own = weights[:, queries[:, None], keys].float()
        return CapturedLayer(site.layer, site.part, own, values, around), queries, keys

    def _own(self, row: int, length: int, part: str, *, like: torch.Tensor) -> torch.Tensor:
        real = self.real.get(part)
        if real is None:
            return torch.arange(length, device=like.device)
        if row >= len(real) or real.shape[1] != length:
            raise CaptureError(
                f"{self.report.model} reads other batches than it was given, so that edge_weights={self.name!r} cannot "
                "tell its padding; give it one text at a time, without an attention_mask"
            )
        return real[row].nonzero()[:, 0]

    def _edges(self, layer: CapturedLayer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the function makes of a layer, checked."""
        where = f"edge_weights={self.name!r} of layer {layer.index}"
        try:
            made = self.function(layer)
        except (AttnFlowError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise CaptureError(f"{where} failed: {type(error).__name__}: {error}") from error
        edges, own = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        wanted = tuple(layer.attention.shape[1:])
        edges = _checked(edges, where, "[query, key]", wanted)
        if bool((edges < 0).any()):
            raise CaptureError(f"{where} must not be negative, got {float(edges.min()):.3g}")
        return edges, None if own is None else _checked(own, f"{where}: the residual", "[query]", wanted[:1])

    def _refusal(self, why: str) -> str:
        return (
            f"edge_weights={self.name!r} need the value vectors and the block around each attention, as in BERT, "
            f"DistilBERT, GPT-2 or Llama. Of {self.report.model} these are not known: {why}. Choose "
            "edge_weights='attention' or 'grad_attention', which need less"
        )


def _checked(made: Any, where: str, axes: str, shape: Sequence[int]) -> torch.Tensor:
    """Return a function's numbers as float32, finite and of this shape."""
    try:
        tensor = torch.as_tensor(made).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CaptureError(f"{where} must be a tensor {axes}, got {type(made).__name__}") from error
    if tuple(tensor.shape) != tuple(shape):
        raise CaptureError(f"{where} must be {axes} {list(shape)}, got {list(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise CaptureError(f"{where} must be finite, got NaN or infinite entries")
    return tensor


def _block_of(known: Surroundings, row: int, queries: torch.Tensor) -> Block:
    """Return what is around the attention of one text, float32."""
    residual, output, total = (each[row, queries].float() for each in (known.residual, known.output, known.total))
    plain = Block(known.weight.float(), residual, output)
    if known.norm is None:
        return plain
    scale = torch.rsqrt(total.var(dim=-1, correction=0, keepdim=True) + known.norm.eps)
    gain = known.norm.weight
    return replace(plain, scale=scale, gain=None if gain is None else gain.float())
