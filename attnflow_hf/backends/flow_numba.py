"""Attention flow, exact and fast on a CPU: closed forms, the compiled solver, and the threads it runs in."""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from attnflow_hf.backends.flow_dinic import UNFINISHED, settle, solve
from attnflow_hf.backends.flow_workspace import N_SETTLED, Workspace, is_cached, new_workspace
from attnflow_hf.errors import BoolArray, FloatArray, FlowError, IntArray, OptionError, check_memory
from attnflow_hf.flow_result import FLOW_EDGE, FlowEdges, FlowResult
from attnflow_hf.layer_graph import LayerGraph

MIN_WORK_OF_A_THREAD = 50_000
"""So many (pairs x nodes) take some milliseconds; a thread for less costs more than it gives."""

CHUNK = 64
"""So many tokens of one output position are solved in a row; threads take one such chunk after the other."""

UNBOUNDED_UP_TO = 1024
"""Up to so many tokens a search goes on until it is finished, unless `max_work` is given."""

UNBOUNDED = 2**62  # pushes; more would overflow when they are added up
DEFAULT_MAX_WORK = 20_000_000
"""For more tokens it is given up after so many pushes, about half a second."""

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
        _Problem.of(graph, own_layers, positions, certificate, paths, max_work)
        for graph, own_layers, positions in zip(graphs, layers, output_positions, strict=True)
    ]
    tasks = [task for problem in problems for task in problem.tasks()]
    _run(tasks, _count_threads(tasks, n_threads))
    return [problem.result(layer_axis=layer_axis) for problem in problems]


@dataclass
class _Problem:
    """One graph, what is asked about it, and the arrays that the answers are written to."""

    graph: LayerGraph
    layers: IntArray
    positions: IntArray
    lower: FloatArray
    upper: FloatArray
    n_pushes: IntArray
    cuts: BoolArray | None
    edges: dict[tuple[int, int, int], FlowEdges] | None
    max_pushes: int
    weights: FloatArray
    sink_weights: FloatArray
    largest: float

    @classmethod
    def of(
        cls,
        graph: LayerGraph,
        layers: IntArray,
        positions: IntArray,
        certificate: bool,
        paths: bool,
        max_work: int | None,
    ) -> "_Problem":
        n = graph.n_tokens
        shape = (len(layers), len(positions), n)
        n_pairs, cut_shape = int(np.prod(shape)), (*shape, int(max(layers, default=0)) + 2, n)
        cut_bytes = int(np.prod(cut_shape)) if certificate else 0
        what = f"the flow of {n_pairs:,} pairs" + " with their cuts" * certificate
        check_memory(what, 24 * n_pairs + cut_bytes + 3 * graph.weights.nbytes)
        limit = max_work or (UNBOUNDED if n <= UNBOUNDED_UP_TO else DEFAULT_MAX_WORK)
        sink_weights = graph.weights[0].T.reshape(-1)
        sink_weights.setflags(write=False)
        return cls(
            graph=graph,
            layers=layers,
            positions=positions,
            lower=np.zeros(shape),
            upper=np.zeros(shape),
            n_pushes=np.zeros(shape, np.int64),
            cuts=np.zeros(cut_shape, np.bool_) if certificate else None,
            edges={} if paths else None,
            max_pushes=min(limit, UNBOUNDED),
            weights=graph.weights.reshape(-1),
            sink_weights=sink_weights,
            largest=float(graph.weights.max()),
        )

    def tasks(self) -> "Iterator[_Task]":
        for index, layer in enumerate(self.layers.tolist()):
            for row, position in enumerate(self.positions.tolist()):
                for start in range(0, self.graph.n_tokens, CHUNK):
                    stop = min(start + CHUNK, self.graph.n_tokens)
                    yield _Task(self, index, row, layer + 1, position, start, stop)

    def result(self, *, layer_axis: bool) -> FlowResult:
        where = ... if layer_axis else 0
        return FlowResult(
            graph=self.graph,
            layers=self.layers,
            output_positions=self.positions,
            lower=self.lower[where],
            upper=self.upper[where],
            n_pushes=self.n_pushes[where],
            cuts=None if self.cuts is None else self.cuts[where],
            edges=self.edges,
        )


