import numpy as np
import pytest
from graph_makers import ROW_STOCHASTIC, make_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf.backends.rollout_numpy import raw, rollout
from attnflow_hf.errors import ArrayError
from attnflow_hf.layer_graph import LayerGraph

EVERY_LAYER = np.arange(4)


def test_worked_example():
    # Three tokens, two layers, from position 2, whose edges lead to the nodes 0, 1, 2 of level 1 with the weights
    # .25, .25, .5. The sum over paths of the products:
    #   token 0: .25 * 1 + .25 * .5 + .5 * .25 = .5
    #   token 1:           .25 * .5 + .5 * .25 = .25
    #   token 2:                      .5 * .50 = .25
    graph = LayerGraph(
        [
            [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]],
            [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.25, 0.25, 0.5]],
        ]
    )
    assert_allclose(rollout(graph, np.array([1]), np.array([2])), [[[0.5, 0.25, 0.25]]], rtol=1e-15)
    assert_array_equal(raw(graph, np.array([1, 0]), np.array([1])), [[[0.25, 0.75, 0.0]], [[0.5, 0.5, 0.0]]])


@pytest.mark.parametrize("positions", [[0], [3, 1], range(6), [2] * 9])
@pytest.mark.parametrize("layers", [[0], [3], [2, 0], [0, 1, 2, 3], [3, 3, 1]])
def test_single_rows_and_whole_matrices_are_the_same(layers, positions):
    graph = make_graph("with zeros", 4, 6)
    a, b, c, d = graph.weights
    products = np.stack([a, b @ a, c @ b @ a, d @ c @ b @ a])
    values = rollout(graph, np.array(layers), np.array(positions))
    assert_allclose(values, products[np.ix_(layers, positions)], rtol=1e-13)


@pytest.mark.parametrize("method", [raw, rollout])
@pytest.mark.parametrize("kind", ROW_STOCHASTIC)
def test_rows_sum_to_one(method, kind):
    values = method(make_graph(kind, 4, 9), EVERY_LAYER, np.arange(9))
    assert_allclose(values.sum(axis=-1), 1, rtol=1e-13)


@pytest.mark.parametrize("method", [raw, rollout])
def test_the_lowest_layer_is_its_matrix(method):
    graph = make_graph("sharp", 4, 5)
    assert_array_equal(method(graph, np.array([0]), np.arange(5))[0], graph.weights[0])


@pytest.mark.parametrize("method", [raw, rollout])
def test_permuting_tokens_permutes_scores(method):
    graph, order = make_graph("sharp", 4, 5), np.array([3, 0, 4, 1, 2])
    permuted = LayerGraph(graph.weights[:, order][:, :, order])
    expected = method(graph, EVERY_LAYER, order)[:, :, order]
    assert_allclose(method(permuted, EVERY_LAYER, np.arange(5)), expected, rtol=1e-13)


@pytest.mark.parametrize("method", [raw, rollout])
def test_a_causal_graph_gives_nothing_to_later_tokens(method):
    values = method(make_graph("causal", 4, 6), EVERY_LAYER, np.arange(6))
    assert_array_equal(np.triu(values, k=1), np.zeros((4, 6, 6)))


def test_scaling_each_layer_scales_the_product():
    graph = make_graph("sharp", 4, 5)
    scaled = LayerGraph(graph.weights * np.array([2, 3, 5, 7]).reshape(-1, 1, 1))
    expected = rollout(graph, EVERY_LAYER, np.arange(5)) * np.array([2, 6, 30, 210]).reshape(-1, 1, 1)
    assert_allclose(rollout(scaled, EVERY_LAYER, np.arange(5)), expected, rtol=1e-13)


@pytest.mark.parametrize("method", [raw, rollout])
def test_values_are_float64_and_the_callers_own(method):
    graph = make_graph("sharp", 4, 5)
    for positions in (np.array([1]), np.arange(5)):
        values = method(graph, np.array([0, 3]), positions)
        assert values.dtype == np.float64
        assert values.flags.writeable
        values[:] = -1
    assert (graph.weights >= 0).all()


@pytest.mark.parametrize("method", [raw, rollout])
def test_nothing_asked_for(method):
    graph, none = make_graph("sharp", 4, 5), np.array([], dtype=np.int64)
    assert method(graph, none, np.array([0])).shape == (0, 1, 5)
    assert method(graph, np.array([3]), none).shape == (1, 0, 5)


def test_rollout_needs_finite_weights():
    weights = make_graph("sharp", 4, 5).weights.copy()
    weights[2, 3, 3] = np.inf
    graph = LayerGraph(weights)
    with pytest.raises(ArrayError, match=r"layer 2, position 3 is unlimited; use method='flow'"):
        rollout(graph, np.array([3]), np.array([0]))
    assert np.isfinite(rollout(graph, np.array([0, 1]), np.array([0]))).all()  # the edge is above these layers


def test_raw_shows_unlimited_edges():
    assert_array_equal(raw(LayerGraph([[[np.inf, 1], [0, 2]]]), np.array([0]), np.array([0])), [[[np.inf, 1]]])
