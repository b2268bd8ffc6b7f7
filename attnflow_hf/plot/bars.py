"""Bars of one attribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from attnflow_hf.errors import FloatArray
from attnflow_hf.plot.canvas import POINTS, figure_of, new_axes, settle, size_of, write_titles
from attnflow_hf.plot.labels import Labels, cell_width, fit_columns, name_axis, text_width
from attnflow_hf.plot.palette import BAR, faint_ink
from attnflow_hf.plot.subjects import Scores, read_subject

_HEIGHT, _LONGEST = 2.2, 9.5  # inches
_NUMBER = 8.0  # points


def plot_tokens(
    scores: Scores,
    tokens: Sequence[str] | None = None,
    *,
    words: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return axes with one bar for each input token, as high as its score.

    Few bars bear their scores, many have an axis instead. Labels stand upright where a line has no room for them.

    Args:
        scores: An `Attribution` of one output position and one layer, or nonnegative scores `[token]`.
        tokens: The tokens of plain scores.
        words: Sum the tokens of each word.
        title: Instead of method, layer, output position and prediction; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        ArrayError: The scores have other axes, or do not fit the tokens.
        OptionError: The attribution is of several positions or layers, or plain scores have no tokens.

    Example:
        >>> ax = plot_tokens([0.2, 0.5, 0.3], ["the", "key", "turns"])
        >>> [float(bar.get_height()) for bar in ax.patches]
        [0.2, 0.5, 0.3]
    """
    subject = read_subject(scores, tokens, ("token",), words=words, title=title)
    labels = Labels.of(subject.names, subject.special)
    is_own = ax is None
    if ax is None:
        ax = new_axes([len(labels) * cell_width(labels, longest=_LONGEST * POINTS, least=30) / POINTS], _HEIGHT)[0]
    values = subject.scores
    at = np.arange(len(values))
    ax.bar(at, values, width=0.72 if len(values) < 100 else 0.9, color=BAR, linewidth=0)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_ylim(0, 1.04 * float(values.max()) or 1.0)
    cell = size_of(ax)[0] / len(values)
    name_axis(ax, "x", labels, at.tolist(), fit_columns(labels, cell), "")
    _number(ax, values, cell, subject.meaning, labels.families)
    ax.spines[["top", "left", "right"]].set_visible(False)
    ax.spines["bottom"].set(visible=True, color=faint_ink(0.3), linewidth=0.6)
    write_titles(ax, subject.title, subject.subtitle)
    if is_own:
        settle(figure_of(ax))
    return ax


def _number(ax: Axes, values: FloatArray, cell: float, meaning: str, families: Sequence[str]) -> None:
    """Write the scores above their bars, or the axis where there is no room for them."""
    ax.set_ylabel(meaning, fontsize=9, color=faint_ink(0.7))
    written = [f"{value:.2f}" for value in values]
    if max(text_width(text, families) for text in written) * _NUMBER + 4 > cell:
        ax.tick_params(axis="y", length=0, labelsize=8)
        ax.yaxis.grid(visible=True, color=faint_ink(0.15), linewidth=0.5)
        ax.set_axisbelow(True)
        return
    ax.set_yticks([])
    ax.set_ylim(top=ax.get_ylim()[1] * (1 + 1.2 * _NUMBER / size_of(ax)[1]))
    for x, (value, text) in enumerate(zip(values, written, strict=True)):
        ax.annotate(text, (x, value), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=_NUMBER)
