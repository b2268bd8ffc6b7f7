"""From tidy rows to a `Grid`: as they are, or turned so that one column's values stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.grid import MISSING, Cell, Grid, n_decimals, print_number

SPREADS = ("interval", "none", "std")
BEST = ("max", "min", "none")
Row = Mapping[str, Any]


def flat_grid(names: Sequence[str], rows: Sequence[Row], decimals: int | None) -> Grid:
    """Return all rows and columns as they are, each column with its own number of decimals."""
    columns = [_flat_column([row[name] for row in rows], decimals) for name in names]
    return Grid(tuple(names), tuple(zip(*columns, strict=True)))


def pivot_grid(
    rows: Sequence[Row],
    names: Sequence[str],
    columns: str,
    value: str,
    *,
    spread: str,
    best: str,
    decimals: int | None,
) -> Grid:
    """Return a grid with a row for each combination of `names` and a column for each value of `columns`.

    Args:
        rows: The tidy rows.
        names: The columns that name the grid's rows.
        columns: The column whose values are the grid's columns; numbers in their order, others as they come.
        value: The column of the numbers.
        spread: `"none"`, `"std"` or `"interval"`.
        best: `"max"`, `"min"` or `"none"`.
        decimals: How many, or `None` for as many as the numbers need.

    Raises:
        OptionError: Several rows fall into one cell.
    """
    cells = _cells(rows, names, columns)
    heads = _in_order({head for _, head in cells}, [row[columns] for row in rows])
    keys = list(dict.fromkeys(key for key, _ in cells))
    numbers = [float(row[value]) for row in rows if row[value] is not None]
    n = n_decimals(numbers) if decimals is None else decimals
    found = [[_printed(cells.get((key, head)), value, spread, n) for head in heads] for key in keys]
    marked = _marked(found, [[_number(cells.get((key, head)), value) for head in heads] for key in keys], best, n)
    labels = [[Cell(_text(part)) for part in key] for key in keys]
    body = [(*label, *line) for label, line in zip(labels, marked, strict=True)]
    return Grid((*names, *(f"{columns} {head}" if _is_number(head) else _text(head) for head in heads)), tuple(body))


def with_columns(grid: Grid, rows: Sequence[Row], names: Sequence[str], beside: Sequence[str]) -> Grid:
    """Return the grid that `pivot_grid` made, with further columns at its end.

    Args:
        grid: The grid.
        rows: The tidy rows that it was made of.
        names: The columns that name its rows.
        beside: The columns to add; each has one value for all tidy rows of a row of the grid.

    Raises:
        OptionError: It has several.
    """
    of_rows: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        of_rows.setdefault(tuple(row[name] for name in names), []).append(row)
    columns = []
    for name in beside:
        for key, group in of_rows.items():
            if len({row[name] for row in group}) > 1:
                raise OptionError(f"{name} differs within the row {key}, so that it cannot stand beside it")
        columns.append(_flat_column([group[0][name] for group in of_rows.values()], None))
    body = [(*line, *cells) for line, *cells in zip(grid.body, *columns, strict=True)]
    return Grid((*grid.header, *beside), tuple(body))


def _cells(rows: Sequence[Row], names: Sequence[str], columns: str) -> dict[tuple[tuple[Any, ...], Any], Row]:
    cells: dict[tuple[tuple[Any, ...], Any], Row] = {}
    for row in rows:
        place = tuple(row[name] for name in names), row[columns]
        if place in cells:
            other = [name for name in row if row[name] != cells[place][name]]
            raise OptionError(
                f"several rows fall into the cell {place[0]}, {columns} {place[1]!r}: they differ in "
                f"{', '.join(other) or 'nothing'}; choose some by where(...), or name more columns in rows"
            )
        cells[place] = row
    return cells


def _in_order(heads: set[Any], as_they_come: Sequence[Any]) -> list[Any]:
    if all(_is_number(head) for head in heads):
        return sorted(heads)
    return list(dict.fromkeys(as_they_come))


def _printed(row: Row | None, value: str, spread: str, decimals: int) -> str:
    number = _number(row, value)
    if row is None or number is None:
        return MISSING
    text = print_number(number, decimals)
    if spread == "std" and row.get("std") is not None:
        return f"{text} ± {print_number(row['std'], decimals)}"
    low, high = (row.get(f"{value}_{end}", row.get(end)) for end in ("low", "high"))  # a difference has its own
    if spread == "interval" and low is not None and high is not None:
        return f"{text} [{print_number(low, decimals)}, {print_number(high, decimals)}]"
    return text


def _marked(
    texts: Sequence[Sequence[str]], numbers: Sequence[Sequence[float | None]], best: str, decimals: int
) -> list[list[Cell]]:
    chosen = []
    for column in zip(*numbers, strict=True):
        known = [number for number in column if number is not None]
        top = None if best == "none" or not known else (max if best == "max" else min)(known)
        chosen.append(None if top is None else print_number(top, decimals))
    return [
        [
            Cell(text, number is not None and print_number(number, decimals) == top, True)
            for text, number, top in zip(line, values, chosen, strict=True)
        ]
        for line, values in zip(texts, numbers, strict=True)
    ]


def _flat_column(values: Sequence[Any], decimals: int | None) -> list[Cell]:
    floats = [value for value in values if isinstance(value, float)]
    n = n_decimals(floats) if decimals is None else decimals
    return [
        Cell(print_number(value, n) if isinstance(value, float) else _text(value), is_number=_is_number(value))
        for value in values
    ]


def _number(row: Row | None, value: str) -> float | None:
    return None if row is None or row[value] is None else float(row[value])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return MISSING if value is None else str(value)
