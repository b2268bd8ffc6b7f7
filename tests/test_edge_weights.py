"""Attributions on attention times gradient: graphs, flows and targets, from the user's call to the result."""

import copy

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from architectures import ARCHITECTURES
from datasets import Dataset
from test_grad_capture import of_classes, plain
from tiny_models import BERT, bert, gpt2, llama, make, tokenizer
from transformers import pipeline

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, attach, flow, rollout, run_dataset
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER
from attnflow_hf.edge_weights import EDGE_WEIGHTS
from attnflow_hf.errors import AttnFlowError, OptionError, PositionError, TokenizerError
from attnflow_hf.evaluation import (
    evaluate_faithfulness,
    measure_faithfulness,
    summarize_faithfulness,
)
from attnflow_hf.grad_capture import capture_gradients
from attnflow_hf.run_page import page_of_run
from attnflow_hf.targets import Target
from attnflow_hf.unlimited import unlimited_flow, unlimited_graph
from attnflow_hf.windows import Windows, attribute_windows

TEXT = "the key to the old cabinets is on a table"
TEXTS = [TEXT, "the key", "one longer text and another text", "the cat sat"]
GRADS = {"edge_weights": "grad_attention", "normalize": "none"}
LABELS = {"id2label": {0: "low", 1: "high", 2: "none"}, "num_labels": 3}
BY_NAME = {each.name: each for each in ARCHITECTURES}


def encoded(text=TEXT):
    return dict(tokenizer()(text, return_tensors="pt"))


def edges_of(text=TEXT, target=0, **options):
    """`relu(sum over heads of A * dA)` of the tiny BERT, `[layer, query, key]`, by plain autograd."""
    model = bert(attn_implementation="eager", **options)
    found = plain(model, encoded(text), of_classes(target))
    return np.stack([found[ENCODER, layer][0].numpy() for layer in range(3)]).astype(np.float64)


@pytest.fixture
def attributor():
    return Attributor(bert(**LABELS), tokenizer(), batch_size=3)


# Graphs


def test_raw_weights_are_the_edges_themselves(attributor):
    for layer in range(3):
        found = attributor(TEXT, method="raw", layer=layer, target=1, output_position=0, **GRADS)
        np.testing.assert_allclose(found.scores, edges_of(target=1, **LABELS)[layer, 0], rtol=1e-4, atol=1e-8)
        assert found.residual_weight == 0


def test_rollout_is_that_of_chefer_but_for_a_factor(attributor):
    """Chefer et al. 2021 multiply `I + E`; `0.5 E + 0.5 I` is half of that in each layer."""
    edges = edges_of(target=2, **LABELS)
    wanted = np.linalg.multi_dot([np.eye(len(layer)) + layer for layer in edges[::-1]])[0]
    found = attributor(TEXT, method="rollout", target=2, **GRADS)
    np.testing.assert_allclose(found.scores, wanted / 2**3, rtol=1e-4, atol=1e-8)
    assert (found.residual_weight, found.normalize_rows, found.head_reduction) == (0.5, False, "sum")
    shares = attributor(TEXT, method="rollout", target=2, edge_weights="grad_attention").scores
    np.testing.assert_allclose(shares, wanted / wanted.sum(), rtol=1e-4, atol=1e-8)


def split_column_flow(edges, position, token):
    """The flow by NetworkX on a graph whose column of `position` stands twice; the copy gets what goes into it."""
    n_layers, n, _ = edges.shape
    network = nx.DiGraph()
    network.add_nodes_from([(level, k) for level in range(n_layers + 1) for k in [*range(n), "copy"]])
    for layer in range(n_layers):
        for query in [*range(n), "copy"]:
            network.add_edge((layer + 1, query), (layer, query))
        for query, key in np.ndindex(n, n):
            if edges[layer, query, key] > 0:
                is_back = key == position
                if is_back or query != key:
                    end = (layer, "copy" if is_back else key)
                    network.add_edge((layer + 1, query), end, capacity=float(edges[layer, query, key]))
    sink = (0, "copy" if token == position else token)
    return nx.maximum_flow_value(network, (n_layers, position), sink)


