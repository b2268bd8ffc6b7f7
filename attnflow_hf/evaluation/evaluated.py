"""`evaluate_agreement`: the agreement of attributions with importance over a data set, as shards and as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.agreement_rows import REASONS, AgreementRows, AgreementSettings, column_name
from attnflow_hf.evaluation.summary import Measured, summarize
from attnflow_hf.evaluation.table import ResultTable
from attnflow_hf.manifest import finished
from attnflow_hf.measured_run import RunReport, check_engine, run_measure
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names
from attnflow_hf.run_ray import RayOptions
from attnflow_hf.run_sources import chosen_rows, kept_columns, source_of
from attnflow_hf.storage import write_text


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        run: What was done, as `run_dataset` tells it.
        table: The mean of each statistic over texts, for each importance, method and layer, with its standard
            deviation, a bootstrap interval, and how many texts have no value. Also in the folder, as `results.json`,
            `results.md` and `results.tex`.
    """

    run: RunReport
    table: ResultTable

    def to_markdown(self) -> str:
        """Return a table of methods and layers for each importance and statistic."""
        return _rendered(self.table, "to_markdown", "### {}\n\n{}")

    def __str__(self) -> str:
        """Return the run's numbers, then the tables."""
        return f"{self.run}\n\n{self.to_markdown()}"


def evaluate_agreement(
    dataset: Dataset | IterableDataset | DatasetDict | Iterable[Mapping[str, Any]] | Names,
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    special_tokens: str,
    split: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    text_column: str = "text",
    method: str | Sequence[str] = ("raw", "rollout", "flow"),
    options: Options | None = None,
    importance: str | Sequence[str] = "blank_out",
    statistic: str | Sequence[str] = "spearman",
    decimals: int | None = 9,
    replacement: str = "unk",
    signs: str = "drop",
    norm: str = "l2",
    embeddings: str = "word",
    columns: Sequence[str] | None = None,
    truncation: bool = False,
    shard_size: int = 200,
    on_error: str = "record",
    engine: str = "local",
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: int = 1,
    progress: bool = True,
) -> EvaluationReport:
    """Return how far attributions of each layer order the tokens of texts as importance does.

    So are tables 1 and 2 of Abnar & Zuidema (2020) made. For each text, statistic, importance and method the folder's
    shards have a column such as `spearman_blank_out_rollout`: a value for each layer, null where it is undefined (one
    token, constant scores), with the reason in `missing`. Like every run it can be resumed, shared among processes, and
    is the same byte for byte.

    Args:
        dataset: As for `run_dataset`.
        attributor: The wrapped model.
        output: The folder.
        special_tokens: `"keep"` or `"drop"` them from the comparison. There is no default, as it moves the result.
        split: As for `run_dataset`.
        sample: How many texts are drawn from a `Dataset` (or files); `None` for all.
        seed: Of the draw.
        text_column: The column of the texts.
        method: One method, or a list of them.
        options: `backend`, `head_reduction`, `residual_weight`, `n_permutations`, `seed` of the attributions.
        importance: `"blank_out"`, `"input_gradient"`, `"gradient_x_input"`, `"integrated_gradients"`, or a list.
        statistic: `"spearman"`, `"kendall"`, or both.
        decimals: Scores are rounded to so many decimals first, so that flows equal but for rounding are tied.
        replacement: What blank-out puts in a token's place.
        signs: `"drop"`: absolute values, as in the paper's code; or `"keep"`.
        norm: Of input gradients: `"l2"` or `"sum"`.
        embeddings: Where gradients are taken: `"word"` or `"block"`.
        columns: Which columns of the data set to keep beside the results; by default all.
        truncation: Cut texts that are longer than the model can read.
        shard_size: How many texts make a shard.
        on_error: What becomes of a text that cannot be compared: `"record"`, `"skip"` or `"raise"`.
        engine: As for `run_dataset`; so are `concurrency`, `num_gpus` and `num_cpus`.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor.
        num_cpus: Cores of each actor.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        AttnFlowError: As `run_dataset`.

    Example:
        >>> report = evaluate_agreement("sentences.csv", attributor, "table1", special_tokens="drop")  # doctest: +SKIP
        >>> print(report.to_markdown())  # doctest: +SKIP
    """
    check_engine(engine)
    settings = AgreementSettings(
        text_column=text_column,
        method=method,
        options=options or Options(),
        importance=importance,
        statistic=statistic,
        special_tokens=special_tokens,
        decimals=decimals,
        replacement=replacement,
        signs=signs,
        norm=norm,
        embeddings=embeddings,
        truncation=truncation,
    )
    source = source_of(_sampled(dataset, split, sample, seed), None if sample is not None else split)
    measure = AgreementRows(attributor, settings)
    added = measure.schema().names
    run = run_measure(
        source,
        measure,
        {**settings.to_dict(), "sample": sample, "seed": seed, "shard_size": shard_size, "on_error": on_error},
        output,
        kept=kept_columns(source, columns, {"text_column": [text_column]}, added),
        shard_size=shard_size,
        on_error=on_error,
        ray=RayOptions(concurrency, num_gpus, num_cpus) if engine == "ray" else None,
        progress=progress,
    )
    table = ResultTable.from_rows(_rows(Path(output), settings), config=settings.to_dict())
    report = EvaluationReport(run, table)
    _write(Path(output), report)
    return report


def _sampled(dataset: Any, split: str | None, sample: int | None, seed: int) -> Any:
    if sample is None:
        return dataset
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise OptionError(f"sample must be a positive integer or None, got {sample!r}")
    chosen = chosen_rows(dataset, split)
    if not isinstance(chosen, Dataset):
        raise OptionError(f"a sample is drawn from a Dataset or from files, got {type(chosen).__name__}")
    return chosen.shuffle(seed=seed).select(range(min(sample, len(chosen))))


def _rows(folder: Path, settings: AgreementSettings) -> list[dict[str, Any]]:
    """Return the rows of the results table, from the shards."""
    files = [folder / shard.file for shard in finished(folder).shards]
    names = [column_name(*column) for column in settings.columns]
    found = pa.concat_tables([pq.read_table(file, columns=[*names, REASONS]) for file in files])
    reasons = [each for each in found[REASONS].to_pylist() if each is not None]
    rows, first = [], 0
    for column, name in zip(settings.columns, names, strict=True):
        of_texts = [each for each in found[name].to_pylist() if each is not None]
        n_layers = len(of_texts[0]) if of_texts else 0
        for layer in range(n_layers):
            measured = [
                Measured(values[layer], "" if values[layer] is not None else why[first + layer])
                for values, why in zip(of_texts, reasons, strict=True)
            ]
            statistic, importance, method = column
            own = {"method": method, "layer": layer, "metric": statistic, "importance": importance}
            rows.append({**own, "special_tokens": settings.special_tokens, **summarize(measured).to_row()})
        first += n_layers
    return rows


def _write(folder: Path, report: EvaluationReport) -> None:
    write_text(folder / "results.json", report.table.to_json() + "\n")
    write_text(folder / "results.md", report.to_markdown() + "\n")
    write_text(folder / "results.tex", _rendered(report.table, "to_latex", "% {}\n{}") + "\n")


def _rendered(table: ResultTable, form: str, layout: str) -> str:
    parts = dict.fromkeys((row["importance"], row["metric"]) for row in table.rows)
    rendered = []
    for importance, statistic in parts:
        of_both = table.where(importance=importance, metric=statistic)
        text = getattr(of_both, form)(columns="layer", spread="std", best="max")
        rendered.append(layout.format(f"{statistic} with {importance}", text))
    return "\n\n".join(rendered)
