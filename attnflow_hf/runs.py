"""Dataset runs: the attributions of a whole data set as a folder of Parquet shards that can be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.explained_rows import ExplainedRows
from attnflow_hf.measured_run import RunReport, check_engine, run_measure
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names
from attnflow_hf.run_ray import RayOptions
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.run_sources import kept_columns, source_of


def run_dataset(
    dataset: Dataset | IterableDataset | DatasetDict | Iterable[Mapping[str, Any]] | Names,
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    split: str | None = None,
    text_column: str = "text",
    text_pair_column: str | None = None,
    method: str | Sequence[str] = "flow",
    options: Options | None = None,
    columns: Sequence[str] | None = None,
    words: bool = False,
    save_layer_graphs: bool = False,
    truncation: bool = False,
    window: int | None = None,
    stride: int = 0,
    shard_size: int = 1000,
    on_error: str = "raise",
    engine: str = "local",
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: int = 1,
    progress: bool = True,
) -> RunReport:
    """Return a report on a run over a data set, whose attributions lie in a folder of Parquet shards afterwards.

    The rows are streamed, one shard of them in memory at a time. A shard appears whole or not at all; a run that
    was stopped, in whatever way, goes on where it was when it is called again, and the folder is byte for byte that
    of a run which was not (with the same number of threads, on which the last digits depend).

    Beside the data set's columns there are: `tokens`, `offsets`, `special_tokens_mask`; for each method
    `scores_<method>` (float32), beside those of `flow_shapley` also `standard_errors_flow_shapley` (null where they are
    exact), with `words` also `words` and `word_scores_<method>`; `prediction_label` and `prediction_probability`; on
    `grad_attention` the explained class, `target_label`, `target_index`, `target_probability` (null for a regression)
    and `target_output` (its logit); `output_position` (null for the mean); `notes`; `layer_graph`, if asked for;
    `error`.

    Under `torchrun` or `accelerate launch` the processes share the shards among them; the folder, which all of them
    must see, is that of a single process.

    Args:
        dataset: A `Dataset`, an `IterableDataset`, or dicts; or what `datasets` loads one from: a CSV, JSON, Parquet,
            Arrow or text file, a list or a pattern of them, a folder, a hub name. A `Dataset` is known again by its
            fingerprint (that of files comes of their paths and times of change), others by their first row.
        attributor: The wrapped model.
        output: The folder; made if it is not there.
        split: Which split of files, of a hub data set or of a `DatasetDict`, where they have several.
        text_column: The column of the texts.
        text_pair_column: The column of the second texts of pairs.
        method: `"raw"`, `"rollout"`, `"flow"` or `"flow_shapley"`, or a list of them, all from one forward pass.
        options: The options of `Attributor.__call__`; one output position and one layer.
        columns: Which columns of the data set to keep; by default all.
        words: Add the scores summed over words.
        save_layer_graphs: Add each text's layer graph as `layer_graph`, float32 `[layer, query, key]`, residual
            included: 4 bytes for each number, before compression.
        truncation: Cut texts that are longer than the model can read; otherwise they are errors.
        window: Read longer texts in windows of so many tokens, special tokens included; the score of a token is the
            mean over the windows that it stands in, what a classifier says that of the mean of their logits.
        stride: How many tokens a window shares with the one before it; the last may share more.
        shard_size: How many rows of the data set make a shard; what is lost at most when a run is stopped.
        on_error: What to do with a row that cannot be explained: `"raise"`, and keep the finished shards; `"skip"`:
            leave it out; `"record"`: keep it with nulls and the message in `error`. The manifest lists them.
        engine: `"local"`: this process, or those of its launcher. `"ray"`: actors of Ray Data, on one machine or on
            many, for a `Dataset`; the extra `ray`. The folder is the same.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor; above 0 its model moves to one.
        num_cpus: Cores of each actor, and threads of PyTorch in it.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        OptionError: An option or a column is wrong, or the folder holds a run made otherwise; the message shows how.
        DatasetError: The data set's files are not there, or cannot be read.
        FileFormatError: The folder's manifest cannot be read.
        AttnFlowError: With `on_error="raise"`, a row could not be explained; the message says which.

    Example:
        >>> report = run_dataset(dataset, attributor, "flows", method=["flow", "rollout"])  # doctest: +SKIP
        >>> flows = datasets.load_dataset("parquet", data_files="flows/*.parquet")  # doctest: +SKIP
    """
    check_engine(engine)
    settings = RunSettings(
        text_column=text_column,
        text_pair_column=text_pair_column,
        method=method,
        options=options or Options(),
        columns=columns,
        words=words,
        save_layer_graphs=save_layer_graphs,
        truncation=truncation,
        window=window,
        stride=stride,
        shard_size=shard_size,
        on_error=on_error,
    )
    ray = RayOptions(concurrency, num_gpus, num_cpus) if engine == "ray" else None
    source = source_of(dataset, split)
    measure = ExplainedRows(attributor, settings)
    asked = {"text_column": [text_column], "text_pair_column": [text_pair_column] if text_pair_column else []}
    return run_measure(
        source,
        measure,
        settings.to_dict(),
        output,
        kept=kept_columns(source, columns, asked, measure.schema().names),
        shard_size=shard_size,
        on_error=on_error,
        ray=ray,
        progress=progress,
    )