@pytest.mark.parametrize("position", [0, 4])
@pytest.mark.parametrize("backend", ["numba", "networkx"])
def test_flow_is_that_of_networkx_with_residual_edges_without_limit(attributor, backend, position):
    edges = edges_of(target=1, **LABELS)
    found = attributor(TEXT, target=1, output_position=position, backend=backend, **GRADS)
    wanted = [split_column_flow(edges, position, token) for token in range(edges.shape[1])]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-7)
    assert found.residual_weight == "unlimited"


def test_flow_to_other_tokens_is_the_flow_of_the_unlimited_graph():
    edges = edges_of()
    graph = unlimited_graph(LayerGraph(edges))
    assert np.isinf(np.diagonal(graph.weights, axis1=1, axis2=2)).all()
    for position in range(edges.shape[1]):
        got = unlimited_flow(LayerGraph(edges), "numba", [1, 2], [position])[:, 0]
        others = np.arange(edges.shape[1]) != position
        for index, layer in enumerate([1, 2]):
            wanted = flow(graph, output_positions=[position], layer=layer)[0]
            np.testing.assert_allclose(got[index, others], wanted[others], rtol=1e-12)
            assert np.isinf(wanted[position])
        assert np.isfinite(got).all()


def test_flow_is_no_more_than_the_columns_at_its_ends():
    edges = edges_of()
    n = edges.shape[1]
    sideways = edges * (1 - np.eye(n))
    for position in range(n):
        values = unlimited_flow(LayerGraph(edges), "numba", [2], [position])[0, 0]
        into = sideways[:2].sum(axis=(0, 1)) + edges[2, position]
        out = sideways[1:, position].sum() + edges[0, position]
        others = np.arange(n) != position
        assert (values[others] <= np.minimum(into, out)[others] * (1 + 1e-12)).all()
        assert values[position] <= edges[:, position].sum() * (1 + 1e-12)


@pytest.mark.parametrize("residual", [0.2, 0.5, 0.9])
def test_rollout_is_no_more_than_flow_and_flow_no_more_than_a_cut(attributor, residual):
    """Where no row gives more than 1, as rows do whose edges are small."""
    options = {"residual_weight": residual, "target": 0, "output_position": 3, **GRADS}
    for scale in (1.0, 1e-3):
        edges = edges_of(target=0, **LABELS) * scale
        graph = LayerGraph.from_weights(edges, residual_weight=residual, normalize_rows=False)
        if graph.weights.sum(axis=-1).max() > 1:
            continue
        product, most = rollout(graph, output_positions=[3])[0], flow(graph, output_positions=[3])[0]
        assert (product <= most * (1 + 1e-9)).all()
        assert (most <= np.minimum(graph.weights[0].sum(axis=0), graph.weights[2, 3].sum()) * (1 + 1e-9)).all()
    wanted = flow(LayerGraph.from_weights(edges_of(**LABELS), residual_weight=residual, normalize_rows=False))[3]
    np.testing.assert_allclose(attributor(TEXT, **options).scores, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", ["numba", "networkx"])
@pytest.mark.parametrize("scale", [2.0**-40, 1e-12, 1e9])
def test_flow_grows_with_its_edges_however_small(backend, scale):
    edges = edges_of()
    whole = unlimited_flow(LayerGraph(edges), backend, [2], [0, 3])
    scaled = unlimited_flow(LayerGraph(edges * scale), backend, [2], [0, 3])
    np.testing.assert_allclose(scaled, whole * scale, rtol=1e-12)


def test_rows_can_be_normalized_and_rows_of_zeros_stay(attributor):
    edges = edges_of(**LABELS)
    sums = edges.sum(axis=-1, keepdims=True)
    assert (sums == 0).any()  # the last layer is read at one position
    shares = np.divide(edges, sums, out=np.zeros_like(edges), where=sums > 0)
    options = {"target": 0, "normalize_rows": True, "residual_weight": 0.3, **GRADS}
    found = attributor(TEXT, method="rollout", **options)
    graph = LayerGraph.from_weights(shares, residual_weight=0.3, normalize_rows=False)
    np.testing.assert_allclose(found.scores, rollout(graph, output_positions=[0])[0], rtol=1e-4, atol=1e-7)
    assert found.normalize_rows


def test_attention_may_have_residual_edges_without_limit(attributor):
    found = attributor(TEXT, residual_weight="unlimited", normalize="none")
    attention = np.stack([attributor(TEXT, method="raw", layer=n, output_position="all").scores for n in range(3)])
    wanted = [split_column_flow(attention, 0, token) for token in range(attention.shape[1])]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-5)
    assert (found.residual_weight, found.edge_weights, found.target) == ("unlimited", "attention", None)


