import copy
import pickle

import numpy as np
import pytest
import torch

from attnflow_hf import AttnFlowError, LayerGraph
from attnflow_hf.errors import ArrayError, OptionError, PositionError, TooLargeError


def softmax(scores):
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@pytest.fixture
def attentions():
    """Two layers of attentions [batch, head, query, key] with rows that sum to 1."""
    return [softmax(np.random.default_rng(layer).normal(size=(1, 3, 4, 4))) for layer in range(2)]


def test_worked_example():
    # Two heads. Their mean W = [[1, 0], [.25, .75]], so A = W/2 + I/2 = [[1, 0], [.125, .875]].
    heads = np.array([[[1, 0], [0.5, 0.5]], [[1, 0], [0, 1.0]]])
    graph = LayerGraph.from_attentions([heads])
    np.testing.assert_allclose(graph.weights[0], [[1, 0], [0.125, 0.875]], rtol=0, atol=1e-15)
    assert (graph.n_layers, graph.n_tokens, graph.is_causal) == (1, 2, True)


@pytest.mark.parametrize("residual_weight", [0, 0.3, 0.5, 1])
def test_rows_sum_to_one(attentions, residual_weight):
    graph = LayerGraph.from_attentions(attentions, residual_weight=residual_weight)
    np.testing.assert_allclose(graph.weights.sum(axis=-1), 1, rtol=0, atol=1e-14)


def test_residual_weight_mixes(attentions):
    plain = LayerGraph.from_attentions(attentions, residual_weight=0).weights
    mixed = LayerGraph.from_attentions(attentions, residual_weight=0.3).weights
    np.testing.assert_allclose(mixed, 0.7 * plain + 0.3 * np.eye(4), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("head_reduction", "reduce"),
    [
        ("mean", lambda w: w.mean(0)),
        ("max", lambda w: w.max(0)),
        ("min", lambda w: w.min(0)),
        (1, lambda w: w[1]),
        (-1, lambda w: w[2]),
        ([0, 2], lambda w: (w[0] + w[2]) / 2),
        ((2,), lambda w: w[2]),
        (np.int64(1), lambda w: w[1]),
    ],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_head_reductions(attentions, head_reduction, reduce, as_tensor):
    given = [torch.tensor(w) for w in attentions] if as_tensor else attentions
    graph = LayerGraph.from_attentions(given, head_reduction=head_reduction, residual_weight=0)
    reduced = np.stack([reduce(w[0]) for w in attentions])
    np.testing.assert_allclose(graph.weights, reduced / reduced.sum(-1, keepdims=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_averaged_in_float32(dtype):
    # 64 heads whose entries differ by less than a half type can tell in a running sum.
    heads = torch.tensor(softmax(np.random.default_rng(0).normal(size=(64, 8, 8)))).to(dtype)
    graph = LayerGraph.from_attentions([heads], residual_weight=0)
    exact = heads.double().mean(0)
    np.testing.assert_allclose(graph.weights[0], exact / exact.sum(-1, keepdim=True), rtol=0, atol=1e-7)
    np.testing.assert_allclose(graph.weights.sum(-1), 1, rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_is_cropped_on_either_side(side):
    real = softmax(np.random.default_rng(0).normal(size=(3, 4, 4)))
    before, after = {"left": (2, 0), "right": (0, 2), "both": (1, 2)}[side]
    padded = np.pad(real, ((0, 0), (before, after), (before, after)))
    padded[:, :before] = padded[:, 4 + before :] = 1 / padded.shape[-1]  # rows of padding attend everywhere
    mask = [0] * before + [1] * 4 + [0] * after
    wanted = LayerGraph.from_attentions([real]).weights
    for given in (mask, [mask], torch.tensor(mask), np.array(mask, dtype=bool)):
        got = LayerGraph.from_attentions([padded], attention_mask=given)
        np.testing.assert_array_equal(got.weights, wanted)


def test_one_sample_of_a_batch():
    batch = softmax(np.random.default_rng(0).normal(size=(2, 3, 4, 4)))
    got = LayerGraph.from_attentions([batch], attention_mask=np.ones((2, 4)), batch_index=1)
    np.testing.assert_array_equal(got.weights, LayerGraph.from_attentions([batch[1]]).weights)
    with pytest.raises(ArrayError, match="a batch of 2 samples; choose one with batch_index="):
        LayerGraph.from_attentions([batch])
    with pytest.raises(PositionError, match="batch_index 2 is out of range"):
        LayerGraph.from_attentions([batch], batch_index=2)


def test_weights_are_a_frozen_copy():
    mine = np.ones((1, 2, 2))
    graph = LayerGraph(mine)
    mine[:] = 7
    assert graph.weights.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        graph.weights[0] = 0
    with pytest.raises(AttributeError, match="cannot assign to field"):
        graph.weights = mine


@pytest.mark.parametrize(
    "given",
    [
        np.ones((2, 3, 3), dtype=np.float16),
        np.ones((2, 3, 3), dtype=np.int32),
        np.ones((3, 3, 2)).transpose(2, 0, 1),
        [[[1, 1, 1]] * 3] * 2,
    ],
)
def test_any_real_array_becomes_contiguous_float64(given):
    weights = LayerGraph(given).weights
    assert weights.dtype == np.float64
    assert weights.flags.c_contiguous
    np.testing.assert_array_equal(weights, np.ones((2, 3, 3)))


def test_unlimited_residual_edges_are_allowed_on_the_diagonal_alone():
    weights = np.ones((2, 3, 3))
    weights[:, range(3), range(3)] = np.inf
    assert np.isinf(LayerGraph(weights).weights).sum() == 6
    weights[1, 0, 2] = np.inf
    with pytest.raises(ArrayError, match=r"only the diagonal .* \[layer 1, query 0, key 2\] is"):
        LayerGraph(weights)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((2, 3)), r"\[layer, query, key\] .* got \(2, 3\)"),
        (np.ones((2, 3, 4)), r"got \(2, 3, 4\)"),
        (np.ones((0, 3, 3)), r"got \(0, 3, 3\)"),
        (np.ones((1, 0, 0)), r"got \(1, 0, 0\)"),
        (np.where(np.eye(3) > 0, 1, -1.0)[None], r"\[layer 0, query 0, key 1\] is -1"),
        (np.where(np.eye(3) > 0, np.nan, 1.0)[None], r"must not be NaN; \[layer 0, query 0, key 0\] is"),
    ],
)
def test_bad_weights(given, message):
    with pytest.raises(ArrayError, match=message):
        LayerGraph(given)


def test_rows_that_do_not_sum_to_one_are_named(attentions):
    attentions[1][0, 2, 3] *= 0.5
    with pytest.raises(ArrayError, match=r"layer 1, row 3 \(head 2\) sum to 0.5, not to 1; .*renormalize=True"):
        LayerGraph.from_attentions(attentions)
    graph = LayerGraph.from_attentions(attentions, renormalize=True)
    np.testing.assert_allclose(graph.weights.sum(-1), 1, rtol=0, atol=1e-14)


def test_mass_on_padding_is_an_error(attentions):
    with pytest.raises(ArrayError, match=r"layer 0, row .* not to 1; check the attention mask"):
        LayerGraph.from_attentions(attentions, attention_mask=[1, 1, 1, 0])


def test_a_row_of_zeros_cannot_be_renormalized(attentions):
    attentions[1][0, :, 2] = 0
    with pytest.raises(ArrayError, match="layer 1, row 2 sums to 0"):
        LayerGraph.from_attentions(attentions, renormalize=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w - 2, "negative entries .* scores from before the softmax"),
        (lambda w: np.where(w > 0.5, np.nan, w), "layer 0 have NaN or infinite"),
        (lambda w: w * np.inf, "layer 0 have NaN or infinite"),
        (lambda w: w[..., :3], "layer 0 are not square: 4 queries x 3 keys; local or pooled"),
        (lambda w: w[0, 0], r"must be \[head, query, key\], got \(4, 4\)"),
    ],
)
def test_attentions_that_are_not_probabilities(attentions, change, message):
    with pytest.raises(ArrayError, match=message):
        LayerGraph.from_attentions([change(attentions[0])])


