import json

import numpy as np
import pytest
from architectures import ARCHITECTURES
from scipy.stats import spearmanr
from tiny_models import bert, gpt2, llama, shared_folder, tokenizer

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, flow, rollout
from attnflow_hf.errors import OptionError
from attnflow_hf.position_bias import correct_positions, uniform_causal_graph

TEXT = "the key to the old cabinets is on a table"
BY_NAME = {each.name: each for each in ARCHITECTURES}
SENTENCES = [
    "Once upon a time, there was a little girl who lived near the sea with her old dog",
    "Tom and his dog went to the park to play with a big red ball and many friends",
    "The cat sat on the mat and looked at the bird that was singing in the tall tree",
    "One day, Lily found a small box under her bed, and in the box there was a shiny key",
]


def by_hand(n_layers, n, r):
    """The uniform causal graph, entry by entry."""
    weights = np.zeros((n_layers, n, n))
    for layer in range(n_layers):
        for query in range(n):
            for key in range(query + 1):
                weights[layer, query, key] = (1 - r) / (query + 1) + r * (query == key)
    return LayerGraph(weights)


def test_worked_example_of_the_uniform_graph():
    """Query 1 gives a half to each of two, query 2 a third to each of three; then half of that, and half to itself."""
    weights = uniform_causal_graph(2, 3).weights
    np.testing.assert_allclose(weights, [[[1, 0, 0], [1 / 4, 3 / 4, 0], [1 / 6, 1 / 6, 2 / 3]]] * 2, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(uniform_causal_graph(1, 4, residual_weight=0).weights[0, 3], [0.25] * 4)


def test_worked_example_of_a_correction():
    """Token 0 got twice what its place gives, token 1 half; nothing can reach token 2, and nothing did."""
    found = correct_positions(np.array([[0.5, 0.25, 0.0]]), np.array([[0.25, 0.5, 0.0]]))
    np.testing.assert_array_equal(found, [[2.0, 0.5, 0.0]])


@pytest.mark.parametrize("residual", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize(("n_layers", "n"), [(1, 1), (3, 5)])
def test_the_uniform_graph_is_that_made_entry_by_entry(n_layers, n, residual):
    found = uniform_causal_graph(n_layers, n, residual_weight=residual)
    np.testing.assert_allclose(found.weights, by_hand(n_layers, n, residual).weights, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=0, atol=1e-14)
    assert found.is_causal


def test_layers_without_attention_are_identity():
    weights = uniform_causal_graph(3, 4, residual_weight=0.2, residual_layers=[0, 2]).weights
    np.testing.assert_array_equal(weights[[0, 2]], [np.eye(4)] * 2)
    np.testing.assert_allclose(weights[1], by_hand(1, 4, 0.2).weights[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [rollout, flow])
def test_the_uniform_graph_itself_becomes_all_ones(function):
    graph = uniform_causal_graph(3, 5)
    values = function(graph, output_positions=list(range(5)))
    np.testing.assert_array_equal(correct_positions(values, values), np.tri(5))


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize(("method", "function"), [("rollout", rollout), ("flow", flow)])
@pytest.mark.parametrize("residual", [0.3, 0.5])
def test_scores_are_the_values_divided_by_those_of_the_uniform_graph(build, method, function, residual):
    attributor = Attributor(build(), tokenizer())
    options = {"method": method, "normalize": "none", "residual_weight": residual}
    n = len(attributor(TEXT, **options).tokens)
    for position, layer in (("all", -1), (4, "all"), (-1, 1)):
        plain = attributor(TEXT, **options, output_position=position, layer=layer)
        found = attributor(TEXT, **options, output_position=position, layer=layer, position_correction="uniform")
        rows = list(range(n)) if position == "all" else [plain.output_position]
        uniform = function(by_hand(3, n, residual), output_positions=rows, layer=layer)
        uniform = uniform if position == "all" else uniform[..., 0, :]
        wanted = np.divide(plain.scores, uniform, out=np.zeros_like(plain.scores), where=uniform > 0)
        np.testing.assert_allclose(found.scores, wanted, rtol=1e-10, atol=1e-12)


def test_raw_attention_is_divided_by_the_even_share():
    """A row over `n` earlier tokens has `1 / n` each, without the residual that raw attention does not have."""
    attributor = Attributor(gpt2(), tokenizer())
    options = {"method": "raw", "output_position": 5, "normalize": "none"}
    plain = attributor(TEXT, **options).scores
    found = attributor(TEXT, **options, position_correction="uniform").scores
    np.testing.assert_allclose(found, plain * 6, rtol=1e-12, atol=0)


def test_the_mean_is_taken_of_corrected_values():
    attributor = Attributor(gpt2(), tokenizer())
    options = {"method": "rollout", "position_correction": "uniform", "normalize": "none"}
    every = attributor(TEXT, **options, output_position="all").scores
    found = attributor(TEXT, **options, output_position="mean").scores
    np.testing.assert_allclose(found, every.mean(axis=0), rtol=0, atol=1e-12)


def test_scores_are_normalized_and_tokens_dropped_after_the_correction():
    attributor = Attributor(gpt2(), tokenizer())
    plain = attributor(TEXT, method="rollout", position_correction="uniform", normalize="none").scores
    found = attributor(TEXT, method="rollout", position_correction="uniform", first_token="drop")
    np.testing.assert_allclose(found.scores, plain[1:] / plain[1:].sum(), rtol=0, atol=1e-12)


def test_hybrids_are_divided_by_a_graph_with_the_same_layers():
    attributor = Attributor(BY_NAME["jamba"].build(), tokenizer())
    options = {"method": "rollout", "normalize": "none"}
    plain = attributor(TEXT, **options).scores
    found = attributor(TEXT, **options, position_correction="uniform").scores
    uniform = rollout(by_hand(2, len(plain), 0.5), output_positions=[-1])[0]  # two of four layers have attention
    np.testing.assert_allclose(found, plain / uniform, rtol=1e-10, atol=0)


def test_the_correction_is_recorded(tmp_path):
    attributor = Attributor(gpt2(), tokenizer())
    found = attributor(TEXT, method="rollout", position_correction="uniform")
    assert found.position_correction == "uniform"
    assert attributor(TEXT, method="rollout").position_correction == "none"
    found.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["position_correction"] == "uniform"
    loaded = Attribution.load(tmp_path / "a.json")
    assert loaded.position_correction == "uniform"
    np.testing.assert_array_equal(loaded.scores, found.scores)
    compared = attributor.compare(TEXT, options=Options(position_correction="uniform"))
    np.testing.assert_allclose(compared["rollout"].scores, found.scores, rtol=0, atol=1e-12)


def test_a_model_that_is_not_causal_has_no_correction():
    with pytest.raises(OptionError, match=r"divides by the uniform causal graph, but BertFor.* is not causal"):
        Attributor(bert(), tokenizer())(TEXT, position_correction="uniform")
    with pytest.raises(OptionError, match="but T5ForConditionalGeneration is not causal"):
        Attributor(BY_NAME["t5"].build(), tokenizer())(TEXT, text_target="the cat", position_correction="uniform")
    with pytest.raises(OptionError, match="unknown position_correction 'shuffled'; choose one of 'none', 'uniform'"):
        Attributor(gpt2(), tokenizer())(TEXT, position_correction="shuffled")


def correlation_with_position(method, position, correction):
    """The mean over sentences of Spearman's correlation of scores with positions, of a trained model."""
    attributor = Attributor.from_pretrained(shared_folder("models") / "stories260K")
    found = attributor(SENTENCES, method=method, output_position=position, position_correction=correction)
    return float(np.mean([spearmanr(each.scores, np.arange(len(each.scores))).statistic for each in found]))


@pytest.mark.shared
@pytest.mark.parametrize(("method", "position"), [("rollout", "mean"), ("flow", "mean"), ("flow", "auto")])
def test_early_tokens_of_a_trained_model_lose_their_lead(method, position):
    before, after = (correlation_with_position(method, position, each) for each in ("none", "uniform"))
    assert before < -0.7
    assert abs(after) < abs(before) - 0.1


@pytest.mark.shared
def test_rollout_of_the_last_position_is_corrected_beyond_its_bias():
    """It has none toward early tokens in this model, which looks at near ones: divided, it follows position more."""
    before, after = (correlation_with_position("rollout", "auto", each) for each in ("none", "uniform"))
    assert 0 < before < after
