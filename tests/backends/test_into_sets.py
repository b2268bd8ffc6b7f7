"""The maximum flow into a set of tokens, `v(S)`: what holds on every graph, for every backend of `flow_shapley`."""

from itertools import product

import numpy as np
import pytest
from graph_makers import MAKERS, ROW_STOCHASTIC, make_graph, minilm_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf import LayerGraph
from attnflow_hf.backends import backend_names, compute, flow_numba, function_of

FINITE = [kind for kind in MAKERS if kind != "unlimited residual"]


@pytest.fixture(params=backend_names("flow_shapley"))
def into_sets(request):
    return function_of("flow_shapley", request.param)


def all_sets(n):
    """Every set of `n` tokens; the tokens of set `s` are the bits of `s`."""
    return np.array([members[::-1] for members in product([False, True], repeat=n)])


def test_worked_example(into_sets):
    # The two layers of README, from position 2, whose edges lead to the nodes 0, 1, 2 of level 1 with .25, .25, .5.
    # Of these nodes a set gets the lesser of that and of the sum of their edges to the set:
    #   {0}    min(.25, 1) + min(.25, .5) + min(.5, .25) = .75     {0, 1}     .25 + min(.25, 1) + min(.5, .50) = 1
    #   {1}    min(.25, 0) + min(.25, .5) + min(.5, .25) = .5      {0, 2}     .25 + min(.25, .5) + min(.5, .75) = 1
    #   {2}    min(.25, 0) + min(.25, 0.) + min(.5, .50) = .5      {1, 2}     0. + min(.25, .5) + min(.5, .75) = .75
    layer = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
    values = into_sets(LayerGraph([layer, layer]), 1, 2, all_sets(3)[1:])
    assert_allclose(values, [0.75, 0.5, 1, 0.5, 1, 0.75, 1], rtol=1e-15)


@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_a_set_of_one_token_has_its_flow(into_sets, kind, n_layers):
    graph = make_graph(kind, n_layers, 6)
    single = compute("flow", "networkx", graph, [n_layers - 1], [4])[0, 0]
    assert_allclose(into_sets(graph, n_layers - 1, 4, np.eye(6, dtype=bool)), single, rtol=1e-12)


@pytest.mark.parametrize("kind", FINITE)
def test_the_empty_set_takes_nothing_and_no_set_more_than_there_is(into_sets, kind):
    graph = make_graph(kind, 4, 5)
    values = into_sets(graph, 3, 2, all_sets(5))
    assert values[0] == 0
    assert (values <= graph.weights[3, 2].sum() * (1 + 1e-12)).all()
    if kind in ROW_STOCHASTIC:
        assert_allclose(values[-1], 1, rtol=1e-12)


@pytest.mark.parametrize("kind", FINITE)
def test_monotone_and_submodular(into_sets, kind):
    """A token adds something or nothing, and to a larger set no more than to a smaller one."""
    graph, n = make_graph(kind, 4, 5), 5
    sets = all_sets(n)
    values = into_sets(graph, 3, 2, sets)
    slack = 1e-12 * values[-1]
    for token in range(n):
        bit = 1 << token
        gains = values[np.arange(2**n) | bit] - values
        assert (gains >= -slack).all()
        for other in range(n):
            assert (gains[np.arange(2**n) | 1 << other] <= gains + slack)[~sets[:, token]].all() or other == token


@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize(("n_layers", "n"), [(2, 5), (3, 6), (6, 5)])
def test_numba_agrees_with_networkx(kind, n_layers, n):
    graph, sets = make_graph(kind, n_layers, n, seed=3), all_sets(n)
    expected = function_of("flow_shapley", "networkx")(graph, n_layers - 1, 1, sets)
    assert_allclose(flow_numba.flow_into_sets(graph, n_layers - 1, 1, sets), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("layer", [1, 5])
def test_numba_agrees_with_networkx_on_real_attentions(layer):
    graph, sets = minilm_graph(16), np.random.default_rng(0).random((40, 16)) < 0.3
    expected = function_of("flow_shapley", "networkx")(graph, layer, 5, sets)
    assert_allclose(flow_numba.flow_into_sets(graph, layer, 5, sets), expected, rtol=1e-9)


def test_graphs_of_sets_have_certificates():
    """Each value is the capacity of a cut, whose lowest level is the sets."""
    graph, sets = minilm_graph(12), all_sets(12)[1::350]
    of_sets = flow_numba.graph_of_sets(graph, 5, sets)
    (result,) = flow_numba.solve_graphs([of_sets], [np.array([5])], [np.array([3])], certificate=True)
    assert_allclose(result.gaps, 0, atol=1e-12)
    assert_array_equal(result.values[0, 0, : len(sets)], flow_numba.flow_into_sets(graph, 5, 3, sets))
    assert not result.values[0, 0, len(sets) :].any()
    assert_allclose(of_sets.weights[0, :, 2], graph.weights[0][:, sets[2]].sum(axis=1), rtol=1e-15)


@pytest.mark.parametrize("n_bytes", [1, 3 * 8 * 4 * 25])
def test_many_sets_in_few_graphs_at_a_time(monkeypatch, n_bytes):
    graph, sets = make_graph("sharp", 4, 5), all_sets(5)
    expected = flow_numba.flow_into_sets(graph, 3, 1, sets)
    calls = []
    solve = flow_numba.solve_graphs
    monkeypatch.setattr(flow_numba, "MAX_BYTES_OF_GRAPHS", n_bytes)
    monkeypatch.setattr(
        flow_numba, "solve_graphs", lambda graphs, *more: calls.append(len(graphs)) or solve(graphs, *more)
    )
    assert_array_equal(flow_numba.flow_into_sets(graph, 3, 1, sets), expected)
    assert calls == ([1] * 7 if n_bytes == 1 else [3, 3, 1])


def test_the_graph_is_left_as_it_was(into_sets):
    graph = make_graph("sharp", 3, 5)
    before = graph.weights.copy()
    into_sets(graph, 2, 1, all_sets(5))
    assert_array_equal(graph.weights, before)
