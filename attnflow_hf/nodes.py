"""`Node`: this process among those that `torchrun` or `accelerate launch` started for one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")

_PATIENCE = timedelta(days=30)  # for those who work longer; one that fails is ended by its launcher, and all with it

_runs = count()


@dataclass(frozen=True)
class Node:
    """One process of several that do a run together; by default there is only one.

    Attributes:
        rank: Which one, 0 to `size` - 1.
        size: How many there are.
        group: How they talk to each other.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def agree(self, function: Callable[[], Value]) -> Value:
        """Return what `function` returns in process 0; an error of it is raised in all."""
        if self.size == 1:
            return function()
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = function()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0, group=self.group)
        if told[1] is not None:
            raise told[1]
        value: Value = told[0]
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, once each has come here."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values


@contextmanager
def this_node() -> Iterator[Node]:
    """Give this process' place among those of its launcher, as the environment or `torch.distributed` tells it.

    Messages go by gloo, so that they need no GPU, whatever the processes use otherwise.
    """
    is_ours = not (dist.is_available() and dist.is_initialized())
    if is_ours and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Node()
        return
    if is_ours:
        from torch.distributed.distributed_c10d import PrefixStore  # some builds of PyTorch have none

        store, rank, size = _meeting()
        own = PrefixStore(f"attnflow_hf/{next(_runs)}", store)  # of a later run too, which meets anew
        dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=_PATIENCE)
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Node(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(None if is_ours else group)


@cache
def _meeting() -> tuple[Any, int, int]:
    """Return where the processes of the launcher meet, which one this is, and how many there are."""
    from torch.distributed.rendezvous import rendezvous

    found: tuple[Any, int, int] = next(rendezvous("env://", timeout=_PATIENCE))
    return found
