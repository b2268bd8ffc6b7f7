"""Dataset runs: the attributions of a whole data set as a folder of Parquet shards that can be resumed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from datasets import Dataset, Features, IterableDataset
from tqdm import tqdm

import attnflow_hf
from attnflow_hf.attributing import attribute_all
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import AttnFlowError, CaptureError, OptionError, TextError, TokenizerError
from attnflow_hf.given import given
from attnflow_hf.inputs import Text
from attnflow_hf.manifest import Manifest, Shard, model_fingerprint, open_folder, tokenizer_fingerprint
from attnflow_hf.options import Options
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.run_sources import Source, source_of
from attnflow_hf.shards import (
    file_name,
    join,
    locked,
    result_row,
    result_schema,
    write_table,
)
from attnflow_hf.signals import SIGNALS

_ROW_ERRORS = (AttnFlowError, TypeError, ValueError)  # faults of a row; those of the machine stop the run
_SAMPLE_TEXT = "a b c d"


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        output: The folder.
        n_rows: How many rows of the data set its shards speak of.
        n_computed: How many of them were computed by this call.
        n_skipped: How many of them were in finished shards already.
        n_shards: How many shards there are.
        errors: The rows that could not be explained, and why; those of earlier calls too.
    """

    output: Path
    n_rows: int
    n_computed: int
    n_skipped: int
    n_shards: int
    errors: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        """Return the numbers in a few lines, with the first errors."""
        lines = [
            f"{self.output}: {self.n_rows} rows in {self.n_shards} shards",
            f"computed now: {self.n_computed}; finished before: {self.n_skipped}; errors: {len(self.errors)}",
            *(f"  row {row}: {message}" for row, message in self.errors[:3]),
        ]
        return "\n".join([*lines, "  ..."] if len(self.errors) > 3 else lines)


def run_dataset(
    dataset: Dataset | IterableDataset | Iterable[Mapping[str, Any]],
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    method: str | Sequence[str] = "flow",
    options: Options | None = None,
    columns: Sequence[str] | None = None,
    words: bool = False,
    shard_size: int = 1000,
    on_error: str = "raise",
    truncation: bool = False,
    progress: bool = True,
) -> RunReport:
    """Return a report on a run over a data set, whose attributions lie in a folder of Parquet shards afterwards.

    The rows are streamed, one shard of them in memory at a time. A shard appears whole or not at all; a run that
    was stopped, in whatever way, goes on where it was when it is called again, and the folder is byte for byte that
    of a run which was not (with the same number of threads, on which the last digits depend).

    Beside the data set's columns there are: `tokens`, `offsets`, `special_tokens_mask`; for each method
    `scores_<method>` (float32), with `words` also `words` and `word_scores_<method>`; `prediction_label` and
    `prediction_probability`; `output_position` (null for the mean); `notes`; `error`.

    Args:
        dataset: A `Dataset`, an `IterableDataset`, or dicts. A `Dataset` is known again by its fingerprint, others
            by their first row.
        attributor: The wrapped model.
        output: The folder; made if it is not there.
        text_column: The column of the texts.
        text_pair_column: The column of the second texts of pairs.
        method: `"raw"`, `"rollout"` or `"flow"`, or a list of them: all are made from one forward pass.
        options: The options of `Attributor.__call__`; one output position and one layer.
        columns: Which columns of the data set to keep; by default all.
        words: Add the scores summed over words.
        shard_size: How many rows of the data set make a shard; what is lost at most when a run is stopped.
        on_error: What to do with a row that cannot be explained: `"raise"`, and keep the finished shards; `"skip"`:
            leave it out; `"record"`: keep it with nulls and the message in `error`. The manifest lists them.
        truncation: Cut texts that are longer than the model can read; otherwise they are errors.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        OptionError: An option or a column is wrong, or the folder holds a run made otherwise; the message shows how.
        FileFormatError: The folder's manifest cannot be read.
        AttnFlowError: With `on_error="raise"`, a row could not be explained; the message says which.

    Example:
        >>> report = run_dataset(dataset, attributor, "flows", method=["flow", "rollout"])  # doctest: +SKIP
        >>> flows = datasets.load_dataset("parquet", data_files="flows/*.parquet")  # doctest: +SKIP
    """
    source = source_of(dataset)
    settings = RunSettings(
        text_column, text_pair_column, method, options or Options(), columns, words, shard_size, on_error, truncation
    )
    kept = _check_columns(source, settings)
    made_from = _made_from(source, attributor, settings)
    run = _Run(source, attributor, settings, Path(output), kept)
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder):
        before = open_folder(run.folder, made_from)
        manifest = before if before.is_complete else run.finish(before, progress=progress)
    n_rows, n_skipped = (sum(shard.stop - shard.start for shard in each.shards) for each in (manifest, before))
    return RunReport(run.folder, n_rows, n_rows - n_skipped, n_skipped, len(manifest.shards), manifest.errors)


