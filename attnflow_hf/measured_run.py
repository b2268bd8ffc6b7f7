"""`run_measure`: what a measure finds for each row of a data set, as a folder of Parquet shards; and `RunReport`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

import attnflow_hf
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.manifest import Manifest, list_errors, model_fingerprint, open_folder, tokenizer_fingerprint
from attnflow_hf.nodes import Node, this_node
from attnflow_hf.run_local import run_local
from attnflow_hf.run_ray import RayOptions, check_ray, run_ray
from attnflow_hf.run_sources import Source
from attnflow_hf.run_work import RunWork
from attnflow_hf.shard_maker import Measure, ShardMaker
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


def run_measure(
    source: Source,
    measure: Measure,
    settings: Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    kept: Sequence[str] | None,
    shard_size: int,
    on_error: str,
    ray: RayOptions | None,
    progress: bool,
) -> RunReport:
    """Return a report on a run; `run_dataset` explains what a run is.

    Args:
        source: The data set.
        measure: What is found for each row.
        settings: All that the measure depends on beside model and data set, as plain values: a run in the same folder
            with others is an error.
        output: The folder.
        kept: Which columns of the data set are kept; `None` for all.
        shard_size: How many rows make a shard.
        on_error: `"raise"`, `"skip"` or `"record"`.
        ray: How Ray works on it; `None` for this process, or those of its launcher.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    start = time.perf_counter()
    work = RunWork(source, ShardMaker(measure, kept, shard_size, on_error), Path(output))
    made_from = _made_from(source, measure.attributor, settings)
    before, manifest = _run(work, made_from, ray, progress=progress)
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


def _made_from(source: Source, attributor: Attributor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the shards depend on, as plain values."""
    return {
        "settings": dict(settings),
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
