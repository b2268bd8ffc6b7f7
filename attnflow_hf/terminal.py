"""Plain tokens and scores to a table with bars, for a terminal."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnflow_hf.errors import FloatArray

_COLORS = ("#0072b2", "#d55e00", "#009e73")  # told apart by color-blind readers, and in gray
_MAX_WIDTH, _MAX_LABEL, _MIN_LABEL, _MAX_BAR, _MIN_BAR, _GAP = 100, 24, 10, 24, 4, 2
_LEFT_TO_RIGHT = "\u200e"  # an invisible letter: what comes behind text from right to left stays where it is
_HARMLESS = "\n\u200c\u200d"  # the joiners that spell Persian, Indic scripts and emoji


def render_table(
    labels: Sequence[str], columns: Mapping[str, FloatArray], *, title: str = "", notes: str = "", color: bool = True
) -> str:
    """Return a table with one row a label, and a bar and a number for each column.

    The bars of a column share one scale, from 0 to its largest score. Colors are used on terminals alone and
    never with `NO_COLOR` set; the table fits the terminal's width, a narrow one by leaving the bars out. The lines
    around it are wrapped on terminals, and left whole in files and pipes.

    Args:
        labels: The words or tokens, in reading order.
        columns: By name, the scores `[label]`.
        title: A line above the table.
        notes: Lines below it.
        color: Colors, where they are used at all; a table for a file has none.
    """
    terminal = Console()
    console = Console(
        file=io.StringIO(),
        width=min(terminal.width, _MAX_WIDTH),
        force_terminal=terminal.is_terminal and color,
        no_color=terminal.no_color,
        highlight=False,
    )
    for part in (Text(printable(title)), _table(labels, columns), Text(printable(notes), style="dim")):
        if part:
            console.print(part, soft_wrap=isinstance(part, Text) and not terminal.is_terminal)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def write(text: str, errors: str = "replace") -> None:
    """Write `text` to standard output; what its encoding cannot say is replaced, so that none makes it fail.

    Args:
        text: What to write, as it is.
        errors: How to replace, one of the names of `str.encode`.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, errors).decode(encoding))
    sys.stdout.flush()


def printable(text: str) -> str:
    """Return `text` with control characters shown as escapes, so that no text can steer the terminal."""
    return "".join(c if c.isprintable() or c in _HARMLESS else c.encode("unicode_escape").decode("ascii") for c in text)


def _table(labels: Sequence[str], columns: Mapping[str, FloatArray]) -> Table:
    tokens = [Text(printable(label).replace("\n", "\\n")) for label in labels]
    names = [Text(printable(name)) for name in columns]
    bar_width = _bar_width(tokens, names)
    grid = Table(box=None, pad_edge=False, expand=False, header_style="bold")
    grid.add_column("token", no_wrap=False, overflow="fold", max_width=_MAX_LABEL)
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
        if bar_width:
            grid.add_column("", width=bar_width)
    for row, token in enumerate(tokens):
        mark = _LEFT_TO_RIGHT if any(map(_turns, token.plain)) else ""
        grid.add_row(Text(mark) + token, *_cells(columns, row, bar_width, mark))
    return grid


def _turns(character: str) -> bool:
    """Return whether terminals that know scripts from right to left turn what stands around a character."""
    return unicodedata.bidirectional(character) in ("R", "AL", "AN")


def _bar_width(tokens: Sequence[Text], names: Sequence[Text]) -> int:
    """Return how wide each bar can be beside labels and numbers, the same for all columns; 0 where none fits."""
    label = max([5, *(token.cell_len for token in tokens)])
    numbers = sum(_GAP + max(6, name.cell_len) for name in names)
    for label_width in (min(label, _MAX_LABEL), min(label, _MIN_LABEL)):
        room = min(Console().width, _MAX_WIDTH) - label_width - numbers
        bar_width = room // max(len(names), 1) - _GAP
        if bar_width >= _MIN_BAR:
            return min(bar_width, _MAX_BAR)
    return 0


def _cells(columns: Mapping[str, FloatArray], row: int, bar_width: int, mark: str) -> list[Text | Bar]:
    cells: list[Text | Bar] = []
    for number, scores in enumerate(columns.values()):
        largest = float(np.max(scores, initial=0.0)) or 1.0
        cells.append(Text(f"{mark}{scores[row]:.4f}"))
        if bar_width:
            cells.append(Bar(1.0, 0, float(scores[row]) / largest, color=_COLORS[number % len(_COLORS)]))
    return cells