def _check_columns(source: Source, settings: RunSettings) -> list[str] | None:
    """Return the data set's columns that are kept; `None` where it has no rows to tell."""
    if source.columns is None:
        return None
    asked = {"text_column": [settings.text_column], "columns": settings.columns or []}
    asked |= {"text_pair_column": [] if settings.text_pair_column is None else [settings.text_pair_column]}
    for option, names in asked.items():
        for name in names:
            if name not in source.columns:
                raise OptionError(f"{option} {name!r} is no column of the data set; it has {source.columns}")
    kept = source.columns if settings.columns is None else list(settings.columns)
    taken = set(result_schema(settings.methods, words=settings.words).names)
    if clash := [name for name in kept if name in taken]:
        raise OptionError(f"the run adds columns named {clash}; rename the data set's, or leave them out by columns=")
    return kept


def _made_from(source: Source, attributor: Attributor, settings: RunSettings) -> dict[str, Any]:
    """Return all that the shards depend on, as plain values."""
    return {
        "settings": settings.to_dict(),
        "versions": {
            "attnflow_hf": attnflow_hf.__version__,
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
        },
        "model": {"class": type(attributor.model).__name__, "sha256": model_fingerprint(attributor.model)},
        "tokenizer": {"sha256": tokenizer_fingerprint(attributor.tokenizer)},
        "dataset": source.fingerprint,
        "batch_size": int(attributor.batch_size),
    }