def test_a_sum_over_heads_is_a_mean_once_rows_are_normalized(attributor):
    summed, mean = (attributor(TEXT, head_reduction=name).scores for name in ("sum", "mean"))
    np.testing.assert_allclose(summed, mean, rtol=1e-5)
    plain_rows = attributor(TEXT, method="raw", head_reduction="sum", normalize_rows=False, normalize="none")
    assert plain_rows.scores.sum() == pytest.approx(4, rel=1e-5)  # four heads


# Targets


def test_the_predicted_class_is_explained_and_any_other_by_index_or_label(attributor):
    predicted = attributor(TEXT, **GRADS)
    assert predicted.target == predicted.prediction
    by_index = [attributor(TEXT, target=index, **GRADS) for index in range(3)]
    assert [each.target.label for each in by_index] == ["low", "high", "none"]
    assert all(each.prediction == predicted.prediction for each in by_index)
    np.testing.assert_array_equal(by_index[predicted.target.index].scores, predicted.scores)
    for index, label in enumerate(["low", "high", "none"]):
        found = attributor(TEXT, target=label, **GRADS)
        np.testing.assert_array_equal(found.scores, by_index[index].scores)
        logits = bert(**LABELS)(**encoded()).logits[0].detach()
        assert found.target.output == pytest.approx(float(logits[index]), abs=1e-5)
        assert found.target.probability == pytest.approx(float(logits.softmax(-1)[index]), abs=1e-5)
        assert f"target {label!r}; prediction" in found.summary()
        assert "flow on grad_attention" in found.summary()
    assert not np.allclose(by_index[0].scores, by_index[1].scores)


def test_a_batch_is_what_its_texts_are_alone_each_with_its_own_target(attributor):
    targets = ["none", 0, None, "high"]
    together = attributor(TEXTS, target=targets, **GRADS)
    for text, target, found in zip(TEXTS, targets, together, strict=True):
        alone = attributor(text, target=target, **GRADS)
        assert found.target.index == alone.target.index
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4, atol=1e-6 * alone.scores.max())


def test_methods_compared_share_their_target(attributor):
    options = Options(edge_weights="grad_attention", target="none")
    found = attributor.compare(TEXT, options=options)
    assert [each.target.label for each in found.values()] == ["none"] * 3
    assert [each.residual_weight for each in found.values()] == [0, 0.5, "unlimited"]


def test_attributions_come_back_from_files(attributor, tmp_path):
    saved = attributor(TEXT, target="none", **GRADS)
    saved.save(tmp_path / "a.json")
    loaded = Attribution.load(tmp_path / "a.json")
    assert loaded.to_dict() == saved.to_dict()
    assert (loaded.target, loaded.edge_weights, loaded.relu) == (saved.target, "grad_attention", "after")


def test_regression_explains_its_value():
    attributor = Attributor(bert(num_labels=1), tokenizer())
    found = attributor(TEXT, **GRADS)
    assert (found.target.index, found.target.probability) == (0, None)
    np.testing.assert_allclose(found.scores, attributor(TEXT, target=0, **GRADS).scores, rtol=0)


