"""What is asked of a graph, cut into tasks that threads take: closed forms, and calls of the compiled solver."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnflow_hf.backends.flow_cut import UNFINISHED
from attnflow_hf.backends.flow_dinic import solve
from attnflow_hf.backends.flow_log import settle
from attnflow_hf.backends.flow_workspace import N_SETTLED, Workspace
from attnflow_hf.errors import BoolArray, FloatArray, IntArray, check_memory
from attnflow_hf.flow_result import FLOW_EDGE, FlowEdges, FlowResult
from attnflow_hf.layer_graph import LayerGraph

CHUNK = 64
"""So many tokens of one output position are solved in a row; threads take one such chunk after the other."""

UNBOUNDED_UP_TO = 1024
"""Up to so many tokens a search goes on until it is finished, unless `max_work` is given."""

UNBOUNDED = 2**62  # pushes; more would overflow when they are added up
DEFAULT_MAX_WORK = 20_000_000
"""For more tokens it is given up after so many pushes, about half a second."""


@dataclass
class Problem:
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
    ) -> "Problem":
        """Return the problem with room for its answers; the arguments are those of `flow_numba.solve_graphs`."""
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

    def tasks(self) -> "Iterator[Task]":
        """Yield tasks that do not depend on each other, always the same ones, so that threads change no result."""
        for index, layer in enumerate(self.layers.tolist()):
            for row, position in enumerate(self.positions.tolist()):
                for start in range(0, self.graph.n_tokens, CHUNK):
                    stop = min(start + CHUNK, self.graph.n_tokens)
                    yield Task(self, index, row, layer + 1, position, start, stop)

    def result(self, *, layer_axis: bool) -> FlowResult:
        """Return what the tasks have written."""
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
class Task:
    """The flows from one output position of one layer to the tokens from `start` to `stop`."""

    problem: Problem
    index: int
    row: int
    top: int
    source: int
    start: int
    stop: int

    @property
    def work(self) -> int:
        """About how long it takes, in pairs times nodes; nothing for closed forms."""
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
