"""The table of backends: which methods there are, which backends compute each, and which one `auto` takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, IntArray, OptionError, check_choice, check_index
from attnflow_hf.flow_result import FlowResult
from attnflow_hf.layer_graph import LayerGraph

Backend = Callable[[LayerGraph, IntArray, IntArray], FloatArray]
"""`(graph, layers, output_positions)` to unnormalized values `[layer, position, token]`, float64."""

SetBackend = Callable[[LayerGraph, int, int, BoolArray], FloatArray]
"""Of `flow_shapley`: `(graph, layer, output_position, sets)`, sets `[set, token]`, to the maximum flow into each."""

_BACKENDS: dict[tuple[str, str], str | Backend | SetBackend] = {
    ("raw", "numpy"): "attnflow_hf.backends.rollout_numpy:raw",
    ("rollout", "numpy"): "attnflow_hf.backends.rollout_numpy:rollout",
    ("flow", "networkx"): "attnflow_hf.backends.flow_networkx:flow",
    ("flow", "numba"): "attnflow_hf.backends.flow_numba:flow",
    ("flow_shapley", "networkx"): "attnflow_hf.backends.flow_networkx:flow_into_sets",
    ("flow_shapley", "numba"): "attnflow_hf.backends.flow_numba:flow_into_sets",
}
PAPER_METHODS = ("raw", "rollout", "flow")
"""What is compared where no methods are named: those of the paper. The others take many times as long."""
METHODS = (*PAPER_METHODS, "flow_shapley")

_logger = logging.getLogger("attnflow_hf")

NETWORKX_MAX_WORK = 4_000
"""Up to so many (pairs x edges) the networkx backend needs some 20 ms, less than it takes to load compiled code."""


def rollout(
    graph: LayerGraph,
    *,
    output_positions: Sequence[int] | int | None = None,
    layer: int | Literal["all"] = -1,
    backend: str = "auto",
) -> FloatArray:
    """Return the attention rollout of a layer graph.

    Rollout is the product of the layers from the explained one down, `A_l A_(l-1) ... A_0`: the sum over all
    paths of the products of their edge weights (Abnar & Zuidema 2020, eq. 1).

    Args:
        graph: Finite edge weights.
        output_positions: The rows wanted: an index, a list of indices (negative ones count from the end), or
            `None` for every position.
        layer: The explained layer; negative counts from the last; `"all"` for every layer.
        backend: `"auto"` or `"numpy"`.

    Returns:
        Unnormalized values, float64 `[position, token]`, or `[layer, position, token]` with `layer="all"`.

    Raises:
        PositionError: A position or the layer is out of range.
        OptionError: An unknown backend.
        ArrayError: The graph has unlimited edges.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> rollout(graph, output_positions=[1])
        array([[0.75, 0.25]])
    """
    return _select("rollout", graph, output_positions, layer, backend)


class _Wanted(TypedDict, total=False):
    output_positions: Sequence[int] | int | None
    layer: int | Literal["all"]
    backend: str
    n_threads: int | None


class _Kept(_Wanted, total=False):
    certificate: bool
    paths: bool
    max_work: int | None


@overload
def flow(graph: LayerGraph, **options: Unpack[_Wanted]) -> FloatArray: ...
@overload
def flow(graph: LayerGraph, **options: Unpack[_Kept]) -> FlowResult: ...
@overload
def flow(graph: Sequence[LayerGraph], **options: Unpack[_Wanted]) -> list[FloatArray]: ...
@overload
def flow(graph: Sequence[LayerGraph], **options: Unpack[_Kept]) -> list[FlowResult]: ...
def flow(
    graph: LayerGraph | Sequence[LayerGraph],
    *,
    output_positions: Sequence[int] | int | None = None,
    layer: int | Literal["all"] = -1,
    backend: str = "auto",
    certificate: bool = False,
    paths: bool = False,
    max_work: int | None = None,
    n_threads: int | None = None,
) -> Any:
    """Return the attention flow of a layer graph: one exact maximum flow for each (output position, input token).

    The source is the node of the output position on top of the explained layer, the sink an input token, the
    capacities are the edge weights (Abnar & Zuidema 2020, section 3). By the max-flow min-cut theorem each value
    is also the least total weight of edges whose removal would part the two.

    Args:
        graph: Any nonnegative edge weights; `inf` on the diagonal is an edge without limit. A list of graphs, which may
            differ in size, gives a list of results; they share the threads.
        output_positions: The rows wanted: an index, a list of indices (negative ones count from the end), or
            `None` for every position (as many times the work).
        layer: The explained layer; negative counts from the last; `"all"` for every layer.
        backend: `"numba"` (compiled, fast), `"networkx"` (the readable reference, slow), or `"auto"`: networkx
            for the smallest graphs, numba for all others. They agree to 1e-9. What `"auto"` takes is logged
            (`logging.getLogger("attnflow_hf")`, debug). All options below need numba, and `"auto"` then takes it.
        certificate: Return a `FlowResult` with a minimum cut for each pair, which shows that the value is right. It
            costs some of the time, and a byte for each node and pair.
        paths: Return a `FlowResult` that knows the flow on each edge, and the paths it takes.
        max_work: Give a pair up after so many pushes (a million take about 20 ms), and return a `FlowResult` with
            bounds for its value. By default a search has no limit up to 1,024 tokens; above it is 20 million, and a
            flow that is not finished by then is an error.
        n_threads: How many threads; by default one for each core that the process may use.

    Returns:
        Unnormalized values, float64 `[position, token]`, or `[layer, position, token]` with `layer="all"`;
        0 where no path leads, `inf` where a path without limit does. With `certificate`, `paths` or `max_work` a
        `FlowResult`, whose `values` they are.

    Raises:
        PositionError: A position or the layer is out of range.
        OptionError: An unknown backend, or an option that it does not have.
        TooLargeError: The result needs more memory than there is.
        FlowError: A flow of more than 1,024 tokens was not finished.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> flow(graph, output_positions=[1])
        array([[1. , 0.5]])
        >>> result = flow(graph, output_positions=[1], certificate=True)
        >>> result.values, result.gaps
        (array([[1. , 0.5]]), array([[0., 0.]]))
    """
    graphs = [graph] if isinstance(graph, LayerGraph) else list(graph)
    rich = certificate or paths or max_work is not None
    needs_numba = rich or n_threads is not None
    questions = [checked_question(each, output_positions, layer) for each in graphs]
    work = sum(len(layers) * len(rows) * g.n_tokens * g.weights.size for g, layers, rows in questions)
    chosen = choose_backend("flow", backend, max(work, NETWORKX_MAX_WORK + 1) if needs_numba else work)
    if chosen != "numba":
        if needs_numba:
            raise OptionError(
                f"certificate, paths, max_work and n_threads are options of backend 'numba'; got {chosen!r}"
            )
        values = [compute("flow", chosen, *question) for question in questions]
        results: list[Any] = values if layer == "all" else [each[0] for each in values]
    else:
        flow_numba = import_module("attnflow_hf.backends.flow_numba")
        results = flow_numba.solve_graphs(
            [graph for graph, _, _ in questions],
            [np.asarray(layers, dtype=np.int64) for _, layers, _ in questions],
            [np.asarray(rows, dtype=np.int64) for _, _, rows in questions],
            certificate=certificate,
            paths=paths,
            max_work=max_work,
            n_threads=n_threads,
            layer_axis=layer == "all",
        )
        if not rich:
            results = [flow_numba.check_finished(each) for each in results]
    return results[0] if isinstance(graph, LayerGraph) else results


def register_backend(method: str, name: str, backend: Backend | SetBackend) -> None:
    """Add a backend to the table.

    A backend is a function `(graph, layers, output_positions)` that returns unnormalized values, float64
    `[layer, position, token]`; `layers` and `output_positions` are int64 arrays of checked indices. It must give
    the method's numbers: only the speed is its own. One of `flow_shapley` is `(graph, layer, output_position, sets)`:
    it returns the maximum flow into each set of tokens, float64 `[set]`; `sets` is bool `[set, token]`.

    Args:
        method: `"raw"`, `"rollout"`, `"flow"` or `"flow_shapley"`.
        name: What users will pass as `backend=`.
        backend: The function.

    Raises:
        OptionError: An unknown method, or a name that is taken.

    Example:
        >>> def mine(graph, layers, output_positions): ...
        >>> register_backend("flow", "mine", mine)  # doctest: +SKIP
    """
    check_choice("method", method, METHODS)
    if not isinstance(name, str) or not callable(backend):
        raise OptionError(f"a backend needs a name and a function, got {name!r} and {backend!r}")
    if name == "auto" or (method, name) in _BACKENDS:
        raise OptionError(f"there is a backend {name!r} for {method} already; choose another name")
    _BACKENDS[method, name] = backend


def methods_of(method: object) -> list[str]:
    """Return one method, or several, as a list.

    Args:
        method: A name, or a list of names.

    Raises:
        OptionError: It is none of these, a name is unknown, or one stands twice.
    """
    several = [method] if isinstance(method, str) else method
    if not isinstance(several, (list, tuple)) or not several:
        raise OptionError(f"method must be a method or a list of them, got {method!r}")
    for each in several:
        check_choice("method", each, METHODS)
    if len(set(several)) < len(several):
        raise OptionError(f"methods must differ from each other, got {method!r}")
    return list(several)


def backend_names(method: str) -> list[str]:
    """Return the names of a method's backends, those of `register_backend` included."""
    return [name for known, name in _BACKENDS if known == method]


