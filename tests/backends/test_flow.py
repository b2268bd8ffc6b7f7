import numpy as np
import pytest
from graph_makers import MAKERS, make_graph, minilm_graph, stories_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf.backends import flow_networkx, flow_numba


def test_worked_example(flow):
    # Three tokens, two layers, from position 2. The source's edges lead to the nodes 0, 1, 2 of level 1 with the
    # capacities .25, .25, .5. Two layers make a flow of min(edge above, edge below) by way of each node:
    #   token 0: min(.25, 1.0) + min(.25, .5) + min(.5, .25) = .25 + .25 + .25 = .75
    #   token 1: min(.25, 0.0) + min(.25, .5) + min(.5, .25) = 0   + .25 + .25 = .5
    #   token 2: min(.25, 0.0) + min(.25, 0.) + min(.5, .50) = .5
    weights = [
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]],
        [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.25, 0.25, 0.5]],
    ]
    assert_allclose(flow(weights, positions=[2]), [[0.75, 0.5, 0.5]], rtol=1e-15)


def test_worked_example_where_flow_must_be_taken_back(flow):
    # Four layers, four tokens, from position 0 to token 3, drawn from the top (level 4) down; each edge has capacity 1:
    #   0 -> 0, 1 (levels 4 to 3);  0 -> 0, 1  and  1 -> 0 (3 to 2);  0 -> 3  and  1 -> 2 (2 to 1);  2, 3 -> 3 (1 to 0).
    # Whoever sends the first unit straight down, 0 -> 0 -> 0 -> 3 -> 3, must take it back from the node 0 of level 2
    # for the second one to pass there: the maximum is 2, along 0 -> 0 -> 1 -> 2 -> 3 and 0 -> 1 -> 0 -> 3 -> 3.
    weights = np.zeros((4, 4, 4))
    weights[3, 0, [0, 1]] = 1
    weights[2, 0, [0, 1]] = 1
    weights[2, 1, 0] = 1
    weights[1, 0, 3] = 1
    weights[1, 1, 2] = 1
    weights[0, [2, 3], 3] = 1
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):  # in whatever order nodes are tried
        back = np.argsort(order)
        permuted = weights[:, order][:, :, order]
        assert flow(permuted, positions=[back[0]])[0, back[3]] == 2


def test_worked_example_of_unlimited_edges(flow):
    # One node a level but for the side edge of weight 2: token 0 is reached without limit from position 0; token 1 from
    # position 0 by one of the two side edges, 2 + 2; token 0 from position 1 not at all.
    weights = np.zeros((2, 2, 2))
    weights[:, [0, 1], [0, 1]] = np.inf
    weights[:, 0, 1] = 2
    assert_array_equal(flow(weights), [[np.inf, 4], [0, np.inf]])


@pytest.mark.parametrize("n_layers", [3, 4])
def test_worked_example_of_unlimited_edges_in_deeper_graphs(flow, n_layers):
    weights = np.zeros((n_layers, 2, 2))
    weights[:, [0, 1], [0, 1]] = np.inf
    weights[:, 0, 1] = 2
    assert_array_equal(flow(weights), [[np.inf, 2 * n_layers], [0, np.inf]])
    weights[1, 0, 0] = 0.5  # the one edge of limited capacity
    assert flow(weights)[0, 0] == 0.5


@pytest.mark.parametrize("n_layers", [1, 2, 3, 6])
def test_one_token(flow, n_layers):
    weights = np.linspace(0.25, 0.75, n_layers).reshape(-1, 1, 1)
    assert_array_equal(flow(weights), [[0.25]])


@pytest.mark.parametrize("layer", range(5))
def test_a_layer_is_the_graph_below_it(flow, layer):
    graph = make_graph("sharp", 5, 6)
    assert_array_equal(flow(graph, layer), flow(graph.weights[: layer + 1]))


def test_layers_and_positions_come_in_the_order_asked_for(flow):
    graph = make_graph("sharp", 4, 5)
    rows = flow(graph, positions=range(5))
    assert_array_equal(flow(graph, positions=[3, 0, 3]), rows[[3, 0, 3]])


@pytest.mark.parametrize("backend", [flow_networkx.flow, flow_numba.flow])
def test_several_layers_at_once(backend):
    graph, positions = make_graph("sharp", 4, 5), np.array([4, 1])
    values = backend(graph, np.array([3, 0, 2, 1, 3]), positions)
    assert values.shape == (5, 2, 5)
    for index, layer in enumerate([3, 0, 2, 1, 3]):
        assert_array_equal(values[index], backend(graph, np.array([layer]), positions)[0])


@pytest.mark.parametrize("backend", [flow_networkx.flow, flow_numba.flow])
def test_nothing_asked_for(backend):
    graph, none = make_graph("sharp", 4, 5), np.array([], dtype=np.int64)
    assert backend(graph, none, np.array([0])).shape == (0, 1, 5)
    assert backend(graph, np.array([3]), none).shape == (1, 0, 5)


@pytest.mark.parametrize("backend", [flow_networkx.flow, flow_numba.flow])
def test_the_graph_is_left_as_it_was(backend):
    graph = make_graph("sharp", 4, 5)
    before = graph.weights.copy()
    backend(graph, np.array([3]), np.array([1]))
    assert_array_equal(graph.weights, before)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("n_layers", "n"), [(3, 4), (4, 7), (6, 8)])
def test_numba_agrees_with_networkx(kind, n_layers, n):
    graph = make_graph(kind, n_layers, n, seed=n)
    layers, positions = np.arange(n_layers), np.array([0, n - 2])
    expected = flow_networkx.flow(graph, layers, positions)
    assert_allclose(flow_numba.flow(graph, layers, positions), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("make", [minilm_graph, pytest.param(stories_graph, marks=pytest.mark.shared)])
def test_numba_agrees_with_networkx_on_real_attentions(make, n):
    graph = make(n)
    layers, positions = np.arange(2, graph.n_layers), np.array([0, n // 3, n - 1][: 32 // n])
    expected = flow_networkx.flow(graph, layers, positions)
    assert_allclose(flow_numba.flow(graph, layers, positions), expected, rtol=1e-9)
