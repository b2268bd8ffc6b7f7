"""The layered graph of tokens, edge width by weight: the paper's figure 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from attnflow_hf.errors import ArrayError, FloatArray, OptionError
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.plot.canvas import figure_of, settle, size_of, write_titles
from attnflow_hf.plot.labels import Labels
from attnflow_hf.plot.level_axes import MAX_ROWS, draw_nodes, lay_out_levels, new_level_axes
from attnflow_hf.plot.palette import COLORS
from attnflow_hf.plot.subjects import Scores, read_subject

_ROW_HEIGHT = 26.0  # points
_LARGEST_WIDTH = 9.0  # points
_MAX_EDGES = 400


def plot_graph(
    scores: Scores | LayerGraph,
    tokens: Sequence[str] | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return the layered graph: a row for each token, the input at the left, the last layer at the right.

    An edge's width is proportional to its weight. Of raw attention, and of a `LayerGraph`, the weights are those
    between one layer's output and its input; of rollout and flow, as in the paper's figure 1, an edge from a node of a
    layer stands for what it draws from an input token through all layers below.

    Args:
        scores: An `Attribution` with `layer="all"` and `output_position="all"`, a `LayerGraph`, or nonnegative weights
            `[layer, query, key]`. Above 40 tokens only the strongest edges are drawn, and the picture says so.
        tokens: The tokens of a graph or of plain weights.
        title: Instead of the method; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        ArrayError: The weights have other axes, or do not fit the tokens.
        OptionError: The attribution is of one layer or of one position, or plain weights have no tokens.
    """
    if isinstance(scores, LayerGraph):
        scores = _finite(scores.weights)
    subject = read_subject(scores, tokens, ("layer", "position", "token"), title=title, meaning="weight")
    n_layers, n_queries, n = subject.scores.shape
    if n_queries != n:
        raise ArrayError(f"a graph needs as many output positions as tokens, got {n_queries} and {n}")
    is_own = ax is None
    if ax is None:
        ax = new_level_axes(n, n_layers, row_height=_ROW_HEIGHT)
    lay_out_levels(ax, Labels.of(subject.names, subject.special), n_layers)
    n_drawn, n_edges = _draw_edges(ax, subject.scores)
    draw_nodes(ax, n, n_layers)
    said = [] if title is not None else [f"edge width: {subject.meaning}", subject.subtitle]
    if n_drawn < n_edges:
        said.append(f"the {n_drawn} strongest of {n_edges:,} edges")
    write_titles(ax, subject.title, "; ".join(part for part in said if part))
    if is_own:
        settle(figure_of(ax))
    return ax


def _finite(weights: FloatArray) -> FloatArray:
    """Return weights with unlimited edges drawn as the widest of the others."""
    finite = weights[np.isfinite(weights)]
    if not finite.size:
        raise OptionError("all edges of this graph are unlimited: there are no widths to draw")
    return np.minimum(weights, float(finite.max()))


def _draw_edges(ax: Axes, weights: FloatArray) -> tuple[int, int]:
    """Draw the edges, the weakest first; return how many, and of how many."""
    n = weights.shape[-1]
    places = np.argwhere(weights > 0)
    values = weights[weights > 0]
    order = np.argsort(values, kind="stable")
    if n > MAX_ROWS:
        order = order[-_MAX_EDGES:]
    layer, query, key = places[order].T
    ends = np.stack([np.stack([layer, key], axis=-1), np.stack([layer + 1, query], axis=-1)], axis=1)
    widest = min(_LARGEST_WIDTH, 0.4 * size_of(ax)[1] / n)
    widths = values[order] * (widest / (weights.max() or 1.0))
    colors = COLORS(0.2 + 0.8 * values[order] / (weights.max() or 1.0))
    ax.add_collection(LineCollection(list(ends), linewidths=widths, colors=colors, capstyle="butt", zorder=2))
    return len(order), len(values)
