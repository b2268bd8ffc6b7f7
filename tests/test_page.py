"""Pages: what goes in comes out, attributions of one text become choices, graphs and flows are those of the text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attribution import KINDS, check_equal, make, tokens_of
from transformers import GenerationConfig

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, Page, explained_page, flow
from attnflow_hf import page as page_module
from attnflow_hf.errors import ArrayError, FileFormatError, OptionError
from attnflow_hf.html import page_data
from attnflow_hf.packing import pack, unpack
from attnflow_hf.page_flows import MAX_EDGES, chosen_flows
from attnflow_hf.page_sheet import SheetGraph
from attnflow_hf.tokens import Tokens

TEXT = "the key to the old cabinets is on a table"


@pytest.fixture(scope="module")
def bert() -> Attributor:
    return Attributor(tiny_models.bert(), tiny_models.tokenizer())


@pytest.fixture(scope="module")
def gpt2() -> Attributor:
    return Attributor(tiny_models.gpt2(), tiny_models.tokenizer(template=""))


def reloaded(page: Page, folder: Path) -> Page:
    page.save(folder / "page.html")
    return Page.load(folder / "page.html")


def graph_of(n_tokens: int, n_layers: int = 3) -> LayerGraph:
    weights = np.random.default_rng(0).random((n_layers, n_tokens, n_tokens)).astype(np.float32)
    return LayerGraph(weights)


# Numbers


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(-300, 300), st.booleans(), st.integers(0, 99))
def test_arrays_come_back_to_the_bit(exponent: int, scale: int, is_narrow: bool, seed: int) -> None:
    array = np.random.default_rng(seed).random((3, 10**exponent))
    array = array.astype(np.float32).astype(np.float64) if is_narrow else array * 10.0**scale
    back = unpack(json.loads(json.dumps(pack(array), allow_nan=False)))
    assert (back.dtype, back.shape, back.tobytes()) == (np.float64, array.shape, array.tobytes())


def test_long_arrays_take_as_few_bytes_as_hold_them() -> None:
    narrow, wide = np.full(600, 0.25), np.full(600, 0.1)
    assert (pack(narrow)["dtype"], pack(wide)["dtype"]) == ("<f4", "<f8")
    assert pack(wide[:512]) == [0.1] * 512
    with pytest.raises(ValueError, match="numbers of type '<i8', known are <f4, <f8"):
        unpack({"dtype": "<i8", "shape": [1], "base64": ""})


# Pages


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_gives_back_what_went_in(kind: str, tmp_path: Path) -> None:
    attribution = make(**KINDS[kind])
    page = reloaded(Page.of(attribution), tmp_path)
    check_equal(page.attributions[0], attribution)
    assert (page.title, len(page.sheets)) == (attribution.model_name, 1)


def test_long_scores_come_back_to_the_bit(tmp_path: Path) -> None:
    tokens = Tokens.from_names([f"{i}" for i in range(40)])
    attribution = make(tokens, output_position="all", layer="all")
    assert attribution.scores.size > 512
    check_equal(reloaded(Page.of([attribution]), tmp_path).attributions[0], attribution)


def test_the_saved_json_is_read_too(tmp_path: Path, bert: Attributor) -> None:
    page = bert.page(TEXT)
    (tmp_path / "attnflow.json").write_text(json.dumps(page_data(page.to_html())))
    loaded = Page.load(tmp_path / "attnflow.json")
    for one, two in zip(page.attributions, loaded.attributions, strict=True):
        check_equal(one, two)
    np.testing.assert_array_equal(
        loaded.sheets[0].graph.graph.weights, page.sheets[0].graph.graph.weights.astype(np.float32)
    )
    assert loaded.sheets[0].graph.places() == page.sheets[0].graph.places()
    assert loaded.to_html() == Page.load(tmp_path / "attnflow.json").to_html()


@pytest.mark.parametrize("text", ["", "<p>no page</p>", "{}", "[1]", '{"format": "attnflow_hf.Page", "version": 2}'])
def test_other_files_are_no_pages(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(text)
    with pytest.raises(FileFormatError, match=r"'.*a\.html' is no page of attnflow_hf: "):
        Page.load(tmp_path / "a.html")


def test_a_damaged_page_is_told(bert: Attributor) -> None:
    values = page_data(bert.page(f"{TEXT} and the cat sat near", methods=["raw"]).to_html())
    values["sheets"][0]["attributions"][0]["scores"]["base64"] = "%"
    with pytest.raises(FileFormatError, match="this page is damaged: "):
        Page.from_values(values)


def series_of(page: Page) -> list[tuple[str, list[int]]]:
    return [(name, members) for name, members in page_data(page.to_html())["sheets"][0]["shown"]["series"]]


def test_layers_and_positions_of_a_method_are_one_choice(bert: Attributor) -> None:
    given = [bert(TEXT, method="rollout", layer=layer, output_position=p) for layer in (0, 2) for p in (1, 3)]
    given.append(bert(TEXT, method="raw", layer="all"))
    assert series_of(Page.of(given)) == [("rollout", [0, 1, 2, 3]), ("raw", [4])]


def test_settings_that_differ_are_named(bert: Attributor) -> None:
    given = [bert(TEXT, method="rollout", residual_weight=weight) for weight in (0.1, 0.5)]
    given += [bert(TEXT, method="rollout", normalize="max"), bert(TEXT, method="raw")]
    assert [name for name, _ in series_of(Page.of(given))] == [
        "rollout, residual 0.1, normalize sum",
        "rollout, residual 0.5, normalize sum",
        "rollout, residual 0.5, normalize max",
        "raw",
    ]


def test_edge_weights_and_targets_are_choices_of_their_own() -> None:
    attributor = Attributor.from_pretrained()
    given = [attributor(TEXT, method="raw", edge_weights="grad_attention", target=each) for each in (0, 1)]
    page = Page.of([attributor(TEXT, method="raw"), *given])
    assert series_of(page) == [
        ("raw, on attention", [0]),
        ("raw, on grad_attention, target singular", [1]),
        ("raw, on grad_attention, target plural", [2]),
    ]


def test_compare_and_generate_make_pages(bert: Attributor, gpt2: Attributor, tmp_path: Path) -> None:
    assert [name for name, _ in series_of(Page.of(bert.compare(TEXT)))] == ["raw", "rollout", "flow"]
    generated = gpt2.generate("the key to", max_new_tokens=3, method="rollout")
    page = reloaded(Page.of(generated), tmp_path)
    assert series_of(page) == [("rollout", [0, 1, 2])]
    for one, two in zip(generated, page.attributions, strict=True):
        check_equal(one, two)


def test_a_page_is_of_one_text(bert: Attributor) -> None:
    with pytest.raises(OptionError, match=r"must be of one text and its same tokens, got .*'cat'.* and .*'key'"):
        Page.of([bert("the key"), bert("the cat sat")])
    with pytest.raises(OptionError, match="a page needs at least one attribution"):
        Page.of([])
    with pytest.raises(OptionError, match="a page is made of attributions, got str"):
        Page.of("text")


def test_words_and_joined_tokens_are_told() -> None:
    shown = page_data(make(tokens_of("don't open")).to_html())["sheets"][0]["shown"]
    assert shown["pieces"] == ["[CLS]", "don", "'", "t", "open", "[SEP]"]
    assert shown["joined"] == [2, 3]
    assert shown["words"] == [["[CLS]", [0]], ["don't", [1, 2, 3]], ["open", [4]], ["[SEP]", [5]]]
    assert page_data(make(tokens_of("the keys")).to_html())["sheets"][0]["shown"]["words"] is None


@pytest.mark.parametrize(
    ("text", "direction"),
    [("the key", "ltr"), ("\u05e9\u05dc\u05d5\u05dd a", "rtl"), ("12 \u0645\u0631", "rtl"), ("7", "ltr")],
)
def test_the_direction_is_that_of_the_first_letter(text: str, direction: str) -> None:
    assert page_data(make(tokens_of(text)).to_html())["sheets"][0]["shown"]["direction"] == direction


# Graphs


def test_a_graph_must_fit() -> None:
    attribution = make(tokens_of("the keys"))
    with pytest.raises(ArrayError, match="a graph of 3 tokens does not fit a text with a token at 3"):
        Page.of(attribution, graph=graph_of(3))
    unlimited = graph_of(4).weights.copy()
    unlimited[0, 0, 0] = np.inf
    with pytest.raises(ArrayError, match="a page shows graphs of finite edge weights"):
        Page.of(attribution, graph=LayerGraph(unlimited))
    page = Page.of(attribution, graph=graph_of(4))
    assert page.sheets[0].graph.nodes == (0, 1, 2, 3)
    assert page_data(page.to_html())["sheets"][0]["graph"]["size"] == [3, 4, 4]


def test_chosen_flows_are_proven_and_those_of_the_graph() -> None:
    graph = SheetGraph(graph_of(30), tuple(range(30)), 0, (0, 1, 2))
    found = chosen_flows(graph, 7, n_inputs=3)
    assert (found["size"], found["n_inputs"], len(found["pairs"])) == ([3, 30, 30], 3, 9)
    values = flow(graph.graph, output_positions=[7], layer="all")[:, 0]
    for layer in range(3):
        pairs = [pair for pair in found["pairs"] if pair["layer"] == layer]
        most = [values[layer, pair["sink"]] for pair in pairs]
        np.testing.assert_allclose(most, np.sort(values[layer])[:-4:-1], rtol=1e-12)
        for pair in pairs:
            np.testing.assert_allclose(pair["value"], values[layer, pair["sink"]], rtol=1e-12)
            np.testing.assert_allclose(pair["capacity"], pair["value"], rtol=1e-9)
            check_edges(pair, graph.graph, whole=pair["n_edges"] <= MAX_EDGES)


def check_edges(pair: dict, graph: LayerGraph, *, whole: bool) -> None:
    """Check that no edge carries more than it can, that edges of the cut are full, and what leaves the source."""
    assert len(pair["edges"]) == min(pair["n_edges"], MAX_EDGES)
    layers, queries, keys, sides = np.array([edge[:4] for edge in pair["edges"]], dtype=int).T
    amounts = np.array([edge[4] for edge in pair["edges"]])
    room = graph.weights[layers, queries, keys]
    assert (amounts <= room * (1 + 1e-6)).all()
    np.testing.assert_allclose(amounts[sides == 2], room[sides == 2], rtol=1e-6)
    assert 1 not in sides, "flow never comes back over a minimum cut"
    assert (np.diff(amounts) <= 0).all()
    if whole:
        leaves = amounts[(layers == pair["layer"]) & (queries == pair["position"])].sum()
        np.testing.assert_allclose([leaves, amounts[sides == 2].sum()], pair["value"], rtol=1e-5)


def test_a_large_graph_is_left_out_for_chosen_flows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_module, "MAX_GRAPH_SIZE", 47)
    attribution = make(tokens_of("the keys"))
    page = reloaded(Page.of(attribution, graph=graph_of(4)), tmp_path)
    assert page.sheets[0].graph is None
    assert {pair["position"] for pair in page.sheets[0].flows["pairs"]} == {0}
    monkeypatch.setattr(page_module, "MAX_GRAPH_SIZE", 48)
    assert Page.of(attribution, graph=graph_of(4)).sheets[0].flows is None


# Pages of texts


def test_a_page_of_a_text_has_what_the_attributor_finds(bert: Attributor) -> None:
    page = bert.page(TEXT, options=Options(layer=1, output_position=4, special_tokens="drop"))
    assert page.sheets[0].start == (4, 1)
    assert page.title == bert.model_name
    for each, method in zip(page.attributions, ("raw", "rollout", "flow"), strict=True):
        check_equal(each, bert(TEXT, method=method, layer="all", output_position="all", special_tokens="drop"))
    graph = page.sheets[0].graph
    assert graph.nodes == tuple(range(1, len(TEXT.split()) + 1))
    expected = bert(TEXT, method="flow", layer=2, output_position=4, normalize="none").scores
    values = flow(graph.graph, output_positions=[graph.first_output + 4], layer=graph.stages[2])[0]
    np.testing.assert_allclose(values[list(graph.nodes)], expected[1:-1], rtol=0, atol=1e-12)


def test_a_large_text_has_its_position_alone(bert: Attributor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explained_page, "MAX_ALL_POSITIONS", 10)
    page = bert.page(TEXT, methods=["rollout"])
    check_equal(page.attributions[0], bert(TEXT, method="rollout", layer="all"))


def test_options_of_pages(bert: Attributor) -> None:
    shapley = bert.page("the key", methods=["rollout", "flow_shapley"], options=Options(layer=1, backend="networkx"))
    assert [each.scores.shape for each in shapley.attributions] == [(3, 4, 4), (4,)]
    assert [each.backend for each in shapley.attributions] == ["numpy", "networkx"]
    mean = bert.page("the key", methods=["rollout"], options=Options(output_position="mean"))
    check_equal(mean.attributions[0], bert("the key", method="rollout", layer="all", output_position="mean"))
    with pytest.raises(OptionError, match="a page shows all layers: keep='rollout' keeps none of them"):
        bert.page(TEXT, methods=["rollout"], options=Options(keep="rollout"))
    with pytest.raises(OptionError, match="page takes one text and a list of methods; call it for each text"):
        bert.page([TEXT])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="page takes one text"):
        bert.page(TEXT, methods="flow")
    with pytest.raises(OptionError, match="unknown method 'flaw'"):
        bert.page(TEXT, methods=["flaw"])
    encoding = bert.tokenizer(["the key", "the cat"], return_tensors="pt")
    with pytest.raises(OptionError, match="a page takes one text, got 2; make a page of each"):
        bert.page(encoding)


def test_the_graph_of_encoder_and_decoder_stands_under_both() -> None:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
    bart = Attributor(
        tiny_models.make("BartConfig", "BartForConditionalGeneration", decoder_start_token_id=2, **sizes),
        tiny_models.tokenizer(),
    )
    page = bart.page("the key to", text_target="cat sat", methods=["flow"])
    attribution, graph = page.attributions[0], page.sheets[0].graph
    n_encoder = attribution.alignment.parts.count("encoder")
    assert (graph.first_output, graph.nodes) == (n_encoder, tuple(range(len(attribution.tokens))))
    position = page.sheets[0].start[0]
    values = flow(graph.graph, output_positions=[n_encoder + position], layer=graph.stages[1])[0]
    expected = bart("the key to", text_target="cat sat", layer=1, normalize="none").scores
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_a_page_shows_itself_in_notebooks(bert: Attributor) -> None:
    page = bert.page(TEXT)
    assert page._repr_html_().startswith('<div class="attnflow-page">')
    assert repr(page) == f"Page({bert.model_name!r}, 1 texts)"
    with torch.no_grad():
        assert isinstance(page.attributions[0], Attribution)


def test_generated_tokens_are_positions_of_one_choice_each_its_own_target() -> None:
    attributor = Attributor(tiny_models.gpt2(), tiny_models.tokenizer(template=""))
    options = Options(edge_weights="grad_attention")
    config = GenerationConfig(eos_token_id=[], pad_token_id=0)
    found = attributor.generate(
        "the key", max_new_tokens=4, generation_config=config, method="rollout", options=options
    )
    assert len({each.target.label for each in found if each.target}) > 1
    sheet = page_data(Page.of(found).to_html())["sheets"][0]
    assert sheet["shown"]["series"] == [["rollout", [0, 1, 2, 3]]]