def test_tokens_of_a_classifier_are_explained_at_their_position():
    attributor = Attributor(bert("BertForTokenClassification", **LABELS), tokenizer())
    found = attributor(TEXT, output_position=3, target="high", **GRADS)
    model = bert("BertForTokenClassification", attn_implementation="eager", **LABELS)
    outputs = model(**encoded(), output_attentions=True)
    gradients = torch.autograd.grad(outputs.logits[0, 3, 1], outputs.attentions)
    edges = [(w * g)[0].sum(0).relu().detach().numpy() for w, g in zip(outputs.attentions, gradients, strict=True)]
    wanted = [split_column_flow(np.stack(edges).astype(float), 3, token) for token in range(len(edges[0]))]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-7)
    assert (found.output_position, found.target.label) == (3, "high")


def test_a_mask_is_explained_where_it_stands():
    attributor = Attributor(bert("BertForMaskedLM"), tokenizer())
    found = attributor("the key to [MASK] cabinets", **GRADS)
    assert (found.output_position, found.tokens[4], found.target) == (4, "[MASK]", found.prediction)
    other = attributor("the key to [MASK] cabinets", target="old", **GRADS)
    assert other.target.label == "old"
    assert not np.allclose(other.scores, found.scores)
    with pytest.raises(OptionError, match="this text has 0 masks"):
        attributor(TEXT, **GRADS)


def test_the_next_token_is_explained_at_the_last_or_any_position():
    attributor = Attributor(gpt2(), tokenizer(template=""))
    found = attributor(TEXTS, **GRADS)
    for text, each in zip(TEXTS, found, strict=True):
        assert each.output_position == len(each.tokens) - 1
        assert each.target == each.prediction
        assert each.scores[-1] > 0 or text == "the key"
    early = attributor(TEXT, output_position=2, target="table", **GRADS)
    assert not early.scores[3:].any()
    assert early.target.label == "table"


@pytest.mark.parametrize("name", ["t5", "bart", "fsmt"])
@pytest.mark.parametrize("method", ["rollout", "flow"])
def test_an_encoder_and_its_decoder(name, method):
    model, eager = BY_NAME[name].build(), BY_NAME[name].build("eager")
    inputs = encoded() | {"decoder_input_ids": torch.tensor([[2, 7, 9, 11]])}
    found = Attributor(model, tokenizer())(inputs, method=method, target=8, **GRADS)
    assert found.output_position == 3
    edges = plain(eager, inputs, lambda logits: [type("T", (), {"index": 8, "position": 3})()])
    n, m = inputs["input_ids"].shape[1], 4
    n_layers = [sum(part == each for part, _ in edges) for each in (ENCODER, DECODER)]
    own = np.zeros((n_layers[0] + 2 * n_layers[1], n + m, n + m))
    for (part, layer), matrix in edges.items():
        stage = layer if part == ENCODER else n_layers[0] + 2 * layer + (part == CROSS)
        queries = slice(0, n) if part == ENCODER else slice(n, None)
        keys = slice(n, None) if part == DECODER else slice(0, n)
        own[stage, queries, keys] = matrix[0].numpy()
    if method == "rollout":
        wanted = np.linalg.multi_dot([0.5 * np.eye(n + m) + 0.5 * each for each in own[::-1]])[n + 3]
    else:
        wanted = [split_column_flow(own, n + 3, token) for token in range(n + m)]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-6 * np.max(wanted))


def test_an_image_is_explained():
    options = {"image_size": 32, "patch_size": 8, **BERT, "pad_token_id": 0, **LABELS}
    options.pop("pad_token_id")
    model = make("ViTConfig", "ViTForImageClassification", **options)
    found = Attributor(model)({"pixel_values": torch.randn(2, 3, 32, 32)}, target=["low", "none"], **GRADS)
    assert [each.target.label for each in found] == ["low", "none"]
    assert found[0].grid_scores.shape == (4, 4)
    assert found[0].scores.max() > 0


# Pipelines and runs


