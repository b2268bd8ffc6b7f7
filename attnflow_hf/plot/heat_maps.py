"""Heat maps: input tokens by layers, as in the paper's figures 2 to 4, and output positions by input tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from attnflow_hf.errors import FloatArray, OptionError, check_choice
from attnflow_hf.plot.canvas import (
    POINTS,
    TITLE,
    add_color_bar,
    figure_of,
    new_axes,
    quieten,
    settle,
    size_of,
    write_overline,
    write_titles,
)
from attnflow_hf.plot.fonts import font_families
from attnflow_hf.plot.labels import Labels, cell_height, cell_width, fit_columns, fit_rows, name_axis, text_width
from attnflow_hf.plot.palette import COLORS
from attnflow_hf.plot.subjects import Scores, Subject, read_subject

_LONGEST = 9.5 * POINTS  # of all panels together
_LAYER_HEIGHT = 17.0  # points
_SQUARE, _LARGEST_SQUARE = 20.0, 8.5 * POINTS  # a tile of plot_matrix at the most, and all of them
_LEAST_TILE = 5.0  # points; smaller ones touch, and are pixels in a PDF or SVG
_BOLD = 1.2  # how much wider bold letters are, at the most
SCALES = ("shared", "own")


def plot_layers(
    scores: Scores | Mapping[str, Scores],
    tokens: Sequence[str] | None = None,
    *,
    words: bool = False,
    scale: str = "shared",
    largest: float | None = None,
    title: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Axes | npt.NDArray[Any]:
    """Return a heat map of input tokens by layers, the last layer on top; or several, side by side.

    With `attributor.compare(text, options=Options(layer="all"))` these are the paper's figures 2 to 4: raw attention,
    rollout and flow of one output position.

    Args:
        scores: An `Attribution` with `layer="all"` of one output position, or nonnegative scores `[layer, token]`; or
            several by their names, of the same tokens.
        tokens: The tokens of plain scores.
        words: Sum the tokens of each word.
        scale: `"shared"`: one color means the same score in all panels; `"own"`: each has a scale, from 0 to its
            largest score, and a color bar.
        largest: The score of the darkest color; above it all are as dark. For scores of which few hide the rest, as
            those of a first token; `special_tokens="drop"` and `first_token="drop"` leave such tokens out.
        title: Instead of what is explained and predicted; empty for none.
        ax: Where to draw, for several as many axes; by default on a pyplot figure of its own, of a fitting size.

    Returns:
        The axes; of several a NumPy array of them, in their order.

    Raises:
        ArrayError: The scores have other axes, or do not fit the tokens.
        OptionError: The attribution is of one layer or of all positions, plain scores have no tokens, an unknown
            `scale`, or a `largest` that is not above 0.
    """
    check_choice("scale", scale, SCALES)
    several = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    if not several:
        raise OptionError("there is nothing to plot: the mapping of attributions is empty")
    subjects = [read_subject(each, tokens, ("layer", "token"), words=words, title=title) for each in several.values()]
    labels = [Labels.of(each.names, each.special) for each in subjects]
    axes = _layer_axes(subjects, labels, list(several), scale) if ax is None else _given_axes(ax, len(subjects))
    all_scores = [each.scores for each in subjects]
    for number, (place, subject) in enumerate(zip(axes, subjects, strict=True)):
        has_rows, has_bar = number == 0 or scale == "own", number == len(axes) - 1 or scale == "own"
        mesh = _tiles(place, subject.scores, _largest(largest, [subject.scores] if scale == "own" else all_scores))
        _name_columns(place, labels[number])
        _name_layers(place, len(subject.scores), has_names=has_rows)
        if has_bar:
            meaning = subject.meaning if scale == "own" else _common_meaning(subjects)
            add_color_bar(place, mesh, meaning, is_cut_off=largest is not None)
    if isinstance(scores, Mapping):
        _write_heads(axes, subjects, list(several))
    else:
        write_titles(axes[0], subjects[0].title, subjects[0].subtitle)
    if ax is None:
        settle(figure_of(axes[0]))
    return np.array(axes, dtype=object) if isinstance(scores, Mapping) else axes[0]


def plot_matrix(
    scores: Scores,
    tokens: Sequence[str] | None = None,
    *,
    largest: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return a heat map of output positions (rows, the first on top) by input tokens (columns).

    Args:
        scores: An `Attribution` with `output_position="all"` of one layer, or nonnegative scores `[position, token]`.
        tokens: The tokens of plain scores.
        largest: The score of the darkest color, as in `plot_layers`.
        title: Instead of method, layer and prediction; empty for none.
        ax: Where to draw; by default on a pyplot figure of its own, of a fitting size.

    Raises:
        ArrayError: The scores have other axes, or do not fit the tokens.
        OptionError: The attribution is of one position or of all layers, plain scores have no tokens, or `largest` is
            not above 0.
    """
    subject = read_subject(scores, tokens, ("position", "token"), title=title)
    n_rows, n_columns = subject.scores.shape
    columns = Labels.of(subject.names, subject.special)
    rows = columns if subject.row_names == subject.names else Labels.of(subject.row_names)
    is_own = ax is None
    if ax is None:
        cell = cell_height(max(n_rows, n_columns), longest=_LARGEST_SQUARE, most=_SQUARE)
        ax = new_axes([n_columns * cell / POINTS], n_rows * cell / POINTS)[0]
    mesh = _tiles(ax, subject.scores, _largest(largest, [subject.scores]))
    ax.invert_yaxis()
    _name_columns(ax, columns, "input token")
    at = (np.arange(n_rows) + 0.5).tolist()
    name_axis(ax, "y", rows, at, fit_rows(size_of(ax)[1] / n_rows), "output position")
    add_color_bar(ax, mesh, subject.meaning, is_cut_off=largest is not None)
    write_titles(ax, subject.title, subject.subtitle)
    if is_own:
        settle(figure_of(ax))
    return ax


