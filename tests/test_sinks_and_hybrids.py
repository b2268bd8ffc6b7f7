import numpy as np
import pytest
from architectures import ARCHITECTURES
from tiny_models import bert, gpt2, llama, make, tokenizer

from attnflow_hf import Attribution, Attributor, Options
from attnflow_hf.errors import ArrayError, OptionError

TEXT = "the key to the old cabinets is on a table"
TEXTS = [TEXT, "the key", "one longer text and another text"]
BY_NAME = {each.name: each for each in ARCHITECTURES}
METHODS = ["raw", "rollout", "flow"]
HYBRIDS = {
    "jamba": ("layers without attention (0, 2 of 4)", True),
    "bamba": ("layers without attention (0, 2 of 4)", True),
    "lfm2": ("layers without attention (0, 2 of 4)", True),
    "qwen3_next": ("layers without attention (0, 2 of 4)", True),
    "falcon_h1": (None, True),
    "mobilebert": (None, True),
    "bert": (None, False),
    "llama": (None, False),
}


@pytest.fixture(scope="module", params=["bert", "gpt2", "gpt_oss"])
def attributor(request):
    return Attributor(BY_NAME[request.param].build(), tokenizer(), batch_size=2)


# The first token


def kept_by(special, first):
    """Of 12 tokens `[CLS] ... [SEP]`, which score survives and which token stays."""
    score, token = np.ones(12, dtype=bool), np.ones(12, dtype=bool)
    for option, indices in ((special, [0, 11]), (first, [0])):
        score[indices] &= option == "keep"
        token[indices] &= option != "drop"
    return score, token


@pytest.mark.parametrize("special", ["keep", "zero", "drop"])
@pytest.mark.parametrize("first", ["keep", "zero", "drop"])
@pytest.mark.parametrize("normalize", ["sum", "max", "none"])
def test_first_and_special_tokens_are_taken_off_before_normalizing(attributor, special, first, normalize):
    plain = attributor(TEXT, method="rollout", normalize="none")
    found = attributor(TEXT, method="rollout", special_tokens=special, first_token=first, normalize=normalize)
    score, token = kept_by(special, first)
    wanted = (plain.scores * score)[token]
    wanted = wanted / (1 if normalize == "none" else getattr(wanted, normalize)())
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-12)
    assert found.tokens == tuple(np.array(plain.tokens)[token])
    assert found.positions.tolist() == np.flatnonzero(token).tolist()
    assert (found.first_token, found.special_tokens) == (first, special)
    assert found.output_position == plain.output_position


@pytest.mark.parametrize("layer", [-1, "all"])
def test_a_dropped_first_token_is_no_output_position_either(attributor, layer):
    options = {"method": "rollout", "output_position": "all", "layer": layer}
    plain = attributor(TEXT, normalize="none", **options).scores
    found = attributor(TEXT, first_token="drop", **options)
    inner = plain[..., 1:, 1:]
    sums = inner.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.scores, inner / np.where(sums > 0, sums, 1), rtol=0, atol=1e-12)
    zeroed = attributor(TEXT, first_token="zero", **options).scores
    assert zeroed.shape == plain.shape
    assert not zeroed[..., 0].any()


def test_the_mean_is_of_all_positions_whatever_is_dropped(attributor):
    every = attributor(TEXT, method="rollout", output_position="all", normalize="none").scores
    found = attributor(TEXT, method="rollout", output_position="mean", normalize="none", first_token="drop")
    np.testing.assert_allclose(found.scores, every.mean(axis=0)[1:], rtol=0, atol=1e-12)


def test_a_first_token_that_is_no_special_one():
    attributor = Attributor(llama(), tokenizer(template=""))
    plain = attributor(TEXT, method="flow", normalize="none")
    found = attributor(TEXT, method="flow", first_token="drop", special_tokens="drop")
    assert found.tokens == plain.tokens[1:]
    np.testing.assert_allclose(found.scores, plain.scores[1:] / plain.scores[1:].sum(), rtol=0, atol=1e-12)


