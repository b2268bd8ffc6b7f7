"""Flows with their proofs: each cut and each path is checked against the graph alone, without a solver."""

import dataclasses
import math
import re

import numpy as np
import pytest
from graph_makers import MAKERS, make_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf import LayerGraph, flow
from attnflow_hf.errors import FlowError, OptionError, PositionError
from attnflow_hf.flow_result import FlowPath, FlowResult

SIZES = [(1, 5, None), (2, 5, None), (5, 5, None), (9, 4, None), (70, 4, [0, 37, 69])]
"""Tokens, layers and output positions: tops 1, 2 and 3 have code of their own, and so have more than 64 tokens."""

EXAMPLE = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.25, 0.75]]])


def ask(kind, size, **options):
    n, n_layers, positions = size
    return flow(make_graph(kind, n_layers, n, seed=n), output_positions=positions, layer="all", **options)


def pairs(result):
    """Yield `(index of the result, layer, output position, token)` of each pair."""
    for index in np.ndindex(result.lower.shape):
        layer, row, token = index
        yield index, int(result.layers[layer]), int(result.output_positions[row]), token


def capacity_by_hand(weights, cut):
    layers = range(len(cut) - 1)
    tokens = range(len(cut[0]))
    crossing = [
        weights[layer][query][key]
        for layer in layers
        for query in tokens
        for key in tokens
        if cut[layer + 1][query] and not cut[layer][key]
    ]
    return math.fsum(crossing)


def test_worked_example():
    # From position 1: .25 to node 0 and .75 to node 1 of level 1.
    #   token 0: min(.25, 1) + min(.75, .5) = .75; full are the edges 1 -> 0 above and 1 -> 0 below, so that node 1 is
    #            on the source's side and node 0 is not: .25 + .5.
    #   token 1: min(.25, 0) + min(.75, .5) = .5; the one edge into it is full: both nodes are on the source's side.
    result = flow(EXAMPLE, output_positions=[1], certificate=True, paths=True)
    assert_array_equal(result.values, [[0.75, 0.5]])
    assert_array_equal(result.cut_capacities, [[0.75, 0.5]])
    assert_array_equal(result.gaps, [[0, 0]])
    assert_array_equal(result.is_exact, [[True, True]])
    assert_array_equal(result.cuts[0, 0], [[False, True], [False, True], [False, True]])
    assert_array_equal(result.cuts[0, 1, 0], [True, False])
    assert_array_equal(result.arc_flows(1, 0), [[[0.25, 0], [0.5, 0]], [[0, 0], [0.25, 0.5]]])
    assert result.paths(1, 0) == [FlowPath(0.5, (1, 1, 0)), FlowPath(0.25, (1, 0, 0))]
    assert result.paths(1, 1) == [FlowPath(0.5, (1, 1, 1))]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_each_flow_is_as_wide_as_its_cut(kind, size):
    result = ask(kind, size, certificate=True)
    assert result.is_exact.all()
    assert_allclose(result.cut_capacities, result.values, rtol=1e-12, atol=0)
    finite = np.isfinite(result.values)
    assert_array_equal(result.gaps[~finite], 0)
    assert_allclose(result.gaps[finite], 0, rtol=0, atol=1e-12 * max(1, result.values[finite].max(initial=0)))
    for index, layer, position, token in pairs(result):
        cut = result.cuts[index]
        assert cut[layer + 1, position]
        assert not cut[0, token]
        assert not cut[layer + 2 :].any()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_capacities_of_cuts_are_those_of_plain_python(kind):
    result = ask(kind, (5, 5, None), certificate=True)
    weights = result.graph.weights.tolist()
    by_hand = [capacity_by_hand(weights, cut) for cut in result.cuts.reshape(-1, 6, 5).tolist()]
    assert_allclose(result.cut_capacities.ravel(), by_hand, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_edges_of_a_cut_are_full_and_sum_to_the_value(kind):
    result = ask(kind, (5, 5, [0, 3]), certificate=True, paths=True)
    for index, layer, position, token in pairs(result):
        edges, value = result.cut_edges(position, token, layer), result.values[index]
        assert_allclose(edges["amount"].sum(), value, rtol=1e-12, atol=0)
        places = edges["layer"], edges["query"], edges["key"]
        assert_array_equal(edges["amount"], result.graph.weights[places])
        if np.isfinite(value):
            flows = result.arc_flows(position, token, layer)[places]
            assert_allclose(flows, edges["amount"], rtol=1e-9, atol=1e-12 * max(1, value))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_each_flow_keeps_the_capacities_and_is_made_of_paths(kind, size):
    result = ask(kind, size, paths=True)
    assert_allclose(result.values, ask(kind, size), rtol=1e-12, atol=0)
    step = 1 if size[0] < 70 else 13  # of so many tokens not all are looked at
    for index, layer, position, token in pairs(result):
        if token % step == 0 and np.isfinite(result.values[index]):
            flows = result.arc_flows(position, token, layer)
            check_arc_flows(flows, result.graph.weights, position, token, result.values[index])
            check_paths(result.paths(position, token, layer), flows, position, token, result.values[index])


def check_arc_flows(flows, weights, position, token, value):
    assert (flows >= 0).all()
    assert (flows <= weights[: len(flows)] * (1 + 1e-12)).all()
    into, out_of = flows.sum(axis=1), flows.sum(axis=2)
    assert_allclose(into[1:], out_of[:-1], rtol=1e-12, atol=1e-12 * value)
    assert_allclose(out_of[-1], np.where(np.arange(len(weights[0])) == position, value, 0), rtol=1e-12, atol=0)
    assert_allclose(into[0], np.where(np.arange(len(weights[0])) == token, value, 0), rtol=1e-12, atol=0)


def check_paths(paths, flows, position, token, value):
    amounts = [path.amount for path in paths]
    assert amounts == sorted(amounts, reverse=True)
    assert all(amount > 0 for amount in amounts)
    assert_allclose(sum(amounts), value, rtol=1e-10, atol=0)
    carried = np.zeros_like(flows)
    for amount, positions in paths:
        assert (positions[0], positions[-1], len(positions)) == (position, token, len(flows) + 1)
        np.add.at(carried, (np.arange(len(flows))[::-1], positions[:-1], positions[1:]), amount)
    assert (carried <= flows * (1 + 1e-12)).all()


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "position"), [(1, 0), (4, 2), (70, 69)])
def test_an_unlimited_path(n, position, n_layers):
    graph = make_graph("unlimited residual", n_layers, n)
    result = flow(graph, output_positions=position, certificate=True, paths=True)
    assert_array_equal(np.isinf(result.values[0]), np.arange(n) == position)
    assert_array_equal(result.gaps[0, position], 0)
    assert result.paths(position, position) == [FlowPath(math.inf, (position,) * (n_layers + 1))]
    flows = result.arc_flows(position, position)
    assert np.isinf(flows[:, position, position]).all()
    assert np.count_nonzero(flows) == n_layers


