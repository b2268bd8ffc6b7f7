"""`ShardMaker`: rows of a data set to the bytes of a shard, and what the manifest says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features

from attnflow_hf.attributing import attribute_each
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import AttnFlowError, CaptureError, OptionError, TextError, TokenizerError
from attnflow_hf.given import given
from attnflow_hf.inputs import Text
from attnflow_hf.manifest import Shard
from attnflow_hf.options import Options
from attnflow_hf.reader import Reading
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.shards import LAYER_GRAPH, encoded, file_name, join, result_row, result_schema
from attnflow_hf.signals import SIGNALS
from attnflow_hf.windows import attribute_windows

_ROW_ERRORS = (AttnFlowError, TypeError, ValueError)  # faults of a row; those of the machine stop the run
_SAMPLE_TEXT = "a b c d"

Row = dict[str, Any]


@dataclass(frozen=True)
class ShardMaker:
    """Makes shards.

    Attributes:
        attributor: The wrapped model.
        settings: What was asked for.
        kept: Which columns of the data set are kept; `None` for all.
    """

    attributor: Attributor
    settings: RunSettings
    kept: Sequence[str] | None

    def check(self) -> None:
        """Raise what would be an error in every row, before the first.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        if self.attributor.model.main_input_name in SIGNALS:
            raise OptionError(f"{type(self.attributor.model).__name__} does not read text; a run is over texts")
        if self.attributor.tokenizer is None:
            raise TokenizerError("a run over texts needs a tokenizer: use Attributor(model, tokenizer)")
        with suppress(TextError):  # a tokenizer that knows none of the sample's words
            list(self._rows([_SAMPLE_TEXT], replace(self.settings.options, output_position="auto")))

    def schema(self, features: Features) -> pa.Schema:
        """Return the columns of a shard and their types, from those of the data set."""
        kept = {name: features[name] for name in features if self.kept is None or name in self.kept}
        return Features({**kept, **Features.from_arrow_schema(self.result_schema())}).arrow_schema

    def result_schema(self) -> pa.Schema:
        """Return the columns that are added to those of the data set."""
        settings = self.settings
        return result_schema(settings.methods, words=settings.words, layer_graphs=settings.save_layer_graphs)

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
            AttnFlowError: With `on_error="raise"`, a row could not be explained; the message says which.
        """
        start = number * self.settings.shard_size
        stop = start + len(table)
        results = self._explain(self._texts(table), start, _Counter(advance))
        errors = tuple((start + row, str(each["error"])) for row, each in enumerate(results) if "error" in each)
        if self.settings.on_error == "skip":
            kept = [row for row, each in enumerate(results) if "error" not in each]
            table, results = table.take(pa.array(kept, pa.int64())), [results[row] for row in kept]
        try:
            joined = join(table, results, schema)
        except pa.ArrowException as error:
            raise OptionError(
                f"rows {start} to {stop - 1} of the data set do not have the types of those before: {error}; "
                "give a Dataset, which has one type for each column"
            ) from error
        data = encoded(joined)
        return Shard(file_name(number), start, stop, len(joined), hashlib.sha256(data).hexdigest(), errors), data

    def _texts(self, table: pa.Table) -> list[Any]:
        if not len(table):
            return []
        texts: list[Any] = table[self.settings.text_column].to_pylist()
        if self.settings.text_pair_column is None:
            return texts
        return list(zip(texts, table[self.settings.text_pair_column].to_pylist(), strict=True))

    def _explain(self, texts: Sequence[Text], start: int, count: Callable[[int], None]) -> list[Row]:
        """Return a result for each text; where some cannot be explained, they are found by halving."""
        found: dict[int, Row] = {}
        try:
            for index, row in self._rows(texts, self.settings.options):
                found[index] = row
                count(start + index)
            return [found[index] for index in range(len(texts))]
        except _ROW_ERRORS as error:
            if _is_of_the_machine(error):
                raise
            if len(texts) == 1:
                count(start)
                return [self._failed(error, start)]
        half = len(texts) // 2
        return self._explain(texts[:half], start, count) + self._explain(texts[half:], start + half, count)

    def _rows(self, texts: Sequence[Text], options: Options) -> Iterator[tuple[int, Row]]:
        """Yield the index of each text and its row of results, in any order."""
        attributor, settings = self.attributor, self.settings
        wrapped, methods = attributor.wrapped, settings.methods
        if settings.windows is not None:
            cut = [settings.windows.of(attributor.model, attributor.tokenizer, text) for text in texts]
            for index, found in attribute_windows(wrapped, cut, methods, options):
                yield index, result_row(found, words=settings.words)
            return
        asked = given(attributor.model, attributor.tokenizer, list(texts), truncation=settings.truncation)
        yield from attribute_each(wrapped, asked, methods, options, self._row)

    def _row(self, reading: Reading, found: Mapping[str, Attribution]) -> Row:
        row = result_row(found, words=self.settings.words)
        if self.settings.save_layer_graphs:
            row[LAYER_GRAPH] = reading.graph(self.settings.options.residual_weight).weights.astype(np.float32)
        return row

    def _failed(self, error: Exception, row: int) -> Row:
        message = str(error)
        if self.settings.on_error != "raise":
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