def test_the_first_of_a_batch_is_that_of_each_text():
    attributor = Attributor(gpt2(), tokenizer(padding_side="left", template=""))
    batch = attributor(TEXTS, method="rollout", first_token="drop")
    assert [each.tokens for each in batch] == [tuple(text.split()[1:]) for text in TEXTS]
    encoding = tokenizer(padding_side="left", template="")(TEXTS, return_tensors="pt", padding=True)
    for found, wanted in zip(attributor(encoding, method="rollout", first_token="drop"), batch, strict=True):
        assert found.tokens == wanted.tokens
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-6)


def test_a_text_of_one_token_that_is_dropped_leaves_none():
    attributor = Attributor(gpt2(), tokenizer(template=""))
    found = attributor("key", method="rollout", first_token="zero")
    assert (found.tokens, found.scores.tolist()) == (("key",), [0.0])
    assert attributor("key", method="rollout", first_token="drop").tokens == ()


def test_the_option_is_saved(tmp_path):
    found = Attributor(gpt2(), tokenizer())(TEXT, method="rollout", first_token="drop")
    found.save(tmp_path / "a.json")
    assert Attribution.load(tmp_path / "a.json").to_dict() == found.to_dict()
    assert found.to_dict()["first_token"] == "drop"
    with pytest.raises(OptionError, match="unknown first_token 'hide'; choose one of 'drop', 'keep', 'zero'"):
        Options(first_token="hide")


# Attention sinks


@pytest.fixture(scope="module")
def sinks():
    return Attributor(BY_NAME["gpt_oss"].build(), tokenizer())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("position", "layer", "shape"),
    [("auto", -1, ()), (3, 0, ()), ("mean", 1, ()), ("all", -1, (12,)), (3, "all", (3,)), ("all", "all", (3, 12))],
)
def test_sink_scores_have_the_axes_of_the_scores_but_the_last(sinks, method, position, layer, shape):
    found = sinks(TEXT, method=method, output_position=position, layer=layer)
    assert found.sink_scores.shape == shape
    assert found.sink_scores.dtype == np.float64
    assert found.scores.shape == (*shape, 12)


@pytest.mark.parametrize("method", ["raw", "rollout", "flow_shapley"])
def test_tokens_and_sink_together_are_all(sinks, method):
    """The raw rows of the last layer, and rollout and Shapley values of every layer, sum to 1 with the sink."""
    found = sinks(TEXT, method=method, output_position="all", layer="all", normalize="none")
    np.testing.assert_allclose(found.scores.sum(axis=-1) + found.sink_scores, 1, rtol=0, atol=1e-12)
    assert 0.01 < found.sink_scores.max() < 1
    mean = sinks(TEXT, method=method, output_position="mean", layer="all", normalize="none")
    np.testing.assert_allclose(mean.sink_scores, found.sink_scores.mean(axis=1), rtol=0, atol=1e-12)


def test_flow_is_at_least_rollout_for_the_sink_too(sinks):
    options = {"output_position": "all", "layer": "all", "normalize": "none"}
    low, high = (sinks(TEXT, method=method, **options) for method in ("rollout", "flow"))
    assert (low.sink_scores <= high.sink_scores + 1e-12).all()
    assert (low.scores <= high.scores + 1e-12).all()
    np.testing.assert_array_equal(high.scores, np.tril(np.ones((12, 12))) * high.scores)


def test_sink_scores_are_neither_normalized_nor_dropped(sinks):
    plain = sinks(TEXT, method="rollout", normalize="none")
    for options in ({"normalize": "max"}, {"first_token": "drop"}, {"special_tokens": "zero"}):
        np.testing.assert_array_equal(sinks(TEXT, method="rollout", **options).sink_scores, plain.sink_scores)
    dropped = sinks(TEXT, method="rollout", special_tokens="drop", output_position="all")
    every = sinks(TEXT, method="rollout", output_position="all")
    np.testing.assert_array_equal(dropped.sink_scores, every.sink_scores[1:-1])