def choose_backend(method: str, backend: str, work: int) -> str:
    """Return the name of the backend that will run.

    Args:
        method: `"raw"`, `"rollout"`, `"flow"` or `"flow_shapley"`.
        backend: A name, or `"auto"`.
        work: Pairs of (output position, input token) wanted times edges of their graph, summed over all graphs.

    Raises:
        OptionError: An unknown method or backend.
    """
    check_choice("method", method, METHODS)
    check_choice(f"backend of {method}", backend, ["auto", *backend_names(method)])
    if backend != "auto":
        return backend
    if method != "flow":
        return "numba" if method == "flow_shapley" else "numpy"
    chosen = "networkx" if work <= NETWORKX_MAX_WORK else "numba"
    _logger.debug("flow of %s pairs x edges: backend %s", f"{work:,}", chosen)
    return chosen


def compute(
    method: str, backend: str, graph: LayerGraph, layers: Sequence[int], positions: Sequence[int]
) -> FloatArray:
    """Return a method's unnormalized values, float64 `[layer, position, token]`, by the named backend.

    Raises:
        ArrayError: The backend returned something else.
    """
    function = function_of(method, backend)
    values = np.asarray(function(graph, np.asarray(layers, dtype=np.int64), np.asarray(positions, dtype=np.int64)))
    expected = (len(layers), len(positions), graph.n_tokens)
    check_values(values, expected, "[layer, position, token]", backend, method)
    return values


