import networkx as nx
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from graph_makers import mix, softmax
from tiny_models import bert, gpt2, tokenizer

from attnflow_hf import LayerGraph, flow, rollout
from attnflow_hf.capture import capture, report_on
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport, Site
from attnflow_hf.captured_graph import GraphLayout, captured_graph, layout_of
from attnflow_hf.errors import ArrayError

RESIDUALS = [0, 0.3, 0.5, 1]
TEXT = "the key to the old cabinets is on a table"
BY_NAME = {each.name: each for each in ARCHITECTURES}


def encoded(**options):
    return dict(tokenizer()(TEXT, return_tensors="pt", **options))


def plain_eager(model, inputs):
    """The attentions that the model itself reports, `[head, query, key]` a layer."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return [each[0] for each in model(**inputs, output_attentions=True).attentions if each is not None]


def graph_of(model, inputs, **options):
    captured = capture(model, inputs)
    return captured_graph([matrix[0].numpy() for matrix in captured.matrices], captured.report, **options)


def flow_of_all(graph, layer=-1, backend="auto"):
    return flow(graph, layer=layer, output_positions=list(range(graph.n_tokens)), backend=backend)


def rollout_of_all(graph, layer=-1):
    return rollout(graph, layer=layer, output_positions=list(range(graph.n_tokens)))


# One stack of layers


@pytest.mark.parametrize("build", [bert, gpt2])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_single_stack_is_the_layer_graph_of_its_plain_attentions(build, residual):
    graph = graph_of(build(), encoded(), residual_weight=residual)
    wanted = LayerGraph.from_attentions(plain_eager(build(), encoded()), residual_weight=residual)
    np.testing.assert_allclose(graph.weights, wanted.weights, rtol=0, atol=1e-7)
    np.testing.assert_allclose(graph.weights.sum(axis=-1), 1, rtol=0, atol=1e-12)
    assert graph.is_causal == (build is gpt2 or residual == 1)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_layers_without_attention_are_identity_whatever_the_residual_weight(residual):
    model = BY_NAME["jamba"].build()
    graph = graph_of(model, encoded(), residual_weight=residual)
    assert report_on(model).residual_layers == (0, 2)
    np.testing.assert_array_equal(graph.weights[[0, 2]], np.stack([np.eye(graph.n_tokens)] * 2))
    with_attention = LayerGraph.from_attentions(plain_eager(model, encoded()), residual_weight=residual)
    np.testing.assert_allclose(graph.weights[[1, 3]], with_attention.weights, rtol=0, atol=1e-7)
    for function in (rollout_of_all, flow_of_all):  # an identity neither adds nor takes
        np.testing.assert_allclose(function(graph), function(with_attention), rtol=0, atol=1e-6)


def test_layout_of_a_single_stack():
    report = CaptureReport("Tiny", "interface", tuple(Site("encoder", layer, 1) for layer in (0, 2)), n_layers=3)
    assert layout_of(report, 5) == GraphLayout(5, 0, 0, 5, (0, 1, 2))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], r"attentions of layer 4, row 0 \(head 0\) sum to 1.1, not to 1"),
        ([[1.0, 0.0], [1.5, -0.5]], r"attentions of layer 4 have negative entries \(lowest -0.5\)"),
        ([[1.0, 0.0], [np.nan, 0.5]], r"attentions of layer 4 have NaN or infinite entries"),
    ],
)
def test_what_is_no_probability_is_refused(matrix, message):
    report = CaptureReport("Tiny", "interface", (Site("encoder", 4, 1),), n_layers=5)
    with pytest.raises(ArrayError, match=message):
        captured_graph([np.float32(matrix)], report)


def test_rows_that_are_no_head_means_are_divided_by_their_sums():
    report = CaptureReport("Tiny", "interface", (Site("encoder", 0, 1),), n_layers=1)
    graph = captured_graph([np.float32([[1, 1], [0, 3]])], report, residual_weight=0, row_sum_tolerance=np.inf)
    np.testing.assert_array_equal(graph.weights[0], [[0.5, 0.5], [0, 1]])
    with pytest.raises(ArrayError, match="layer 0, row 1 sums to 0"):
        captured_graph([np.float32([[1, 1], [0, 0]])], report, row_sum_tolerance=np.inf)
    with pytest.raises(ArrayError, match="layer 0 have NaN or infinite entries"):
        captured_graph([np.float32([[1, np.inf], [0, 1]])], report, row_sum_tolerance=np.inf)


# Attention sinks

SINKS = CaptureReport("Tiny", "interface", tuple(Site("encoder", i, 1) for i in range(2)), n_layers=2, has_sinks=True)


def random_sinks(n, seed=0):
    """Causal attentions `[query, 1 + key]` of two layers, column 0 the sink's."""
    scores = np.random.default_rng(seed).normal(size=(2, n, n + 1)) * 2
    return softmax(np.where(np.tri(n, n + 1, k=1, dtype=bool), scores, -np.inf)).astype(np.float32)


