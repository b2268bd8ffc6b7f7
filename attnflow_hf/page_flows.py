"""Flows of chosen pairs for a page: the amounts on their edges, and the cut that proves each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attnflow_hf.backends import flow
from attnflow_hf.errors import BoolArray
from attnflow_hf.flow_result import FlowEdges, FlowResult
from attnflow_hf.page_sheet import SheetGraph

MAX_EDGES = 300
"""How many edges of a flow are kept, the strongest; the page says how many there are."""


def chosen_flows(graph: SheetGraph, position: int, *, n_inputs: int = 5) -> dict[str, Any]:
    """Return the flows from one output position of each layer to the input tokens that it sends most to.

    Args:
        graph: The graph of a text.
        position: The output position.
        n_inputs: How many input tokens of each layer.

    Returns:
        For JSON: where the tokens stand in the graph, its size, and under `"pairs"` for each pair its value, the
        capacity of its cut, and its strongest edges `[layer, query, key, sides, amount]`. `sides` is 3 where both ends
        are on the source's side of the cut, 2 where the upper alone is (the edge is in the cut), 0 where none is.
    """
    pairs = [pair for layer in range(len(graph.stages)) for pair in _of_layer(graph, layer, position, n_inputs)]
    return {"size": list(graph.graph.weights.shape), **graph.places(), "n_inputs": n_inputs, "pairs": pairs}


def _of_layer(graph: SheetGraph, layer: int, position: int, n_inputs: int) -> Iterator[dict[str, Any]]:
    source, stage = graph.first_output + position, graph.stages[layer]
    found = flow(graph.graph, output_positions=[source], layer=stage, certificate=True, paths=True)
    values = found.lower[0, list(graph.nodes)]
    for token in np.argsort(-values, kind="stable")[:n_inputs]:
        yield {"layer": layer, "position": position, **_pair(found, graph.nodes[int(token)])}


def _pair(found: FlowResult, sink: int) -> dict[str, Any]:
    assert found.edges is not None
    assert found.cuts is not None
    edges = found.edges[0, 0, sink]
    return {
        "sink": sink,
        "value": float(found.lower[0, sink]),
        "capacity": float(found.cut_capacities[0, sink]),
        "n_edges": len(edges),
        "edges": _strongest(edges, found.cuts[0, sink]),
    }


def _strongest(edges: FlowEdges, cut: BoolArray) -> list[list[float]]:
    kept = edges[np.argsort(-edges["amount"], kind="stable")[:MAX_EDGES]]
    layers, queries, keys = (kept[name] for name in ("layer", "query", "key"))
    sides = 2 * cut[layers + 1, queries] + cut[layers, keys]
    rows = zip(layers.tolist(), queries.tolist(), keys.tolist(), sides.tolist(), kept["amount"].tolist(), strict=True)
    return [[*places, float(f"{amount:.7g}")] for *places, amount in rows]
