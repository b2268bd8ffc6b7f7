"""Edge weights by what attention carries: ALTI and vector norms."""

from __future__ import annotations

import torch

from attnflow_hf.captured_layer import CapturedLayer, Measure


def alti(layer: CapturedLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how close what comes from each token is to the block's output, and what the residual adds to its own.

    With `T_i(x_j)` what comes to position `i` from token `j`, and the output `y_i`, an edge is `max(0, |y_i| -
    |y_i - T_i(x_j)|)` by the L1 norm (Ferrando et al. 2022, section 3, before rows are divided by their sums). Value
    biases are in the vectors, biases of projection and norm in the output alone, as in the authors' code.

    Args:
        layer: A layer whose block is known.

    Returns:
        float32 `[query, key]` of the attention alone, and `[query]`, the difference to `T_i(x_i)` with the residual.
    """
    return _both(layer, _closeness)


def norms(layer: CapturedLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the length of what comes from each token, and what the residual adds to that of a token's own.

    The L2 norm of the transformed vectors, with residual and layer norm (Kobayashi et al. 2021, section 3).

    Args:
        layer: A layer whose block is known.

    Returns:
        As `alti`.
    """
    return _both(layer, _length)


def _closeness(vectors: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    size = output.abs().sum(dim=-1)
    return (size - vectors.sub_(output).abs_().sum(dim=-1)).clamp_min_(0)


def _length(vectors: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return vectors.square().sum(dim=-1).sqrt()


def _both(layer: CapturedLayer, measure: Measure) -> tuple[torch.Tensor, torch.Tensor]:
    weights = layer.measure(measure)
    return weights, layer.measure_own(measure) - weights.diagonal()
