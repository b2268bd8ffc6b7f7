"""`FlowResult`: maximum flows with what shows that they are maximal, and the paths that they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import BoolArray, FloatArray, FlowError, IntArray, OptionError, PositionError, check_index
from attnflow_hf.layer_graph import LayerGraph

LARGEST_GAP = 1e-9
"""Between a flow and its cut, as a share of the value where that is above 1."""

FLOW_EDGE = np.dtype([("layer", np.int32), ("query", np.int32), ("key", np.int32), ("amount", np.float64)])
"""An edge that carries flow: from `query` on level `layer + 1` to `key` on level `layer`."""

FlowEdges = npt.NDArray[np.void]


class FlowPath(NamedTuple):
    """A part of a flow that takes one path.

    Attributes:
        amount: How much.
        positions: The position on each level, from the output position down to the token.
    """

    amount: float
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FlowResult:
    """Maximum flows, each with a proof if it was asked for.

    The axes `[layer, position, token]` are those of the call; the one of layers is there with `layer="all"` only.
    Results are made by `flow(graph, certificate=True)`, or with `paths=True`, or `max_work`.

    Attributes:
        graph: The layer graph.
        layers: int64, the explained layer of each index of the first axis.
        output_positions: int64, the explained position of each index of the second axis.
        lower: float64 `[layer, position, token]`, the flow that was found.
        upper: Likewise, what no flow can pass; equal to `lower` where that is maximal.
        n_pushes: int64, likewise: the work that each pair has cost.
        cuts: bool `[layer, position, token, level, node]`, a minimum cut: which nodes are on the source's side; or
            `None`. Levels above the explained layer are on no side, all `False`; so are those of unfinished pairs.
        edges: The edges of each flow by `(layer, position, token)` indices, or `None`.

    Raises:
        FlowError: A flow and its cut differ by more than 1e-9.
    """

    graph: LayerGraph
    layers: IntArray
    output_positions: IntArray
    lower: FloatArray
    upper: FloatArray
    n_pushes: IntArray
    cuts: BoolArray | None = None
    edges: Mapping[tuple[int, int, int], FlowEdges] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check each certificate."""
        if self.cuts is None:
            return
        gaps = self.gaps
        allowed = LARGEST_GAP * np.maximum(1.0, np.where(np.isfinite(self.lower), self.lower, 1.0))
        if not (gaps[self.is_exact] <= allowed[self.is_exact]).all():
            worst = tuple(
                int(i) for i in np.unravel_index(np.nanargmax(np.where(self.is_exact, gaps, 0.0)), gaps.shape)
            )
            raise FlowError(
                f"the flow {float(self.lower[worst])!r} and its cut differ by {gaps[worst]:.1e}, at index {worst}; "
                "this is an error of the solver: please report the graph"
            )

    @property
    def is_exact(self) -> BoolArray:
        """Whether each flow is known to be maximal; where not, it lies between `lower` and `upper`."""
        return np.asarray(self.lower == self.upper)

    @property
    def values(self) -> FloatArray:
        """The maximum flows, NaN where they are only known to lie between `lower` and `upper`."""
        return np.where(self.is_exact, self.lower, np.nan)

    @property
    def cut_capacities(self) -> FloatArray:
        """The capacities of `cuts`, summed anew from the graph; NaN for unfinished pairs."""
        if self.cuts is None:
            raise OptionError("there are no cuts; ask for them with certificate=True")
        capacities = self.graph.cut_capacity(self.cuts.reshape(-1, *self.cuts.shape[-2:])).reshape(self.lower.shape)
        return np.where(self.is_exact, capacities, np.nan)

    @property
    def gaps(self) -> FloatArray:
        """How far each flow is from the capacity of its cut; NaN for unfinished pairs."""
        capacities = self.cut_capacities
        same = capacities == self.lower  # inf and inf too
        return np.where(same, 0.0, np.abs(np.where(same, 0.0, capacities) - np.where(same, 0.0, self.lower)))

    def arc_flows(self, output_position: int, token: int, layer: int = -1) -> FloatArray:
        """Return the flow on each edge, float64 `[layer, query, key]`, for the layers up to the explained one.

        It keeps all capacities, and what flows into a node flows out of it; between the two ends of an unlimited path
        it is `inf`.

        Args:
            output_position: One of those asked for.
            token: The input token.
            layer: One of the explained layers; negative counts from the graph's last.

        Raises:
            OptionError: The call did not ask for paths.
            PositionError: The position or the layer was not asked for.
        """
        index, edges = self._edges(output_position, token, layer)
        n = self.graph.n_tokens
        flows = np.zeros((int(self.layers[index]) + 1, n, n))
        flows[edges["layer"], edges["query"], edges["key"]] = edges["amount"]
        return flows

    def paths(self, output_position: int, token: int, layer: int = -1) -> list[FlowPath]:
        """Return the flow as weighted paths, the strongest first; their amounts sum to the value.

        A flow can be taken apart in more than one way; here each path follows the strongest edges that are left.

        Args:
            output_position: One of those asked for.
            token: The input token.
            layer: One of the explained layers; negative counts from the graph's last.

        Raises:
            OptionError: The call did not ask for paths.
            PositionError: The position or the layer was not asked for.
        """
        flows = self.arc_flows(output_position, token, layer)
        position = check_index("output position", output_position, self.graph.n_tokens)
        return _decompose(flows, position, check_index("token", token, self.graph.n_tokens))

    def cut_edges(self, output_position: int, token: int, layer: int = -1) -> FlowEdges:
        """Return the edges of a pair's minimum cut; their capacities, as `amount`, sum to the value.

        Args:
            output_position: One of those asked for.
            token: The input token.
            layer: One of the explained layers; negative counts from the graph's last.

        Returns:
            `FLOW_EDGE` records of all edges of some capacity that lead from the source's side to the sink's, ordered by
            layer, query and key; none for a pair whose search was not finished.

        Raises:
            OptionError: The call did not ask for a certificate.
            PositionError: The position or the layer was not asked for.
        """
        if self.cuts is None:
            raise OptionError("there are no cuts; ask for them with certificate=True")
        index, row = self._indices(output_position, layer)
        column = check_index("token", token, self.graph.n_tokens)
        cuts = self.cuts.reshape(len(self.layers), len(self.output_positions), *self.cuts.shape[-3:])
        cut = cuts[index, row, column]
        crosses = cut[1:, :, None] & ~cut[:-1, None, :] & (self.graph.weights[: len(cut) - 1] > 0)
        places = np.nonzero(crosses)
        edges = np.zeros(len(places[0]), dtype=FLOW_EDGE)
        edges["layer"], edges["query"], edges["key"] = places
        edges["amount"] = self.graph.weights[places]
        return edges

    def _indices(self, output_position: int, layer: int) -> tuple[int, int]:
        """Return where a layer and an output position stand among those asked for."""
        index = _find("layer", check_index("layer", layer, self.graph.n_layers), self.layers)
        position = check_index("output position", output_position, self.graph.n_tokens)
        return index, _find("output position", position, self.output_positions)

    def _edges(self, output_position: int, token: int, layer: int) -> tuple[int, FlowEdges]:
        """Return the index of the layer and the edges of a pair."""
        if self.edges is None:
            raise OptionError("the flows on the edges were not kept; ask for them with paths=True")
        index, row = self._indices(output_position, layer)
        return index, self.edges[index, row, check_index("token", token, self.graph.n_tokens)]


