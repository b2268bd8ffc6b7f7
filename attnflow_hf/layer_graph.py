"""Edge weights, row normalization, residual: from attentions to a `LayerGraph`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnflow_hf.attentions import (
    HeadReduction,
    check_probabilities,
    check_same_size,
    crop_padding,
    mask_of_sample,
    read_heads,
    reduce_heads,
)
from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, OptionError, check_memory

ResidualWeight = float | Literal["unlimited"]


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A layered graph of tokens: the edge weights between each layer's output and its input.

    Level 0 is the input tokens; layer `l` joins level `l + 1` (its queries) to level `l` (its keys).
    This is the one thing that the rollout and flow backends read.

    Attributes:
        weights: float64 `[layer, query, key]`, layer 0 is the lowest, read-only. Nonnegative; finite but for the
            diagonal, where `inf` stands for a residual edge without limit. Rows of a graph made from attentions
            sum to 1; other graphs may have any capacities.

    Raises:
        ArrayError: Not three axes, not square, empty, NaN, negative, or infinite off the diagonal.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]]])
        >>> graph.n_layers, graph.n_tokens, graph.is_causal
        (1, 2, True)
    """

    weights: FloatArray

    def __init__(self, weights: npt.ArrayLike) -> None:
        """Copy, check and freeze `weights` `[layer, query, key]`."""
        check_memory("the layer graph", 8 * int(np.size(weights)))
        self._own(np.array(weights, dtype=np.float64, order="C"))

    def _own(self, array: FloatArray) -> None:
        _check_weights(array)
        array.setflags(write=False)
        object.__setattr__(self, "weights", array)

    def __reduce__(self) -> tuple[type[LayerGraph], tuple[FloatArray]]:
        """Return how to make a copy, for pickles: its weights are read-only too."""
        return LayerGraph, (self.weights,)

    @classmethod
    def from_attentions(
        cls,
        attentions: Sequence[Any] | npt.NDArray[np.floating],
        *,
        attention_mask: Any = None,
        head_reduction: HeadReduction = "mean",
        residual_weight: ResidualWeight = 0.5,
        renormalize: bool = False,
        batch_index: int | None = None,
    ) -> LayerGraph:
        """Return the layer graph `A = (1 - r) W + r I` of a model's attentions.

        `W` is a layer's attention with its heads reduced, its padding cropped and its rows divided by their sums;
        `r` is the residual weight (Abnar & Zuidema 2020, section 3: `A = 0.5 W + 0.5 I`).

        Args:
            attentions: One array or tensor a layer, `[head, query, key]` or `[batch, head, query, key]`, as in
                `outputs.attentions`; the lowest layer first.
            attention_mask: 1 for real tokens and 0 for padding, `[token]` or `[batch, token]`. Padding may lie
                on either side; it is cropped before anything else.
            head_reduction: How the heads of a layer become one: `"mean"` (the paper's), `"sum"`, `"max"`, `"min"`,
                the index of one head, or a list of indices whose mean is taken.
            residual_weight: The share `r` of the residual connection, 0 (none) to 1; or `"unlimited"`.
            renormalize: Accept rows that do not sum to 1 and divide them by their sums all the same.
            batch_index: Which sample of a batch; needed when the batch has more than one.

        Returns:
            A graph of the real tokens alone, whose rows sum to 1.

        Raises:
            ArrayError: The attentions are not square, not finite, negative, or a row does not sum to 1; the
                message names the layer and the row.
            OptionError: An unknown head reduction, or a residual weight outside 0 to 1.

        Example:
            >>> attention = np.array([[[0.5, 0.5], [0.25, 0.75]]])  # one head
            >>> LayerGraph.from_attentions([attention]).weights[0]
            array([[0.75 , 0.25 ],
                   [0.125, 0.875]])
        """
        layers = list(attentions)
        if not layers:
            raise ArrayError(
                "got no attentions at all; load the model with attn_implementation='eager' and call it with "
                "output_attentions=True, or let Attributor capture them"
            )
        mask = mask_of_sample(attention_mask, batch_index)
        reduced = []
        for layer, attention in enumerate(layers):
            heads, tolerance = read_heads(attention, layer, batch_index)
            heads = crop_padding(heads, mask, layer)
            check_probabilities(heads, layer, np.inf if renormalize else tolerance)
            reduced.append(reduce_heads(heads, head_reduction, layer))
        check_same_size(reduced)
        return cls.from_weights(np.stack(reduced), residual_weight=residual_weight)

    @classmethod
    def from_weights(
        cls,
        weights: npt.NDArray[np.floating],
        *,
        residual_weight: ResidualWeight = 0.5,
        normalize_rows: bool = True,
    ) -> LayerGraph:
        """Return the layer graph `(1 - r) W + r I` of edge weights `W` whose heads are reduced already.

        Args:
            weights: Nonnegative `[layer, query, key]`.
            residual_weight: The share `r` of the residual connection, 0 (none) to 1. `"unlimited"`: `W`, and residual
                edges without limit, which flow can pass and rollout cannot.
            normalize_rows: Divide each row by its sum first.

        Raises:
            ArrayError: A row sums to zero, or the weights are not those of a layer graph.
            OptionError: A residual weight outside 0 to 1.
        """
        check_memory("the layer graph", 8 * int(np.size(weights)))
        array = np.array(weights, dtype=np.float64, order="C")
        residual = residual_number(residual_weight)
        if normalize_rows:
            divide_rows(array)
        mix_residual(array, residual)
        return cls.of_own(array)

    @classmethod
    def of_own(cls, array: FloatArray) -> LayerGraph:
        """Return the layer graph of float64 weights `[layer, query, key]` that nobody else has, without a copy.

        Raises:
            ArrayError: As the class itself.
        """
        graph = cls.__new__(cls)
        graph._own(array)
        return graph

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return int(self.weights.shape[0])

    @property
    def n_tokens(self) -> int:
        """The number of nodes of each level."""
        return int(self.weights.shape[1])

    @cached_property
    def is_causal(self) -> bool:
        """Whether no layer has an edge from a query to a later key."""
        first_row = self.weights[:, 0, 1:]  # tells of most graphs that they are not
        return not first_row.any() and not np.triu(self.weights, k=1).any()

    def cut_capacity(self, cut: npt.NDArray[np.bool_]) -> FloatArray:
        """Return the capacity of a cut: the total weight of the edges from the source's side to the sink's side.

        By the max-flow min-cut theorem no flow is greater than the capacity of any cut that parts its source from its
        sink, and one of that capacity exists (Ford & Fulkerson 1956). It is summed from the weights alone.

        Args:
            cut: bool `[..., level, token]`: whether a node is on the source's side. Level 0 holds the input tokens;
                there are at most as many levels above it as layers.

        Returns:
            float64 `[...]`; `inf` where an unlimited edge crosses.

        Raises:
            ArrayError: The cut is not boolean, or does not fit the graph.

        Example:
            >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]]])
            >>> cut = np.array([[True, False], [False, True]])  # from position 1 to token 1
            >>> float(graph.cut_capacity(cut))
            0.5
        """
        cut = np.asarray(cut)
        if cut.dtype != np.bool_ or cut.ndim < 2 or cut.shape[-1] != self.n_tokens:
            raise ArrayError(
                f"a cut is bool [..., level, token] with {self.n_tokens} tokens, got {cut.dtype} {cut.shape}"
            )
        if not 2 <= cut.shape[-2] <= self.n_layers + 1:
            raise ArrayError(f"a cut of this graph has 2 to {self.n_layers + 1} levels, got {cut.shape[-2]}")
        total = np.zeros(cut.shape[:-2])
        for layer in range(cut.shape[-2] - 1):
            above, below = cut[..., layer + 1, :], ~cut[..., layer, :]
            unlimited = np.isinf(np.diagonal(self.weights[layer]))
            finite = np.where(np.isinf(self.weights[layer]), 0.0, self.weights[layer])
            with np.errstate(over="ignore"):
                total += np.where(below, above.astype(np.float64) @ finite, 0.0).sum(axis=-1)
            total[(above & below & unlimited).any(axis=-1)] = np.inf
        return total

    def __repr__(self) -> str:
        """Return the size in words."""
        return f"LayerGraph({self.n_layers} layers, {self.n_tokens} tokens)"


