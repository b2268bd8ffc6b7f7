"""Values against a maximum flow and a minimum cut in exact arithmetic, both of which the test checks itself.

So no backend rests on another's word: a flow that keeps all capacities shows that the maximum is at least its
value, and a cut of that capacity shows that it is at most that.
"""

import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from graph_makers import MAKERS, ROW_STOCHASTIC, make_graph, minilm_graph, mix, softmax, stories_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from attnflow_hf import flow
from attnflow_hf.backends import flow_networkx, flow_numba
from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph

RELATIVE_ERROR = Fraction(1, 10**12)
UNLIMITED = None
Node = tuple[int, int]
Capacities = dict[Node, dict[Node, int | None]]


def exact_value(weights: FloatArray, position: int, token: int) -> Fraction | float:
    """Return the maximum flow from `position` on top to `token`, proved by a flow and a cut of equal value."""
    capacities, unit = exact_capacities(weights)
    source, sink = (len(weights), position), (0, token)
    if reached(capacities, source, lambda u, v: capacities[u][v] is UNLIMITED)[sink]:
        return math.inf
    network = nx.DiGraph()
    network.add_nodes_from(capacities)
    for u, edges in capacities.items():
        for v, capacity in edges.items():
            network.add_edge(u, v, **({} if capacity is UNLIMITED else {"capacity": capacity}))
    value, flow = nx.maximum_flow(network, source, sink, flow_func=nx.algorithms.flow.preflow_push)
    check_flow(capacities, flow, source, sink, value)
    check_cut(capacities, flow, source, sink, value)
    return value * unit


def exact_capacities(weights: FloatArray) -> tuple[Capacities, Fraction]:
    """Return the capacities as integers, `{upper: {lower: capacity}}`, and the weight that 1 stands for."""
    finite = [Fraction(w) for w in weights[np.isfinite(weights)].tolist()]
    denominator = math.lcm(*(w.denominator for w in finite)) if finite else 1
    n_layers, n, _ = weights.shape
    capacities: Capacities = {(level, k): {} for level in range(n_layers + 1) for k in range(n)}
    for layer, query, key in np.argwhere(weights > 0).tolist():
        weight = float(weights[layer, query, key])
        capacity = UNLIMITED if math.isinf(weight) else int(Fraction(weight) * denominator)
        capacities[layer + 1, query][layer, key] = capacity
    return capacities, Fraction(1, denominator)


def check_flow(capacities: Capacities, flow: dict, source: Node, sink: Node, value: int) -> None:
    balance = dict.fromkeys(capacities, 0)
    for u, edges in flow.items():
        for v, amount in edges.items():
            capacity = capacities[u][v]
            assert isinstance(amount, int)
            assert amount >= 0
            assert capacity is UNLIMITED or amount <= capacity
            balance[u] -= amount
            balance[v] += amount
    assert (balance.pop(source), balance.pop(sink)) == (-value, value)
    assert not any(balance.values())


def check_cut(capacities: Capacities, flow: dict, source: Node, sink: Node, value: int) -> None:
    """The edges out of what can still be reached from the source are full: they part it from the sink."""
    upper_side = reached(
        capacities,
        source,
        lambda u, v: capacities[u][v] is UNLIMITED or flow[u][v] < capacities[u][v],
        lambda u, v: flow[u][v] > 0,
    )
    assert upper_side[source]
    assert not upper_side[sink]
    cut = [capacities[u][v] for u in capacities for v in capacities[u] if upper_side[u] and not upper_side[v]]
    assert sum(cut) == value


def reached(capacities: Capacities, source: Node, may_pass, may_return=lambda u, v: False) -> dict[Node, bool]:
    upper: dict[Node, list[Node]] = {v: [] for v in capacities}
    for u, edges in capacities.items():
        for v in edges:
            upper[v].append(u)
    seen = dict.fromkeys(capacities, False)
    seen[source] = True
    stack = [source]
    while stack:
        u = stack.pop()
        onward = [v for v in capacities[u] if may_pass(u, v)] + [v for v in upper[u] if may_return(v, u)]
        for v in onward:
            if not seen[v]:
                seen[v] = True
                stack.append(v)
    return seen


def assert_exact(value: float, exact: Fraction | float) -> None:
    if isinstance(exact, float):
        assert value == exact
    else:
        assert math.isfinite(value)
        assert abs(Fraction(value) - exact) <= RELATIVE_ERROR * exact, f"{value!r} is not {float(exact)!r}"


def assert_all_exact(graph: LayerGraph, layer: int, position: int, token: int) -> None:
    exact = exact_value(graph.weights[: layer + 1], position, token)
    for backend in (flow_networkx.flow, flow_numba.flow):
        if backend is flow_numba.flow or graph.n_tokens <= 16:
            rows = backend(LayerGraph(graph.weights[: layer + 1]), np.array([layer]), np.array([position]))
            assert_exact(rows[0, 0, token], exact)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(2))
