"""The learning rate over a training run."""

from __future__ import annotations

import math

__all__ = ["warm_cosine"]


def warm_cosine(progress: float, warmup: float) -> float:
    """Return the part of the highest learning rate: up in a line, then down to zero along a cosine.

    Args:
        progress: The part of the run that is done, 0 to 1.
        warmup: The part of the run in which the rate rises.

    Example:
        >>> [round(warm_cosine(progress, 0.1), 2) for progress in (0.0, 0.05, 0.1, 1.0)]
        [0.0, 0.5, 1.0, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
