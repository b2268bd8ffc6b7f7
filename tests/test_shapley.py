"""Method `flow_shapley`: its definition done otherwise, its laws, and what it is not."""

import logging
import re
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from graph_makers import MAKERS, ROW_STOCHASTIC, make_graph, minilm_graph
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import bert, gpt2, tokenizer

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, backends, flow, flow_shapley, register_backend
from attnflow_hf import shapley as shapley_module
from attnflow_hf.backends import backend_names, choose_backend, flow_networkx
from attnflow_hf.errors import ArrayError, OptionError, PositionError
from attnflow_hf.position_bias import uniform_causal_graph

BACKENDS = backend_names("flow_shapley")
FINITE = [kind for kind in MAKERS if kind != "unlimited residual"]
LAYER = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
LONG = "the key to the old cabinets is on a table and the cat sat near the mat"


@pytest.fixture(params=BACKENDS)
def shapley(request):
    """`flow_shapley` by each backend, called as `shapley(weights, position)`; it returns the values of a position."""

    def solve(graph, position, **options):
        checked = graph if isinstance(graph, LayerGraph) else LayerGraph(graph)
        return flow_shapley(checked, output_positions=position, backend=request.param, **options).values[0]

    return solve


def test_worked_example(shapley):
    # Three tokens, two layers, from position 2. What each set of tokens can take (tests/backends/test_into_sets.py):
    #   v(0) = .75   v(1) = .5   v(2) = .5   v(01) = 1   v(02) = 1   v(12) = .75   v(012) = 1
    # The six orders, and what each token adds when it comes:
    #   order    0            1            2
    #   0 1 2    .75          1 - .75      0
    #   0 2 1    .75          0            1 - .75
    #   1 0 2    1 - .5       .5           0
    #   1 2 0    1 - .75      .5           .75 - .5
    #   2 0 1    1 - .5       0            .5
    #   2 1 0    1 - .75      .75 - .5     .5
    #   sum      3            1.5          1.5           divided by 6: .5, .25, .25
    assert_allclose(shapley([LAYER, LAYER], 2), [0.5, 0.25, 0.25], rtol=1e-15)


def test_single_token_flows_are_not_the_shapley_values_of_this_game():
    """The counterexample to "attention flows are Shapley values": they sum to 1.75 and not to v(012) = 1.

    Nor are they after division by their sum: 3/7, 2/7, 2/7 beside 1/2, 1/4, 1/4.
    """
    graph = LayerGraph([LAYER, LAYER])
    flows = flow(graph, output_positions=2)[0]
    values = flow_shapley(graph, output_positions=2).values[0]
    assert_allclose(flows, [0.75, 0.5, 0.5], rtol=1e-15)
    assert_allclose(values.sum(), 1, rtol=1e-15)
    assert_allclose(flows / flows.sum(), [3 / 7, 2 / 7, 2 / 7], rtol=1e-15)
    assert (np.abs(flows / flows.sum() - values) > 0.03).all()


def test_on_one_layer_they_are(shapley):
    """There the game is additive: no two tokens share an edge."""
    graph = make_graph("sharp", 1, 6)
    assert_allclose(shapley(graph, 3), graph.weights[0, 3], rtol=1e-12, atol=1e-15)


def rational_game(weights, position):
    """The maximum flow into a set as the least of all cuts, in fractions: no solver, no rounding."""
    n_layers, n = len(weights), len(weights[0])

    def least_cut(members):
        best = None
        for sides in product([False, True], repeat=(n_layers - 1) * n):
            levels = [[token not in members for token in range(n)]]
            levels += [list(sides[level * n : (level + 1) * n]) for level in range(n_layers - 1)]
            levels.append([token == position for token in range(n)])
            cut = sum(
                weights[layer][query][key]
                for layer, query, key in product(range(n_layers), range(n), range(n))
                if levels[layer + 1][query] and not levels[layer][key]
            )
            best = cut if best is None else min(best, cut)
        return best

    return least_cut


