"""Labels along an axis: short enough, large enough, and never over each other."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from attnflow_hf.plot.fonts import font_families, legible
from attnflow_hf.plot.palette import faint_ink
from attnflow_hf.terminal import printable

LARGEST, SMALLEST = 10.0, 6.0
"""Font sizes, in points."""
LINE = 1.45
"""The height of a line, as a multiple of the font's size."""
_GAP = 7.0  # points between neighbors in one line
_MAX_CHARACTERS = 18


@dataclass(frozen=True)
class Labels:
    """What is written for each token.

    Attributes:
        texts: `[token]`, ready to be drawn.
        families: The fonts that have all characters.
        is_faint: `[token]`, which stand back: special tokens.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]
    is_faint: tuple[bool, ...] = field(default=())

    @classmethod
    def of(cls, names: Sequence[str], special: Sequence[bool] = ()) -> Labels:
        """Return the labels of tokens.

        Args:
            names: What each is called; control characters are escaped, long names end in an ellipsis.
            special: Which stand back.
        """
        shown = [printable(str(name)).replace("\n", "\\n") for name in names]
        families = font_families(shown)
        texts = tuple(shorten(text) for text in legible(shown, families))
        return cls(texts, tuple(families), tuple(bool(each) for each in special) or (False,) * len(texts))

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.texts)

    def select(self, indices: Sequence[int]) -> Labels:
        """Return some of the labels, in the order of `indices`."""
        return Labels(tuple(self.texts[i] for i in indices), self.families, tuple(self.is_faint[i] for i in indices))

    @cached_property
    def widest(self) -> float:
        """The width of the widest at a font size of 1, in the same unit."""
        return max((text_width(text, self.families) for text in set(self.texts)), default=0.0)


@dataclass(frozen=True)
class Fit:
    """How labels fit into cells of one size.

    Attributes:
        size: Of the font, in points.
        step: Every how many cells have a label.
        is_turned: Whether they stand upright, reading from below.
    """

    size: float
    step: int = 1
    is_turned: bool = False

    @property
    def note(self) -> str:
        """What must be said of labels that are left out; empty if none is."""
        return f"every {_ordinal(self.step)} token is named" if self.step > 1 else ""


def shorten(text: str, limit: int = _MAX_CHARACTERS) -> str:
    """Return `text` with at most `limit` characters, an ellipsis in place of the rest; no character loses its marks."""
    if len(text) <= limit:
        return text
    end = limit - 1
    while end > 1 and (unicodedata.category(text[end]) in ("Mn", "Me", "Mc", "Cf", "Sk") or text[end - 1] == "\u200d"):
        end -= 1
    return text[:end].rstrip() + "\u2026"


def text_width(text: str, families: Sequence[str]) -> float:
    """Return how wide `text` is at a font size of 1, in the same unit."""
    if not text.strip():
        return 0.3 * len(text)
    path = TextPath((0, 0), text.replace("$", r"\$"), size=100, prop=FontProperties(family=list(families)))
    return float(path.vertices[:, 0].max()) / 100  # from the pen's start; curves stay inside of their control points


def cell_width(labels: Labels, *, longest: float, least: float = 0.0) -> float:
    """Return how wide a column of a new figure is, in points: for labels in a line if they fit, else for turned ones.

    Args:
        labels: Those of the columns.
        longest: How wide all columns may be together for labels in one line, in points.
        least: The least width of a column that is otherwise wide enough, in points.
    """
    in_line = max(labels.widest * LARGEST + _GAP, least)
    if in_line * len(labels) <= longest:
        return in_line
    return cell_height(len(labels), longest=longest * 1.6)


def cell_height(n: int, *, longest: float, most: float = LARGEST * LINE) -> float:
    """Return how high a row of a new figure is, in points: `most`, less for many rows, but room for every few labels.

    Args:
        n: How many rows.
        longest: How high all may be together with the smallest labels, in points.
        most: The height of one of few rows, in points.
    """
    return max(min(most, longest / n), min(SMALLEST * LINE, longest / n))


def fit_columns(labels: Labels, cell: float) -> Fit:
    """Return how labels fit below columns that are `cell` points wide."""
    widest = labels.widest
    if widest * SMALLEST * 1.25 + _GAP <= cell:
        return Fit(min(LARGEST, (cell - _GAP) / max(widest, 1e-9)))
    rows = fit_rows(cell)
    return Fit(rows.size, rows.step, is_turned=True)


def fit_rows(cell: float) -> Fit:
    """Return how labels fit beside rows that are `cell` points high."""
    if cell >= SMALLEST * LINE:
        return Fit(min(LARGEST, cell / LINE))
    return Fit(SMALLEST, int(np.ceil(SMALLEST * LINE / cell)))


def name_axis(ax: Axes, which: Literal["x", "y"], labels: Labels, at: Sequence[float], fit: Fit, title: str) -> None:
    """Write labels along an axis without ticks, and what they are.

    Args:
        ax: The axes.
        which: The axis.
        labels: One for each place.
        at: The places, in data units.
        fit: How they fit.
        title: What they are; a note about labels left out is added.
    """
    kept = list(range(0, len(labels), fit.step))
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks([at[i] for i in kept], labels=[labels.texts[i] for i in kept])
    for text, index in zip(axis.get_ticklabels(), kept, strict=True):
        text.set(fontsize=fit.size, fontfamily=list(labels.families), parse_math=False, usetex=False)
        text.set(rotation=90 if fit.is_turned else 0)
        if labels.is_faint[index]:
            text.set_color(faint_ink(0.6))
    axis.set_tick_params(which="both", length=0, pad=4)
    axis.set_label_text(", ".join(part for part in (title, fit.note) if part), color=faint_ink(0.7), fontsize=9)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"