def _layer_axes(subjects: Sequence[Subject], labels: Sequence[Labels], heads: Sequence[str], scale: str) -> list[Axes]:
    """Return axes of a new figure, as wide as their labels and the names above them need."""
    longest = _LONGEST / len(subjects)
    widths = [
        max(len(each) * cell_width(each, longest=longest, least=22), _head_width(head)) / POINTS
        for each, head in zip(labels, heads, strict=True)
    ]
    height = max(len(each.scores) for each in subjects)
    height_of_layer = cell_height(height, longest=7 * POINTS, most=_LAYER_HEIGHT)
    return new_axes(widths, height * height_of_layer / POINTS, gap=0.22 if scale == "shared" else 1.2)


def _head_width(head: str) -> float:
    """Return how wide the name above a panel is at the most, in points."""
    return text_width(head, font_families([head])) * TITLE * _BOLD


def _given_axes(ax: Axes | Sequence[Axes], n: int) -> list[Axes]:
    axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n:
        raise OptionError(f"{n} heat maps need as many axes, got {len(axes)} in ax=")
    return axes


def _tiles(ax: Axes, values: FloatArray, largest: float) -> QuadMesh:
    """Draw one tile for each value, row 0 lowest; small ones touch, larger ones stand apart by a hair."""
    n_rows, n_columns = values.shape
    width, height = size_of(ax)
    small = min(width / n_columns, height / n_rows) < _LEAST_TILE
    mesh = ax.pcolormesh(values, cmap=COLORS, vmin=0, vmax=largest, rasterized=small)
    if not small:
        mesh.set(edgecolor=ax.get_facecolor(), linewidth=0.75, antialiased=True)
    quieten(ax)
    return mesh


def _largest(asked: float | None, scores: Sequence[FloatArray]) -> float:
    """Return the score of the darkest color."""
    if asked is None:
        return max(float(each.max()) for each in scores) or 1.0
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not 0 < asked < np.inf:
        raise OptionError(f"largest must be a score above 0, got {asked!r}")
    return float(asked)


def _name_columns(ax: Axes, labels: Labels, title: str = "") -> None:
    at = (np.arange(len(labels)) + 0.5).tolist()
    name_axis(ax, "x", labels, at, fit_columns(labels, size_of(ax)[0] / len(labels)), title)


def _name_layers(ax: Axes, n_layers: int, *, has_names: bool) -> None:
    if not has_names:
        ax.set_yticks([])
        return
    numbers = Labels.of([str(layer) for layer in range(n_layers)])
    at = (np.arange(n_layers) + 0.5).tolist()
    name_axis(ax, "y", numbers, at, fit_rows(size_of(ax)[1] / n_layers), "layer")


def _write_heads(axes: Sequence[Axes], subjects: Sequence[Subject], names: Sequence[str]) -> None:
    """Write each panel's name above it, and above the first what is explained in all."""
    for ax, name in zip(axes, names, strict=True):
        write_titles(ax, name)
    said = list(dict.fromkeys(subject.subtitle or subject.title for subject in subjects))
    write_overline(axes[0], "; ".join(said), width=sum(size_of(ax)[0] for ax in axes))


def _common_meaning(subjects: Sequence[Subject]) -> str:
    meanings = list(dict.fromkeys(subject.meaning for subject in subjects))
    if len(meanings) == 1:
        return meanings[0]
    return "share of the method's sum" if all(meaning.startswith("share of ") for meaning in meanings) else "score"