@pytest.mark.parametrize(("seed", "n_layers", "n"), [(0, 3, 3), (1, 3, 4), (2, 4, 3)])
def test_exact_rationals(shapley, seed, n_layers, n):
    """Values in fractions, from minimum cuts and the mean over all orders, are those of floating point."""
    counts = np.random.default_rng(seed).integers(0, 9, size=(n_layers, n, n))
    weights = [[[Fraction(int(c), 7) for c in row] for row in layer] for layer in counts]
    game, orders = rational_game(weights, n - 1), list(permutations(range(n)))
    worth = {s: game([t for t in range(n) if s >> t & 1]) for s in range(2**n)}
    exact = [Fraction(0)] * n
    for order in orders:
        before = 0
        for token in order:
            exact[token] += (worth[before | 1 << token] - worth[before]) / len(orders)
            before |= 1 << token
    assert sum(exact) == worth[2**n - 1]
    assert_allclose(shapley(counts / 7, n - 1), [float(value) for value in exact], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize(("n_layers", "n"), [(2, 5), (3, 6), (5, 4)])
def test_backends_agree(kind, n_layers, n):
    graph = make_graph(kind, n_layers, n, seed=n)
    reference, ours = (flow_shapley(graph, output_positions=[0, -2], backend=name).values for name in BACKENDS)
    assert_allclose(ours, reference, rtol=1e-9, atol=1e-12 * reference.max())


def test_backends_agree_on_estimates():
    """The orders are the method's and not the backend's."""
    graph = minilm_graph(14)
    reference, ours = (
        flow_shapley(graph, output_positions=3, layer=2, backend=name, n_permutations=2) for name in BACKENDS
    )
    assert_allclose(ours.values, reference.values, rtol=1e-9)
    assert_allclose(ours.standard_errors, reference.standard_errors, rtol=1e-6)
    assert ours.n_permutations.tolist() == reference.n_permutations.tolist() == [2]


@pytest.mark.parametrize("kind", ROW_STOCHASTIC)
@pytest.mark.parametrize("n", [6, 14])
def test_a_row_sums_to_the_flow_into_all_tokens(kind, n):
    values = flow_shapley(make_graph(kind, 4, n), n_permutations=2).values
    assert_allclose(values.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize("n", [6, 14])
def test_at_most_the_flow_of_the_token_alone(kind, n):
    graph = make_graph(kind, 4, n)
    values, flows = flow_shapley(graph, n_permutations=2).values, flow(graph)
    assert (values <= flows * (1 + 1e-12) + 1e-14 * graph.weights.max()).all()
    assert (values >= 0).all()


@pytest.mark.parametrize("kind", FINITE)
def test_permuting_tokens_permutes_values(shapley, kind):
    graph, order = make_graph(kind, 3, 5), np.array([3, 0, 4, 2, 1])
    permuted = graph.weights[:, order][:, :, order]
    assert_allclose(shapley(permuted, 1), shapley(graph, 0)[order], rtol=1e-9, atol=1e-12 * graph.weights.max())


def test_tokens_with_the_same_edges_get_the_same(shapley):
    weights = make_graph("sharp", 3, 5).weights.copy()
    weights[0, :, 3] = weights[0, :, 1]
    values = shapley(weights, 2)
    assert_allclose(values[3], values[1], rtol=1e-12)


def test_tokens_that_cannot_be_reached_get_nothing_and_change_nothing(shapley):
    weights = make_graph("sharp", 3, 5).weights.copy()
    weights[0, :, [1, 4]] = 0
    values = shapley(weights, 2)
    assert_array_equal(values[[1, 4]], 0)
    weights[0, 0, 1] = 5e-324  # as little as there is, but a player
    assert_allclose(shapley(weights, 2), values, rtol=1e-12, atol=1e-15)


def test_causal_graphs_up_to_the_position(shapley):
    graph = make_graph("causal", 3, 8)
    assert_array_equal(shapley(graph, 4), [*shapley(graph.weights[:, :5, :5], 4), 0, 0, 0])


def test_up_to_twelve_tokens_that_are_reached_it_is_exact():
    graph = make_graph("causal", 3, 20)
    found = flow_shapley(graph, output_positions=[0, 11, 12, 19])
    assert found.n_permutations.tolist() == [0, 0, 16, 16]
    assert not found.standard_errors[:2].any()
    assert (found.standard_errors[2:].max(axis=1) > 1e-6).all()


def test_estimates_are_near_the_exact_values(monkeypatch):
    graph = minilm_graph(12)
    exact = flow_shapley(graph, output_positions=[0, 4], layer=3).values
    monkeypatch.setattr(shapley_module, "EXACT_UP_TO", 11)
    found = flow_shapley(graph, output_positions=[0, 4], layer=3, n_permutations=200)
    assert (np.abs(found.values - exact) <= 5 * found.standard_errors + 1e-12).all()
    assert (np.abs(found.values - exact) > 1e-6).any()
    assert found.standard_errors.max() < 1e-3


def test_a_seed_gives_the_same_whatever_else_is_asked_for():
    graph = make_graph("sharp", 3, 14)
    every = flow_shapley(graph, layer="all", seed=3, n_permutations=2)
    assert every.values.shape == every.standard_errors.shape == (3, 14, 14)
    assert every.n_permutations.shape == (3, 14)
    one = flow_shapley(graph, output_positions=[-1, 5], layer=1, seed=3, n_permutations=2)
    assert_array_equal(one.values, every.values[1, [13, 5]])
    other = flow_shapley(graph, output_positions=[-1, 5], layer=1, seed=4, n_permutations=2)
    assert (other.values != one.values).any()
    assert_allclose(other.values.sum(axis=1), 1, rtol=1e-12)


def test_each_position_and_each_layer_has_orders_of_its_own():
    """Positions 0 and 1 of layer 2 play one game, and so do layers 2 and 3 of position 0; the estimates differ."""
    weights = make_graph("sharp", 4, 14).weights.copy()
    weights[2, 1], weights[3] = weights[2, 0], np.eye(14)
    found = flow_shapley(LayerGraph(weights), output_positions=[0, 1], layer="all", n_permutations=2)
    for one, other in (((2, 0), (2, 1)), ((2, 0), (3, 0))):
        difference = np.abs(found.values[one] - found.values[other])
        assert 1e-4 < difference.max() < 0.1


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n_permutations": 1}, OptionError, "n_permutations must be an integer, 2 or more, got 1"),
        ({"n_permutations": 2.0}, OptionError, "n_permutations must be an integer, 2 or more, got 2.0"),
        ({"n_permutations": True}, OptionError, "n_permutations must be an integer, 2 or more, got True"),
        ({"seed": -1}, OptionError, "seed must be an integer, 0 or more, got -1"),
        ({"seed": None}, OptionError, "seed must be an integer, 0 or more, got None"),
        (
            {"backend": "numpy"},
            OptionError,
            "unknown backend of flow_shapley 'numpy'; choose one of 'auto', 'networkx'",
        ),
        ({"output_positions": 3}, PositionError, "output position 3 is out of range: there are 3"),
        ({"layer": 2}, PositionError, "layer 2 is out of range"),
    ],
)
def test_bad_options(options, kind, message):
    with pytest.raises(kind, match=message):
        flow_shapley(LayerGraph([LAYER, LAYER]), **options)


