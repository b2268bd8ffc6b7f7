"""Flow where residual edges have no limit: what a position sends to its own token is what leaves its own column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnflow_hf.backends import compute
from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph, mix_residual


def unlimited_graph(edges: LayerGraph) -> LayerGraph:
    """Return a graph with residual edges without limit beside all others."""
    weights = edges.weights.copy()
    mix_residual(weights, np.inf)
    return LayerGraph.of_own(weights)


def unlimited_flow(edges: LayerGraph, backend: str, layers: Sequence[int], positions: Sequence[int]) -> FloatArray:
    """Return the flow from positions to tokens through edges beside which all residual edges have no limit.

    From a position to another token it is the maximum flow of `unlimited_graph`. To its own token that would have no
    limit either, and say nothing. There it is the flow that takes at least one edge of attention, be it the one that
    goes straight down: the position's column stands twice, all edges into it end in its copy, and flow that is in the
    copy stays there. So it is the same sum over ways as for other tokens.

    Args:
        edges: The edges without the residual ones.
        backend: Of `flow`.
        layers: Indices of the explained layers.
        positions: Indices of the explained positions.

    Returns:
        float64 `[layer, position, token]`, finite.

    Example:
        Two layers, one token, which attends to itself by 0.25 and 0.5: either edge leads from its column to the copy.

        >>> unlimited_flow(LayerGraph([[[0.25]], [[0.5]]]), "networkx", [1], [0])
        array([[[0.75]]])
    """
    n = edges.n_tokens
    values = np.empty((len(layers), len(positions), n))
    for row, position in enumerate(positions):
        found = compute("flow", backend, _with_copy(edges, position), layers, [position])[:, 0]
        values[:, row] = found[:, :n]
        values[:, row, position] = found[:, n]
    return values


def _with_copy(edges: LayerGraph, position: int) -> LayerGraph:
    """Return the unlimited graph with one more node a level, which gets what goes into the position's column."""
    n = edges.n_tokens
    weights = np.zeros((edges.n_layers, n + 1, n + 1))
    weights[:, :n, :n] = edges.weights
    weights[:, :n, n] = edges.weights[:, :, position]
    weights[:, :, position] = 0.0
    mix_residual(weights, np.inf)
    return LayerGraph.of_own(weights)