def test_flows_on_the_outermost_edges_keep_the_capacities_too():
    # From position 1 to token 1 the sums on the edges of the source were above their capacities by a rounding error.
    weights = [
        [[0, 0.08, 0], [0, 0, 0], [0, 0.78, 0]],
        [[0.75, 0.88, 0.5], [0.79, 0.06, 0.73], [0.77, 0.07, 0.11]],
        [[0, 3.3e-4, 2.5e-4], [8.4e-4, 1e-5, 1.8e-4], [6.4e-4, 4.8e-4, 5e-4]],
    ]
    result = flow(LayerGraph(weights), output_positions=1, paths=True)
    assert (result.arc_flows(1, 1) <= np.array(weights)).all()
    check_arc_flows(result.arc_flows(1, 1), np.array(weights), 1, 1, result.values[0, 1])


@pytest.mark.parametrize("kind", ["sharp", "causal", "unlimited residual", "wide range"])
def test_cuts_and_paths_together_are_those_of_each_alone(kind):
    both, cuts, paths = (
        ask(kind, (6, 4, [5, 0]), **options)
        for options in ({"certificate": True, "paths": True}, {"certificate": True}, {"paths": True})
    )
    assert_allclose(both.values, cuts.values, rtol=1e-12, atol=0)
    assert_array_equal(both.values, paths.values)
    assert_allclose(both.cut_capacities, cuts.cut_capacities, rtol=1e-12, atol=0)
    for _, layer, position, token in pairs(both):
        assert_array_equal(both.arc_flows(position, token, layer), paths.arc_flows(position, token, layer))


def test_one_layer_and_all_layers_have_the_axes_of_the_call():
    for layer, shape in [("all", (2, 1, 2)), (-1, (1, 2)), (0, (1, 2))]:
        result = flow(EXAMPLE, output_positions=1, layer=layer, certificate=True, paths=True)
        for array in (result.values, result.lower, result.upper, result.n_pushes, result.cut_capacities, result.gaps):
            assert array.shape == shape
        assert result.cuts.shape == (*shape, 2 if layer == 0 else 3, 2)
        assert result.layers.tolist() == ([0, 1] if layer == "all" else [layer % 2])
        assert result.output_positions.tolist() == [1]


def test_flows_and_paths_are_of_the_layer_and_position_asked_for():
    result = flow(EXAMPLE, output_positions=[1, 0], layer="all", paths=True)
    assert_array_equal(result.arc_flows(1, 0, layer=0), [[[0, 0], [0.5, 0]]])
    assert_array_equal(result.arc_flows(-2, -2, layer=-1), [[[1, 0], [0, 0]], [[1, 0], [0, 0]]])
    assert result.paths(0, 0, layer=1) == [FlowPath(1.0, (0, 0, 0))]
    assert result.paths(-2, -2) == [FlowPath(1.0, (0, 0, 0))]
    assert result.paths(0, 1) == []
    assert_array_equal(result.arc_flows(0, 1), np.zeros((2, 2, 2)))


def forged(lower, upper=None, graph=EXAMPLE, **changes):
    """Return the result of position 1 of the worked example, or of another graph, with other values."""
    result = flow(graph, output_positions=[1], certificate=True)
    return dataclasses.replace(
        result, lower=np.array([lower]), upper=np.array([lower if upper is None else upper]), **changes
    )


