"""What holds for attention flow on every graph, checked for every backend."""

import numpy as np
import pytest
from graph_makers import MAKERS, ROW_STOCHASTIC, make_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf.backends.rollout_numpy import rollout
from attnflow_hf.layer_graph import LayerGraph

SIZES = [(2, 5), (3, 6), (5, 6)]


@pytest.mark.parametrize("kind", MAKERS)
def test_one_layer_is_its_matrix(flow, kind):
    graph = make_graph(kind, 1, 6)
    assert_array_equal(flow(graph), graph.weights[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_one_layer_on_identities_is_its_matrix(flow, kind):
    """The closed form of one layer and the search must tell the same; edges of 1 limit nothing where rows sum to 1."""
    layer = make_graph(kind, 1, 5).weights
    limit = max(1.0, float(layer[np.isfinite(layer)].max()))
    identity = limit * np.eye(5)[None]
    for weights in ([identity, identity, layer], [identity, layer, identity], [layer, identity, identity]):
        assert_allclose(flow(np.concatenate(weights)), np.minimum(layer[0], limit), rtol=1e-15)


@pytest.mark.parametrize("kind", ROW_STOCHASTIC)
@pytest.mark.parametrize(("n_layers", "n"), SIZES)
def test_between_rollout_and_the_sinks_capacity(flow, kind, n_layers, n):
    graph = make_graph(kind, n_layers, n)
    values = flow(graph)
    assert (rollout(graph, np.array([n_layers - 1]), np.arange(n))[0] <= values * (1 + 1e-12)).all()
    assert (values <= np.minimum(1, graph.weights[0].sum(axis=0)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("n_layers", "n"), SIZES)
def test_at_most_the_capacity_out_of_the_source_and_into_the_sink(flow, kind, n_layers, n):
    graph = make_graph(kind, n_layers, n)
    out_of_source = graph.weights[-1].sum(axis=1)[:, None]
    into_sink = graph.weights[0].sum(axis=0)[None, :]
    assert (flow(graph) <= np.minimum(out_of_source, into_sink) * (1 + 1e-12)).all()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("n_layers", "n"), SIZES)
def test_reversing_all_edges_swaps_source_and_sink(flow, kind, n_layers, n):
    graph = make_graph(kind, n_layers, n)
    reverse = LayerGraph(graph.weights[::-1].transpose(0, 2, 1))
    assert_allclose(flow(reverse), flow(graph).T, rtol=1e-12)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("n_layers", "n"), SIZES)
def test_permuting_tokens_permutes_scores(flow, kind, n_layers, n):
    graph, order = make_graph(kind, n_layers, n), np.random.default_rng(1).permutation(n)
    permuted = LayerGraph(graph.weights[:, order][:, :, order])
    assert_allclose(flow(permuted), flow(graph)[order][:, order], rtol=1e-12)


@pytest.mark.parametrize("kind", MAKERS)
def test_renaming_the_nodes_of_a_middle_level_changes_nothing(flow, kind):
    graph, order = make_graph(kind, 4, 5), np.array([2, 0, 1, 4, 3])
    weights = graph.weights.copy()
    weights[1], weights[2] = weights[1][order], weights[2][:, order]
    if np.isfinite(weights).all():  # or an unlimited edge would leave the diagonal
        assert_allclose(flow(weights), flow(graph), rtol=1e-12)


@pytest.mark.parametrize(("n_layers", "n"), SIZES)
def test_a_causal_graph_gives_nothing_to_later_tokens(flow, n_layers, n):
    values = flow(make_graph("causal", n_layers, n))
    assert_array_equal(np.triu(values, k=1), np.zeros((n, n)))
    assert (np.tril(values) > 0).sum() == n * (n + 1) // 2


def test_later_tokens_of_a_causal_graph_change_nothing(flow):
    graph = make_graph("causal", 4, 7)
    assert_allclose(flow(graph)[:5, :5], flow(graph.weights[:, :5, :5]), rtol=1e-14)


def test_a_causal_graph_is_solved_as_any_other(flow):
    graph = make_graph("causal", 4, 6)
    weights = graph.weights.copy()
    weights[3, 0, 5] = 5e-324  # not causal any more, by the least there is
    assert_allclose(flow(weights), flow(graph), rtol=1e-12, atol=5e-323)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("factor", [2.0**-600, 1e-5, 3.0, 2.0**600])
def test_scaling_all_capacities_scales_the_value(flow, kind, factor):
    graph = make_graph(kind, 4, 5)
    weights = graph.weights
    if factor < 1e-100 and (weights[weights > 0] < 1e-100).any():
        pytest.skip("the capacities would become zero")
    assert_allclose(flow(weights * factor), flow(graph) * factor, rtol=1e-12)


@pytest.mark.parametrize("kind", MAKERS)
def test_more_capacity_never_gives_less(flow, kind):
    graph = make_graph(kind, 4, 5)
    more = graph.weights + np.random.default_rng(2).random(graph.weights.shape)
    assert (flow(more) >= flow(graph) * (1 - 1e-12)).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_an_unlimited_residual_gives_at_least_the_straight_sum(flow, kind):
    """Flow may leave its column at any layer without cost: a token gets all direct edges at the least."""
    weights = make_graph(kind, 4, 5).weights.copy()
    weights[:, np.arange(5), np.arange(5)] = np.inf
    values = flow(weights)
    direct = weights.sum(axis=0)
    assert_array_equal(np.diagonal(values), np.full(5, np.inf))
    assert (values >= direct * (1 - 1e-12)).all()
    assert np.isfinite(values[~np.eye(5, dtype=bool)]).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sink_that_is_cut_off_gets_exactly_nothing(flow, kind):
    weights = make_graph(kind, 4, 5).weights.copy()
    weights[0, :, 2] = 0
    values = flow(weights)
    assert_array_equal(values[:, 2], np.zeros(5))
    weights[3, 1] = 0
    assert_array_equal(flow(weights)[1], np.zeros(5))


@pytest.mark.parametrize("layer", range(4))
def test_a_layer_of_zeros_lets_nothing_through(flow, layer):
    weights = make_graph("sharp", 4, 5).weights.copy()
    weights[layer] = 0
    assert_array_equal(flow(weights), np.zeros((5, 5)))


def test_the_same_row_gives_the_same_scores(flow):
    weights = make_graph("sharp", 4, 6).weights.copy()
    weights[:, 4] = weights[:, 1]
    values = flow(weights)
    assert_allclose(values[4], values[1], rtol=1e-13)


@pytest.mark.parametrize("n_layers", [2, 3, 5])
def test_uniform_graphs_without_residual(flow, n_layers):
    """Each token takes what its `n` edges of `1 / n` let through: all."""
    assert_allclose(flow(np.full((n_layers, 7, 7), 1 / 7)), np.ones((7, 7)), rtol=1e-14)


@pytest.mark.parametrize("capacity", [5e-324, 1.5e-323, 2.2250738585072014e-308, 1e-300, 1e-17, 1e300])
def test_capacities_however_small_or_large(flow, capacity):
    """Side edges of `capacity` beside straight edges of 1: two paths lead from position 0 to token 1."""
    weights = np.zeros((3, 2, 2))
    weights[:, [0, 1], [0, 1]] = 1
    weights[[0, 2], 0, 1] = capacity
    limit = min(capacity, 1)
    assert_allclose(flow(weights)[0], [1, 2 * limit], rtol=1e-15)


@pytest.mark.parametrize("capacity", [5e-324, 1e-300, 1e-17])
def test_small_flow_is_taken_back_beside_large_capacities(flow, capacity):
    """The graph of `test_worked_example_where_flow_must_be_taken_back`, most edges much wider than the flow."""
    weights = np.zeros((4, 4, 4))
    weights[3, 0, [0, 1]] = capacity
    weights[2, 0, [0, 1]] = 1
    weights[2, 1, 0] = 1
    weights[1, 0, 3] = capacity
    weights[1, 1, 2] = 1
    weights[0, [2, 3], 3] = 1
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        back = np.argsort(order)
        permuted = weights[:, order][:, :, order]
        assert flow(permuted, positions=[back[0]])[0, back[3]] == 2 * capacity