def residual_number(residual_weight: object) -> float:
    """Return a residual weight as a number: from 0 to 1, or `inf` for `"unlimited"`.

    Raises:
        OptionError: It is neither.
    """
    if isinstance(residual_weight, str) and residual_weight == "unlimited":
        return inf
    is_number = isinstance(residual_weight, (int, float, np.integer, np.floating)) and not isinstance(
        residual_weight, bool
    )
    if not (is_number and 0 <= residual_weight <= 1):  # type: ignore[operator]
        raise OptionError(f"residual_weight must be a number from 0 to 1, or 'unlimited', got {residual_weight!r}")
    return residual_weight  # type: ignore[return-value]


def divide_rows(weights: FloatArray) -> None:
    """Divide each row of `weights` `[layer, query, key]` by its sum, in place.

    Raises:
        ArrayError: A row sums to zero, or to no finite number; the message names the layer and the row.
    """
    sums = weights.sum(axis=-1, keepdims=True)
    bad = ~(np.isfinite(sums) & (sums > 0))[..., 0]
    if bad.any():
        layer, row = (int(i) for i in np.argwhere(bad)[0])
        raise ArrayError(f"layer {layer}, row {row} sums to {sums[layer, row, 0]}: it cannot be normalized to 1")
    weights /= sums


def mix_residual(weights: FloatArray, residual_weight: float) -> None:
    """Make `(1 - r) W + r I` of `weights` `W` `[..., query, key]`, in place, with the residual weight `r`.

    With `inf` it is `W` beside residual edges without limit.
    """
    if residual_weight < inf:
        weights *= 1.0 - residual_weight
    diagonal = np.arange(weights.shape[-1])
    weights[..., diagonal, diagonal] += residual_weight


def _check_weights(array: FloatArray) -> None:
    if array.ndim != 3 or array.shape[1] != array.shape[2] or 0 in array.shape:
        raise ArrayError(
            f"a layer graph needs weights [layer, query, key] with as many queries as keys, got {array.shape}"
        )
    if array.min() >= 0.0 and array.max() < np.inf:  # neither is so with NaN
        return
    if np.isnan(array).any():
        raise ArrayError(f"the weights of a layer graph must not be NaN; {_first(np.isnan(array))} is")
    if (array < 0).any():
        raise ArrayError(
            f"the weights of a layer graph must not be negative; {_first(array < 0)} is {array[array < 0][0]}"
        )
    infinite = np.isinf(array)
    infinite[:, np.arange(array.shape[1]), np.arange(array.shape[1])] = False
    if infinite.any():
        raise ArrayError(f"only the diagonal of a layer graph may be infinite; {_first(infinite)} is")


def _first(flags: BoolArray) -> str:
    layer, query, key = (int(i) for i in np.argwhere(flags)[0])
    return f"[layer {layer}, query {query}, key {key}]"
