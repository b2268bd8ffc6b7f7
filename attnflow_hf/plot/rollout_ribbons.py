"""Rollout of one output position, as one unit that spreads through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.text import Annotation

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, FloatArray, OptionError, check_index
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.plot.canvas import figure_of, settle, write_titles
from attnflow_hf.plot.labels import Labels
from attnflow_hf.plot.level_axes import (
    MAX_ROWS,
    draw_nodes,
    lay_out_levels,
    name_ends,
    new_level_axes,
    strongest_rows,
    write_scores,
)
from attnflow_hf.plot.palette import COLORS
from attnflow_hf.plot.ribbons import Ribbon, stack
from attnflow_hf.plot.subjects import subtitle_of

_ROW_HEIGHT, _FULL = 34.0, 1.8  # points; rows for all of the output position
_LEAST = 2e-3  # of a row: thinner ribbons cannot be seen


@dataclass(frozen=True)
class DrawnRollout:
    """A rollout on axes.

    Attributes:
        ax: The axes.
        bands: Of each layer, the lowest first, its ribbons.
        scores: The texts that say each row's rollout.
    """

    ax: Axes
    bands: tuple[PolyCollection, ...]
    scores: tuple[Annotation, ...]


def plot_rollout(
    graph: LayerGraph | Attribution | npt.ArrayLike,
    output_position: int,
    *,
    tokens: Sequence[str] | None = None,
    residual_weight: float = 0.5,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return attention rollout as ribbons: one unit spreads from the output position, at the right, to the input.

    A ribbon is as thick as what its edge carries: what its node got times the edge's weight. What comes together in a
    token at the left is the token's rollout, which is written there. Above 40 tokens those of the largest rollout have
    rows, and the picture says so.

    Args:
        graph: The layer graph; or an `Attribution` of raw attention with `layer="all"` and `output_position="all"`,
            which knows its tokens; or weights `[layer, query, key]`, as they are.
        output_position: Where the unit starts, on the last layer.
        tokens: What each token is called; by default its index, or the attribution's own.
        residual_weight: The share of the residual connection that is mixed into an attribution's weights.
        title: Instead of what is shown; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        ArrayError: The weights are not those of a layer graph, or an edge is unlimited.
        OptionError: Not raw attention, or not of all layers and positions.
        PositionError: There is no such output position.
    """
    return draw_rollout(graph, output_position, tokens=tokens, residual_weight=residual_weight, title=title, ax=ax).ax


def draw_rollout(
    graph: LayerGraph | Attribution | npt.ArrayLike,
    output_position: int,
    *,
    tokens: Sequence[str] | None,
    residual_weight: float,
    title: str | None,
    ax: Axes | None,
) -> DrawnRollout:
    """Draw what `plot_rollout` shows, and return its parts."""
    layer_graph, names, special = _named_graph(graph, tokens, residual_weight)
    n_layers, n = layer_graph.n_layers, layer_graph.n_tokens
    position = check_index("output position", output_position, n)
    carried = _carried(layer_graph.weights, position)
    scores = carried[0].sum(axis=0)
    rows = strongest_rows(scores, [position])
    labels = Labels.of([names[i] for i in rows], [special[i] for i in rows])
    is_own = ax is None
    if ax is None:
        ax = new_level_axes(len(rows), n_layers, row_height=_ROW_HEIGHT)
    source = int(np.flatnonzero(rows == position)[0])
    lay_out_levels(ax, labels, n_layers, reach=_FULL / 2, row=source)
    bands = tuple(_layer_band(ax, carried[layer][np.ix_(rows, rows)], layer) for layer in range(n_layers))
    draw_nodes(ax, len(rows), n_layers)
    name_ends(ax, labels, source, None, n_layers)
    written = write_scores(ax, scores[rows])
    said = ["how one unit spreads", subtitle_of(graph) if isinstance(graph, Attribution) else ""]
    if len(rows) < n:
        said.append(f"the {MAX_ROWS} tokens of the largest rollout, of {n}")
    heading = f"attention rollout of output position {position} ({names[position]})" if title is None else title
    write_titles(ax, heading, "; ".join(part for part in said if part) if title is None else "")
    if is_own:
        settle(figure_of(ax))
    return DrawnRollout(ax, bands, written)


def _named_graph(
    graph: LayerGraph | Attribution | npt.ArrayLike, tokens: Sequence[str] | None, residual_weight: float
) -> tuple[LayerGraph, tuple[str, ...], list[bool]]:
    """Return the layer graph, what its tokens are called, and which are special."""
    if isinstance(graph, Attribution):
        if tokens is not None:
            raise OptionError("an Attribution has tokens of its own; give tokens= with a graph only")
        given = (graph.method, graph.layer, graph.output_position, graph.edge_weights)
        if given != ("raw", "all", "all", "attention") or graph.alignment.parts:
            raise OptionError(
                "rollout is drawn from method='raw', layer='all', output_position='all', edge_weights='attention' of "
                f"one text, got {', '.join(map(repr, given))}"
            )
        found = LayerGraph.from_weights(graph.scores, residual_weight=residual_weight)
        return found, graph.labels, graph.special_tokens_mask.tolist()
    found = graph if isinstance(graph, LayerGraph) else LayerGraph(graph)
    if not np.isfinite(found.weights).all():
        raise ArrayError("rollout has no unlimited edges; give a graph of finite weights")
    if tokens is not None and (isinstance(tokens, str) or len(tokens) != found.n_tokens):
        raise ArrayError(f"the graph has {found.n_tokens} tokens, but tokens={tokens!r:.60}")
    names = tuple(map(str, range(found.n_tokens) if tokens is None else tokens))
    return found, names, [False] * len(names)


def _carried(weights: FloatArray, position: int) -> FloatArray:
    """Return what each edge carries of one unit at the output position, float64 `[layer, query, key]`."""
    carried = np.empty_like(weights)
    got = np.eye(len(weights[0]))[position]
    for layer in reversed(range(len(weights))):
        carried[layer] = got[:, None] * weights[layer]
        got = carried[layer].sum(axis=0)
    return carried


def _layer_band(ax: Axes, carried: FloatArray, layer: int) -> PolyCollection:
    """Draw what the edges of one layer carry, the more the darker."""
    query, key = np.nonzero(carried * _FULL > _LEAST)
    ribbons = [Ribbon(layer, int(q), int(k), float(carried[q, k])) for q, k in zip(query, key, strict=True)]
    stacked = sorted(stack(ribbons, _FULL), key=lambda each: each.thickness)
    colors = COLORS(0.2 + 0.8 * np.sqrt([each.ribbon.amount for each in stacked]))
    band = PolyCollection([each.outline() for each in stacked], facecolors=colors, linewidths=0, zorder=2)
    ax.add_collection(band)
    return band
