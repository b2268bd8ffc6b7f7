"""A run on Ray Data: actors that hold the model make the shards, on one machine or many; the driver writes them."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from attnflow_hf.errors import OptionError
from attnflow_hf.manifest import Manifest, Shard
from attnflow_hf.run_work import RunWork


@dataclass(frozen=True)
class RayOptions:
    """How Ray works on a run.

    Attributes:
        concurrency: How many actors, each with a model of its own.
        num_gpus: GPUs of each; above 0 its model is moved to one. A fraction shares it.
        num_cpus: Cores of each, and threads of PyTorch in it.
    """

    concurrency: int = 1
    num_gpus: float = 0
    num_cpus: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least in (("concurrency", self.concurrency, 1), ("num_cpus", self.num_cpus, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a positive integer, got {value!r}")
        if isinstance(self.num_gpus, bool) or not isinstance(self.num_gpus, (int, float)) or not self.num_gpus >= 0:
            raise OptionError(f"num_gpus must be a number of at least 0, got {self.num_gpus!r}")


def run_ray(work: RunWork, manifest: Manifest, options: RayOptions, bar: Any) -> Manifest:
    """Make the shards that are not finished in Ray's actors, and return the complete manifest.

    An actor that dies is started anew, and its shard is made again. Only the driver writes to the folder.

    Args:
        work: What there is to do.
        manifest: What is finished.
        options: How many actors, and what each has.
        bar: Shows the progress; of `tqdm`.

    Raises:
        OptionError: Ray is not installed, or the data set is a stream.
        AttnFlowError: A row could not be explained; finished shards are kept.
        OSError: A file cannot be written.
    """
    numbers = work.unfinished(manifest)
    with _ray() as ray:
        shared = ray.put(work)  # kept alive here, for actors that are started anew
        rows = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers) or None)
        made = rows.map_batches(
            _Maker,
            fn_constructor_args=([shared], options.num_cpus, options.num_gpus > 0),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=options.concurrency),
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
        )
        for row in made.iter_rows() if numbers else ():
            shard, error = pickle.loads(row["shard"])
            if error is not None:
                raise error
            bar.set_postfix_str(f"shard {row['number']}")
            manifest = work.write(shard, row["data"], manifest)
            bar.update(shard.stop - shard.start)
    manifest = replace(manifest, is_complete=True)
    manifest.save(work.folder)
    return manifest


def check_ray(work: RunWork) -> None:
    """Raise `OptionError` where Ray is missing, or cannot work on such a data set or model."""
    _import_ray()
    device = work.maker.measure.attributor.model.device
    if device.type != "cpu":
        raise OptionError(
            f"engine 'ray' sends the model to its actors, so it must be on the CPU here, not on {device}; "
            "num_gpus=1 moves it to a GPU there"
        )
    if not work.source.has_random_access:
        raise OptionError(
            "engine 'ray' gives out the rows of a Dataset; a stream has to be read in its order: load it without "
            "streaming, or use engine 'local'"
        )


class _Maker:
    """What an actor does: it holds the model and makes one shard after the other."""

    def __init__(self, shared: list[Any], n_threads: int, on_gpu: bool) -> None:
        self.work: RunWork = _import_ray().get(shared[0])
        torch.set_num_threads(n_threads)
        if on_gpu:
            self.work.maker.measure.attributor.model.to("cuda")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        number = int(batch["number"][0])
        shard: Shard | None = None
        data: bytes | memoryview = b""
        error = None
        try:
            shard, data = self.work.maker.make(number, *self.work.table(number))
        except Exception as caught:  # raised anew by the driver, as its own
            error = caught
        return {"number": [number], "shard": [pickle.dumps((shard, error))], "data": [bytes(data)]}


@contextmanager
def _ray() -> Iterator[Any]:
    """Give Ray, started if it does not run, and ended if it was started here."""
    ray = _import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    level = logger.level
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    logger.setLevel(logging.ERROR)  # the bar is ours, and so is what is said of a run
    try:
        yield ray
    finally:
        context.enable_progress_bars = shown
        logger.setLevel(level)
        if is_ours:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise OptionError(
            f"engine 'ray' needs Ray Data ({error}); install it by: pip install 'attnflow_hf[ray]'"
        ) from error
    return ray