def test_layers_of_different_sizes(attentions):
    other = softmax(np.zeros((1, 3, 5, 5)))
    with pytest.raises(ArrayError, match="layer 0 has 4 tokens, but layer 1 has 5"):
        LayerGraph.from_attentions([attentions[0], other])


@pytest.mark.parametrize("nothing", [(), []])
def test_no_attentions(nothing):
    with pytest.raises(ArrayError, match="got no attentions at all; load the model with attn_implementation='eager'"):
        LayerGraph.from_attentions(nothing)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([1, 1, 1], "attention_mask has 3 tokens, the attentions of layer 0 4"),
        ([0, 0, 0, 0], "marks every token as padding"),
        (np.ones((1, 1, 4, 4)), r"must be \[token\] or \[batch, token\], got \(1, 1, 4, 4\)"),
    ],
)
def test_bad_masks(attentions, mask, message):
    with pytest.raises(ArrayError, match=message):
        LayerGraph.from_attentions(attentions, attention_mask=mask)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", None, True, float("nan")])
def test_bad_residual_weights(attentions, value):
    with pytest.raises(OptionError, match="residual_weight must be a number from 0 to 1"):
        LayerGraph.from_attentions(attentions, residual_weight=value)


@pytest.mark.parametrize("value", ["median", [], 1.5, None, [0, "a"], True])
def test_bad_head_reductions(attentions, value):
    with pytest.raises(OptionError, match="head_reduction"):
        LayerGraph.from_attentions(attentions, head_reduction=value)


@pytest.mark.parametrize("value", [3, -4, [0, 3]])
def test_heads_out_of_range(attentions, value):
    with pytest.raises(PositionError, match=r"head \(of layer 0\) -?\d is out of range: there are 3"):
        LayerGraph.from_attentions(attentions, head_reduction=value)


