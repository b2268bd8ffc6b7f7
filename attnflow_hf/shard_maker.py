"""`ShardMaker`: rows of a data set to the bytes of a shard, and what the manifest says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from datasets import Features

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import AttnFlowError, CaptureError, OptionError, TextError
from attnflow_hf.manifest import Shard
from attnflow_hf.shards import Row, encoded, file_name, join

_ROW_ERRORS = (AttnFlowError, TypeError, ValueError)  # faults of a row; those of the machine stop the run


class Measure(Protocol):
    """What a run finds out about each row of its data set."""

    @property
    def attributor(self) -> Attributor:
        """The wrapped model."""

    def check(self) -> None:
        """Raise what would be an error in every row, before the first."""

    def schema(self) -> pa.Schema:
        """Return the columns that are added to those of the data set, and their types; `error` is among them."""

    def rows(self, table: pa.Table) -> Iterator[tuple[int, Row]]:
        """Yield the index of each row, in any order, and what is added to it."""


@dataclass(frozen=True)
class ShardMaker:
    """Makes shards.

    Attributes:
        measure: What is found out about each row.
        kept: Which columns of the data set are kept; `None` for all.
        shard_size: How many rows of the data set make a shard.
        on_error: What becomes of a row that cannot be measured: `"raise"`, `"skip"` or `"record"`.
    """

    measure: Measure
    kept: Sequence[str] | None
    shard_size: int
    on_error: str

    def schema(self, features: Features) -> pa.Schema:
        """Return the columns of a shard and their types, from those of the data set."""
        kept = {name: features[name] for name in features if self.kept is None or name in self.kept}
        return Features({**kept, **Features.from_arrow_schema(self.measure.schema())}).arrow_schema

    def make(
        self, number: int, table: pa.Table, schema: pa.Schema, advance: Callable[[int], object] = int
    ) -> tuple[Shard, memoryview]:
        """Return what the manifest says of a shard, and the bytes of its file.

        Args:
            number: Which shard.
            table: Its rows of the data set.
            schema: As `schema` returns it.
            advance: Called with how many rows are newly done.

        Raises:
            OptionError: The rows do not have the types of the schema.
            AttnFlowError: With `on_error="raise"`, a row could not be measured; the message says which.
        """
        start = number * self.shard_size
        stop = start + len(table)
        results = self._measure(table, start, _Counter(advance))
        errors = tuple((start + row, str(each["error"])) for row, each in enumerate(results) if "error" in each)
        if self.on_error == "skip":
            kept = [row for row, each in enumerate(results) if "error" not in each]
            table, results = table.take(pa.array(kept, pa.int64())), [results[row] for row in kept]
        try:
            joined = join(table, results, schema, self.measure.schema().names)
        except pa.ArrowException as error:
            raise OptionError(
                f"rows {start} to {stop - 1} of the data set do not have the types of those before: {error}; "
                "give a Dataset, which has one type for each column"
            ) from error
        data = encoded(joined)
        return Shard(file_name(number), start, stop, len(joined), hashlib.sha256(data).hexdigest(), errors), data

    def _measure(self, table: pa.Table, start: int, count: Callable[[int], None]) -> list[Row]:
        """Return what is added to each row; where some cannot be measured, they are found by halving."""
        found: dict[int, Row] = {}
        try:
            for index, row in self.measure.rows(table):
                found[index] = row
                count(start + index)
            return [found[index] for index in range(len(table))]
        except _ROW_ERRORS as error:
            if _is_of_the_machine(error):
                raise
            if len(table) == 1:
                count(start)
                return [self._failed(error, start)]
        half = len(table) // 2
        return self._measure(table[:half], start, count) + self._measure(table[half:], start + half, count)

    def _failed(self, error: Exception, row: int) -> Row:
        message = str(error)
        if self.on_error != "raise":
            return {"error": f"{type(error).__name__}: {message}"}
        kind = type(error) if isinstance(error, AttnFlowError) else TextError
        raise kind(
            f"row {row} of the data set: {message} (finished shards are kept; on_error='skip' or 'record' goes on)"
        ) from error


class _Counter:
    """Tells how many rows are newly done, each once, though some are done again where others fail."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self.advance = advance
        self.done: set[int] = set()

    def __call__(self, row: int) -> None:
        if row not in self.done:
            self.done.add(row)
            self.advance(1)


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether a forward pass broke off for no fault of its texts that could be told, as on a lost GPU."""
    cause = error.__cause__
    is_fault = isinstance(cause, (RuntimeError, MemoryError, OSError)) and not isinstance(cause, AttnFlowError)
    return isinstance(error, CaptureError) and is_fault
