"""Dataset runs: the attributions of a whole data set as a folder of Parquet shards that can be resumed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, DatasetDict, IterableDataset
from tqdm import tqdm

import attnflow_hf
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.explained_rows import ExplainedRows
from attnflow_hf.manifest import Manifest, list_errors, model_fingerprint, open_folder, tokenizer_fingerprint
from attnflow_hf.nodes import Node, this_node
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names
from attnflow_hf.run_local import run_local
from attnflow_hf.run_ray import RayOptions, check_ray, run_ray
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.run_sources import Source, source_of
from attnflow_hf.run_work import RunWork
from attnflow_hf.shard_maker import ShardMaker
from attnflow_hf.shards import locked

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        output: The folder.
        n_rows: How many rows of the data set its shards speak of.
        n_computed: How many of them were computed by this call.
        n_skipped: How many of them were in finished shards already.
        n_shards: How many shards there are.
        n_bytes: How large they are.
        seconds: How long this call took.
        errors: The rows that could not be explained, and why; those of earlier calls too.
    """

    output: Path
    n_rows: int
    n_computed: int
    n_skipped: int
    n_shards: int
    n_bytes: int
    seconds: float
    errors: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        """Return the numbers in a few lines, with the first errors."""
        speed = f" in {self.seconds:.1f} s, {self.n_computed / self.seconds:.1f} rows/s" if self.n_computed else ""
        size = f", {self.n_bytes / self.n_rows:,.0f} bytes a row" if self.n_rows else ""
        lines = [
            f"{self.output}: {_count(self.n_rows, 'row')} in {_count(self.n_shards, 'shard')}{size}",
            f"computed now: {self.n_computed}{speed}; finished before: {self.n_skipped}; errors: {len(self.errors)}",
            *list_errors(self.errors),
        ]
        return "\n".join(lines)


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
    `scores_<method>` (float32), with `words` also `words` and `word_scores_<method>`; `prediction_label` and
    `prediction_probability`; `output_position` (null for the mean); `notes`; `layer_graph`, if asked for; `error`.

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
    start = time.perf_counter()
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
    maker = ShardMaker(measure, _check_columns(source, settings, measure.schema().names), shard_size, on_error)
    made_from = _made_from(source, attributor, settings)
    before, manifest = _run(RunWork(source, maker, Path(output)), made_from, ray, progress=progress)
    n_rows, n_skipped = (sum(shard.stop - shard.start for shard in each.shards) for each in (manifest, before))
    return RunReport(
        output=Path(output),
        n_rows=n_rows,
        n_computed=n_rows - n_skipped,
        n_skipped=n_skipped,
        n_shards=len(manifest.shards),
        n_bytes=sum((Path(output) / shard.file).stat().st_size for shard in manifest.shards),
        seconds=time.perf_counter() - start,
        errors=manifest.errors,
    )


def check_engine(engine: str = "local") -> None:
    """Raise `OptionError` unless there is such an engine."""
    check_choice("engine", engine, ENGINES)


def _run(
    work: RunWork, made_from: dict[str, Any], ray: RayOptions | None, *, progress: bool
) -> tuple[Manifest, Manifest]:
    """Return the manifests before and after what was left to do is done."""
    if ray is not None:
        check_ray(work)
    with this_node() as node, ExitStack() as stack:
        if ray is not None and node.size > 1:
            raise OptionError("engine 'ray' has processes of its own; start it without torchrun or accelerate launch")
        before = node.agree(lambda: _open(work.folder, made_from, stack))
        before.check_made_from(made_from)
        if before.is_complete:
            return before, before
        work.maker.measure.check()
        with _bar(work.source, before, node, progress=progress) as bar:
            after = run_local(work, before, node, bar) if ray is None else run_ray(work, before, ray, bar)
    return before, after


def _open(folder: Path, made_from: dict[str, Any], stack: ExitStack) -> Manifest:
    """Return what is finished in the folder, which is kept to this run until the stack is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(folder))
    return open_folder(folder, made_from)


def _bar(source: Source, before: Manifest, node: Node, *, progress: bool) -> Any:
    """Return the bar, which process 0 shows in a terminal, of its own share of the rows."""
    is_shown = progress and node.rank == 0 and sys.stderr.isatty()
    done = sum(shard.stop - shard.start for shard in before.shards)
    left = None if source.n_rows is None else (source.n_rows - done) // node.size
    return tqdm(total=None if left is None else left + done, initial=done, unit="row", disable=not is_shown)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _check_columns(source: Source, settings: RunSettings, taken: Sequence[str]) -> list[str] | None:
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