def classifying(model, **options):
    return pipeline("text-classification", model=model, tokenizer=tokenizer(), device="cpu", **options)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_attached_pipelines_explain_the_class_that_they_predict_or_a_named_one(attributor, batch_size):
    options = Options(edge_weights="grad_attention", normalize="none")
    pipe = classifying(attributor.model)
    plain_results = pipe(TEXTS)
    results = attach(pipe, method="flow", options=options)(TEXTS, batch_size=batch_size)
    for text, plain_result, result in zip(TEXTS, plain_results, results, strict=True):
        wanted = attributor(text, **GRADS)
        assert result["attributions"].target.label == result["label"] == plain_result["label"]
        np.testing.assert_allclose(result["attributions"].scores, wanted.scores, rtol=1e-3, atol=1e-6)
    named = attach(pipe, options=Options(edge_weights="grad_attention", target="none"))(TEXT)[0]["attributions"]
    assert named.target.label == "none"
    assert all(parameter.grad is None for parameter in attributor.model.parameters())


@pytest.mark.parametrize("target", [["low", "high"], "middle"])
def test_attached_pipelines_refuse_other_targets(attributor, target):
    pipe = classifying(attributor.model)
    with pytest.raises(AttnFlowError, match="target"):
        attach(pipe, options=Options(edge_weights="grad_attention", target=target))(TEXT)


@pytest.mark.parametrize("target", [None, "entailment"])
@pytest.mark.parametrize("is_named", [True, False])
def test_zero_shot_explains_each_label_by_its_own_text(target, is_named):
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"} if is_named else {0: "no", 1: "neither", 2: "yes"}
    model = bert(id2label=labels, label2id={label: index for index, label in labels.items()}, num_labels=3)
    pipe = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer(), device="cpu")
    options = Options(edge_weights="grad_attention", target=target and labels[2], normalize="none")
    result = attach(pipe, options=options)(TEXT, ["table", "cat"], hypothesis_template="the {} is near")
    attributor = Attributor(model, tokenizer())
    for label, found in zip(result["labels"], result["attributions"], strict=True):
        wanted = attributor((TEXT, f"the {label} is near"), target=2, **GRADS)
        assert found.target.index == 2  # what the label's score is made of; the last where no class is called so
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_attached_pipelines_pad_on_either_side(padding):
    model, tok = llama("LlamaForSequenceClassification", **LABELS), tokenizer(template="", padding_side=padding)
    pipe = attach(pipeline("text-classification", model=model, tokenizer=tok, device="cpu"), options=Options(**GRADS))
    for text, result in zip(TEXTS, pipe(TEXTS, batch_size=4), strict=True):
        wanted = Attributor(model, tok)(text, **GRADS).scores
        np.testing.assert_allclose(result["attributions"].scores, wanted, rtol=1e-3, atol=1e-5 * wanted.max())


def test_attached_encoder_decoder_classifiers():
    options = {**BERT, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    options |= {"decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    options |= {"max_position_embeddings": 64, "eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 2}
    for name in BERT:
        options.pop(name, None)
    model = make("BartConfig", "BartForSequenceClassification", **options, forced_eos_token_id=None, **LABELS)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer(), device="cpu")
    results = attach(pipe, options=Options(**GRADS))(TEXTS[:2], batch_size=2)
    for plain_result, result in zip(pipe(TEXTS[:2]), results, strict=True):
        found = result["attributions"]
        assert found.target.label == result["label"] == plain_result["label"]
        assert {"encoder", "decoder"} == set(found.alignment.parts)
        assert found.part("encoder").scores.max() > 0