@dataclass(frozen=True)
class _Run:
    """A run under way."""

    source: Source
    attributor: Attributor
    settings: RunSettings
    folder: Path
    kept: list[str] | None

    def finish(self, manifest: Manifest, *, progress: bool) -> Manifest:
        """Compute the shards that are not finished, and return the complete manifest."""
        self._check_attributor()
        done = {shard.file: shard.stop - shard.start for shard in manifest.shards}
        n_done = sum(done.values())
        is_shown = progress and sys.stderr.isatty()
        with tqdm(total=self.source.n_rows, initial=n_done, unit="row", disable=not is_shown) as bar:
            for number, table in self._tables(set(done)):
                bar.set_postfix_str(file_name(number))
                manifest = manifest.with_shard(self._compute(number, table))
                manifest.save(self.folder)
                bar.update(len(table))
        manifest = replace(manifest, is_complete=True)
        manifest.save(self.folder)
        return manifest

    def _check_attributor(self) -> None:
        """Raise what would be an error in every row, before the first."""
        if self.attributor.model.main_input_name in SIGNALS:
            raise OptionError(f"{type(self.attributor.model).__name__} does not read text; a run is over texts")
        if self.attributor.tokenizer is None:
            raise TokenizerError("a run over texts needs a tokenizer: use Attributor(model, tokenizer)")
        with suppress(TextError):  # a tokenizer that knows none of the sample's words
            self._results([_SAMPLE_TEXT], replace(self.settings.options, output_position="auto"))

    def _tables(self, done: set[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number and rows of each shard that is not finished; of an empty data set one without rows."""
        size = self.settings.shard_size
        first = next(number for number in range(len(done) + 1) if file_name(number) not in done)
        tables = self.source.tables(first * size, size)
        if first == 0:
            head = next(tables, None)
            tables = chain([self._no_rows() if head is None else head], tables)
        for number, table in enumerate(tables, start=first):
            if file_name(number) not in done:
                yield number, table

    def _no_rows(self) -> pa.Table:
        features = self.source.features
        return pa.table({}) if features is None else features.arrow_schema.empty_table()

    def _compute(self, number: int, table: pa.Table) -> Shard:
        """Write a shard's file, and return what the manifest says of it."""
        start = number * self.settings.shard_size
        stop = start + len(table)
        results = self._explain(self._texts(table), start)
        errors = [(start + row, str(each["error"])) for row, each in enumerate(results) if "error" in each]
        if self.settings.on_error == "skip":
            kept = [row for row, each in enumerate(results) if "error" not in each]
            table, results = table.take(pa.array(kept, pa.int64())), [results[row] for row in kept]
        try:
            joined = join(table, results, self._schema(number, table))
        except pa.ArrowException as error:
            raise OptionError(
                f"rows {start} to {stop - 1} of the data set do not have the types of those before: {error}; "
                "give a Dataset, which has one type for each column"
            ) from error
        path = self.folder / file_name(number)
        return Shard(path.name, start, stop, len(joined), write_table(path, joined), tuple(errors))

    def _texts(self, table: pa.Table) -> list[Any]:
        if not len(table):
            return []
        texts: list[Any] = table[self.settings.text_column].to_pylist()
        if self.settings.text_pair_column is None:
            return texts
        return list(zip(texts, table[self.settings.text_pair_column].to_pylist(), strict=True))

    def _explain(self, texts: Sequence[Text], start: int) -> list[dict[str, Any]]:
        """Return a result for each text; where some cannot be explained, they are found by halving."""
        try:
            return self._results(texts, self.settings.options)
        except _ROW_ERRORS as error:
            if _is_of_the_machine(error):
                raise
            if len(texts) == 1:
                return [self._failed(error, start)]
        half = len(texts) // 2
        return self._explain(texts[:half], start) + self._explain(texts[half:], start + half)

    def _results(self, texts: Sequence[Text], options: Options) -> list[dict[str, Any]]:
        attributor, settings = self.attributor, self.settings
        asked = given(attributor.model, attributor.tokenizer, list(texts), truncation=settings.truncation)
        found = attribute_all(attributor.wrapped, asked, settings.methods, options)
        return [result_row(by_method, words=settings.words) for by_method in found]

    def _failed(self, error: Exception, row: int) -> dict[str, Any]:
        message = str(error)
        if self.settings.on_error != "raise":
            return {"error": f"{type(error).__name__}: {message}"}
        kind = type(error) if isinstance(error, AttnFlowError) else TextError
        raise kind(
            f"row {row} of the data set: {message} (finished shards are kept; on_error='skip' or 'record' goes on)"
        ) from error

    def _schema(self, number: int, table: pa.Table) -> pa.Schema:
        """Return the columns of all shards and their types: those of the first shard, where no data set tells."""
        if self.source.features is None and number > 0:
            return Features.from_arrow_schema(pq.read_schema(self.folder / file_name(0))).arrow_schema
        features = self.source.features or Features.from_arrow_schema(table.schema)
        kept = {name: features[name] for name in features if self.kept is None or name in self.kept}
        results = result_schema(self.settings.methods, words=self.settings.words)
        return Features({**kept, **Features.from_arrow_schema(results)}).arrow_schema


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether a forward pass broke off for no fault of its texts that could be told, as on a lost GPU."""
    cause = error.__cause__
    is_fault = isinstance(cause, (RuntimeError, MemoryError, OSError)) and not isinstance(cause, AttnFlowError)
    return isinstance(error, CaptureError) and is_fault