@pytest.mark.parametrize("method", METHODS)
def test_batch_equals_single_with_sinks(sinks, method):
    for found, text in zip(sinks(TEXTS, method=method), TEXTS, strict=True):
        single = sinks(text, method=method)
        np.testing.assert_allclose(found.scores, single.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.sink_scores, single.sink_scores, rtol=0, atol=1e-6)


def test_sink_scores_are_saved_and_loaded(sinks, tmp_path):
    for options in ({}, {"output_position": "all", "layer": "all"}):
        found = sinks(TEXT, **options)
        found.save(tmp_path / "a.json")
        loaded = Attribution.load(tmp_path / "a.json")
        np.testing.assert_array_equal(loaded.sink_scores, found.sink_scores)
        assert loaded.to_dict() == found.to_dict()


def test_models_without_sinks_have_no_sink_scores():
    assert Attributor(bert(), tokenizer())(TEXT).sink_scores is None
    found = Attributor(gpt2(), tokenizer())(TEXT, method="rollout")
    for broken in ([0.1, 0.2], -0.1, np.nan):
        with pytest.raises(ArrayError, match="do not fit scores of shape"):
            Attribution(found.alignment, found.scores, "rollout", "numpy", 11, 2, sink_scores=np.array(broken))


# Hybrids, and what mixes tokens elsewhere


@pytest.mark.parametrize("name", HYBRIDS)
def test_notes_say_what_the_graph_does_not_show(name):
    attributor = Attributor(BY_NAME[name].build(), tokenizer())
    without, mixes = HYBRIDS[name]
    report, found = attributor.capture_report(), attributor(TEXT, method="rollout")
    assert report.mixes_elsewhere is mixes
    assert any("tokens also meet outside of attention" in note for note in found.notes) is mixes
    assert [note.partition(" stand")[0] for note in found.notes if "without" in note] == ([without] if without else [])
    assert all(note in str(report) for note in found.notes)
    assert len(found.notes) == mixes + (without is not None)


def test_mobilebert_mixes_neighbors_by_its_embeddings_alone():
    options = {**BY_NAME["mobilebert"].options, "trigram_input": False, "embedding_size": 32}
    report = Attributor(make("MobileBertConfig", "MobileBertModel", **options), tokenizer()).capture_report()
    assert report.mixes_elsewhere is False


def test_convolutions_are_noted_by_hooks_too():
    found = Attributor(BY_NAME["convbert"].build(), tokenizer())(TEXT, method="rollout")
    assert any("tokens also meet outside of attention" in note for note in found.notes)


@pytest.mark.parametrize("method", METHODS)
def test_layers_of_a_hybrid_count_all_its_layers(method):
    """Below the first attention a token is its own; a layer without attention changes nothing."""
    attributor = Attributor(BY_NAME["jamba"].build(), tokenizer())
    found = attributor(TEXT, method=method, layer="all", output_position="all", normalize="none").scores
    assert found.shape == (4, 12, 12)
    np.testing.assert_array_equal(found[0], np.eye(12))
    if method == "raw":
        np.testing.assert_array_equal(found[2], np.eye(12))
    else:
        np.testing.assert_allclose(found[2], found[1], rtol=0, atol=1e-12)


def test_batch_equals_single_of_a_hybrid():
    attributor = Attributor(BY_NAME["jamba"].build(), tokenizer())
    for found, text in zip(attributor(TEXTS, method="rollout"), TEXTS, strict=True):
        single = attributor(text, method="rollout")
        np.testing.assert_allclose(found.scores, single.scores, rtol=0, atol=1e-5)
        assert found.notes == single.notes


def test_a_model_with_layers_of_its_own_order_is_named_in_the_report():
    options = {**BY_NAME["jamba"].options, "attn_layer_offset": 0}
    attributor = Attributor(make("JambaConfig", "JambaForCausalLM", **options), tokenizer())
    assert attributor.capture_report().residual_layers == (1, 3)
    found = attributor(TEXT, method="rollout", layer="all", normalize="none").scores
    np.testing.assert_array_equal(found[1], found[0])