def test_worked_example_of_a_sink():
    """Token 0 gives half to the sink and half to itself, token 1 a quarter to each of the sink and token 0.

    With `r = 0.5` its row is `[1/8, 1/8, 3/4]` and that of token 0 `[1/4, 3/4, 0]`. Rollout of two such layers:
    `1/8 [1, 0, 0] + 1/8 [1/4, 3/4, 0] + 3/4 [1/8, 1/8, 3/4] = [1/4, 3/16, 9/16]`. Flow: to token 1 the straight path
    alone, 3/4; to token 0 `1/8` straight down and `1/8` by token 1, 1/4; to the sink `1/8` of its own, `1/8` by token
    0 (whose edge of 1/4 holds it), `1/8` by token 1, 3/8.
    """
    matrix = np.float32([[0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    graph = captured_graph([matrix, matrix], SINKS)
    np.testing.assert_array_equal(graph.weights, [[[1, 0, 0], [0.25, 0.75, 0], [0.125, 0.125, 0.75]]] * 2)
    np.testing.assert_allclose(rollout(graph, output_positions=[2]), [[1 / 4, 3 / 16, 9 / 16]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(flow(graph, output_positions=[2]), [[3 / 8, 1 / 4, 3 / 4]], rtol=0, atol=1e-15)
    assert layout_of(SINKS, 2) == GraphLayout(3, 1, 1, 2, (0, 1))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("backend", ["networkx", "numba"])
@pytest.mark.parametrize("seed", range(3))
def test_tokens_get_from_a_graph_with_a_sink_what_they_get_without_it(seed, residual, backend):
    matrices = random_sinks(6, seed)
    graph = captured_graph(list(matrices), SINKS, residual_weight=residual)
    rows = matrices.astype(np.float64)
    without = LayerGraph(mix((rows / rows.sum(axis=-1, keepdims=True))[..., 1:], residual))
    np.testing.assert_allclose(flow_of_all(graph, backend=backend)[1:, 1:], flow_of_all(without), rtol=0, atol=1e-12)
    np.testing.assert_allclose(rollout_of_all(graph)[1:, 1:], rollout_of_all(without), rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("seed", range(3))
def test_laws_of_a_graph_with_a_sink(seed, residual):
    graph = captured_graph(list(random_sinks(6, seed)), SINKS, residual_weight=residual)
    assert graph.is_causal
    np.testing.assert_allclose(graph.weights.sum(axis=-1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(graph.weights[:, 0], [[1, 0, 0, 0, 0, 0, 0]] * 2)
    found = rollout_of_all(graph)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=1e-12)
    assert (found <= flow_of_all(graph) + 1e-12).all()


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_sink_of_a_model_is_what_the_rows_of_its_plain_attentions_lack(residual):
    model = BY_NAME["gpt_oss"].build()
    graph = graph_of(model, encoded(), residual_weight=residual)
    assert graph.is_causal
    means = [heads.mean(dim=0).double().numpy() for heads in plain_eager(model, encoded())]
    assert min(mean.sum(axis=-1).min() for mean in means) < 0.9  # the sinks do take something
    for weights, mean in zip(graph.weights, means, strict=True):
        np.testing.assert_allclose(weights[1:, 1:], mix(mean, residual), rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[1:, 0], (1 - residual) * (1 - mean.sum(axis=-1)), rtol=0, atol=1e-6)


# An encoder and its decoder


def joint_report(n_encoder, n_decoder):
    sites = [Site(ENCODER, layer, 1) for layer in range(n_encoder)]
    sites += [Site(part, layer, 1) for layer in range(n_decoder) for part in (DECODER, CROSS)]
    return CaptureReport("Tiny", "interface", tuple(sites), n_layers=n_encoder + n_decoder)


JOINT = joint_report(2, 2)


def random_joint(n, m, seed=0, sharpness=2.0):
    """The attentions of two encoder layers over `n` tokens and two causal decoder layers over `m`, in their order."""
    rng = np.random.default_rng(seed)

    def draw(queries, keys, *, is_causal=False):
        scores = rng.normal(size=(queries, keys)) * sharpness
        return softmax(np.where(np.tri(queries, keys, dtype=bool), scores, -np.inf) if is_causal else scores)

    encoder = [draw(n, n) for _ in range(2)]
    decoder = [each for _ in range(2) for each in (draw(m, m, is_causal=True), draw(m, n))]
    return [each.astype(np.float32) for each in encoder + decoder]


def parts_of(matrices):
    """The attentions in float64, rows of sum 1, as encoder, decoder and cross."""
    rows = [each.astype(np.float64) / each.astype(np.float64).sum(axis=-1, keepdims=True) for each in matrices]
    return rows[:2], rows[2::2], rows[3::2]


def joint_rollout(matrices, r, n_layers=2):
    """Rollout of the decoder's positions, `[position, encoder's then decoder's token]`, by recursion.

    Below the first decoder layer a position is its own token, `D = [0 | I]`. Self attention makes it `A D`; cross
    attention keeps `r` of that and takes `1 - r` from the encoder's last level, which is `[E | 0]` by its layers.
    """
    encoder, decoder, cross = parts_of(matrices)
    n, m = len(encoder[0]), len(decoder[0])
    top = np.eye(n)
    for own in encoder:
        top = mix(own, r) @ top
    encoded_top = np.hstack([top, np.zeros((n, m))])
    state = np.hstack([np.zeros((m, n)), np.eye(m)])
    for own, into in list(zip(decoder, cross, strict=True))[:n_layers]:
        state = r * (mix(own, r) @ state) + (1 - r) * (into @ encoded_top)
    return state


def joint_flow(matrices, r, n_layers=2):
    """Flow of the decoder's positions by networkx, on a graph whose nodes are the levels that the model has.

    There is one last level of the encoder, which all decoder layers read, and nothing passes through anything.
    """
    encoder, decoder, cross = parts_of(matrices)
    n, m = len(encoder[0]), len(decoder[0])
    graph = nx.DiGraph()
    for level, own in enumerate(encoder):
        add_edges(graph, ("encoder", level + 1), ("encoder", level), mix(own, r))
    for level, (own, into) in enumerate(zip(decoder, cross, strict=True)):
        add_edges(graph, ("self", level), ("decoder", level), mix(own, r))
        add_edges(graph, ("decoder", level + 1), ("self", level), r * np.eye(m))
        add_edges(graph, ("decoder", level + 1), ("encoder", len(encoder)), (1 - r) * into)
    sinks = [("encoder", 0, i) for i in range(n)] + [("decoder", 0, i) for i in range(m)]
    graph.add_nodes_from(sinks)
    return np.array(
        [[nx.maximum_flow_value(graph, ("decoder", n_layers, query), sink) for sink in sinks] for query in range(m)]
    )


def add_edges(graph, above, below, weights):
    graph.add_nodes_from((*above, query) for query in range(len(weights)))
    for query, key in zip(*np.nonzero(weights), strict=True):
        graph.add_edge((*above, query), (*below, key), capacity=float(weights[query, key]))


def test_worked_example_of_encoder_and_decoder():
    """Two encoder tokens a b, one decoder token d; two layers each; `r = 0.5`.

    Both encoder layers give a all to itself and b evenly, so `A = [[1, 0], [1/4, 3/4]]` and both together
    `E = [[1, 0], [7/16, 9/16]]`. The first decoder layer looks at b, the second at a; its self attention is 1. Rollout:
    the first layer leaves `1/2 d` and gives `1/2 (7/16 a + 9/16 b)`; the second keeps half of that and takes `1/2 a`:
    `a = 7/64 + 1/2 = 39/64`, `b = 9/64`, `d = 1/4`.

    Flow to d: half through each cross stage in a row, 1/2. To a: 1/2 by the edge to the encoder's a, and 1/2 down the
    decoder and by its first layer to the encoder's b, whose edges to a let 1/4 through at each of two levels, `1/2`
    in all; together 1. To b: 1/2 by the encoder's b, which has 3/4 straight to b; a never comes to b: 1/2.
    """
    encoder, one = np.float32([[1, 0], [0.5, 0.5]]), np.float32([[1]])
    matrices = [encoder, encoder, one, np.float32([[0, 1]]), one, np.float32([[1, 0]])]
    graph = captured_graph(matrices, JOINT)
    assert (graph.n_layers, graph.n_tokens) == (6, 3)
    for stage in (0, 1):
        np.testing.assert_array_equal(graph.weights[stage], [[1, 0, 0], [0.25, 0.75, 0], [0, 0, 1]])
    for stage in (2, 4):
        np.testing.assert_array_equal(graph.weights[stage], np.eye(3))
    np.testing.assert_array_equal(graph.weights[3], [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(graph.weights[5], [[1, 0, 0], [0, 1, 0], [0.5, 0, 0.5]])
    np.testing.assert_allclose(rollout(graph, output_positions=[2]), [[39 / 64, 9 / 64, 1 / 4]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(flow(graph, output_positions=[2]), [[1, 1 / 2, 1 / 2]], rtol=0, atol=1e-15)


def test_layout_of_encoder_and_decoder():
    assert layout_of(JOINT, 5, 3) == GraphLayout(8, 0, 5, 3, (3, 5))
    assert layout_of(joint_report(1, 3), 4, 2) == GraphLayout(6, 0, 4, 2, (2, 4, 6))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(("n", "m"), [(4, 3), (2, 5)])
def test_rollout_of_both_is_that_of_the_recursion(n, m, residual):
    matrices = random_joint(n, m)
    graph = captured_graph(matrices, JOINT, residual_weight=residual)
    for layer, stage in enumerate(layout_of(JOINT, n, m).stages):
        wanted = joint_rollout(matrices, residual, layer + 1)
        np.testing.assert_allclose(rollout_of_all(graph, stage)[n:], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("backend", ["networkx", "numba"])
@pytest.mark.parametrize(("n", "m", "sharpness"), [(4, 3, 2.0), (2, 5, 0.2), (3, 3, 8.0)])
def test_passing_through_takes_nothing_from_flow(n, m, sharpness, residual, backend):
    matrices = random_joint(n, m, sharpness=sharpness)
    graph = captured_graph(matrices, JOINT, residual_weight=residual)
    for layer, stage in enumerate(layout_of(JOINT, n, m).stages):
        wanted = joint_flow(matrices, residual, layer + 1)
        np.testing.assert_allclose(flow_of_all(graph, stage, backend)[n:], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("seed", range(4))
def test_laws_of_encoder_and_decoder(seed, residual):
    n, m = 4, 5
    graph = captured_graph(random_joint(n, m, seed), JOINT, residual_weight=residual)
    np.testing.assert_allclose(graph.weights.sum(axis=-1), 1, rtol=0, atol=1e-12)
    rollouts, flows = rollout_of_all(graph), flow_of_all(graph)
    np.testing.assert_allclose(rollouts.sum(axis=-1), 1, rtol=0, atol=1e-12)
    assert (rollouts <= flows + 1e-12).all()
    assert (flows <= 1 + 1e-12).all()
    for values in (rollouts, flows):
        assert not np.triu(values[n:, n:], k=1).any()  # nothing from later tokens of the decoder
        assert not values[:n, n:].any()  # nothing from the decoder to the encoder


@pytest.mark.parametrize("seed", range(3))
def test_the_encoders_positions_are_those_of_the_encoder_alone(seed):
    matrices = random_joint(4, 3, seed)
    alone = captured_graph(matrices[:2], CaptureReport("Tiny", "interface", JOINT.sites[:2], n_layers=2))
    graph = captured_graph(matrices, JOINT)
    for function in (rollout_of_all, flow_of_all):
        np.testing.assert_allclose(function(graph)[:4, :4], function(alone), rtol=0, atol=1e-12)


def test_a_cross_attention_that_is_none_is_refused():
    matrices = random_joint(4, 3)
    matrices[3] = matrices[3] * 1.5
    with pytest.raises(ArrayError, match=r"attentions of layer 3, row \d \(head 0\) sum to 1.5, not to 1"):
        captured_graph(matrices, JOINT)
