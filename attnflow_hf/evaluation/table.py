"""`ResultTable`: tidy rows in Arrow, printed as Markdown and LaTeX, saved as JSON with config and versions."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from attnflow_hf.errors import FileFormatError, OptionError, check_choice
from attnflow_hf.evaluation.grid import Grid
from attnflow_hf.evaluation.pivot import BEST, SPREADS, flat_grid, pivot_grid, with_columns
from attnflow_hf.storage import write_text

_FORMAT, _VERSION = "attnflow_hf.ResultTable", 1
_COLUMNS = {
    "method": "string",
    "layer": "int64",
    "metric": "string",
    "value": "double",
    "std": "double",
    "low": "double",
    "high": "double",
    "level": "double",
    "n": "int64",
    "n_missing": "int64",
    "missing": "string",
    "milliseconds": "double",
    "peak_memory_mb": "double",
}
"""The columns that are known, in their order, and their types; a row may have more, and need not have all."""
_PACKAGES = ("attnflow_hf", "numpy", "torch", "transformers", "numba", "datasets")
_KINDS = {bool: "bool", int: "int64", float: "double", str: "string"}


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, eq=False)
class ResultTable:
    """Results as tidy rows: one number each, with what it is the number of.

    Attributes:
        data: The rows, as an Arrow table: `datasets.Dataset(table.data)` and `table.data.to_pandas()` take it.
        config: How the results were made: what JSON can hold.
        versions: Of Python and the packages they were made with.
    """

    data: pa.Table
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=current_versions)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Mapping[str, Any]],
        *,
        config: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> ResultTable:
        """Return a table of rows such as those of `layer_rows` and `Plausibility.to_rows`.

        Args:
            rows: Mappings from a column's name to a string, number, bool or `None`. Known columns (`method`, `layer`,
                `metric`, `value`, `std`, `low`, `high`, `level`, `n`, `n_missing`, `missing`, `milliseconds`,
                `peak_memory_mb`) come first, others behind them.
            config: How the results were made.
            versions: By default those of the running packages.

        Raises:
            OptionError: A cell is no string, number or bool, or not finite; or the cells of a column differ in kind.
        """
        given = dict.fromkeys(name for row in rows for name in row)
        names = [name for name in _COLUMNS if name in given] + [name for name in given if name not in _COLUMNS]
        columns = {name: [_plain(name, row.get(name)) for row in rows] for name in names}
        types = {name: _COLUMNS.get(name) or _kind(name, column) for name, column in columns.items()}
        return cls(_arrow(columns, types), dict(config or {}), dict(versions or current_versions()))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries; what is missing is `None`."""
        return list(self.data.to_pylist())

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.data.num_rows)

    def where(self, **values: Any) -> ResultTable:
        """Return the rows whose columns have these values, a value each or a list of values.

        Raises:
            OptionError: There is no such column.

        Example:
            >>> table = ResultTable.from_rows([{"metric": "auprc", "value": 0.5}, {"metric": "iou", "value": 0.2}])
            >>> [row["value"] for row in table.where(metric="iou").rows]
            [0.2]
        """
        for name in values:
            check_choice("column", name, self.data.column_names)
        wanted = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in values.items()}
        keep = [all(row[name] in allowed for name, allowed in wanted.items()) for row in self.rows]
        return replace(self, data=self.data.filter(pa.array(keep, pa.bool_())))

    def joined(self, other: ResultTable) -> ResultTable:
        """Return the rows of both tables, with the config and versions of this one."""
        return ResultTable.from_rows([*self.rows, *other.rows], config=self.config, versions=self.versions)

    def to_markdown(
        self,
        *,
        rows: str | Sequence[str] = "method",
        columns: str | None = None,
        value: str = "value",
        spread: str = "none",
        best: str = "none",
        decimals: int | None = None,
        beside: Sequence[str] = (),
    ) -> str:
        """Return the table in GitHub's Markdown.

        Args:
            rows: With `columns`: the column, or columns, whose values name the rows that are printed.
            columns: The column whose values become the printed columns, such as `"layer"`; `None` prints all rows and
                columns as they are.
            value: The column whose numbers stand in the cells.
            spread: What stands behind them: `"none"`, `"std"` as ±, or the `"interval"` in brackets.
            best: Mark the `"max"` or the `"min"` of each printed column in bold, or `"none"`; those that print the same
                are all marked.
            decimals: How many; by default as many as show three digits of the largest number.
            beside: With `columns`: further columns, printed once at the end of each row, such as what a method costs.

        What is missing is printed as `-`.

        Raises:
            OptionError: There is no such column, or several rows fall into one cell: choose some by `where`.
                A column of `beside` has several values in a printed row.
        """
        return self._grid(rows, columns, value, spread, best, decimals, beside).to_markdown()

    def to_latex(
        self,
        *,
        rows: str | Sequence[str] = "method",
        columns: str | None = None,
        value: str = "value",
        spread: str = "none",
        best: str = "none",
        decimals: int | None = None,
        beside: Sequence[str] = (),
    ) -> str:
        """Return the table as a LaTeX `tabular` for the package booktabs, all text escaped; see `to_markdown`."""
        return self._grid(rows, columns, value, spread, best, decimals, beside).to_latex()

    def _grid(
        self,
        rows: str | Sequence[str],
        columns: str | None,
        value: str,
        spread: str,
        best: str,
        decimals: int | None,
        beside: Sequence[str],
    ) -> Grid:
        check_choice("spread", spread, SPREADS)
        check_choice("best", best, BEST)
        if columns is None:
            if spread != "none" or best != "none" or beside:
                raise OptionError("spread, best and beside go with columns=..., which says what stands side by side")
            return flat_grid(self.data.column_names, self.rows, decimals)
        names = [rows] if isinstance(rows, str) else list(rows)
        for name in (*names, columns, value, *beside):
            check_choice("column", name, self.data.column_names)
        grid = pivot_grid(self.rows, names, columns, value, spread=spread, best=best, decimals=decimals)
        return with_columns(grid, self.rows, names, beside)

    def to_json(self) -> str:
        """Return rows, types, config and versions as JSON; `from_json` gives the same table back."""
        types = {name: str(kind) for name, kind in zip(self.data.column_names, self.data.schema.types, strict=True)}
        head = {"format": _FORMAT, "version": _VERSION, "versions": dict(self.versions), "config": dict(self.config)}
        try:
            return json.dumps(
                {**head, "columns": types, "rows": self.rows}, ensure_ascii=False, allow_nan=False, indent=1
            )
        except (TypeError, ValueError) as error:
            raise OptionError(f"config must be what JSON can hold: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> ResultTable:
        """Return the table that `to_json` wrote.

        Raises:
            FileFormatError: The text is not one that `to_json` wrote.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise FileFormatError(f"this is no JSON: {error}") from error
        if not isinstance(values, dict) or values.get("format") != _FORMAT or values.get("version") != _VERSION:
            raise FileFormatError(f"this is no saved table: {_FORMAT!r}, version {_VERSION}, is needed")
        try:
            columns = {name: [row[name] for row in values["rows"]] for name in values["columns"]}
            return cls(_arrow(columns, values["columns"]), dict(values["config"]), dict(values["versions"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"this saved table is damaged: {error!r}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON; the file appears whole or not at all.

        Args:
            path: The file; it is replaced if it is there.
        """
        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ResultTable:
        """Return the table that `save` wrote.

        Raises:
            FileFormatError: The file is not one that `save` wrote.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (FileFormatError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error


def _arrow(columns: Mapping[str, list[Any]], types: Mapping[str, str]) -> pa.Table:
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])
    try:
        return pa.Table.from_pydict(dict(columns), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise OptionError(f"a cell does not have the type of its column: {error}") from error


def _plain(name: str, cell: Any) -> Any:
    """Return a cell without NumPy's types."""
    value = cell.item() if hasattr(cell, "item") else cell
    if value is not None and type(value) not in _KINDS:
        raise OptionError(f"a cell of {name!r} must be a string, a number, true or false, or None; got {cell!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"a cell of {name!r} is {value}; give None for what is missing, and its reason in 'missing'")
    return value


def _kind(name: str, column: Sequence[Any]) -> str:
    kinds = {_KINDS[type(value)] for value in column if value is not None}
    if kinds == {"int64", "double"}:
        return "double"
    if len(kinds) > 1:
        raise OptionError(f"the cells of column {name!r} are of several kinds: {', '.join(sorted(kinds))}")
    return kinds.pop() if kinds else "string"
