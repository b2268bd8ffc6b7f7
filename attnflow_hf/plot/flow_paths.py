"""One maximum flow: its paths with their amounts, and the minimum cut that proves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from attnflow_hf.errors import FlowError, OptionError, check_index
from attnflow_hf.flow_result import FlowEdges, FlowPath, FlowResult
from attnflow_hf.plot.canvas import figure_of, settle, write_titles
from attnflow_hf.plot.labels import Labels
from attnflow_hf.plot.level_axes import MAX_ROWS, draw_nodes, lay_out_levels, name_ends, new_level_axes
from attnflow_hf.plot.palette import MARK, PATHS, faint_ink
from attnflow_hf.plot.ribbons import Ribbon, Stacked, stack

MAX_PATHS = 30
"""How many paths a picture shows at the most; the strongest."""
_ROW_HEIGHT = 40.0  # points
_FULL = 0.72  # of a row's height: the whole flow
_NUMBER = 8.0  # points
_MAX_AMOUNTS, _MAX_HAIRLINES = 12, 300


@dataclass(frozen=True)
class DrawnFlow:
    """A flow on axes.

    Attributes:
        ax: The axes.
        paths: The paths, the strongest first.
        bands: Of each path, its ribbons.
        amounts: The texts that say how much a path carries, by the path's index; those for which there was room.
        cut: What marks the minimum cut.
    """

    ax: Axes
    paths: tuple[FlowPath, ...]
    bands: tuple[PolyCollection, ...]
    amounts: dict[int, Annotation]
    cut: LineCollection


def plot_flow(
    result: FlowResult,
    output_position: int,
    token: int,
    *,
    tokens: Sequence[str] | None = None,
    layer: int = -1,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return one maximum flow as ribbons from the output position, at the right, to the input token, at the left.

    Each path is a ribbon as thick as its amount; its number stands on it where there is room. Bars mark the edges of
    the minimum cut: all are full, and their capacities sum to the flow, so that no flow can be larger. Edges of the
    graph without flow are hairlines, where they are few. Above 40 tokens only rows with flow are shown, and of many
    paths the 30 strongest; the picture says so.

    Args:
        result: Of `flow(graph, certificate=True, paths=True)`.
        output_position: The explained position, one of those asked for.
        token: The input token.
        tokens: What each token is called; by default its index.
        layer: The explained layer, one of those asked for.
        title: Instead of the flow's value and its cut; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        FlowError: The flow is unlimited, or its search was not finished.
        OptionError: The call did not ask for a certificate and paths.
        PositionError: The position or the layer was not asked for.
    """
    return draw_flow(result, output_position, token, tokens=tokens, layer=layer, title=title, ax=ax).ax


def draw_flow(
    result: FlowResult,
    output_position: int,
    token: int,
    *,
    tokens: Sequence[str] | None,
    layer: int,
    title: str | None,
    ax: Axes | None,
) -> DrawnFlow:
    """Draw what `plot_flow` shows, and return its parts."""
    n = result.graph.n_tokens
    if tokens is not None and (isinstance(tokens, str) or len(tokens) != n):
        raise OptionError(f"the graph has {n} tokens, but tokens={tokens!r:.60}")
    paths = result.paths(output_position, token, layer)
    cut = result.cut_edges(output_position, token, layer)
    value = sum(path.amount for path in paths)
    if not np.isfinite(value) or (not len(cut) and value > 0):
        raise FlowError("this flow is unlimited, or its search was not finished: it has no minimum cut to draw")
    shown, n_layers = paths[:MAX_PATHS], check_index("layer", layer, result.graph.n_layers) + 1
    ends = check_index("output position", output_position, n), check_index("token", token, n)
    rows = _rows(n, ends, shown)
    names = [str(i) for i in range(n)] if tokens is None else list(tokens)
    labels = Labels.of([names[i] for i in rows])
    is_own = ax is None
    if ax is None:
        ax = new_level_axes(len(rows), n_layers, row_height=_ROW_HEIGHT)
    lay_out_levels(ax, labels, n_layers)
    row_of = {position: row for row, position in enumerate(rows)}
    _draw_hairlines(ax, result, row_of, n_layers)
    stacked = _stack(shown, row_of, value)
    bands = tuple(_band(ax, [each for each in stacked if each.ribbon.group == i], i) for i in range(len(shown)))
    draw_nodes(ax, len(rows), n_layers)
    name_ends(ax, labels, row_of[ends[0]], row_of[ends[1]], n_layers)
    marks = _mark_cut(ax, cut, stacked, row_of)
    amounts = _write_amounts(ax, shown, stacked, marks)
    said = _heading(value, [names[i] for i in ends]), _note(paths, shown, cut, len(rows), n)
    write_titles(ax, *(said if title is None else (title, "")))
    if is_own:
        settle(figure_of(ax))
    return DrawnFlow(ax, tuple(shown), bands, amounts, marks)


def _rows(n: int, ends: tuple[int, int], paths: Sequence[FlowPath]) -> list[int]:
    """Return the positions that have a row: all, or above 40 those with flow."""
    if n <= MAX_ROWS:
        return list(range(n))
    return sorted({*ends, *(position for path in paths for position in path.positions)})