def test_on_random_graphs(kind, seed):
    rng = np.random.default_rng(seed)
    n_layers, n = int(rng.integers(3, 7)), int(rng.integers(4, 9))
    graph = make_graph(kind, n_layers, n, seed)
    for token in rng.permutation(n)[:3]:
        assert_all_exact(graph, n_layers - 1, int(rng.integers(n)), int(token))


SIZES = [(5, 3, 12), (4, 6, 20), (3, 8, 20), (3, 12, 12), (8, 5, 20), (5, 16, 6)]
"""Layers, tokens, and how many pairs are drawn."""


def test_the_exact_value_of_many_pairs():
    errors = {kind: [error for size in SIZES for error in exact_errors(kind, size)] for kind in MAKERS}
    assert sum(map(len, errors.values())) >= 1000
    assert max(max(errors[kind]) for kind in ROW_STOCHASTIC) <= 1e-12


def exact_errors(kind: str, size: tuple[int, int, int]) -> list[float]:
    """Check the values of pairs of all layers, and return their absolute errors."""
    n_layers, n, n_pairs = size
    graph, rng = make_graph(kind, n_layers, n, seed=n_layers), np.random.default_rng(n)
    values = flow(graph, layer="all", backend="numba")
    errors = []
    for _ in range(n_pairs):
        layer, position, token = (int(rng.integers(size)) for size in values.shape)
        exact = exact_value(graph.weights[: layer + 1], position, token)
        assert_exact(values[layer, position, token], exact)
        errors.append(0.0 if isinstance(exact, float) else float(abs(Fraction(values[layer, position, token]) - exact)))
    return errors


@pytest.mark.parametrize("n", [8, 32, 64])
@pytest.mark.parametrize("make", [minilm_graph, pytest.param(stories_graph, marks=pytest.mark.shared)])
def test_on_real_attentions(make, n):
    graph = make(n)
    for layer, position, token in [(graph.n_layers - 1, n - 1, 0), (3, n // 2, n // 3), (2, n - 2, n // 2 - 1)]:
        assert_all_exact(graph, layer, position, token)


WEIGHTS = st.one_of(
    st.sampled_from(
        [0.0, 1.0, 0.5, 0.25, 1 / 3, 5e-324, 1.5e-323, 1e-308, 1e-300, 2.0**-53, 1 - 2.0**-53, 1e-16, 1e300]
    ),
    st.floats(0, 1, allow_subnormal=True),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[LayerGraph, int, int]:
    n_layers, n = draw(st.integers(1, 5)), draw(st.integers(1, 10))
    weights = draw(hnp.arrays(np.float64, (n_layers, n, n), elements=WEIGHTS))
    unlimited = draw(hnp.arrays(bool, (n_layers, n)))
    if draw(st.booleans()):
        layers, positions = np.nonzero(unlimited)
        weights[layers, positions, positions] = np.inf
    if draw(st.booleans()):
        weights = np.tril(weights)
    return LayerGraph(weights), draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))


@given(problems())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_on_any_graph(problem):
    graph, position, token = problem
    assert_all_exact(graph, graph.n_layers - 1, position, token)


@given(st.sampled_from(list(MAKERS)), st.integers(1, 5), st.integers(1, 10), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_on_any_graph_that_is_dense(kind, n_layers, n, seed):
    graph = make_graph(kind, n_layers, n, seed)
    assert_all_exact(graph, n_layers - 1, seed % n, seed // 7 % n)


TWISTS = {
    "zeros": lambda rng, w: w * (rng.random(w.shape) < rng.choice([0.1, 0.5, 0.9])),
    "ties": lambda rng, w: np.round(w * 8) / 8,
    "denormals": lambda rng, w: np.where(rng.random(w.shape) < 0.3, rng.choice(DENORMALS, size=w.shape), w),
    "wide range": lambda rng, w: w * 10.0 ** -rng.choice([0, 8, 16, 17, 300], size=w.shape),
    "one entry": lambda rng, w: np.where(chosen_rows(rng, w), one_entry(rng, w), w),
    "same rows": lambda rng, w: np.where(chosen_rows(rng, w), w[:, :1], w),
    "zero rows": lambda rng, w: np.where(chosen_rows(rng, w), 0.0, w),
    "no residual": lambda rng, w: w * (1 - np.eye(w.shape[-1])),
    "causal": lambda rng, w: np.tril(w),
    "unlimited": lambda rng, w: np.where(np.eye(w.shape[-1]) * chosen_rows(rng, w) > 0, np.inf, w),
    "all unlimited": lambda rng, w: np.where(np.eye(w.shape[-1]) > 0, np.inf, w),
}
"""What a softmax does not give, put into it one after the other in this order."""

DENORMALS = [5e-324, 1e-323, 1.5e-323, 2e-310, 1e-309, 1e-308, 2.2250738585072014e-308]


def chosen_rows(rng: np.random.Generator, weights: FloatArray) -> FloatArray:
    return rng.random((*weights.shape[:2], 1)) < 0.3


def one_entry(rng: np.random.Generator, weights: FloatArray) -> FloatArray:
    return np.eye(weights.shape[-1])[rng.integers(weights.shape[-1], size=weights.shape[:2])]


@st.composite
def twisted_graphs(draw: st.DrawFn) -> LayerGraph:
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(*shape, shape[1])) * draw(st.sampled_from([0.1, 1.0, 3.0, 10.0, 100.0]))
    weights = mix(softmax(scores), draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])))
    twists = draw(st.sets(st.sampled_from(list(TWISTS)), max_size=4))
    for name in TWISTS:
        if name in twists:
            weights = TWISTS[name](rng, weights)
    return LayerGraph(weights)


