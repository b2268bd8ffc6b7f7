"""`GradRecorder`: attention times its gradient, each layer reduced as its gradient comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves

from attnflow_hf.attention_function import Recorder, arguments_of, as_read, call_eager
from attnflow_hf.attentions import HeadReduction
from attnflow_hf.errors import AttnFlowError, CaptureError, first_line
from attnflow_hf.query_blocks import Part

FLOAT16_SCALE = 2.0**6
"""The gradient of a target in float16, whose least number is 6e-8: of attention in long texts many are smaller and
would be lost. Of a trained BERT on 500 tokens the products of the lower layers are off by 5 to 9 % without (Frobenius
norm, from float32 with the same weights), by 0.3 to 0.4 % from 16 on; at 2^14 gradients of a small trained Llama
overflow. bfloat16 has float32's exponents and loses none: its errors of up to 6 % are the rounding to 8 bits."""


class GradRecorder(Recorder):
    """Takes attention times gradient, layer by layer as the gradients come: the highest layer first.

    Args:
        check: Called with the index of each attention, in the order of the forward pass, and its shape.
        put: Called with its index, and its `[batch, query, key]`,
            nonnegative float32 on the model's device. A sink, in front of the keys where `has_sinks`, holds no value,
            so that its column is zero.
        head_reduction: How the heads become one.
        relu: Whether negative numbers become zero `"after"` that or `"before"`.
        block_size: As of a `Recorder`.
        has_sinks: As of a `Recorder`.
        scale: The gradient of a target; what is handed on is that of 1. A power of two, so that no digit changes.
    """

    def __init__(
        self,
        check: Callable[[int, torch.Size], None],
        put: Callable[[int, torch.Tensor], None],
        head_reduction: HeadReduction,
        *,
        relu: str,
        block_size: int | None,
        has_sinks: bool,
        scale: float = 1.0,
    ) -> None:
        """Take note of what is wanted."""
        super().__init__(lambda _: None, head_reduction, block_size=block_size, has_sinks=has_sinks)
        self.check, self.put_matrix = check, put
        self.relu, self.scale = relu, scale
        self.leaf = torch.zeros((), requires_grad=True)
        """What a gradient is asked of. Each streamed attention takes it beside its own inputs, so that the way back
        leads through all of them that the target depends on, trained or not."""
        self.waiting: dict[int, tuple[torch.Size, torch.device]] = {}
        """The shape of the matrix of each attention that no gradient has reached."""
        self.moved: set[int] = set()
        """The attentions whose gradient is not zero everywhere, as it is past PyTorch's integer kernels."""
        self.of_baseline: Mapping[int, torch.Tensor] | None = None
        """The gradients of the outputs of attentions at a baseline, of which, and of those here, the mean is taken."""

    def take(self, weights: torch.Tensor) -> None:
        """Wait for the gradient of one layer's whole `[batch, head, query, key]`."""
        index, self.n_calls = self.n_calls, self.n_calls + 1
        self._wait(index, weights.shape[0], weights.shape[2], weights.shape[3], weights.device)
        kept = weights.detach()
        if weights.requires_grad:
            weights.register_hook(
                lambda gradient: self.receive_product(index, self.reduce_product(index, kept, gradient))
            )

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
        """Return the output of the model's eager attention; its weights are recorded on the way back."""
        index, self.n_calls = self.n_calls, self.n_calls + 1
        self._wait(index, len(query), query.shape[2], key.shape[2], query.device)
        parts = self.blocks.parts(query, key, attention_mask, named)
        arguments = arguments_of(query, as_read(key, parts), value, attention_mask, named)
        tensors = {name: given for name, given in arguments.items() if isinstance(given, torch.Tensor)}
        others = {name: given for name, given in arguments.items() if name not in tensors}
        attention = _StreamedAttention(self, index, eager, module, parts, list(tensors), others)
        output: torch.Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            attention, self.leaf, *tensors.values()
        )
        return output, None

    def run_backward(self, targets: torch.Tensor, name: str) -> None:
        """Take the gradients of the targets `[sample]`, so that all attentions are received which they depend on.

        Raises:
            CaptureError: There are none, or they are not finite.
        """
        advice = "load it in float32, with weights that gradients can pass"
        try:
            if targets.requires_grad:
                torch.autograd.grad(targets, [self.leaf], torch.full_like(targets, self.scale), allow_unused=True)
        except (AttnFlowError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise CaptureError(f"no gradients can be taken of {name}: {first_line(error)}; {advice}") from error
        if not self.moved:
            raise CaptureError(
                f"no gradient of the target reaches the attentions of {name} (are its weights quantized?); {advice}"
            )

    def fill_unreached(self) -> tuple[int, ...]:
        """Hand on zeros for the attentions that the targets do not depend on, and return which they are."""
        for index, (shape, device) in sorted(self.waiting.items()):
            self.put_matrix(index, torch.zeros(shape, device=device))
        return tuple(index for index in range(self.n_calls) if index not in self.moved)

    def reduce_product(self, index: int, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return attention times gradient `[batch, head, query, key]` with heads as one, nonnegative float32."""
        if index not in self.moved and bool(gradient.any()):
            self.moved.add(index)
        product = (weights.float() * gradient.float()).mul_(1 / self.scale)
        if self.relu == "before":
            product.relu_()
        reduced = self.reduce_heads(product).relu_()
        return nn.functional.pad(reduced, (1, 0)) if self.has_sinks else reduced

    def gradient_of(self, index: int, of_output: torch.Tensor) -> torch.Tensor | None:
        """Return the gradient of an attention's output that its weights shall have; `None` if none is wanted."""
        if self.of_baseline is None:
            return of_output
        other = self.of_baseline.get(index)  # what the target there does not depend on has none
        return of_output / 2 if other is None else (of_output + other) / 2

    def _wait(self, index: int, batch: int, queries: int, keys: int, device: torch.device) -> None:
        shape = torch.Size((batch, queries, keys + self.has_sinks))
        self.check(index, shape)
        self.waiting[index] = shape, device

    def receive_product(self, index: int, matrix: torch.Tensor) -> None:
        """Hand on attention times gradient of one attention, `[batch, query, key]`, finite."""
        del self.waiting[index]
        if not bool(torch.isfinite(matrix).all()):
            raise CaptureError(f"the gradients of attention {index} have NaN or infinite entries; load it in float32")
        self.put_matrix(index, matrix)


class BaselineRecorder(GradRecorder):
    """Takes the gradients of the outputs of attentions, and hands on no product.

    Args:
        like: Whose block size, sinks and scale it has.
    """

    def __init__(self, like: GradRecorder) -> None:
        """Take note of nothing yet."""
        super().__init__(
            lambda *_: None,
            lambda *_: None,
            "sum",
            relu="after",
            block_size=like.blocks.size,
            has_sinks=like.has_sinks,
            scale=like.scale,
        )
        self.of_outputs: dict[int, torch.Tensor] = {}

    def gradient_of(self, index: int, of_output: torch.Tensor) -> None:
        """Keep the gradient of an attention's output, `[batch, query, ...]`."""
        self.of_outputs[index] = of_output
        self.moved.add(index)


class _StreamedAttention:
    """One attention whose weights are there for a block of queries at a time, on the way up and once more back."""

    def __init__(
        self,
        recorder: GradRecorder,
        index: int,
        eager: Callable[..., Any],
        module: nn.Module,
        parts: Sequence[Part],
        names: Sequence[str],
        others: dict[str, Any],
    ) -> None:
        nested = tree_leaves(others)
        if any(isinstance(each, torch.Tensor) and each.requires_grad for each in nested):
            raise CaptureError(
                f"{type(module).__name__} hands tensors to its attention inside of lists, past which gradients get lost"
            )
        self.recorder, self.index, self.eager, self.module = recorder, index, eager, module
        self.parts, self.names, self.others = parts, names, others

    def output(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the attention's output, `[batch, query, ...]`, of the tensors among its arguments."""
        given = self.others | dict(zip(self.names, tensors, strict=True))
        output: torch.Tensor | None = None
        for part in self.parts:
            found: torch.Tensor = call_eager(self.eager, self.module, part.of(given))[0]
            if part.is_whole:
                return found
            if output is None:
                n_samples, n_queries, _ = part.size
                output = found.new_empty(n_samples, n_queries, *found.shape[2:])
            output[part.samples, part.rows] = found
        assert output is not None
        return output

    def gradients(
        self, tensors: Sequence[torch.Tensor], of_output: torch.Tensor, wanted: Sequence[bool]
    ) -> list[torch.Tensor | None]:
        """Return the gradients of the tensors, and hand on those of the weights, times the weights."""
        given = self.others | dict(zip(self.names, tensors, strict=True))
        sums = {
            name: torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            for name, tensor, is_wanted in zip(self.names, tensors, wanted, strict=True)
            if is_wanted
        }
        of_weights = self.recorder.gradient_of(self.index, of_output)
        shape, device = self.recorder.waiting[self.index]
        matrix = torch.zeros(shape, device=device)
        for part in self.parts:
            leaves = {
                name: each.detach().requires_grad_(name in sums or name == "query")
                if isinstance(each, torch.Tensor)
                else each
                for name, each in part.of(given).items()
            }
            with torch.enable_grad():
                output, weights = call_eager(self.eager, self.module, leaves)
            place, asked = (part.samples, part.rows), [leaves[name] for name in sums]
            if of_weights is of_output:  # one way back serves both
                of_own, *found = _gradients(output, [weights, *asked], of_output[place])
            else:
                found = _gradients(output, asked, of_output[place], retain_graph=of_weights is not None)
                of_own = None if of_weights is None else _gradients(output, [weights], of_weights[place])[0]
            if of_weights is not None:
                if of_own is None:
                    raise CaptureError(f"{type(self.module).__name__} returns other attention weights than it uses")
                self.recorder.put(matrix, part, self.recorder.reduce_product(self.index, weights.detach(), of_own))
            for total, new in zip(part.of(sums).values(), found, strict=True):
                if new is not None:
                    total.add_(new)
        if of_weights is not None:
            self.recorder.receive_product(self.index, matrix)
        return [sums.get(name) for name in self.names]


def _gradients(
    output: torch.Tensor, asked: Sequence[torch.Tensor], of_output: torch.Tensor, *, retain_graph: bool = False
) -> list[torch.Tensor | None]:
    """Return the gradients of tensors, `None` where the output does not depend on one."""
    if not asked:
        return []
    return list(torch.autograd.grad(output, asked, of_output, allow_unused=True, retain_graph=retain_graph))


class _Attention(torch.autograd.Function):
    """Lets autograd keep of an attention what goes into it, and no weights."""

    @staticmethod
    def forward(ctx: Any, attention: _StreamedAttention, leaf: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.attention = attention
        ctx.save_for_backward(*tensors)
        return attention.output(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: torch.Tensor) -> Any:
        found = ctx.attention.gradients(ctx.saved_tensors, of_output, ctx.needs_input_grad[2:])
        return None, torch.zeros(()), *found
