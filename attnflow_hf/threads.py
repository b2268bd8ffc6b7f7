"""How many threads a call may use, and work done in threads, while the next items come or in turns."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_n_threads: ContextVar[int | None] = ContextVar("attnflow_hf.n_threads", default=None)


def n_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_threads_of_call(otherwise: int) -> int:
    """Return how many threads a call may start: its share where several calls run at once, else `otherwise`."""
    return _n_threads.get() or otherwise


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    n_threads: int,
    n_waiting: int,
    is_ahead: bool = True,
) -> Iterator[Result]:
    """Yield the result of each item in order; threads work on them, while the next items come or in between.

    An exception comes when its result is due; what was not begun by then is given up. A call in one of the threads
    gets its share of the cores by `n_threads_of_call`.

    Args:
        function: What to do with an item.
        items: Taken in the caller's thread.
        n_threads: How many threads; with 0 the caller's own does all.
        n_waiting: How many items, or their results, may be there at once.
        is_ahead: Whether the next items come meanwhile; if they need the same cores, it is sooner done in turns, each
            time that `n_waiting` items are there.
    """
    if n_threads < 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    share = max(1, n_cores() // n_threads)
    with ThreadPoolExecutor(n_threads, initializer=_n_threads.set, initargs=(share,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                n_due = len(waiting) - n_waiting if is_ahead else len(waiting) * (len(waiting) >= n_waiting)
                for _ in range(n_due):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