def _draw_hairlines(ax: Axes, result: FlowResult, row_of: dict[int, int], n_layers: int) -> None:
    rows = list(row_of)
    weights = result.graph.weights[:n_layers][:, rows][:, :, rows]
    layer, query, key = np.nonzero(weights)
    if len(layer) <= _MAX_HAIRLINES:
        lines = np.stack([np.stack([layer, key], -1), np.stack([layer + 1, query], -1)], axis=1)
        ax.add_collection(LineCollection(list(lines), linewidths=0.5, colors=[faint_ink(0.18)], zorder=1))


def _stack(paths: Sequence[FlowPath], row_of: dict[int, int], value: float) -> list[Stacked]:
    ribbons = []
    for group, path in enumerate(paths):
        rows = [row_of[position] for position in path.positions]
        top = len(rows) - 1
        ribbons += [Ribbon(top - 1 - i, rows[i], rows[i + 1], path.amount, group) for i in range(top)]
    return stack(ribbons, _FULL / value if value else 0.0)


def _band(ax: Axes, stacked: Sequence[Stacked], number: int) -> PolyCollection:
    """Draw one path's ribbons."""
    color = PATHS[number % len(PATHS)]
    band = PolyCollection([each.outline() for each in stacked], facecolors=color, edgecolors=color, linewidths=0.3)
    band.set_zorder(2)
    ax.add_collection(band)
    return band


def _mark_cut(ax: Axes, cut: FlowEdges, stacked: Sequence[Stacked], row_of: dict[int, int]) -> LineCollection:
    """Draw a bar across each edge of the cut, where it is farthest from others."""
    bars = []
    for layer, query, key, _ in cut.tolist():
        crossing = [
            each
            for each in stacked
            if (each.ribbon.layer, each.ribbon.query, each.ribbon.key) == (layer, row_of.get(query), row_of.get(key))
        ]
        if not crossing:
            continue
        at = _side(cut, layer, query, key)
        places = [(each.middle(at), each.thickness / 2) for each in crossing]
        top = min(row - half for (_, row), half in places)
        bottom = max(row + half for (_, row), half in places)
        bars.append([(layer + at, top - 0.1), (layer + at, bottom + 0.1)])
    marks = LineCollection(bars, linewidths=2.0, colors=MARK, zorder=4, capstyle="butt")
    marks.set_path_effects(_halo(ax, 4.0))
    ax.add_collection(marks)
    return marks


def _halo(ax: Axes, width: float) -> list[AbstractPathEffect]:
    """Return what sets a mark or a number apart from the ribbons below it."""
    return [withStroke(linewidth=width, foreground=ax.get_facecolor())]


def _side(cut: FlowEdges, layer: int, query: int, key: int) -> float:
    """Return where along an edge of the cut its bar stands: away from the end that it shares with others."""
    same = cut[cut["layer"] == layer]
    leaving, entering = int((same["query"] == query).sum()), int((same["key"] == key).sum())
    return 0.25 if leaving > entering else 0.75 if entering > leaving else 0.5


def _write_amounts(
    ax: Axes, paths: Sequence[FlowPath], stacked: Sequence[Stacked], marks: LineCollection
) -> dict[int, Annotation]:
    """Write the amounts of the strongest paths, each on one of its ribbons where neither number nor bar stands."""
    written: dict[int, Annotation] = {}
    taken = [Bbox(ax.transData.transform(bar)).padded(3) for bar in marks.get_segments()]
    least = 0.01 * sum(path.amount for path in paths)
    for group, path in enumerate(path for path in paths[:_MAX_AMOUNTS] if path.amount >= least):
        text = ax.annotate(f"{path.amount:.2g}", (0, 0), ha="center", va="center", fontsize=_NUMBER, zorder=5)
        text.set_path_effects(_halo(ax, 3.0))
        for each in sorted((each for each in stacked if each.ribbon.group == group), key=lambda one: -one.ribbon.layer):
            for share in (0.5, 0.62, 0.38, 0.75, 0.25, 0.86, 0.14):
                text.xy = each.middle(share)
                text.set_position(text.xy)
                box = text.get_window_extent().padded(1.0)
                if not any(box.overlaps(other) for other in taken):
                    break
            else:
                continue
            taken.append(box)
            written[group] = text
            break
        else:
            text.remove()
    return written


def _heading(value: float, ends: Sequence[str]) -> str:
    return f"attention flow {value:.3g}, from {ends[0]} to {ends[1]}"


def _note(paths: Sequence[FlowPath], shown: Sequence[FlowPath], cut: FlowEdges, n_rows: int, n: int) -> str:
    edges = "1 edge" if len(cut) == 1 else f"{len(cut)} edges"
    parts = [f"minimum cut (bars): {edges}, {cut['amount'].sum():.3g} in all"]
    if len(shown) < len(paths):
        share = sum(path.amount for path in shown) / sum(path.amount for path in paths)
        parts.append(f"the {len(shown)} strongest of {len(paths):,} paths, {share:.0%} of the flow")
    if n_rows < n:
        parts.append(f"{n - n_rows} of {n} tokens without rows, as no path shown goes through them")
    return "; ".join(parts)
