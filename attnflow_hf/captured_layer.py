"""`CapturedLayer`: what edge weights are made of, one layer of one text with all its heads and what is around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from attnflow_hf.errors import CaptureError, check_memory

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From vectors `[query, key, hidden]`, which may be written over, and the block's output `[query, 1, hidden]` to
numbers `[query, key]`."""

_BLOCK = 4_000_000
"""How many numbers are made at once: 16 MB, of which a processor's cache still holds a part."""


@dataclass(frozen=True, eq=False)
class Block:
    """What is around an attention, of one text: `output = norm(residual + projection(attention))`, or without norm.

    All float32.

    Attributes:
        weight: Of the output projection, `[value, hidden]`.
        residual: What the residual connection adds, the block's input, `[query, hidden]`.
        output: The block's output, `[query, hidden]`.
        scale: What the norm multiplies each position's vector by, `[query, 1]`; `None` without a norm.
        gain: What it multiplies each dimension by, `[hidden]`.
    """

    weight: torch.Tensor
    residual: torch.Tensor
    output: torch.Tensor
    scale: torch.Tensor | None = None
    gain: torch.Tensor | None = None

    def center(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the linear part of the norm, of vectors `[..., hidden]`, but for the scale of their position."""
        if self.scale is None:
            return vectors
        centered = vectors - vectors.mean(dim=-1, keepdim=True)
        return centered if self.gain is None else centered * self.gain


@dataclass(frozen=True, eq=False)
class CapturedLayer:
    """One layer of one text, without padding: its attention, and the block that the attention belongs to.

    The block's output at a position is a sum: for each token what the attention carries from there (`transformed`),
    what the residual connection adds (`residual`), and biases. Where a layer norm follows at once (post-layer-norm
    blocks, as in BERT), its deviation is that of the real output, so that it is linear (Kobayashi et al. 2021); where
    it stands in front (GPT-2, Llama), nothing follows.

    All tensors are float32, without gradients, on the model's device.

    Attributes:
        index: The layer, 0 is the lowest.
        part: `"encoder"` (also of a model of one stack), `"decoder"`, or `"cross"`.
        attention: The weights, `[head, query, key]`.

    Raises:
        CaptureError: By all but these three, where the model's blocks are of another form.

    Example:
        >>> def value_norms(layer: CapturedLayer) -> torch.Tensor:
        ...     '''Attention times the length of what it carries: Kobayashi et al. (2020), without the residual.'''
        ...     return layer.measure(lambda vectors, output: vectors.norm(dim=-1))
    """

    index: int
    part: str
    attention: torch.Tensor
    _values: torch.Tensor | str
    _block: Block | str

    @property
    def values(self) -> torch.Tensor:
        """The value vectors that each head reads, `[head, key, size]`; grouped ones stand once for each head."""
        if isinstance(self._values, str):
            raise CaptureError(self._values)
        return self._values

    @property
    def output(self) -> torch.Tensor:
        """The block's output, `[query, hidden]`: behind the residual connection, and a norm that follows it."""
        return self._known.output

    @property
    def residual(self) -> torch.Tensor:
        """The residual's part of the output, `[query, hidden]`."""
        block = self._known
        centered = block.center(block.residual)
        return centered if block.scale is None else centered * block.scale

    @cached_property
    def projected_values(self) -> torch.Tensor:
        """What each head would carry of a token by a weight of 1, through the output projection, `[head, key, hidden]`.

        Before the norm.
        """
        return self._projected(slice(None))

    def transformed(self) -> torch.Tensor:
        """Return the attention's part of the output from each token, `[query, key, hidden]`.

        Raises:
            TooLargeError: That is more than the memory; `measure` needs no more than a block of it.
        """
        n_queries, n_keys = self.attention.shape[1:]
        check_memory("the transformed vectors", 4 * n_queries * n_keys * self.output.shape[-1])
        every = torch.empty(n_queries, n_keys, self.output.shape[-1], device=self.attention.device)
        for rows, keys, vectors in self._vectors():
            every[rows, keys] = vectors
        return every

    def measure(self, function: Measure) -> torch.Tensor:
        """Return a function of the attention's part from each token, `[query, key]`, made block by block.

        Args:
            function: Called with vectors `[query, key, hidden]`, and the block's output `[query, 1, hidden]`.
        """
        found = self.attention.new_empty(self.attention.shape[1:])
        for rows, keys, vectors in self._vectors():
            found[rows, keys] = function(vectors, self.output[rows, None])
        return found

    def measure_own(self, function: Measure) -> torch.Tensor:
        """Return the same of each position's own part with the residual's, `[query]`."""
        if self.attention.shape[1] != self.attention.shape[2]:
            raise CaptureError(f"positions of {self.part} attention have no token of their own")
        shares, block = self.attention.diagonal(dim1=1, dim2=2), self._known
        own = torch.empty_like(block.output)
        for keys in _slices(len(own), _BLOCK // (len(shares) * own.shape[-1])):
            own[keys] = torch.einsum("hi,hid->id", shares[:, keys], block.center(self._projected(keys)))
        if block.scale is not None:
            own *= block.scale
        return function((own + self.residual)[:, None], self.output[:, None])[:, 0]

    @property
    def _known(self) -> Block:
        if isinstance(self._block, str):
            raise CaptureError(self._block)
        return self._block

    def _projected(self, keys: slice) -> torch.Tensor:
        values, weight = self.values[:, keys], self._known.weight
        return torch.bmm(values, weight.view(len(values), -1, weight.shape[-1]))

    def _vectors(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Yield queries, keys, and what is carried `[query, key, hidden]` between them."""
        block, (n_heads, n_queries, n_keys) = self._known, self.attention.shape
        hidden = block.output.shape[-1]
        for keys in _slices(n_keys, _BLOCK // (n_heads * hidden)):
            carried = block.center(self._projected(keys)).transpose(0, 1)  # [key, head, hidden]
            for rows in _slices(n_queries, _BLOCK // (len(carried) * hidden)):
                shares = self.attention[:, rows, keys]
                if block.scale is not None:
                    shares = shares * block.scale[rows]
                yield rows, keys, torch.bmm(shares.permute(2, 1, 0), carried).transpose(0, 1)


def _slices(length: int, size: int) -> Iterator[slice]:
    """Yield what `length` is cut into."""
    size = max(1, size)
    yield from (slice(start, min(start + size, length)) for start in range(0, length, size))