def test_runs_and_their_layer_graphs(tmp_path):
    attributor = Attributor(bert(**LABELS), tokenizer())
    rows = Dataset.from_dict({"text": TEXTS})
    options = Options(edge_weights="grad_attention", target="high", normalize="none")
    found = run_dataset(
        rows, attributor, tmp_path / "out", method=["rollout", "flow"], options=options, save_layer_graphs=True
    )
    table = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pydict()
    assert found.n_rows == len(TEXTS)
    for row, text in enumerate(TEXTS):
        for method in ("rollout", "flow"):
            wanted = attributor(text, method=method, target="high", **GRADS).scores
            np.testing.assert_allclose(table[f"scores_{method}"][row], wanted, rtol=1e-3, atol=1e-6 * wanted.max())
    graph = np.array(table["layer_graph"][0])
    assert np.isinf(np.diagonal(graph, axis1=1, axis2=2)).all()
    first = page_of_run(tmp_path / "out").sheets[0].attributions[-1]
    assert (first.method, first.edge_weights, first.residual_weight) == ("flow", "grad_attention", "unlimited")
    with pytest.raises(OptionError, match="target must be one class for all rows of a run"):
        run_dataset(
            rows, attributor, tmp_path / "other", options=Options(edge_weights="grad_attention", target=[0] * 4)
        )


TARGET_COLUMNS = ["target_label", "target_index", "target_probability", "target_output"]


def test_runs_and_their_pages_tell_which_class_was_explained(tmp_path):
    attributor = Attributor(bert(**LABELS), tokenizer())
    rows = Dataset.from_dict({"text": [*TEXTS, ""], "target_label": ["own"] * 5})
    options = Options(edge_weights="grad_attention", relu="before")
    keywords = {"method": "rollout", "on_error": "record", "progress": False}
    run_dataset(rows, attributor, tmp_path / "out", options=options, columns=["text"], **keywords)
    table = pq.read_table(sorted((tmp_path / "out").glob("*.parquet")))
    assert [str(table.schema.field(name).type) for name in TARGET_COLUMNS] == ["string", "int32", "float", "float"]
    sheets = page_of_run(tmp_path / "out").sheets
    for text, row, sheet in zip(TEXTS, table.to_pylist(), sheets, strict=False):
        wanted = attributor(text, edge_weights="grad_attention").target
        assert (row["target_label"], row["target_index"]) == (wanted.label, wanted.index)
        assert row["target_label"] == row["prediction_label"]
        assert row["target_probability"] == pytest.approx(wanted.probability, abs=1e-6)
        assert row["target_output"] == pytest.approx(wanted.output, abs=1e-5)
        shown = sheet.attributions[0]
        assert (shown.target.label, shown.target.index, shown.relu) == (wanted.label, wanted.index, "before")
        assert f"target {wanted.label!r}" in shown.summary()
        assert sheet.columns == {}
    assert [table.to_pylist()[-1][name] for name in TARGET_COLUMNS] == [None] * 4
    with pytest.raises(OptionError, match=r"the run adds columns named \['target_label'\]; rename the data set's"):
        run_dataset(rows, attributor, tmp_path / "other", options=options, **keywords)
    run_dataset(rows, attributor, tmp_path / "attention", **keywords)
    names = pq.read_table(sorted((tmp_path / "attention").glob("*.parquet"))).column_names
    assert [name for name in names if "target" in name] == ["target_label"]  # the data set's own
    assert page_of_run(tmp_path / "attention").sheets[0].columns == {"target_label": "own"}


def test_runs_of_windows_tell_the_class_by_the_mean_of_their_logits(tmp_path):
    attributor = Attributor(bert(**LABELS), tokenizer())
    options = Options(edge_weights="grad_attention", target="high")
    rows = [{"text": TEXT}]
    run_dataset(rows, attributor, tmp_path / "out", method="rollout", options=options, window=8, stride=2)
    row = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pylist()[0]
    cut = [Windows(8, 2).of(attributor.model, attributor.tokenizer, TEXT)]
    wanted = dict(attribute_windows(attributor.wrapped, cut, ["rollout"], options))[0]["rollout"].target
    assert (row["target_label"], row["target_index"]) == ("high", 1)
    assert row["target_output"] == pytest.approx(wanted.output, abs=1e-5)


def test_runs_of_regressions_have_a_value_and_no_probability(tmp_path):
    attributor = Attributor(bert(num_labels=1), tokenizer())
    options = Options(edge_weights="grad_attention")
    run_dataset([{"text": TEXT}], attributor, tmp_path / "out", method="rollout", options=options)
    row = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pylist()[0]
    wanted = attributor(TEXT, edge_weights="grad_attention").target
    assert (row["target_index"], row["target_probability"]) == (0, None)
    assert row["target_output"] == pytest.approx(wanted.output, abs=1e-5)
    assert page_of_run(tmp_path / "out").sheets[0].attributions[0].target.probability is None


