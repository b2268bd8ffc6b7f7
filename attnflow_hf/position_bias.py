"""What the shape of a causal graph gives to each position, whatever the model learned; and scores without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph, mix_residual

POSITION_CORRECTIONS = ("none", "uniform")


def uniform_causal_graph(
    n_layers: int, n_tokens: int, *, residual_weight: float = 0.5, residual_layers: Sequence[int] = ()
) -> LayerGraph:
    """Return the graph in which each token attends evenly to itself and all earlier ones, in every layer.

    Args:
        n_layers: The number of layers.
        n_tokens: The number of tokens.
        residual_weight: The share of the residual connection.
        residual_layers: Layers that have no attention.

    Example:
        >>> uniform_causal_graph(1, 2, residual_weight=0.0).weights[0]
        array([[1. , 0. ],
               [0.5, 0.5]])
    """
    layer = np.tri(n_tokens) / np.arange(1, n_tokens + 1)[:, None]
    mix_residual(layer, residual_weight)
    weights = np.repeat(layer[None], n_layers, axis=0)
    weights[list(residual_layers)] = np.eye(n_tokens)
    return LayerGraph.of_own(weights)


def correct_positions(values: FloatArray, uniform_values: FloatArray) -> FloatArray:
    """Return `values` divided by those of the uniform causal graph, of the same shape; 0 where that has none.

    Above 1, a token got more than its place alone would give it.
    """
    return np.divide(values, uniform_values, out=np.zeros_like(values), where=uniform_values > 0)


def correct_errors(
    corrected: FloatArray, errors: FloatArray, uniform_values: FloatArray, uniform_errors: FloatArray
) -> FloatArray:
    """Return the standard errors of corrected values: to first order, and not too small however the estimates relate.

    Args:
        corrected: What `correct_positions` returned.
        errors: The standard errors of the values.
        uniform_values: What they were divided by.
        uniform_errors: The standard errors of that.
    """
    both = errors + corrected * uniform_errors
    return np.divide(both, uniform_values, out=np.zeros_like(both), where=uniform_values > 0)