def test_a_graph_is_needed_whose_edges_are_finite():
    with pytest.raises(OptionError, match="graph must be a LayerGraph, got list"):
        flow_shapley([LAYER])
    weights = np.array([LAYER, LAYER])
    weights[1, 2, 2] = np.inf
    with pytest.raises(ArrayError, match="needs finite weights, but the residual edge of layer 1, position 2 is"):
        flow_shapley(LayerGraph(weights))
    below = flow_shapley(LayerGraph(weights), layer=0).values  # the unlimited edge is not used
    assert_allclose(below, LAYER, rtol=1e-15)


def test_a_backend_of_ones_own(monkeypatch):
    monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))
    seen = []

    def mine(graph, layer, position, sets):
        seen.append((graph.n_tokens, layer, position, sets.shape, sets.dtype))
        return flow_networkx.flow_into_sets(graph, layer, position, sets)

    register_backend("flow_shapley", "mine", mine)
    graph = LayerGraph([LAYER, LAYER])
    found = flow_shapley(graph, output_positions=2, backend="mine")
    assert_allclose(found.values, [[0.5, 0.25, 0.25]], rtol=1e-15)
    assert seen == [(3, 1, 2, (7, 3), np.dtype(bool))]
    register_backend("flow_shapley", "bad", lambda *_: np.ones(3))
    with pytest.raises(ArrayError, match=r"backend 'bad' of flow_shapley returned float64 \(3,\); .* \[set\] = \(7,\)"):
        flow_shapley(graph, output_positions=2, backend="bad")
    assert choose_backend("flow_shapley", "auto", 0) == "numba"


def test_what_takes_long_says_once_how_long(monkeypatch, caplog):
    now = iter(np.arange(1000) * 3.0)
    monkeypatch.setattr(shapley_module.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.WARNING, logger="attnflow_hf"):
        flow_shapley(make_graph("diffuse", 2, 13), output_positions=[0, 1, 2, 3], n_permutations=2)
    (record,) = caplog.records
    message = r"flow_shapley has taken 6 s and will take up to \d+ s more; fewer n_permutations, or fewer output"
    assert re.match(message, record.getMessage())


def test_what_is_short_says_nothing(caplog):
    with caplog.at_level(logging.WARNING, logger="attnflow_hf"):
        flow_shapley(make_graph("diffuse", 2, 13), output_positions=[0, 1], n_permutations=2)
    assert not caplog.records


# Texts


def graph_of(attributor, text):
    model = attributor.model
    model.set_attn_implementation("eager")
    found = model(**attributor.tokenizer(text, return_tensors="pt"), output_attentions=True).attentions
    return LayerGraph.from_attentions([each.detach() for each in found])