@dataclass
class _Task:
    """The flows from one output position of one layer to the tokens from `start` to `stop`."""

    problem: _Problem
    index: int
    row: int
    top: int
    source: int
    start: int
    stop: int

    @property
    def work(self) -> int:
        return (self.stop - self.start) * self.top * self.problem.graph.n_tokens if self.top > 2 else 0

    def run(self, workspace: Workspace | None) -> None:
        """Write the flows, and what else was asked for; tops above 2 need a workspace."""
        if workspace is None:
            self._run_closed_form()
        elif self.problem.edges is None:
            self._solve(workspace, self.start, self.stop)
        else:
            for token in range(self.start, self.stop):
                self._solve(workspace, token, token + 1)
                self.problem.edges[self.index, self.row, token] = self._read_edges(workspace, token)
        self._write_unlimited()

    def _solve(self, workspace: Workspace, start: int, stop: int) -> None:
        problem, n = self.problem, self.problem.graph.n_tokens
        ends = np.empty(stop - start, np.int64)
        cuts = np.empty((0, 0, 0), np.bool_)
        if problem.cuts is not None:
            cuts = np.zeros((stop - start, *problem.cuts.shape[-2:]), np.bool_)
        where = (self.index, self.row, slice(start, stop))
        solve(
            workspace,
            problem.weights,
            problem.weights[n * n :],
            problem.sink_weights,
            self.top,
            problem.graph.is_causal,
            self.source,
            np.arange(start, stop),
            problem.largest,
            problem.max_pushes,
            problem.lower[where],
            problem.upper[where],
            ends,
            problem.n_pushes[where],
            cuts,
        )
        if problem.cuts is not None:
            problem.cuts[where] = cuts & (ends != UNFINISHED)[:, None, None]

    def _run_closed_form(self) -> None:
        """Flow through one layer is an edge; through two, each node between lets through the lesser of its edges."""
        problem, tokens = self.problem, slice(self.start, self.stop)
        into = problem.graph.weights[0][:, tokens]
        if self.top == 1:
            above = None
            through = np.where(np.arange(len(into))[:, None] == self.source, into, 0.0)
        else:
            above = problem.graph.weights[1, self.source][:, None]
            through = np.minimum(above, into)
        where = (self.index, self.row, tokens)
        with np.errstate(over="ignore"):
            problem.lower[where] = problem.upper[where] = through.sum(axis=0)
        if problem.cuts is not None:
            cuts = problem.cuts[where]
            cuts[:, self.top, self.source] = True
            cuts[:, 0] = ~np.eye(len(into), dtype=np.bool_)[tokens]
            if above is not None:
                cuts[:, 1] = (above > into).T
        if problem.edges is not None:
            for token in range(self.start, self.stop):
                problem.edges[self.index, self.row, token] = _edges_of_nodes(
                    through[:, token - self.start], self.top, self.source, token
                )

    def _read_edges(self, workspace: Workspace, token: int) -> FlowEdges:
        """Return the edges that carry the flow that the workspace has just found."""
        problem, weights, n = self.problem, self.problem.graph.weights, self.problem.graph.n_tokens
        settle(workspace, problem.weights[n * n :], self.top, n, self.source, token)
        log = workspace.log[1 : workspace.counts[N_SETTLED] + 1]
        log = log[log["carried"] > 0]
        level, query = np.divmod(log["upper"], n)
        inner = np.zeros(len(log), FLOW_EDGE)
        inner["layer"], inner["query"], inner["key"] = level - 1, query, log["lower"] % n
        inner["amount"] = log["carried"]
        highest, lowest = inner[level == self.top - 1], inner[level == 2]
        given: FloatArray = np.bincount(highest["query"], highest["amount"], n).astype(np.float64)
        taken: FloatArray = np.bincount(lowest["key"], lowest["amount"], n).astype(np.float64)
        return np.concatenate(
            [
                _edges(self.top - 1, self.source, np.arange(n), np.minimum(given, weights[self.top - 1, self.source])),
                inner,
                _edges(0, np.arange(n), token, np.minimum(taken, weights[0, :, token])),
            ]
        )

    def _write_unlimited(self) -> None:
        """Down a column of unlimited edges there is no end to the flow."""
        problem = self.problem
        column = problem.graph.weights[: self.top, self.source, self.source]
        if self.start <= self.source < self.stop and np.isinf(column).all():
            where = (self.index, self.row, self.source)
            problem.lower[where] = problem.upper[where] = np.inf
            if problem.edges is not None:
                problem.edges[where] = _edges(np.arange(self.top), self.source, self.source, np.full(self.top, np.inf))
            if problem.cuts is not None:  # any cut is as wide
                problem.cuts[where] = False
                problem.cuts[where][self.top, self.source] = True
                problem.cuts[where][0] = np.arange(problem.graph.n_tokens) != self.source


def _edges(layer: Any, query: Any, key: Any, amounts: FloatArray) -> FlowEdges:
    """Return the edges whose amount is not zero."""
    edges = np.zeros(len(amounts), FLOW_EDGE)
    edges["layer"], edges["query"], edges["key"], edges["amount"] = layer, query, key, amounts
    return edges[amounts > 0]


def _edges_of_nodes(through: FloatArray, top: int, source: int, token: int) -> FlowEdges:
    """Return the edges of a flow through one or two layers: `through` the nodes of level 1."""
    nodes = np.arange(len(through))
    below = _edges(0, nodes, token, through)
    return below if top == 1 else np.concatenate([_edges(1, source, nodes, through), below])


def _check_count(name: str, value: object) -> None:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (is_integer and value > 0):  # type: ignore[operator]
        raise OptionError(f"{name} must be a positive integer or None, got {value!r}")


def _count_threads(tasks: Sequence[_Task], n_threads: int | None) -> int:
    """Return how many threads are worth it."""
    config: Any = numba.config
    work = sum(task.work for task in tasks)
    wanted = n_threads or config.NUMBA_NUM_THREADS
    return int(max(1, min(wanted, len(tasks), work // MIN_WORK_OF_A_THREAD)))


def _run(tasks: Sequence[_Task], n_threads: int) -> None:
    """Run the tasks in threads that take one after the other; the compiled code runs without the GIL.

    The threads are Python's, made here and gone at the end. Unlike the threads of numba they survive a fork, and
    several callers may have their own at the same time.
    """
    if any(task.work for task in tasks):
        _announce()
    queue, lock, failed = iter(tasks), threading.Lock(), threading.Event()

    def work() -> None:
        problem, workspace = None, None
        while not failed.is_set():
            with lock:
                task = next(queue, None)
            if task is None:
                return
            if task.top <= 2:
                task.run(None)
                continue
            if task.problem is not problem:
                problem = task.problem
                workspace = new_workspace(int(problem.layers.max()) + 1, problem.graph.n_tokens)
            task.run(workspace)

    if n_threads == 1:
        work()
        return
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for done in [pool.submit(work) for _ in range(n_threads)]:
                done.result()
        finally:
            failed.set()


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