def test_is_causal_looks_at_every_layer():
    lower = np.tril(np.ones((2, 3, 3)))
    assert LayerGraph(lower).is_causal
    for query, key in ((0, 1), (0, 2), (1, 2)):
        ahead = lower.copy()
        ahead[1, query, key] = 1e-300
        assert not LayerGraph(ahead).is_causal


def test_repr_and_root_error():
    assert repr(LayerGraph(np.ones((2, 3, 3)))) == "LayerGraph(2 layers, 3 tokens)"
    with pytest.raises(AttnFlowError, match="layer graph needs"):
        LayerGraph(3.0)


def test_more_than_the_memory_is_refused_before_any_is_taken():
    # 12 x 400,000 x 400,000 numbers of 8 bytes are 15,360 GB; NumPy itself would say so only when it takes them.
    with pytest.raises(TooLargeError, match=r"^the layer graph would need 15,360\.0 GB of memory; this machine has \d"):
        LayerGraph(np.broadcast_to(np.float64(0.5), (12, 400_000, 400_000)))


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_frozen_too(duplicate):
    graph = LayerGraph(np.arange(8).reshape(2, 2, 2))
    other = duplicate(graph)
    np.testing.assert_array_equal(other.weights, graph.weights)
    assert not other.weights.flags.writeable


# Three tokens, two layers; each weight is another power of two, so that a sum tells which edges are in it.
POWERS = LayerGraph(2.0 ** np.arange(18).reshape(2, 3, 3))


def test_worked_example_of_a_cut():
    # The source's side: position 1 on top, nodes 0 and 2 of level 1, tokens 0 and 1. To the sink's side lead
    #   from position 1 to node 1: layer 1, 2^(9 + 3 + 1) = 8192;
    #   from nodes 0 and 2 to token 2: layer 0, 2^2 + 2^8 = 260.
    # The edges the other way, as from node 1 to token 0, do not count.
    cut = np.array([[True, True, False], [True, False, True], [False, True, False]])
    capacity = POWERS.cut_capacity(cut)
    assert capacity.shape == ()
    assert capacity == 8192 + 260
    assert POWERS.cut_capacity(cut[:2]) == 260  # a cut of the lowest layer alone


def test_each_edge_counts_where_it_crosses_down():
    for layer, query, key in np.ndindex(2, 3, 3):
        cut = np.zeros((3, 3), dtype=bool)
        cut[:layer] = True  # nothing crosses below
        cut[layer] = np.arange(3) != key
        cut[layer + 1, query] = True
        assert POWERS.cut_capacity(cut) == POWERS.weights[layer, query, key]


def test_batches_of_cuts():
    cuts = np.random.default_rng(0).random((4, 5, 3, 3)) < 0.5
    capacities = POWERS.cut_capacity(cuts)
    assert capacities.shape == (4, 5)
    for index in np.ndindex(4, 5):
        assert capacities[index] == POWERS.cut_capacity(cuts[index])
    assert POWERS.cut_capacity(cuts[:0]).shape == (0, 5)
    assert not POWERS.cut_capacity(np.zeros((2, 3, 3), dtype=bool)).any()
    assert not POWERS.cut_capacity(np.ones((2, 3, 3), dtype=bool)).any()


def test_only_an_unlimited_edge_that_crosses_makes_a_cut_unlimited():
    graph = LayerGraph([[[np.inf, 1], [2, 4]], [[8, 16], [32, np.inf]]])
    cuts = [
        [[False, True], [True, False], [True, False]],  # an unlimited edge crosses, from node 0 to token 0
        [[True, False], [True, False], [False, True]],  # one from position 1 to node 1
        [[True, False], [True, False], [True, False]],  # both ends on one side; from 0 to 1 twice: 16 + 1
        [[True, False], [False, True], [False, True]],  # only the lower end of one on the source's side: 32 + 4
        [[False, True], [False, True], [True, False]],  # only the lower end of the other: 8 + 2
    ]
    expected = [np.inf, np.inf, 16 + 1, 32 + 4, 8 + 2]
    np.testing.assert_array_equal(graph.cut_capacity(np.array(cuts)), expected)


def test_a_cut_wider_than_float64_is_unlimited():
    graph = LayerGraph(np.full((1, 2, 2), 1.7e308))
    assert graph.cut_capacity(np.array([[False, False], [True, True]])) == np.inf
    assert graph.cut_capacity(np.array([[True, False], [True, False]])) == 1.7e308


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (np.ones((3, 3)), r"a cut is bool \[..., level, token\] with 3 tokens, got float64 \(3, 3\)"),
        (np.ones((3, 3), dtype=int), r"got int64 \(3, 3\)"),
        (np.ones(3, dtype=bool), r"got bool \(3,\)"),
        (np.ones((3, 2), dtype=bool), r"with 3 tokens, got bool \(3, 2\)"),
        (np.ones((1, 3), dtype=bool), "a cut of this graph has 2 to 3 levels, got 1"),
        (np.ones((2, 4, 3), dtype=bool), "has 2 to 3 levels, got 4"),
    ],
)
def test_what_is_no_cut(cut, message):
    with pytest.raises(ArrayError, match=message):
        POWERS.cut_capacity(cut)