@pytest.mark.parametrize("build", [bert, gpt2])
@pytest.mark.parametrize("text", ["the old cabinets", LONG])
def test_scores_are_those_of_the_steps_done_by_hand(build, text):
    attributor = Attributor(build(), tokenizer())
    found = attributor(text, method="flow_shapley", n_permutations=4, seed=2, layer=1)
    graph = graph_of(Attributor(build(), tokenizer()), text)
    wanted = flow_shapley(graph, output_positions=found.output_position, n_permutations=4, seed=2, layer=1)
    assert_allclose(found.scores, wanted.values[0], rtol=0, atol=1e-6)
    assert (found.method, found.backend, found.saturation) == ("flow_shapley", "numba", None)
    if text == LONG:
        assert_allclose(found.standard_errors, wanted.standard_errors[0], rtol=0, atol=1e-6)
        most = f"{found.standard_errors.max():.1g}"
        assert found.notes[-1] == f"estimated from 4 random orders (seed 2): standard errors are up to {most}"
    else:
        assert found.standard_errors is None
        assert not found.notes


def test_standard_errors_go_with_their_scores():
    attributor = Attributor(bert(), tokenizer())
    options = {"method": "flow_shapley", "n_permutations": 3}
    plain = attributor(LONG, **options, normalize="none")
    by_max = attributor(LONG, **options, normalize="max")
    assert_allclose(by_max.standard_errors, plain.standard_errors / plain.scores.max(), rtol=1e-12)
    dropped = attributor(LONG, **options, special_tokens="drop")
    assert dropped.standard_errors.shape == dropped.scores.shape == (len(plain.scores) - 2,)
    assert_allclose(dropped.standard_errors, plain.standard_errors[1:-1] / plain.scores[1:-1].sum(), rtol=1e-12)
    zeroed = attributor(LONG, **options, first_token="zero")
    assert (zeroed.scores[0], zeroed.standard_errors[0]) == (0, 0)


def test_standard_errors_of_several_positions_and_layers():
    attributor = Attributor(bert(), tokenizer())
    options = {"method": "flow_shapley", "n_permutations": 3, "normalize": "none"}
    every = attributor(LONG, **options, output_position="all", layer="all")
    n = len(every.tokens)
    assert every.standard_errors.shape == every.scores.shape == (3, n, n)
    mean = attributor(LONG, **options, output_position="mean")
    assert_allclose(mean.scores, every.scores[-1].mean(axis=0), rtol=1e-12)
    by_hand = np.sqrt((every.standard_errors[-1] ** 2).sum(axis=0)) / n
    assert_allclose(mean.standard_errors, by_hand, rtol=1e-12)
    dropped = attributor(LONG, **options, output_position="all", special_tokens="drop")
    assert_array_equal(dropped.standard_errors, every.standard_errors[-1, 1:-1, 1:-1])


def test_they_are_saved(tmp_path):
    found = Attributor(bert(), tokenizer())(LONG, method="flow_shapley", n_permutations=2)
    found.save(tmp_path / "a.json")
    back = Attribution.load(tmp_path / "a.json")
    assert_array_equal(back.standard_errors, found.standard_errors)
    assert back.to_dict() == found.to_dict()
    assert not back.standard_errors.flags.writeable


def test_corrected_by_the_uniform_graph():
    """The worst case of two errors: their shares of what they belong to are added."""
    attributor = Attributor(gpt2(), tokenizer())
    options = {"method": "flow_shapley", "n_permutations": 3, "normalize": "none"}
    plain = attributor(LONG, **options)
    found = attributor(LONG, **options, position_correction="uniform")
    graph = uniform_causal_graph(found.layer + 1, len(found.tokens))
    uniform = flow_shapley(graph, output_positions=found.output_position, n_permutations=3)
    assert_allclose(found.scores, plain.scores / uniform.values[0], rtol=1e-12)
    shares = plain.standard_errors / plain.scores + uniform.standard_errors[0] / uniform.values[0]
    assert_allclose(found.standard_errors, found.scores * shares, rtol=1e-12)


def test_compare_leaves_it_out_unless_it_is_asked_for():
    attributor = Attributor(bert(), tokenizer())
    assert list(attributor.compare(LONG)) == ["raw", "rollout", "flow"]
    found = attributor.compare(LONG, methods=["flow_shapley", "rollout"], options=Options(n_permutations=2))
    assert list(found) == ["flow_shapley", "rollout"]
    assert found["rollout"].standard_errors is None
    assert_array_equal(found["flow_shapley"].scores, attributor(LONG, method="flow_shapley", n_permutations=2).scores)
