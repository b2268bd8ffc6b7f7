"""The layered graph's axes: one row a token, one column a level, from the input at the left to the last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from attnflow_hf.errors import FloatArray, IntArray
from attnflow_hf.plot.canvas import POINTS, new_axes, quieten, size_of
from attnflow_hf.plot.labels import LARGEST, Labels, cell_height, fit_rows, name_axis
from attnflow_hf.plot.palette import faint_ink

MAX_ROWS = 40
"""How many tokens a graph shows with all of its edges."""
_WIDTH, _LEAST_LEVEL, _MOST_LEVEL = 8.0, 0.5, 1.5  # inches
_HEIGHT = 9.0  # inches


def new_level_axes(n_rows: int, n_layers: int, *, row_height: float) -> Axes:
    """Return axes of a new pyplot figure with room for rows and levels.

    Args:
        n_rows: How many tokens have a row.
        n_layers: How many layers; there is one level more.
        row_height: Of one of few rows, in points.
    """
    width = n_layers * min(_MOST_LEVEL, max(_LEAST_LEVEL, _WIDTH / n_layers)) + 0.25
    height = cell_height(n_rows, longest=_HEIGHT * POINTS, most=row_height)
    return new_axes([width], n_rows * height / POINTS)[0]


def lay_out_levels(ax: Axes, labels: Labels, n_layers: int, *, reach: float = 0.5, row: int = 0) -> None:
    """Name rows and levels, the first token on top and the input at the left.

    Args:
        ax: The axes.
        labels: One for each row.
        n_layers: How many layers.
        reach: How far what is drawn at `row` reaches up and down, in rows.
        row: The row of the output position.
    """
    quieten(ax)
    ax.set_xlim(-0.12, n_layers + 0.12)
    lowest, highest = max(len(labels) - 0.5, row + reach + 0.1), min(-0.5, row - reach - 0.1)
    ax.set_ylim(lowest, highest)
    fit = fit_rows(size_of(ax)[1] / (lowest - highest))
    name_axis(ax, "y", labels, list(range(len(labels))), fit, "")
    step = int(np.ceil(3.4 * LARGEST / (size_of(ax)[0] / (n_layers + 0.24))))
    shown = [0, *range(1, n_layers + 1)[:: step if n_layers > step else 1]]
    ax.set_xticks(
        shown, ["input" if level == 0 else f"{level - 1}" for level in shown], fontsize=9, color=faint_ink(0.7)
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("layer", fontsize=9, color=faint_ink(0.7))


def draw_nodes(ax: Axes, n_rows: int, n_layers: int) -> None:
    """Draw a dot for each token on each level."""
    size = min(4.0, 0.3 * size_of(ax)[1] / n_rows)
    level, row = np.divmod(np.arange((n_layers + 1) * n_rows), n_rows)
    ax.plot(level, row, "o", markersize=size, color=faint_ink(0.75), markeredgewidth=0, zorder=3)


def name_ends(ax: Axes, labels: Labels, source: int, sink: int | None, n_layers: int) -> None:
    """Name the output position at the right as well, and set both ends apart in bold.

    Args:
        ax: Axes of `lay_out_levels`.
        labels: One for each row.
        source: The row of the output position.
        sink: The row of the input token, if there is one.
        n_layers: How many layers.
    """
    size = fit_rows(size_of(ax)[1] / len(labels)).size
    text = ax.annotate(labels.texts[source], (n_layers, source), (9, 0), textcoords="offset points", va="center")
    text.set(fontsize=size, fontweight="bold", fontfamily=list(labels.families), parse_math=False, usetex=False)
    for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        if sink is not None and round(float(tick)) == sink:
            label.set_fontweight("bold")


def write_scores(ax: Axes, scores: FloatArray) -> tuple[Annotation, ...]:
    """Write each row's score at its left end, between its label and its node, where all labels have room.

    Args:
        ax: Axes of `lay_out_levels`, whose labels move aside.
        scores: One for each row.
    """
    ticks = ax.get_yticklabels()
    if len(ticks) < len(scores):
        return ()
    size = float(ticks[0].get_fontsize()) * 0.85
    ax.tick_params(axis="y", pad=4 + 2.9 * size)
    texts = [
        ax.annotate(f"{score:.2f}", (0, row), (-7, 0), textcoords="offset points", ha="right", va="center")
        for row, score in enumerate(scores)
    ]
    for text in texts:
        text.set(fontsize=size, color=faint_ink(0.7))
    return tuple(texts)


def strongest_rows(weights: Sequence[float] | FloatArray, always: Sequence[int], n: int = MAX_ROWS) -> IntArray:
    """Return the `n` rows of the largest weights, in their order, and with them those of `always`.

    Args:
        weights: One for each row.
        always: Rows that must be there.
        n: How many rows there are at the most.
    """
    order = np.argsort(-np.asarray(weights, dtype=np.float64), kind="stable")
    kept = list(dict.fromkeys([*always, *(int(i) for i in order)]))[:n]
    return np.array(sorted(kept), dtype=np.int64)