@given(twisted_graphs())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_values_cuts_and_laws_on_any_graph(graph):
    result = flow(graph, certificate=True)
    values, weights = result.values, graph.weights
    assert_allclose(result.cut_capacities, values, rtol=1e-12, atol=0)
    top = graph.n_layers
    assert result.cuts[:, :, top].diagonal(axis1=0, axis2=2).all()
    assert not result.cuts[:, :, 0].diagonal(axis1=1, axis2=2).any()
    assert_allclose(flow(graph, backend="numba"), values, rtol=1e-12, atol=0)
    reverse = LayerGraph(weights[::-1].transpose(0, 2, 1))
    assert_allclose(flow(reverse, backend="numba"), values.T, rtol=1e-12, atol=0)
    assert (values <= np.minimum(weights[-1].sum(axis=1)[:, None], weights[0].sum(axis=0)) * (1 + 1e-12)).all()
    if graph.is_causal:
        assert_array_equal(np.triu(values, k=1), np.zeros_like(values))
    if weights.size <= 256:
        expected = flow_networkx.flow(graph, np.array([top - 1]), np.arange(graph.n_tokens))[0]
        assert_allclose(values, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "weights",
    [
        [[[0.0, 0.0], [0.0, 1e-17]], [[0.0, 1 / 3], [0.0, 1.0]], [[0.3, 0.1], [0.0, 0.0]]],
        [
            [[0.0, 0.0, 0.1], [0.0, 0.0, 0.2], [0.0, 0.0, 1 / 3]],
            [[0.1, 0.3, 0.0], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]],
            [[0.3, 0.0, 0.0], [0.7, 1.0, 0.0], [0.0, 0.0, 0.0]],
            [[0.3, 1 / 3, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        ],
    ],
    ids=["preflow_push", "dinitz"],
)
def test_where_rounding_errors_make_solvers_of_networkx_fail(weights):
    graph = LayerGraph(weights)
    assert_all_exact(graph, graph.n_layers - 1, 0, graph.n_tokens - 1)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("unlimited residual", "wide range")])
def test_agrees_with_scipy(kind):
    graph = make_graph(kind, 6, 24)
    check_with_scipy(graph, 5, 7)


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("make", [minilm_graph, pytest.param(stories_graph, marks=pytest.mark.shared)])
def test_agrees_with_scipy_on_real_attentions(make, n):
    graph = make(n)
    check_with_scipy(graph, graph.n_layers - 1, n - 1)
    check_with_scipy(graph, 2, n // 3)


def check_with_scipy(graph: LayerGraph, layer: int, position: int) -> None:
    """Compare a row with those of SciPy, whose int32 capacities are multiples of 2^-29, rounded down and up."""
    scaled = graph.weights[: layer + 1] * 2**29
    lowest, highest = (scipy_row(rounded(scaled), position) / 2**29 for rounded in (np.floor, np.ceil))
    values = flow_numba.flow(graph, np.array([layer]), np.array([position]))[0, 0]
    assert (lowest - 1e-12 <= values).all()
    assert (values <= highest + 1e-12).all()
    assert (highest - lowest < 1e-5).all()


def scipy_row(capacities: FloatArray, position: int) -> FloatArray:
    n_layers, n, _ = capacities.shape
    layers, queries, keys = np.nonzero(capacities)
    edges = (layers + 1) * n + queries, layers * n + keys
    n_nodes = (n_layers + 1) * n
    network = csr_array((capacities[layers, queries, keys].astype(np.int32), edges), (n_nodes, n_nodes))
    source = n_layers * n + position
    return np.array([maximum_flow(network, source, token, method="dinic").flow_value for token in range(n)])