def function_of(method: str, backend: str) -> Any:
    """Return a backend's function, imported when it is first used."""
    function = _BACKENDS[method, backend]
    if isinstance(function, str):
        module, name = function.split(":")
        function = _BACKENDS[method, backend] = getattr(import_module(module), name)
    return function


def check_values(values: FloatArray, expected: tuple[int, ...], axes: str, backend: str, method: str) -> None:
    """Raise `ArrayError` unless a backend returned nonnegative float64 of the expected shape."""
    if values.shape != expected or values.dtype != np.float64 or not (values >= 0).all():
        raise ArrayError(
            f"backend {backend!r} of {method} returned {values.dtype} {values.shape}; nonnegative float64 "
            f"{axes} = {expected} is needed"
        )


def select_layers(layer: int | Literal["all"], n_layers: int) -> list[int]:
    """Return the indices that `layer` stands for: one, or every one for `"all"`."""
    return list(range(n_layers)) if layer == "all" else [check_index("layer", layer, n_layers)]


def _select(
    method: str,
    graph: LayerGraph,
    output_positions: Sequence[int] | int | None,
    layer: int | Literal["all"],
    backend: str,
) -> FloatArray:
    question = checked_question(graph, output_positions, layer)
    values = compute(method, choose_backend(method, backend, 0), *question)
    return values if layer == "all" else values[0]


def checked_question(
    graph: LayerGraph, output_positions: Sequence[int] | int | None, layer: int | Literal["all"]
) -> tuple[LayerGraph, list[int], list[int]]:
    """Return the graph with the checked indices of the layers and positions that are wanted.

    Raises:
        OptionError: `graph` is no layer graph.
        PositionError: A position or the layer is out of range.
    """
    if not isinstance(graph, LayerGraph):
        raise OptionError(f"graph must be a LayerGraph, got {type(graph).__name__}; make one with LayerGraph(weights)")
    n = graph.n_tokens
    wanted = range(n) if output_positions is None else output_positions
    indices = [wanted] if isinstance(wanted, (int, np.integer)) else wanted
    rows = [check_index("output position", position, n) for position in indices]
    return graph, select_layers(layer, graph.n_layers), rows
