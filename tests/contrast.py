"""How well two colors can be told apart, as WCAG 2 counts it."""

import numpy as np


def contrast(one: np.ndarray, two: np.ndarray) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted(luminance(color) for color in (one, two))
    return (high + 0.05) / (low + 0.05)


def luminance(color: np.ndarray) -> float:
    share = color / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
