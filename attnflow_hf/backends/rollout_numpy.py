"""Raw attention and attention rollout: rows of matrices, and of products of matrices."""

import numpy as np

from attnflow_hf.errors import ArrayError, FloatArray, IntArray
from attnflow_hf.layer_graph import LayerGraph


def raw(graph: LayerGraph, layers: IntArray, output_positions: IntArray) -> FloatArray:
    """Return the rows of the layers' own matrices: what each output position reads directly below it.

    Args:
        graph: The edge weights `A`, `[layer, query, key]`.
        layers: Indices of the explained layers.
        output_positions: Indices of the explained positions.

    Returns:
        float64 `[layer, output position, token]`, in the range of the weights (an unlimited edge is `inf`).

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]]])
        >>> raw(graph, np.array([0]), np.array([1]))
        array([[[0.5, 0.5]]])
    """
    return np.asarray(graph.weights[np.ix_(layers, output_positions)])


def rollout(graph: LayerGraph, layers: IntArray, output_positions: IntArray) -> FloatArray:
    """Return attention rollout: the sum, over all paths from an output to a token, of the product of the weights.

    The rollout of layer `l` is the matrix `A_l A_(l-1) ... A_0` (Abnar & Zuidema 2020, eq. 1), of which the rows of
    the output positions are taken. Where the rows of `A` sum to 1, so do those of the rollout.

    Args:
        graph: The edge weights `A`, `[layer, query, key]`.
        layers: Indices of the explained layers.
        output_positions: Indices of the explained positions.

    Returns:
        float64 `[layer, output position, token]`, nonnegative. One row costs a product of a vector and a matrix for
        each layer below it.

    Raises:
        ArrayError: A used weight is infinite, so that the products have no limit.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> rollout(graph, np.array([1]), np.array([1]))
        array([[[0.75, 0.25]]])
    """
    highest = int(layers.max(initial=-1))
    _check_finite(graph.weights[: highest + 1])
    # Whole matrices, each made from the one below, cost `highest` products of n rows; single rows start anew for
    # each layer, which is cheaper while they are few.
    if int(layers.sum()) * len(output_positions) < highest * graph.n_tokens:
        rows = [_rollout_rows(graph.weights[: layer + 1], output_positions) for layer in layers]
        return np.array(rows).reshape(len(layers), len(output_positions), graph.n_tokens)
    matrices = _rollout_matrices(graph.weights[: highest + 1])
    return np.asarray(matrices[np.ix_(layers, output_positions)])


def _rollout_rows(weights: FloatArray, output_positions: IntArray) -> FloatArray:
    rows = weights[-1, output_positions]
    for layer_weights in weights[-2::-1]:
        rows = rows @ layer_weights
    return np.asarray(rows)


def _rollout_matrices(weights: FloatArray) -> FloatArray:
    """Return the rollout of each layer, `[layer, query, token]`."""
    matrices = weights.copy()
    for layer in range(1, len(weights)):
        matrices[layer] = weights[layer] @ matrices[layer - 1]
    return matrices


def _check_finite(weights: FloatArray) -> None:
    if not np.isfinite(weights).all():
        layer, position = (int(i) for i in np.argwhere(~np.isfinite(weights))[0][:2])
        raise ArrayError(
            f"rollout needs finite weights, but the residual edge of layer {layer}, position {position} is unlimited; "
            "use method='flow', or give the diagonal finite weights"
        )
