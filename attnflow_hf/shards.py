"""A run's shards as Parquet files: rows to a table, and the table to a file that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import IntArray, OptionError
from attnflow_hf.prediction import Prediction

try:
    import fcntl
except ImportError:  # a system without POSIX locks
    fcntl = None  # type: ignore[assignment]

NumberArray = npt.NDArray[Any]
LAYER_GRAPH, OFFSETS = "layer_graph", "offsets"
_ARRAYS = (LAYER_GRAPH, OFFSETS)  # of some axes: lists of lists would be many objects for Python to keep track of
_SAMPLED = "flow_shapley"
"""The method whose scores can be estimates."""
_TARGET = {
    "target_label": pa.string(),
    "target_index": pa.int32(),
    "target_probability": pa.float32(),
    "target_output": pa.float32(),
}
"""What is told of the explained class, where edge weights are those of one."""
Row = dict[str, Any]
"""What a run adds to a row of its data set, by column; what is missing is null."""
_LEFTOVERS = ".*.tmp"
_MOST_VALUES = 2**31 - 1


def file_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:05d}.parquet"


def result_schema(methods: Sequence[str], *, words: bool, layer_graphs: bool, targets: bool = False) -> pa.Schema:
    """Return the columns that a run adds to those of its data set, and their types."""
    scores = pa.list_(pa.float32())
    types = {
        "tokens": pa.list_(pa.string()),
        OFFSETS: pa.list_(pa.list_(pa.int32())),
        "special_tokens_mask": pa.list_(pa.bool_()),
        **{f"scores_{method}": scores for method in methods},
        **({f"standard_errors_{_SAMPLED}": scores} if _SAMPLED in methods else {}),
        **({"words": pa.list_(pa.string())} if words else {}),
        **({f"word_scores_{method}": scores for method in methods} if words else {}),
        "prediction_label": pa.string(),
        "prediction_probability": pa.float32(),
        **(_TARGET if targets else {}),
        "output_position": pa.int32(),
        "notes": pa.list_(pa.string()),
        **({LAYER_GRAPH: pa.list_(pa.list_(scores))} if layer_graphs else {}),
        "error": pa.string(),
    }
    return pa.schema(list(types.items()))


def result_row(by_method: Mapping[str, Attribution], *, words: bool) -> dict[str, Any]:
    """Return a row of `result_schema`: one text's attributions by each method; `offsets` as the array they are."""
    first = next(iter(by_method.values()))
    says = first.prediction
    row = {
        "tokens": list(first.tokens),
        OFFSETS: first.offsets,
        "special_tokens_mask": first.special_tokens_mask.tolist(),
        "prediction_label": None if says is None else says.label,
        "prediction_probability": None if says is None else says.probability,
        **_target_columns(first),
        "output_position": None if isinstance(first.output_position, str) else first.output_position,
        "notes": list(dict.fromkeys(note for each in by_method.values() for note in each.notes)),
        **{f"scores_{method}": each.scores.tolist() for method, each in by_method.items()},
    }
    if _SAMPLED in by_method:
        errors = by_method[_SAMPLED].standard_errors
        row[f"standard_errors_{_SAMPLED}"] = None if errors is None else errors.tolist()
    return {**row, **_word_columns(by_method)} if words else row


def _target_columns(attribution: Attribution) -> dict[str, Any]:
    target = attribution.target
    return {} if target is None else {name: getattr(target, name.removeprefix("target_")) for name in _TARGET}


def target_of_row(row: Mapping[str, Any]) -> Prediction | None:
    """Return the explained class of a row that `result_row` made; `None` where none is told."""
    if row.get("target_label") is None:
        return None
    return Prediction(**{name.removeprefix("target_"): row[name] for name in _TARGET})


def _word_columns(by_method: Mapping[str, Attribution]) -> dict[str, Any]:
    summed = {method: each.to_words() for method, each in by_method.items()}
    names = list(next(iter(summed.values())).words)
    return {"words": names, **{f"word_scores_{method}": each.scores.tolist() for method, each in summed.items()}}


def join(inputs: pa.Table, results: Sequence[Row], schema: pa.Schema, added: Sequence[str]) -> pa.Table:
    """Return the table of `schema` that has a data set's rows and, beside them, what a run found.

    Args:
        inputs: The rows of the data set; a column that they lack is null.
        results: What was found for each.
        schema: The columns of both, and their types.
        added: The names of what a run found.

    Raises:
        pyarrow.ArrowInvalid: A column of the data set does not have the type that the schema says.
    """
    plain = pa.schema([schema.field(name) for name in added if name not in _ARRAYS])
    own = pa.Table.from_pylist(list(results), schema=plain)
    columns = []
    for field in schema:
        if field.name in _ARRAYS and field.name in added:
            columns.append(_nested([row.get(field.name) for row in results], field.type))
        elif field.name in own.column_names:
            columns.append(own[field.name])
        elif field.name in inputs.column_names:
            columns.append(inputs[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(len(results), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _nested(arrays: Sequence[NumberArray | None], kind: pa.ListType) -> pa.ListArray:
    """Return arrays with as many axes as `kind` has lists in lists as one column of that type."""
    known = [array for array in arrays if array is not None]
    n_values = sum(array.size for array in known)
    if n_values > _MOST_VALUES:
        raise OptionError(
            f"the layer graphs of a shard have {n_values:,} numbers, more than a column of Parquet can hold; choose a "
            f"shard_size of at most {max(1, len(known) * _MOST_VALUES // n_values)}"
        )
    number, n_axes = kind, 0
    while pa.types.is_list(number):
        number, n_axes = number.value_type, n_axes + 1
    column = pa.array(_joined([array.reshape(-1) for array in known], number.to_pandas_dtype()), number)
    for axis in range(n_axes - 1, 0, -1):
        lengths = [np.full(int(np.prod(array.shape[:axis])), array.shape[axis]) for array in known]
        column = pa.ListArray.from_arrays(_offsets(_joined(lengths, np.int64)), column)
    outer = np.array([0 if array is None else len(array) for array in arrays], dtype=np.int64)
    missing = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(_offsets(outer), column, mask=missing)


def _joined(parts: Sequence[NumberArray], dtype: npt.DTypeLike) -> NumberArray:
    """Return the numbers of all parts, none where there is no part."""
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype, casting="same_kind")


def _offsets(lengths: IntArray) -> pa.Array:
    return pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))


def encoded(table: pa.Table) -> memoryview:
    """Return the bytes of a table as a Parquet file; the same table always gives the same."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        if table.num_rows:  # datasets cannot read a row group of no rows
            writer.write_table(table, row_group_size=table.num_rows)
    return memoryview(buffer.getvalue())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all, so that it outlasts a loss of power."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, where the system can; a process that ends, in whatever way, gives it free.

    Raises:
        OptionError: Another run is at work there.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OptionError(
            f"another run is writing to {str(folder)!r}; wait for it, or choose another folder"
        ) from error
    except OSError:  # some network file systems have no locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files outlast a loss of power, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the half files of a run that was killed."""
    for path in folder.glob(_LEFTOVERS):
        path.unlink(missing_ok=True)


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether a file is there and has the bytes it was written with."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def fingerprint(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of many bytes, taken one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
