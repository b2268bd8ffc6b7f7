"""Attention flow, exact and fast on a CPU: the compiled solver, and the threads it runs in."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from attnflow_hf.backends.flow_dinic import solve
from attnflow_hf.backends.flow_task import Problem, Task
from attnflow_hf.backends.flow_workspace import Workspace, is_cached, new_workspace, renew
from attnflow_hf.errors import BoolArray, FloatArray, FlowError, IntArray, OptionError
from attnflow_hf.flow_result import FlowResult
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.threads import n_threads_of_call

MIN_WORK_OF_A_THREAD = 50_000
"""So many (pairs x nodes) take some milliseconds; a thread for less costs more than it gives."""

MAX_EDGES_KEPT = 20_000
"""Workspaces of so many edges, about 1 MB, are kept for the next graph; larger ones are given back."""

MAX_BYTES_OF_GRAPHS = 64_000_000
"""So much memory the graphs take that sets of tokens are made into at a time."""

_logger = logging.getLogger("attnflow_hf")


def flow(graph: LayerGraph, layers: IntArray, output_positions: IntArray) -> FloatArray:
    """Return attention flow: the value of the maximum flow from each output position down to each single token.

    The edge from `(l + 1, query)` to `(l, key)` has the capacity `A_l[query, key]` (Abnar & Zuidema 2020, section 3).
    The values are exact but for the rounding of float64.

    Args:
        graph: The capacities `A`, `[layer, query, key]`.
        layers: Indices of the explained layers.
        output_positions: Indices of the explained positions.

    Returns:
        float64 `[layer, output position, token]`, nonnegative: 0 where no path leads to the token, `inf` where
        one of unlimited edges does. A row of a trained encoder takes milliseconds at 128 tokens; each thread holds a
        copy of the layers between the lowest and the explained one.

    Raises:
        FlowError: A search was given up, which happens above 1,024 tokens only.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> flow(graph, np.array([1]), np.array([1]))
        array([[[1. , 0.5]]])
    """
    return check_finished(solve_graphs([graph], [layers], [output_positions])[0])


def flow_into_sets(graph: LayerGraph, layer: int, output_position: int, sets: BoolArray) -> FloatArray:
    """Return the value of the maximum flow from an output position into each set of tokens.

    What flows into the tokens of a set comes by edges of the lowest layer, and nothing else limits it there. So a set
    is as good as one token whose edges are the sums of theirs: `n` sets are the `n` columns of one lowest layer, and
    one graph with that layer, as large as the one given, answers them all.

    Args:
        graph: The capacities `A`, `[layer, query, key]`, finite.
        layer: The explained layer.
        output_position: The explained position.
        sets: bool `[set, token]`.

    Returns:
        float64 `[set]`. A set takes as long as a token or less: some 7 us at 12 tokens and 10 to 30 us at 128.

    Raises:
        FlowError: A search was given up, which happens above 1,024 tokens only.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> flow_into_sets(graph, 1, 1, np.array([[True, False], [True, True]]))
        array([1., 1.])
    """
    values = np.zeros(len(sets))
    starts = range(0, len(sets), graph.n_tokens)
    at_once = max(1, MAX_BYTES_OF_GRAPHS // graph.weights[: layer + 1].nbytes)
    for first in range(0, len(starts), at_once):
        some = starts[first : first + at_once]
        graphs = [graph_of_sets(graph, layer, sets[start : start + graph.n_tokens]) for start in some]
        layers, positions = [np.array([layer])] * len(some), [np.array([output_position])] * len(some)
        for start, result in zip(some, solve_graphs(graphs, layers, positions), strict=True):
            found = check_finished(result)[0, 0]
            values[start : start + graph.n_tokens] = found[: len(sets) - start]
    return values


def graph_of_sets(graph: LayerGraph, layer: int, sets: BoolArray) -> LayerGraph:
    """Return the graph up to a layer whose input tokens are sets of those of `graph`, at most as many.

    Args:
        graph: Finite capacities.
        layer: The highest layer that is kept.
        sets: bool `[set, token]`.
    """
    weights = graph.weights[: layer + 1].copy()
    weights[0] = 0.0
    weights[0, :, : len(sets)] = graph.weights[0] @ sets.T
    return LayerGraph.of_own(weights)


def check_finished(result: FlowResult) -> FloatArray:
    """Return the values of a result.

    Raises:
        FlowError: A search was given up.
    """
    n_unfinished = int((~result.is_exact).sum())
    if n_unfinished:
        raise FlowError(
            f"{n_unfinished} of {result.lower.size} flows were not finished within {result.n_pushes.max():,} pushes; "
            "flow(graph, max_work=...) searches longer, and returns bounds for what it does not finish"
        )
    return result.lower


def solve_graphs(
    graphs: Sequence[LayerGraph],
    layers: Sequence[IntArray],
    output_positions: Sequence[IntArray],
    *,
    certificate: bool = False,
    paths: bool = False,
    max_work: int | None = None,
    n_threads: int | None = None,
    layer_axis: bool = True,
) -> list[FlowResult]:
    """Return the maximum flows of several graphs, which share the threads.

    Args:
        graphs: They may differ in size.
        layers: Indices of the explained layers, for each graph.
        output_positions: Indices of the explained positions, for each graph.
        certificate: Keep a minimum cut for each pair: as many booleans as the graph has nodes.
        paths: Keep the flow on each edge that carries some.
        max_work: After so many pushes a pair is given up; by default 20 million above 1,024 tokens, else never.
        n_threads: How many threads; by default one for each core that the process may use.
        layer_axis: Keep the axis of layers, which a call for one layer has no use for.

    Raises:
        OptionError: A number that is not positive.
        TooLargeError: The result, or the arrays of the threads, need more memory than there is.
        FlowError: A certificate does not hold.
    """
    _check_count("max_work", max_work)
    _check_count("n_threads", n_threads)
    problems = [
        Problem.of(graph, own_layers, positions, certificate, paths, max_work)
        for graph, own_layers, positions in zip(graphs, layers, output_positions, strict=True)
    ]
    tasks = [task for problem in problems for task in problem.tasks()]
    _run(tasks, _count_threads(tasks, n_threads))
    return [problem.result(layer_axis=layer_axis) for problem in problems]


def _check_count(name: str, value: object) -> None:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (is_integer and value > 0):  # type: ignore[operator]
        raise OptionError(f"{name} must be a positive integer or None, got {value!r}")


def _count_threads(tasks: Sequence[Task], n_threads: int | None) -> int:
    """Return how many threads are worth it."""
    config: Any = numba.config
    work = sum(task.work for task in tasks)
    wanted = n_threads or n_threads_of_call(otherwise=config.NUMBA_NUM_THREADS)
    return int(max(1, min(wanted, len(tasks), work // MIN_WORK_OF_A_THREAD)))


def _run(tasks: Sequence[Task], n_threads: int) -> None:
    """Run the tasks in threads that take one after the other; the compiled code runs without the GIL.

    The threads are Python's, made here and gone at the end. Unlike the threads of numba they survive a fork, and
    several callers may have their own at the same time.
    """
    if any(task.work for task in tasks):
        _announce()
    if n_threads == 1:
        _run_here(tasks)
        return
    queue, lock, failed = iter(tasks), threading.Lock(), threading.Event()

    def taken() -> Iterator[Task]:
        while not failed.is_set():
            with lock:
                task = next(queue, None)
            if task is None:
                return
            yield task

    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for done in [pool.submit(_run_here, taken()) for _ in range(n_threads)]:
                done.result()
        finally:
            failed.set()


def _run_here(tasks: Iterable[Task]) -> None:
    """Run tasks in this thread."""
    problem, workspace = None, None
    for task in tasks:
        if task.top <= 2:
            task.run(None)
            continue
        if task.problem is not problem:
            problem = task.problem
            workspace = _workspace_of(int(problem.layers.max()) + 1, problem.graph.n_tokens)
        task.run(workspace)


class _Kept(threading.local):
    """The small workspace that a thread used last: texts of a batch are about as long, and have one in turn."""

    size: tuple[int, int] = (0, 0)
    workspace: Workspace | None = None


_kept = _Kept()


def _workspace_of(top: int, n: int) -> Workspace:
    """Return a workspace for `n` tokens and up to `top` layers that nothing uses but the tasks that come next."""
    if _kept.workspace is not None and _kept.size == (top, n):
        renew(_kept.workspace)
        return _kept.workspace
    workspace = new_workspace(top, n)
    if top * n * n <= MAX_EDGES_KEPT:
        _kept.size, _kept.workspace = (top, n), workspace
    return workspace


def _announce() -> None:
    """Say once in a process that compiling, or loading, takes a while."""
    solver: Any = solve
    if getattr(solver, "overloads", True):
        return
    if is_cached(solver):
        _logger.info("loading the compiled flow solver; the first time on a machine it is compiled, some 10 seconds")
    else:
        _logger.warning(
            "compiling the flow solver, some 10 seconds in each process: no folder was found to keep the machine code "
            "in; set NUMBA_CACHE_DIR to one that can be written to"
        )