def test_windows_share_a_target_that_is_named():
    attributor = Attributor(bert(**LABELS), tokenizer())
    texts = [Windows(8, 2).of(attributor.model, attributor.tokenizer, TEXT)]
    options = Options(edge_weights="grad_attention", target="high", normalize="none")
    found = dict(attribute_windows(attributor.wrapped, texts, ["flow"], options))[0]["flow"]
    assert found.target.label == "high"
    assert found.scores[1:-1].max() > 0
    assert not any("says little" in note for note in found.notes)
    with pytest.raises(OptionError, match="each window predicts a class of its own: name the target"):
        list(attribute_windows(attributor.wrapped, texts, ["flow"], Options(edge_weights="grad_attention")))


def test_faithfulness_over_a_data_set_takes_edge_weights(tmp_path):
    options = Options(edge_weights="grad_attention")
    attributor = Attributor(bert(**LABELS), tokenizer())
    report = evaluate_faithfulness(
        Dataset.from_dict({"text": TEXTS}),
        attributor,
        tmp_path / "out",
        scorer=["flow"],
        options=options,
        progress=False,
    )
    wanted = summarize_faithfulness(
        measure_faithfulness(attributor, TEXTS, attributor(TEXTS, edge_weights="grad_attention"))
    )
    assert f"{wanted.means['comprehensiveness']:.3f}" in report.table.to_markdown()


# What cannot be

ON_GRADS = {"edge_weights": "grad_attention"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"edge_weights": "grads"}, OptionError, "unknown edge_weights 'grads'; choose one of"),
        (
            {"target": 1},
            OptionError,
            "'attention' are the same for each target; a target goes with",
        ),
        (
            {**ON_GRADS, "target": 3},
            PositionError,
            r"target 3 is outside of .*: it has 0 \('low'\), 1 \('high'\)",
        ),
        ({**ON_GRADS, "target": -1}, PositionError, "target -1 is outside of the model's classes"),
        ({**ON_GRADS, "target": "hihg"}, OptionError, r"target 'hihg' is none .* \(did you mean 'high'\?\)"),
        ({**ON_GRADS, "target": 1.5}, OptionError, "target must be a class index or label, got 1.5"),
        ({**ON_GRADS, "target": [0, 1]}, OptionError, "target must be one class, or a list of 1, one for each text"),
        ({**ON_GRADS, "relu": "never"}, OptionError, "unknown relu 'never'"),
        ({**ON_GRADS, "normalize_rows": "yes"}, OptionError, "normalize_rows must be True, False or 'auto', got 'yes'"),
        (
            {**ON_GRADS, "method": "rollout", "residual_weight": "unlimited"},
            OptionError,
            "rollout needs a number",
        ),
        ({"method": "rollout", "residual_weight": "unlimited"}, OptionError, "rollout needs a number from 0 to 1"),
        ({"method": "flow_shapley", "residual_weight": "unlimited"}, OptionError, "flow_shapley needs a number"),
        (
            {**ON_GRADS, "method": "flow_shapley"},
            OptionError,
            "'flow_shapley' has no default .*: choose a resid",
        ),
        ({**ON_GRADS, "residual_weight": -0.1}, OptionError, "must be a number from 0 to 1, or 'unlimited', got -0.1"),
        (
            {**ON_GRADS, "residual_weight": float("inf")},
            OptionError,
            "from 0 to 1, or 'unlimited', got inf",
        ),
        (
            {**ON_GRADS, "residual_weight": "none"},
            OptionError,
            "from 0 to 1, or 'unlimited', got 'none'",
        ),
        ({**ON_GRADS, "keep": "rollout", "method": "rollout"}, OptionError, "have no keep='rollout'"),
        ({**ON_GRADS, "position_correction": "uniform"}, OptionError, "and no position_correction"),
    ],
)
def test_bad_options(attributor, options, error, message):
    with pytest.raises(error, match=message):
        attributor(TEXT, **options)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (20_000, PositionError, r"target 20000 is outside of the model's classes: it has \d+ token ids"),
        ("no such token", OptionError, "target 'no such token' is not one token of this tokenizer; give a token or"),
        ("zebra", OptionError, "target 'zebra' is not one token of this tokenizer"),
    ],
)
@pytest.mark.parametrize("model", ["causal", "masked"])
def test_unknown_tokens(model, target, error, message):
    attributor = Attributor(gpt2() if model == "causal" else bert("BertForMaskedLM"), tokenizer())
    with pytest.raises(error, match=message):
        attributor("the [MASK] is old", target=target, **ON_GRADS)


