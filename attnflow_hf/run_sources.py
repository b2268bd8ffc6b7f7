"""A data set, a stream or dicts as a stream of tables, for runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset

from attnflow_hf.errors import DatasetError, OptionError, first_line
from attnflow_hf.run_files import Splits, choose_split, load_rows
from attnflow_hf.shards import fingerprint


@dataclass(frozen=True)
class Source:
    """A data set as a stream of tables.

    Attributes:
        tables: Gives the rows from a certain one on, in tables of a certain size.
        columns: Their names, `None` where there are no rows to tell.
        fingerprint: By what it is known again.
        features: Their types, where it tells.
        n_rows: How many rows there are, where it tells.
        has_random_access: Whether any rows can be had without those before them.
    """

    tables: Callable[[int, int], Iterator[pa.Table]]
    columns: list[str] | None
    fingerprint: dict[str, Any]
    features: Features | None = None
    n_rows: int | None = None
    has_random_access: bool = False


def source_of(dataset: Any, split: str | None = None) -> Source:
    """Return the source of a data set, of a stream, of dicts, or of what `load_rows` and `choose_split` make one of.

    Raises:
        OptionError: It is none of these, or has splits and none was chosen.
        DatasetError: Files are not there, or cannot be read.
    """
    chosen = chosen_rows(dataset, split)
    if isinstance(chosen, Dataset):
        return _source_of_table(chosen)
    if isinstance(chosen, IterableDataset):
        return _source_of_stream(chosen)
    if isinstance(chosen, Mapping) or not isinstance(chosen, Iterable):
        raise OptionError(
            "dataset must be a Dataset, an IterableDataset, dicts, or the names of files or of a hub data set; "
            f"got {type(chosen).__name__}"
        )
    return _source_of_dicts(chosen)


def kept_columns(
    source: Source, columns: Sequence[str] | None, asked: Mapping[str, Sequence[str]], taken: Sequence[str]
) -> list[str] | None:
    """Return the data set's columns that a run keeps; `None` where it has no rows to tell.

    Args:
        source: The data set.
        columns: Those asked for; `None` for all.
        asked: Other columns that must be there, by the option that names them.
        taken: What the run adds.

    Raises:
        OptionError: A column is not there, or has the name of one that is added.
    """
    if source.columns is None:
        return None
    for option, names in {**asked, "columns": columns or []}.items():
        for name in names:
            if name not in source.columns:
                raise OptionError(f"{option} {name!r} is no column of the data set; it has {source.columns}")
    kept = source.columns if columns is None else list(columns)
    if clash := [name for name in kept if name in taken]:
        raise OptionError(f"the run adds columns named {clash}; rename the data set's, or leave them out by columns=")
    return kept


def chosen_rows(dataset: Any, split: str | None) -> Any:
    """Return one split of a data set with several, the rows of files or of a hub name, and anything else as it is.

    Raises:
        OptionError: There are splits and none was chosen, or a split was and there are none.
        DatasetError: Files are not there, or cannot be read.
    """
    if isinstance(dataset, Splits):
        return choose_split(dataset, split)
    names = dataset if isinstance(dataset, (list, tuple)) else [dataset]
    if names and all(isinstance(name, (str, os.PathLike)) for name in names):
        return load_rows(dataset, split=split)
    if split is not None:
        raise OptionError(
            f"split {split!r} is for files, hub names and a DatasetDict; got {type(dataset).__name__}, which has none"
        )
    return dataset


def _source_of_table(dataset: Dataset) -> Source:
    def tables(start: int, size: int) -> Iterator[pa.Table]:
        return iter(dataset.with_format("arrow").skip(start).iter(batch_size=size))

    known = {"kind": "Dataset", "fingerprint": dataset._fingerprint, "n_rows": len(dataset)}
    return Source(tables, dataset.column_names, known, dataset.features, len(dataset), has_random_access=True)


def _source_of_stream(dataset: IterableDataset) -> Source:
    """Return the source of a stream; its tables are made of rows, as those of its own lose the types of nulls."""
    features, plain = dataset.features, dataset.with_format(None)
    if features is None:
        return _source_of_dicts(_read(plain))
    columns, undecoded = list(features), plain.decode(False)

    def tables(start: int, size: int) -> Iterator[pa.Table]:
        rows = _read(undecoded.skip(start))
        while chunk := list(islice(rows, size)):
            yield _table_of_dicts(chunk, columns, features.arrow_schema)

    first = next(tables(0, 1), pa.table({}))
    return Source(tables, columns, _first_row_known(first), features)


def _read(stream: IterableDataset) -> Iterator[Any]:
    """Yield the rows of a stream, with an error of ours where its files cannot be read."""
    try:
        yield from stream
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, UnicodeError) as error:
        raise DatasetError(f"the data set cannot be read on: {first_line(error)}") from error


def _source_of_dicts(dataset: Iterable[Mapping[str, Any]]) -> Source:
    """Return the source of rows without types, which may be gone through only once."""
    rows = iter(dataset)
    first = list(islice(rows, 1))
    found = _table_of_dicts(first, None)
    columns = found.column_names if first else None

    def tables(start: int, size: int) -> Iterator[pa.Table]:
        left = islice(chain(first, rows), start, None)
        while chunk := list(islice(left, size)):
            yield _table_of_dicts(chunk, columns)

    return Source(tables, columns, _first_row_known(found))


def _table_of_dicts(rows: list[Any], columns: list[str] | None, schema: pa.Schema | None = None) -> pa.Table:
    for row in rows:
        if not isinstance(row, Mapping):
            raise OptionError(f"each row of the data set must be a dict of its columns, got {type(row).__name__}")
        if columns is not None and (more := row.keys() - set(columns)):
            raise OptionError(f"a row of the data set has columns {sorted(more)} which the first has not: {columns}")
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise OptionError(f"rows of the data set make no table: {error}; give a Dataset, or other values") from error


def _first_row_known(first: pa.Table) -> dict[str, Any]:
    return {"kind": "rows", "first_row": fingerprint([repr(first.slice(0, 1).to_pylist()).encode()])}
