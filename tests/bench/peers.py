"""Other solvers of maximum flow: each builds its own graph once, then gives the value for one pair at a time."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import ClassVar

import networkx as nx
import numpy as np

from attnflow_hf.errors import FloatArray, IntArray
from attnflow_hf.layer_graph import LayerGraph


class Peer:
    """A graph in the form that one solver wants; the node of a position on a level is `level * n + position`.

    Attributes:
        name: What the table calls the solver.
        package: What must be installed.
        unit: What its capacities are whole multiples of; 0 if it takes fractions.
        tolerance: How far its values may lie from ours.
        max_tokens: The largest graphs that it is tried on.
        max_sinks: How many sinks of a row it is timed on at most.
        rounded: The share of edges that are zero in its unit.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    unit: ClassVar[float] = 0.0
    tolerance: ClassVar[float] = 1e-9
    max_tokens: ClassVar[int] = 1 << 20
    max_sinks: ClassVar[int] = 1 << 20

    def __init__(self, graph: LayerGraph) -> None:
        n = graph.n_tokens
        self.n_nodes, self.top = (graph.n_layers + 1) * n, graph.n_layers * n
        capacities = np.rint(graph.weights / self.unit) if self.unit else graph.weights
        layers, queries, keys = edges = np.nonzero(capacities)
        self.rounded = 1 - len(layers) / np.count_nonzero(graph.weights)
        self.build((layers + 1) * n + queries, layers * n + keys, capacities[edges])

    def build(self, tails: IntArray, heads: IntArray, capacities: FloatArray) -> None:
        """Make the solver's own graph of the edges that are not zero."""
        raise NotImplementedError

    def solve(self, position: int, token: int) -> float:
        """Return the flow from an output position of the last layer to an input token."""
        raise NotImplementedError


class Igraph(Peer):
    name, package = "igraph", "igraph"

    def build(self, tails: IntArray, heads: IntArray, capacities: FloatArray) -> None:
        import igraph

        self.graph = igraph.Graph(self.n_nodes, np.column_stack([tails, heads]), directed=True)
        self.capacities = capacities.tolist()

    def solve(self, position: int, token: int) -> float:
        return self.graph.maxflow_value(self.top + position, token, capacity=self.capacities)


class OrTools(Peer):
    name, package, unit, tolerance = "OR-Tools", "ortools", 2.0**-40, 1e-8

    def build(self, tails: IntArray, heads: IntArray, capacities: FloatArray) -> None:
        from ortools.graph.python.max_flow import SimpleMaxFlow

        self.solver = SimpleMaxFlow()
        ends = tails.astype(np.int32), heads.astype(np.int32)
        self.solver.add_arcs_with_capacity(*ends, capacities.astype(np.int64))

    def solve(self, position: int, token: int) -> float:
        status = self.solver.solve(self.top + position, token)
        assert status == self.solver.OPTIMAL, status
        return self.solver.optimal_flow() * self.unit


class SciPy(Peer):
    """SciPy takes 32 bits; the flow of a row that sums to 1 just fits."""

    name, package, unit, tolerance = "SciPy", "scipy", 2.0**-29, 1e-6

    def build(self, tails: IntArray, heads: IntArray, capacities: FloatArray) -> None:
        from scipy.sparse import csr_array

        self.network = csr_array((capacities.astype(np.int32), (tails, heads)), (self.n_nodes, self.n_nodes))

    def solve(self, position: int, token: int) -> float:
        from scipy.sparse.csgraph import maximum_flow

        return maximum_flow(self.network, self.top + position, token, method="dinic").flow_value * self.unit


class NetworkX(Peer):
    """The algorithm that the networkx backend uses; the classes below have others."""

    name, package, max_tokens, max_sinks = "NetworkX", "networkx", 32, 4
    algorithm: ClassVar[Callable[..., nx.DiGraph]] = staticmethod(nx.algorithms.flow.shortest_augmenting_path)

    def build(self, tails: IntArray, heads: IntArray, capacities: FloatArray) -> None:
        self.network = nx.DiGraph()
        edges = zip(tails.tolist(), heads.tolist(), capacities.tolist(), strict=True)
        self.network.add_weighted_edges_from(edges, weight="capacity")

    def solve(self, position: int, token: int) -> float:
        return nx.maximum_flow_value(self.network, self.top + position, token, flow_func=self.algorithm)


class PreflowPush(NetworkX):
    name, algorithm = "nx push", staticmethod(nx.algorithms.flow.preflow_push)


class BoykovKolmogorov(NetworkX):
    name, algorithm = "nx B-K", staticmethod(nx.algorithms.flow.boykov_kolmogorov)


PEERS: dict[str, type[Peer]] = {
    "igraph": Igraph,
    "ortools": OrTools,
    "scipy": SciPy,
    "preflow_push": PreflowPush,
    "boykov_kolmogorov": BoykovKolmogorov,
}


def installed_peers(names: Iterable[str]) -> list[type[Peer]]:
    """Return the named peers; one that is not installed is told, and left out."""
    missing = [name for name in names if not find_spec(PEERS[name].package)]
    for name in missing:
        print(f"without {name}: pip install {PEERS[name].package}")
    found = [PEERS[name] for name in names if name not in missing]
    for peer in found:
        peer(LayerGraph([[[1.0]]]))  # imports are no part of the time to build a graph
    return found