def test_a_token_by_name_needs_a_tokenizer():
    with pytest.raises(TokenizerError, match="target 'key' needs a tokenizer to be a token; give the token's id"):
        Attributor(gpt2())({"input_ids": [[5, 6, 7]]}, target="key", **ON_GRADS)


def explained(attributor, way):
    """Attributions of one text, by one of the ways to get them."""
    if way == "call":
        return [attributor(TEXT, **GRADS)]
    if way == "generate":
        return attributor.generate(TEXT, max_new_tokens=3, method="rollout", options=Options(**GRADS))
    task = "text-generation" if way == "generation pipeline" else "text-classification"
    pipe = pipeline(task, model=attributor.model, tokenizer=copy.deepcopy(attributor.tokenizer), device="cpu")
    found = attach(pipe, method="rollout", options=Options(**GRADS))
    (result,) = found(TEXT, **({"max_new_tokens": 3, "do_sample": False} if way == "generation pipeline" else {}))
    return result["attributions"] if way == "generation pipeline" else [result["attributions"]]


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("way", ["call", "generate", "generation pipeline", "classification pipeline"])
def test_wherever_it_is_called_parameters_stay_as_they_were(way, around):
    model = bert(**LABELS) if way in ("call", "classification pipeline") else gpt2()
    attributor = Attributor(model, tokenizer(template="") if "generat" in way else tokenizer())
    parameters = list(model.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[1].requires_grad_(False)
    wanted = explained(attributor, way)
    with around():
        found = explained(attributor, way)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.scores.max() > 0
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(each.grad is None for each in parameters[1:])
    assert [each.requires_grad for each in parameters] == [index != 1 for index in range(len(parameters))]


@pytest.mark.parametrize("position", ["mean", "all"])
def test_heads_of_each_position_are_asked_at_one(position):
    attributor = Attributor(bert("BertForTokenClassification"), tokenizer())
    with pytest.raises(OptionError, match=f"speaks of each position; output_position must be one, got '{position}'"):
        attributor(TEXT, output_position=position, **ON_GRADS)
    with pytest.raises(OptionError, match="speaks of each token; choose one by output_position"):
        attributor(TEXT, **ON_GRADS)


def test_models_without_a_head_are_refused():
    with pytest.raises(OptionError, match="grad_attention needs a target: BertModel has no head"):
        Attributor(bert("BertModel"), tokenizer())(TEXT, **ON_GRADS)


def test_the_table_has_a_row_for_each():
    assert list(EDGE_WEIGHTS)[:4] == ["attention", "grad_attention", "alti", "norms"]
    for name in EDGE_WEIGHTS:
        assert Options(edge_weights=name).kind is EDGE_WEIGHTS[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bert", "bloom"])
def test_a_gpu_gives_what_a_cpu_gives(name):
    model = bert() if name == "bert" else BY_NAME[name].build()
    find = of_classes(1) if name == "bert" else lambda logits: [Target(9, "9", 6)]
    there = {key: value.to("cuda") for key, value in encoded().items()}
    wanted = capture_gradients(model, encoded(), find)
    found = capture_gradients(model.to("cuda"), there, find)
    for one, other in zip(wanted.matrices, found.matrices, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.max()))
