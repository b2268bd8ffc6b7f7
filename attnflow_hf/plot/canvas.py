"""Figures whose axes have a given size, with just the room around them that their labels need."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from attnflow_hf.plot.fonts import font_families, legible
from attnflow_hf.plot.palette import faint_ink
from attnflow_hf.terminal import printable

POINTS = 72.0
"""Points in an inch."""
_MARGIN = 0.12  # inches around all
_RESOLUTIONS = (70.0, 100.0)  # dots an inch at which hinted text is widest
TITLE, _SMALL = 11.0, 9.0  # points, the fonts of a title and of what stands below it
_BAR, _BAR_GAP = 0.12, 0.15  # inches: a color bar's width, and its distance


def new_axes(widths: Sequence[float], height: float, *, gap: float = 0.35) -> list[Axes]:
    """Return the axes of a new pyplot figure, side by side; `settle` makes room around them.

    Args:
        widths: Of each, in inches.
        height: Of all, in inches.
        gap: Between them, in inches.
    """
    total = sum(widths) + gap * (len(widths) - 1)
    figure = plt.figure(figsize=(total, height), layout="none")
    starts = [sum(widths[:i]) + gap * i for i in range(len(widths))]
    axes = [figure.add_axes((x / total, 0, width / total, 1)) for x, width in zip(starts, widths, strict=True)]
    for ax in axes:
        quieten(ax)
    return axes


def size_of(ax: Axes) -> tuple[float, float]:
    """Return the width and height of `ax`, in points."""
    box = ax.get_window_extent()
    scale = POINTS / figure_of(ax).dpi
    return box.width * scale, box.height * scale


def figure_of(ax: Axes) -> Figure:
    """Return the figure that `ax` stands on, the whole one."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def quieten(ax: Axes) -> None:
    """Take away the frame and the grid."""
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)


def write_titles(ax: Axes, title: str, subtitle: str = "") -> Annotation | None:
    """Write a title and smaller lines below it, flush left, both plain text; return the smaller lines, if any.

    Args:
        ax: The axes below.
        title: None if empty.
        subtitle: Broken into lines that are about as wide as the axes.
    """
    families = font_families([title, subtitle])
    title, subtitle = legible([printable(title), printable(subtitle)], families)
    columns = _columns(size_of(ax)[0])
    lines = textwrap.wrap(subtitle, columns)
    plain: dict[str, Any] = {"parse_math": False, "usetex": False, "fontfamily": families}
    note = _write_lines(ax, lines, 7, plain)
    if title:
        head = "\n".join(textwrap.wrap(title, int(columns * 0.75)))
        pad = 8 + _SMALL * 1.5 * len(lines)
        ax.set_title(head, loc="left", fontsize=TITLE, fontweight="bold", pad=pad, y=1.0, **plain)
    return note


def write_overline(ax: Axes, text: str, *, width: float) -> None:
    """Write smaller lines above the title of `ax`, flush left, in plain text.

    Args:
        ax: The axes below, with a title of one line.
        text: Nothing is written if empty.
        width: How wide the lines may be, in points.
    """
    families = font_families([text])
    lines = textwrap.wrap(legible([printable(text)], families)[0], _columns(width))
    _write_lines(ax, lines, 27, {"parse_math": False, "usetex": False, "fontfamily": families})


def _columns(width: float) -> int:
    """Return how many characters of small print a line of `width` points has; a short line may hang over."""
    return max(72, int(width / (_SMALL * 0.54)))


def _write_lines(ax: Axes, lines: Sequence[str], above: float, plain: dict[str, Any]) -> Annotation | None:
    if not lines:
        return None
    note = ax.annotate("\n".join(lines), (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points")
    note.set(va="bottom", fontsize=_SMALL, color=faint_ink(0.7), linespacing=1.3, **plain)
    return note


def add_color_bar(ax: Axes, mappable: ScalarMappable, label: str, *, is_cut_off: bool = False) -> Axes:
    """Return a thin color bar at the right of `ax`, on its figure, with what it means.

    Args:
        ax: The axes, the rightmost.
        mappable: What is colored.
        label: What the values are.
        is_cut_off: Some values are larger than the darkest color's: the bar ends in a tip.
    """
    figure = figure_of(ax)
    box = ax.get_window_extent()
    inch = figure.dpi / box.width
    bar = ax.inset_axes((1 + _BAR_GAP * inch, 0, _BAR * inch, 1))
    drawn = figure.colorbar(mappable, cax=bar, extend="max" if is_cut_off else "neither")
    drawn.outline.set_visible(False)
    bar.tick_params(length=0, labelsize=8)
    bar.set_ylabel(label, fontsize=9, color=faint_ink(0.7))
    bar.grid(visible=False)
    return bar


def settle(figure: Figure) -> None:
    """Give a figure the size that all on it needs; the axes keep theirs, in inches.

    Args:
        figure: One of `new_axes`.
    """
    own = figure.dpi
    try:
        boxes = [_needed(figure, dpi) for dpi in sorted({own, *_RESOLUTIONS})]
    finally:
        figure.set_dpi(own)
    box = Bbox.union(boxes).padded(_MARGIN)
    width, height = figure.get_size_inches()
    places = [(ax, ax.get_position(original=True)) for ax in figure.axes]
    figure.set_size_inches(box.width, box.height)
    for ax, place in places:
        left, bottom = place.x0 * width - box.x0, place.y0 * height - box.y0
        size = place.width * width / box.width, place.height * height / box.height
        ax.set_position(Bbox.from_bounds(left / box.width, bottom / box.height, *size))


def _needed(figure: Figure, dpi: float) -> Bbox:
    """Return the box of all that is on a figure, in inches, as it is drawn at a resolution."""
    figure.set_dpi(dpi)
    return figure.get_tightbbox()
