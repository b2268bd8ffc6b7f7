"""`attnflow run` and `attnflow evaluate`: a config's data set and model loaded, what it asks for done and reported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import datasets

from attnflow_hf.cli_model import load_attributor
from attnflow_hf.config import EVALUATIONS, RunConfig, load_config, load_evaluation
from attnflow_hf.errors import FileFormatError
from attnflow_hf.evaluation.evaluation_report import EvaluationReport
from attnflow_hf.manifest import finished, list_errors
from attnflow_hf.measured_run import RunReport
from attnflow_hf.run_files import load_rows
from attnflow_hf.runs import run_dataset
from attnflow_hf.stopping import Stopped

Report = TypeVar("Report")


def run_config(path: Path, overrides: Mapping[str, Any], *, quiet: bool) -> RunReport:
    """Return the report on the run that a config describes.

    Args:
        path: The config.
        overrides: Values that replace the config's, by dotted key.
        quiet: Show no progress bars; there are none either where stderr is no terminal.

    Raises:
        Stopped: By a signal; its message tells what is kept.
        AttnFlowError: The config, the data set or a row is at fault.
        OSError: The model cannot be loaded.
    """
    return _done(load_config(path, overrides), load_rows, run_dataset, quiet=quiet)


def evaluate_config(path: Path, overrides: Mapping[str, Any], *, quiet: bool) -> EvaluationReport:
    """Return the report on the evaluation that a config describes; arguments and errors are those of `run_config`."""
    config = load_evaluation(path, overrides)
    asked = EVALUATIONS[config.evaluation]
    return _done(config, asked.load, asked.function, quiet=quiet)


def _done(config: RunConfig, load: Callable[..., Any], function: Callable[..., Report], *, quiet: bool) -> Report:
    try:
        return _run(config, load, function, quiet=quiet)
    except Stopped as stop:
        raise Stopped(stop.signal_number, f"stopped; {_kept(Path(config.output))}") from None


def _run(config: RunConfig, load: Callable[..., Any], function: Callable[..., Report], *, quiet: bool) -> Report:
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs as an error it also raises
    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    rows = load(**config.dataset)
    model = dict(config.model)
    if model.get("device") == "cuda" and "LOCAL_RANK" in os.environ:  # each process of a launcher has a GPU of its own
        model["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    attributor = load_attributor(model.pop("name_or_path", None), model)
    return function(rows, attributor, config.output, **config.run, progress=not quiet)


def _kept(output: Path) -> str:
    """Return what a run that was stopped leaves."""
    try:
        manifest = finished(output)
    except FileFormatError as error:
        return str(error)
    if not manifest.shards:
        return "no shard was finished"
    n_rows, n_shards = sum(shard.stop - shard.start for shard in manifest.shards), len(manifest.shards)
    kept = f"{n_rows} rows in {n_shards} finished shards are kept in {str(output)!r}; the same command goes on there"
    return "\n".join([kept, *list_errors(manifest.errors)])
