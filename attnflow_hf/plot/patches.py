"""Scores of an image's patches, over the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, FloatArray
from attnflow_hf.plot.canvas import add_color_bar, figure_of, new_axes, quieten, settle, write_titles
from attnflow_hf.plot.palette import COLORS
from attnflow_hf.plot.subjects import meaning_of, read_scores, subtitle_of, title_of

_SIZE = 3.2  # inches, the longer side
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709
_SHADE = 0.6  # how black the image's black is, as ink over the heat map


def plot_patches(
    scores: Attribution | npt.ArrayLike,
    image: Any = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return axes with a heat map of an image's patches, over the image in gray.

    Args:
        scores: An `Attribution` of an image, of one output position and one layer; or nonnegative scores
            `[row, column]`. What special tokens got (`[CLS]`) is not in the picture.
        image: The image as the model saw it, cut and squeezed: a PIL image, or an array `[y, x]` or `[y, x, color]`,
            of integers 0 to 255 or floats 0 to 1; by default none.
        title: Instead of method, layer, output position and prediction; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        ArrayError: The scores have other axes, are negative or not finite; or the image has other axes.
        OptionError: The attribution is none of an image.
    """
    said = ("", "", "score")
    if isinstance(scores, Attribution):
        said = title_of(scores), subtitle_of(scores), meaning_of(scores)
        scores = scores.grid_scores
    values = read_scores(scores, ("row", "column"))
    n_rows, n_columns = values.shape
    is_own = ax is None
    if ax is None:
        inch = _SIZE / max(n_rows, n_columns)
        ax = new_axes([n_columns * inch], n_rows * inch)[0]
    mesh = ax.pcolormesh(values, cmap=COLORS, vmin=0, vmax=float(values.max()) or 1.0, linewidth=0)
    if image is not None:
        shade = _SHADE * (1 - _gray(image))
        black = np.zeros_like(shade)
        ax.imshow(black, "gray", vmin=0, vmax=1, alpha=shade, extent=(0, n_columns, n_rows, 0), aspect="auto", zorder=2)
    ax.set(xlim=(0, n_columns), ylim=(n_rows, 0), xticks=[], yticks=[])
    quieten(ax)
    add_color_bar(ax, mesh, said[2])
    write_titles(ax, *(said[:2] if title is None else (title, "")))
    if is_own:
        settle(figure_of(ax))
    return ax


def _gray(image: Any) -> FloatArray:
    """Return an image's luminance, float64 `[y, x]`, 0 to 1."""
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4)):
        raise ArrayError(f"an image has axes [y, x] or [y, x, color], got shape {pixels.shape}")
    values = pixels.astype(np.float64) / (255 if np.issubdtype(pixels.dtype, np.integer) else 1)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[-1] == 1 else values[..., :3] @ _LUMINANCE
    return np.clip(values, 0, 1)