def _find(name: str, value: int, known: IntArray) -> int:
    found = np.flatnonzero(known == value)
    if not len(found):
        raise PositionError(f"{name} {value} was not asked for; there are {', '.join(map(str, known.tolist()))}")
    return int(found[0])


def _decompose(flows: FloatArray, source: int, sink: int) -> list[FlowPath]:
    """Take paths out of `flows`, each along the strongest edges that are left, until nothing leaves the source."""
    top = len(flows)
    left = flows.copy()
    paths: list[FlowPath] = []
    while left[top - 1, source].any():
        positions = _strongest_path(left, source)
        steps = np.arange(top)[::-1], np.array(positions[:-1]), np.array(positions[1:])
        n_passed = int(np.argmin(left[steps] > 0)) or top  # fewer for a crumb that rounding has left
        passed = tuple(axis[:n_passed] for axis in steps)
        amount = float(left[passed].min())
        if np.isinf(amount):
            return [FlowPath(amount, positions)]
        left[passed] -= amount
        if n_passed == top and positions[-1] == sink:
            paths.append(FlowPath(amount, positions))
    return sorted(paths, reverse=True)


def _strongest_path(left: FloatArray, source: int) -> tuple[int, ...]:
    positions = [source]
    for layer in reversed(left):
        positions.append(int(layer[positions[-1]].argmax()))
    return tuple(positions)
