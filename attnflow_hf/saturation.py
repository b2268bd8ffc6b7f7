"""`Saturation`: which cut sets each flow value, and so how much flow says about its output position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import BoolArray, FloatArray
from attnflow_hf.layer_graph import LayerGraph

CUT_KINDS = ("source side", "sink column", "own column", "inner")
"""The kinds of cut that can set a flow value; `Saturation` explains them."""

KindArray = npt.NDArray[np.int8]
_TOLERANCE = 1e-11


@dataclass(frozen=True)
class Saturation:
    """Which cuts set the flow values of an attribution, as shares of those that are not zero.

    A maximum flow equals the narrowest cut between its ends (Ford & Fulkerson 1956). Three cuts need no paths to be
    found; where one of them is the narrowest, the value says no more than its formula does.

    Attributes:
        source_side: All edges out of the output position: the value is all that the position gives, the same for each
            such token (1 for attention weights).
        sink_column: All edges into the token, or into the column of nodes above it: the value is the same from each
            output position (with the lowest cut, the sum of the first layer's attention to the token).
        own_column: All edges out of the output position's own column of nodes: the value is a constant, or a constant
            plus the first layer's attention from the position to the token.
        inner: None of these. Such values depend on what lies between the two.
        variation: Standard deviation of the values over tokens, divided by their mean; the mean over output positions.
    """

    source_side: float
    sink_column: float
    own_column: float
    inner: float
    variation: float

    @property
    def is_saturated(self) -> bool:
        """Whether nine of ten values are set by cuts at the ends."""
        return self.inner < 0.1

    def describe(self) -> str:
        """Return in a line what limits the values, and how much they vary."""
        limits = sorted(
            ((share, kind) for share, kind in zip(self.shares, CUT_KINDS, strict=True) if share), reverse=True
        )
        listed = ", ".join(f"{kind} {share:.0%}" for share, kind in limits)
        return f"values are limited by: {listed}; they vary by {self.variation:.1%} over tokens"

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """The shares in the order of `CUT_KINDS`."""
        return self.source_side, self.sink_column, self.own_column, self.inner


def measure_saturation(
    graph: LayerGraph, layers: Sequence[int], output_positions: Sequence[int], values: FloatArray
) -> Saturation | None:
    """Return which cuts set flow values `[layer, position, token]`; `None` if all of them are zero or unlimited.

    Args:
        graph: The graph that they are flows of.
        layers: The explained layers.
        output_positions: The explained positions.
        values: Unnormalized flow values.
    """
    kinds = cut_kinds(graph, layers, output_positions, values)
    counts = np.bincount(kinds.reshape(-1) + 1, minlength=1 + len(CUT_KINDS))[1:]  # without those of -1
    n_known = int(counts.sum())
    if not n_known:
        return None
    source_side, sink_column, own_column, inner = (counts / n_known).tolist()
    variation = _variation(values.reshape(-1, values.shape[-1]), (kinds >= 0).reshape(-1, values.shape[-1]))
    return Saturation(source_side, sink_column, own_column, inner, variation)


def _variation(values: FloatArray, known: BoolArray) -> float:
    """Return the standard deviation by the mean of each row's known values, on average over rows that have some."""
    counts = known.sum(axis=1)
    values, known, counts = values[counts > 0], known[counts > 0], counts[counts > 0]
    means = np.where(known, values, 0.0).sum(axis=1) / counts
    squares = np.where(known, values - means[:, None], 0.0) ** 2
    return float((np.sqrt(squares.sum(axis=1) / counts) / means).mean())


def cut_kinds(
    graph: LayerGraph, layers: Sequence[int], output_positions: Sequence[int], values: FloatArray
) -> KindArray:
    """Return which kind of cut is as narrow as each flow, int8 `[layer, position, token]`.

    Args:
        graph: The graph that they are flows of.
        layers: The explained layers.
        output_positions: The explained positions.
        values: Unnormalized flow values `[layer, position, token]`.

    Returns:
        Indices of `CUT_KINDS`, the first that fits; -1 where the value is 0 or infinite.
    """
    kinds = np.full(values.shape, CUT_KINDS.index("inner"), dtype=np.int8)
    for index, layer in enumerate(layers):
        below = _sink_column(graph.weights[: layer + 1])
        for row, position in enumerate(output_positions):
            weights, flows = graph.weights[: layer + 1], values[index, row]
            enough = flows * (1 + _TOLERANCE)
            sink_column = np.minimum(below, _whole_column(weights, position))
            kinds[index, row, enough >= _own_column(weights, position)] = CUT_KINDS.index("own column")
            kinds[index, row, enough >= sink_column] = CUT_KINDS.index("sink column")
            kinds[index, row, enough >= weights[-1, position].sum()] = CUT_KINDS.index("source side")
    kinds[(values == 0) | np.isinf(values)] = -1
    return kinds


def _own_column(weights: FloatArray, position: int) -> FloatArray:
    """Return the narrowest cut around the position's own column, from the top down to any level, for each token."""
    rows = weights[:, position].copy()
    out, to_tokens = rows.sum(axis=1), rows[0].copy()
    rows[:, position] = 0.0
    sideways = rows.sum(axis=1)[:0:-1].cumsum()[::-1]  # of the column's nodes from level `l + 2` up, `[l]`
    if not len(sideways):
        return np.full(weights.shape[-1], np.inf)
    inner = (sideways[1:] + out[1:-1]).min(initial=np.inf)
    return np.asarray(np.minimum(sideways[0] + to_tokens, inner))


def _whole_column(weights: FloatArray, position: int) -> FloatArray:
    """Return the cut around each token's column where that is without limit, up to the position's own level."""
    diagonals = np.diagonal(weights, axis1=1, axis2=2)
    weights = weights.copy()
    weights[:, np.arange(weights.shape[-1]), np.arange(weights.shape[-1])] = 0.0
    whole = weights[:-1].sum(axis=(0, 1)) + weights[-1, position]
    is_whole = np.isinf(diagonals).all(axis=0) & (np.arange(weights.shape[-1]) != position)
    return np.where(is_whole, whole, np.inf)


def _sink_column(weights: FloatArray) -> FloatArray:
    """Return the narrowest cut around each token's column up to any level below the position's own."""
    below = weights[:-1].copy()
    diagonal = np.arange(weights.shape[-1])
    straight = below[:, diagonal, diagonal]
    below[:, diagonal, diagonal] = 0.0
    sideways = below.sum(axis=1).cumsum(axis=0)
    return np.asarray((sideways + straight).min(axis=0, initial=np.inf))