def gap(value, difference, token):
    """Return a pattern of the message, whether it shows NumPy's numbers as `0.5` or as `np.float64(0.5)`."""
    return rf"the flow \S*{re.escape(value)}\)? and its cut differ by {re.escape(difference)}, at index .*{token}\)+"


def test_what_is_not_finished_has_bounds_but_no_value():
    result = forged([0.5, 0.5], upper=[0.75, 0.5])
    assert_array_equal(result.is_exact, [[False, True]])
    for array in (result.values, result.cut_capacities):
        assert_array_equal(array, [[np.nan, 0.5]])
    assert_array_equal(result.gaps, [[np.nan, 0]])
    assert_array_equal(result.lower, [[0.5, 0.5]])
    assert_array_equal(result.upper, [[0.75, 0.5]])


def test_a_value_that_is_not_its_cuts_is_an_error():
    assert_allclose(forged([0.75 + 1e-10, 0.5]).gaps, [[1e-10, 0]], rtol=1e-5, atol=0)
    with pytest.raises(FlowError, match=gap("0.50000001", "1.0e-08", token=1) + "; this is an error of the solver"):
        forged([0.75 + 1e-10, 0.5 + 1e-8])
    with pytest.raises(FlowError, match=gap("0.74999999", "1.0e-08", token=0)):
        forged([0.75 - 1e-8, 0.5], upper=[0.75 - 1e-8, 0.6])


def test_a_cut_that_is_not_the_narrowest_is_an_error():
    cuts = forged([0.75, 0.5]).cuts.copy()
    cuts[0, 0, 1] = True  # .5 + 1 to token 0 in place of .25 + .5
    with pytest.raises(FlowError, match=gap("0.75", "7.5e-01", token=0)):
        forged([0.75, 0.5], cuts=cuts)


def test_gaps_of_large_values_are_measured_as_shares():
    graph = LayerGraph(EXAMPLE.weights * 1e6)
    assert_allclose(forged([750000.0005, 500000.0], graph=graph).gaps, [[0.0005, 0]], rtol=1e-5, atol=0)
    with pytest.raises(FlowError, match=gap("500000.001", "1.0e-03", token=1)):
        forged([750000.0, 500000.001], graph=graph)


@pytest.mark.parametrize(
    ("lower", "message"), [([np.inf, 0.5], gap("inf", "inf", 0)), ([0.75, 1e300], gap("1e+300", "1.0e+300", 1))]
)
def test_an_unlimited_value_needs_an_unlimited_cut(lower, message):
    with pytest.raises(FlowError, match=message):
        forged(lower)


def test_a_value_beside_an_unlimited_one_is_checked_too():
    graph = LayerGraph([[[1, 0.5], [0.25, np.inf]], [[1, 0.5], [0.25, np.inf]]])
    assert_array_equal(forged([0.5, np.inf], graph=graph).gaps, [[0, 0]])
    with pytest.raises(FlowError, match=gap("0.50000001", "1.0e-08", token=0)):
        forged([0.5 + 1e-8, np.inf], graph=graph)
    with pytest.raises(FlowError, match=gap("7.0", "inf", token=1)):
        forged([0.5, 7.0], graph=graph)


def test_what_was_not_asked_for():
    plain = flow(EXAMPLE, output_positions=[1], max_work=1000)
    assert isinstance(plain, FlowResult)
    assert plain.cuts is None
    for name in ("cut_capacities", "gaps"):
        with pytest.raises(OptionError, match="there are no cuts; ask for them with certificate=True"):
            getattr(plain, name)
    with pytest.raises(OptionError, match="there are no cuts; ask for them with certificate=True"):
        plain.cut_edges(1, 0)
    for method in (plain.arc_flows, plain.paths):
        with pytest.raises(OptionError, match="the flows on the edges were not kept; ask for them with paths=True"):
            method(1, 0)


@pytest.mark.parametrize("method", ["arc_flows", "paths", "cut_edges"])
def test_pairs_that_were_not_asked_for(method):
    proven = flow(make_graph("sharp", 3, 4), output_positions=[3, 1], layer=1, certificate=True, paths=True)
    result = getattr(proven, method)
    with pytest.raises(PositionError, match=r"^output position 2 was not asked for; there are 3, 1$"):
        result(2, 0, layer=1)
    with pytest.raises(PositionError, match=r"^layer 2 was not asked for; there are 1$"):
        result(3, 0)
    with pytest.raises(PositionError, match=r"^layer 3 is out of range"):
        result(3, 0, layer=3)
    with pytest.raises(PositionError, match=r"^output position 4 is out of range: there are 4, so use -4 to 3$"):
        result(4, 0, layer=1)
    with pytest.raises(PositionError, match=r"^token -5 is out of range: there are 4, so use -4 to 3$"):
        result(3, -5, layer=1)
    with pytest.raises(OptionError, match=r"^token must be an integer, got 1\.0$"):
        result(3, 1.0, layer=1)
