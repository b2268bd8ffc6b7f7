"""An evaluation: a measure of runs over a data set, its shards summed up in tables, and what its scores cost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.costs import Timed, costs_of, with_costs
from attnflow_hf.evaluation.evaluation_report import EvaluationReport, Layout
from attnflow_hf.evaluation.table import ResultTable
from attnflow_hf.manifest import Manifest, finished
from attnflow_hf.measured_run import check_engine, run_measure
from attnflow_hf.nodes import this_node
from attnflow_hf.run_ray import RayOptions
from attnflow_hf.run_settings import check_sharding
from attnflow_hf.run_sources import Source, chosen_rows, kept_columns, source_of
from attnflow_hf.shard_maker import Measure


class EvaluationSettings(Protocol):
    """What was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""


class EvaluationMeasure(Measure, Protocol):
    """A measure of runs whose shards can be summed up."""

    @property
    def settings(self) -> EvaluationSettings:
        """What was asked for."""

    def result_rows(self, found: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table, from the columns of `schema` in all shards."""

    def timed(self, table: pa.Table) -> Iterator[Timed]:
        """Yield what is timed, on rows of the data set."""


@dataclass(frozen=True)
class Drawn:
    """The rows that are evaluated; `evaluate_agreement` explains each.

    Attributes:
        dataset: The data set.
        split: Which split of it.
        sample: How many rows are drawn; `None` for all.
        seed: Of the draw.
        needed: Its columns that must be there, by the option that names them.
    """

    dataset: Any
    split: str | None
    sample: int | None
    seed: int
    needed: Mapping[str, Sequence[str]]

    def rows(self) -> Any:
        """Return the rows.

        Raises:
            OptionError: The sample is no number, or cannot be drawn from such a data set.
            DatasetError: Files are not there, or cannot be read.
        """
        sample = self.sample
        if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
            raise OptionError(f"sample must be a positive integer or None, got {sample!r}")
        chosen = chosen_rows(self.dataset, self.split)
        if sample is None:
            return chosen
        if not isinstance(chosen, Dataset):
            raise OptionError(f"a sample is drawn from a Dataset or from files, got {type(chosen).__name__}")
        return chosen.shuffle(seed=self.seed).select(range(min(sample, len(chosen))))


@dataclass(frozen=True)
class HowRun:
    """How an evaluation runs; `evaluate_agreement` explains each."""

    columns: Sequence[str] | None
    shard_size: int
    on_error: str
    engine: str
    ray: RayOptions
    cost_rows: int
    progress: bool

    def __post_init__(self) -> None:
        """Check what `run_measure` does not."""
        check_engine(self.engine)
        check_sharding(self.shard_size, self.on_error)
        check_cost_rows(self.cost_rows)


def evaluate(
    drawn: Drawn, measure: EvaluationMeasure, output: str | os.PathLike[str], how: HowRun, layout: Layout
) -> EvaluationReport:
    """Return what an evaluation found, whose shards and tables lie in a folder afterwards.

    Under a launcher the first process alone sums up, and times scores while the others wait.

    Args:
        drawn: The rows.
        measure: What is found for each.
        output: The folder.
        how: How it runs.
        layout: How the table is turned to be read.

    Raises:
        AttnFlowError: As `run_dataset`.
    """
    head, rows = _head(drawn.rows(), how.cost_rows)
    source = source_of(rows)
    asked = {"sample": drawn.sample, "seed": drawn.seed, "shard_size": how.shard_size, "on_error": how.on_error}
    run = run_measure(
        source,
        measure,
        {**measure.settings.to_dict(), **asked},
        output,
        kept=kept_columns(source, how.columns, drawn.needed, measure.schema().names),
        shard_size=how.shard_size,
        on_error=how.on_error,
        ray=how.ray if how.engine == "ray" else None,
        progress=how.progress,
    )
    folder, config = Path(output), {**measure.settings.to_dict(), "cost_rows": how.cost_rows}

    def summed_up() -> ResultTable:
        manifest = finished(folder)
        found = measure.result_rows(_found(folder, manifest, measure))
        if found and how.cost_rows:
            first = _without_errors(source if head is None else source_of(head), how.cost_rows, manifest)
            timed = measure.timed(first) if len(first) else ()
            found = with_costs(found, costs_of(timed, str(measure.attributor.model.device)))
        table = ResultTable.from_rows(found, config=config)
        EvaluationReport(run, table, layout).save(folder)
        return table

    with this_node() as node:
        return EvaluationReport(run, node.agree(summed_up), layout)


def check_cost_rows(cost_rows: int = 0) -> None:
    """Raise `OptionError` unless it is a number of rows."""
    if isinstance(cost_rows, bool) or not isinstance(cost_rows, int) or cost_rows < 0:
        raise OptionError(f"cost_rows must be a number of rows, 0 or more, got {cost_rows!r}")


def _head(rows: Any, n: int) -> tuple[list[Any] | None, Any]:
    """Return the first rows of what can be gone through only once, and all of it; `None` of what can be again."""
    if not isinstance(rows, Iterator):
        return None, rows
    head = list(islice(rows, n))
    return head, chain(head, rows)


def _found(folder: Path, manifest: Manifest, measure: Measure) -> pa.Table:
    """Return the columns that the measure added, of all shards."""
    schema = measure.schema()
    tables = [pq.read_table(folder / shard.file, columns=schema.names) for shard in manifest.shards]
    return pa.concat_tables(tables or [schema.empty_table()])


def _without_errors(source: Source, n: int, manifest: Manifest) -> pa.Table:
    """Return the first `n` rows without those of them that could not be evaluated."""
    first, wrong = next(source.tables(0, n)), {row for row, _ in manifest.errors}
    return first.take(pa.array([row for row in range(len(first)) if row not in wrong], pa.int64()))
