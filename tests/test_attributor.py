import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import BERT, bert, gpt2, llama, make, minilm_folder, shared_folder, tokenizer
from transformers import AutoModel, AutoTokenizer, ByT5Tokenizer

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, flow, rollout
from attnflow_hf.errors import CaptureError, OptionError, PositionError, TextError, TokenizerError
from attnflow_hf.loading import EMBEDDED_MODEL

TEXTS = ["the key to the old cabinets is on a table", "the key", "one longer text and another text", "the cat sat"]
MODELS = {"bert": bert, "gpt2": gpt2, "llama": llama}


@pytest.fixture(params=MODELS)
def attributor(request):
    return Attributor(MODELS[request.param](), tokenizer(), batch_size=3)


def fresh(attributor):
    """Another model like the attributor's own."""
    return next(build() for name, build in MODELS.items() if type(attributor.model).__name__.lower().startswith(name))


def eager_graph(model, encoding, **options):
    """The layer graph by the model's own eager attentions, without the package's capture."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(**encoding, output_attentions=True).attentions
    return LayerGraph.from_attentions(attentions, attention_mask=encoding["attention_mask"], **options)


def same(got, wanted, tolerance=1e-6):
    assert got.tokens == wanted.tokens
    assert got.output_position == wanted.output_position
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=tolerance)


def test_scores_are_those_of_the_steps_done_by_hand(attributor):
    encoding = tokenizer()(TEXTS[0], return_tensors="pt")
    graph = eager_graph(fresh(attributor), encoding)
    position = graph.n_tokens - 1 if graph.is_causal else 0
    for method, function in (("rollout", rollout), ("flow", flow)):
        values = function(graph, output_positions=[position])[0]
        found = attributor(TEXTS[0], method=method)
        np.testing.assert_allclose(found.scores, values / values.sum(), rtol=0, atol=1e-7)
        assert (found.method, found.output_position, found.layer) == (method, position, 2)
        unnormalized = attributor(TEXTS[0], method=method, normalize="none")
        np.testing.assert_allclose(unnormalized.scores, values, rtol=0, atol=1e-7)


def test_raw_is_the_layers_attention_without_residual(attributor):
    encoding = tokenizer()(TEXTS[0], return_tensors="pt")
    graph = eager_graph(fresh(attributor), encoding, residual_weight=0)
    for layer in range(3):
        found = attributor(TEXTS[0], method="raw", layer=layer, residual_weight=0.7)
        np.testing.assert_allclose(found.scores, graph.weights[layer, found.output_position], rtol=0, atol=1e-7)
        assert found.residual_weight == 0


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_batch_equals_single(attributor, method):
    batch = attributor(TEXTS, method=method)
    assert [found.texts for found in batch] == [(text,) for text in TEXTS]
    for found, text in zip(batch, TEXTS, strict=True):
        single = attributor(text, method=method)
        same(found, single)
        assert found.prediction.label == single.prediction.label
        assert found.prediction.probability == pytest.approx(single.prediction.probability, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", ["auto", "mean", "all", 1, -1])
def test_padding_of_an_encoding_changes_nothing(attributor, side, position):
    encoding = tokenizer(padding_side=side)(TEXTS, return_tensors="pt", padding=True)
    for found, text in zip(attributor(encoding, output_position=position), TEXTS, strict=True):
        same(found, attributor(text, output_position=position))


@pytest.mark.parametrize("form", ["pt", "np", "lists", "one list", "ids only", "dict"])
def test_every_form_of_encoding(attributor, form):
    text = TEXTS[0]
    kinds = {"pt": {"return_tensors": "pt"}, "np": {"return_tensors": "np"}}
    encoding = tokenizer()([text] if form == "lists" else text, **kinds.get(form, {}))
    if form == "ids only":
        encoding = {"input_ids": encoding["input_ids"]}
    if form == "dict":
        encoding = dict(encoding)
    same(attributor(encoding, output_position=1), attributor(text, output_position=1))


def test_an_encoding_needs_no_tokenizer():
    encoding = tokenizer()(TEXTS[0], return_tensors="pt")
    found = Attributor(bert())(encoding, method="raw")
    same(found, Attributor(bert(), tokenizer())(TEXTS[0], method="raw"))
    assert found.tokens[:2] == ("[CLS]", "the")
    bare = Attributor(bert())({"input_ids": encoding["input_ids"]}, output_position=0)
    assert bare.tokens[:2] == ("2", "5")
    assert bare.offsets is None
    assert "no character offsets and word ids" in bare.notes[0]


def test_alignment_is_that_of_the_tokenizer(attributor):
    text = TEXTS[0]
    found, encoding = attributor(text), tokenizer()(text)
    assert found.input_ids.tolist() == encoding["input_ids"]
    assert list(found.tokens) == encoding.tokens()
    assert found.offsets.tolist() == [list(span) for span in encoding.encodings[0].offsets]
    assert list(found.word_ids) == encoding.word_ids()
    assert list(found.sequence_ids) == encoding.sequence_ids()
    assert found.special_tokens_mask.tolist() == [True, *[False] * 10, True]
    assert found.scores.shape == (12,)
    assert found.scores.dtype == np.float64


def test_pairs_keep_their_token_types():
    model = bert()
    typed = tokenizer(token_types=True)
    found = Attributor(model, typed)(("a premise", "a longer hypothesis"), method="rollout")
    encoding = typed("a premise", "a longer hypothesis", return_tensors="pt")
    assert encoding["token_type_ids"].max() == 1
    values = rollout(eager_graph(model, encoding), output_positions=[0])[0]
    np.testing.assert_allclose(found.scores, values, rtol=0, atol=1e-7)
    assert found.sequence_ids == (None, 0, 0, None, 1, 1, 1, None)
    batch = Attributor(bert(), typed)([("a premise", "a longer hypothesis"), "the key"], method="rollout")
    same(batch[0], found)


def test_layer_all_is_every_layer(attributor):
    for method in ("raw", "rollout", "flow"):
        every = attributor(TEXTS[0], method=method, layer="all")
        assert every.layer == "all"
        singles = [attributor(TEXTS[0], method=method, layer=layer).scores for layer in range(3)]
        np.testing.assert_allclose(every.scores, singles, rtol=0, atol=1e-12)
        same(attributor(TEXTS[0], method=method, layer=-2), attributor(TEXTS[0], method=method, layer=1))


def test_output_positions(attributor):
    every = attributor(TEXTS[1], output_position="all", normalize="none")
    assert every.scores.shape == (4, 4)
    for position in range(4):
        found = attributor(TEXTS[1], output_position=position, normalize="none")
        np.testing.assert_allclose(found.scores, every.scores[position], rtol=0, atol=1e-12)
        assert attributor(TEXTS[1], output_position=position - 4).output_position == position
    mean = attributor(TEXTS[1], output_position="mean", normalize="none")
    np.testing.assert_allclose(mean.scores, every.scores.mean(axis=0), rtol=0, atol=1e-12)
    assert (mean.output_position, every.output_position) == ("mean", "all")


def test_auto_position():
    plain = tokenizer(template="")
    behind = tokenizer(template="$A [SEP] [CLS]")
    assert Attributor(bert(), tokenizer())("the key").output_position == 0
    assert Attributor(bert(), behind)("the key").output_position == 3
    assert Attributor(bert(), plain)("the key").output_position == "mean"
    assert Attributor(gpt2(), tokenizer())("the key").output_position == 3
    assert Attributor(bert())(tokenizer()("the key")).output_position == 0


@pytest.mark.parametrize(("normalize", "total"), [("sum", "sum"), ("max", "max")])
def test_normalize(attributor, normalize, total):
    plain = attributor(TEXTS[0], normalize="none", output_position="all").scores
    found = attributor(TEXTS[0], normalize=normalize, output_position="all").scores
    np.testing.assert_allclose(getattr(found, total)(axis=-1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, plain / getattr(plain, total)(axis=-1, keepdims=True), rtol=0, atol=1e-12)


def test_special_tokens_are_zeroed_or_dropped_before_normalizing(attributor):
    plain = attributor(TEXTS[0], normalize="none").scores
    inner = plain[1:-1] / plain[1:-1].sum()
    zeroed = attributor(TEXTS[0], special_tokens="zero")
    np.testing.assert_allclose(zeroed.scores, [0, *inner, 0], rtol=0, atol=1e-12)
    dropped = attributor(TEXTS[0], special_tokens="drop")
    np.testing.assert_allclose(dropped.scores, inner, rtol=0, atol=1e-12)
    assert dropped.tokens == zeroed.tokens[1:-1]
    assert dropped.positions.tolist() == list(range(1, 11))
    assert dropped.output_position == zeroed.output_position
    matrix = attributor(TEXTS[0], special_tokens="drop", output_position="all")
    assert matrix.scores.shape == (10, 10)
    whole = attributor(TEXTS[0], output_position="all", normalize="none").scores[1:-1, 1:-1]
    np.testing.assert_allclose(matrix.scores, whole / whole.sum(-1, keepdims=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("head_reduction", ["max", "min", 1, [0, 2]])
def test_head_reduction_and_residual_weight_reach_the_graph(head_reduction):
    model = bert()
    options = {"head_reduction": head_reduction, "residual_weight": 0.8}
    found = Attributor(model, tokenizer())(TEXTS[0], method="rollout", **options)
    graph = eager_graph(model, tokenizer()(TEXTS[0], return_tensors="pt"), **options)
    np.testing.assert_allclose(found.scores, rollout(graph, output_positions=[0])[0], rtol=0, atol=1e-6)
    wanted = tuple(head_reduction) if isinstance(head_reduction, list) else head_reduction
    assert (found.head_reduction, found.residual_weight) == (wanted, 0.8)


def test_compare_is_each_method_from_one_forward_pass(attributor):
    attributor.capture_report()  # its probe runs the model too
    calls = []
    handle = attributor.model.register_forward_hook(lambda *_: calls.append(1))
    found = attributor.compare(TEXTS[0], methods=["flow", "raw"], options=Options(layer=1))
    assert len(calls) == 1
    handle.remove()
    assert list(found) == ["flow", "raw"]
    for method, attribution in found.items():
        same(attribution, attributor(TEXTS[0], method=method, layer=1))
    every = attributor.compare(TEXTS[0], options=Options(backend="numba"))
    assert [found.backend for found in every.values()] == ["numpy", "numpy", "numba"]
    with pytest.raises(OptionError, match="unknown backend of raw 'cuda'"):
        attributor.compare(TEXTS[0], options=Options(backend="cuda"))
    with pytest.raises(OptionError, match="compare takes one text and a list of methods"):
        attributor.compare(TEXTS[:2])


def test_backends_agree_and_are_named(attributor):
    slow = attributor(TEXTS[0], backend="networkx")
    fast = attributor(TEXTS[0], backend="numba")
    assert (slow.backend, fast.backend) == ("networkx", "numba")
    same(slow, fast, tolerance=1e-12)
    assert attributor("the key").backend == "networkx"
    assert attributor(TEXTS, output_position="all")[1].backend == "numba"  # one backend for the whole batch
    assert attributor(TEXTS[0], method="rollout").backend == "numpy"


def test_predictions():
    ids = tokenizer()(TEXTS[0], return_tensors="pt")
    for model in (bert(id2label={0: "no", 1: "yes"}), gpt2(), llama(), bert("BertForTokenClassification")):
        with torch.no_grad():
            logits = model(**ids).logits[0]
        found = Attributor(model, tokenizer())(TEXTS[0], output_position=3).prediction
        row = logits if logits.ndim == 1 else logits[3]
        assert found.index == int(row.argmax())
        assert found.probability == pytest.approx(float(row.softmax(-1).max()), abs=1e-5)
    assert Attributor(bert(id2label={0: "no", 1: "yes"}), tokenizer())("the key").prediction.label in ("no", "yes")
    assert Attributor(bert("BertModel"), tokenizer())("the key").prediction is None
    assert Attributor(gpt2(), tokenizer())("the key", output_position="mean").prediction is None
    masked = Attributor(bert("BertForMaskedLM"), tokenizer())
    assert masked("the key").prediction is None
    assert masked("the [MASK] key", output_position=2).prediction.label in tokenizer().get_vocab()


def test_classifier_without_padding_token_takes_lists():
    attributor = Attributor(gpt2("GPT2ForSequenceClassification", pad_token_id=None), tokenizer())
    for found, text in zip(attributor(TEXTS), TEXTS, strict=True):
        same(found, attributor(text))


def test_models_with_convolutions_get_batches_of_equal_lengths():
    model = make("ConvBertConfig", "ConvBertModel", **BERT, max_position_embeddings=64, embedding_size=32)
    attributor = Attributor(model, tokenizer())
    for found, text in zip(attributor(TEXTS, method="raw"), TEXTS, strict=True):
        same(found, attributor(text, method="raw"))


@pytest.mark.parametrize("pad_id", [-1, 10_000])
def test_padding_ids_without_embedding_are_not_used(pad_id):
    attributor = Attributor(llama(pad_token_id=None), tokenizer(template=""))
    attributor.model.config.pad_token_id = pad_id
    for found, text in zip(attributor(TEXTS), TEXTS, strict=True):
        same(found, attributor(text))


def test_numpy_numbers_are_numbers():
    attributor = Attributor(bert(), tokenizer(), batch_size=np.int64(2))
    options = {"layer": np.int64(1), "output_position": np.int32(2), "residual_weight": np.float32(0.25)}
    found = attributor(TEXTS[0], **options, head_reduction=np.int64(1))
    same(found, attributor(TEXTS[0], layer=1, output_position=2, residual_weight=0.25, head_reduction=1))
    heads = attributor(TEXTS[0], head_reduction=np.array([0, 2]))
    assert heads.head_reduction == (0, 2)
    same(heads, attributor(TEXTS[0], head_reduction=[0, 2]))
    assert json.loads(json.dumps(found.to_dict()))["residual_weight"] == 0.25


def test_encodings_are_held_to_the_models_length_alone():
    short = tokenizer(max_length=8)
    encoding = short(TEXTS[0], return_tensors="pt")
    same(Attributor(bert(), short)(encoding), Attributor(bert(), tokenizer())(TEXTS[0]))
    with pytest.raises(TextError, match="has 12 tokens, but the model reads 8 at most; pass truncation=True"):
        Attributor(bert(), short)(TEXTS[0])


def test_encoder_decoder_explains_the_encoder():
    options = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
    model = make("T5Config", "T5ForConditionalGeneration", **options)
    found = Attributor(model, tokenizer())(TEXTS[0], method="rollout")
    graph = eager_graph(model.get_encoder(), tokenizer()(TEXTS[0], return_tensors="pt", return_token_type_ids=False))
    np.testing.assert_allclose(found.scores, rollout(graph, output_positions=[0])[0], rtol=0, atol=1e-7)
    assert found.prediction is None


def test_truncation_is_asked_for_and_said():
    attributor = Attributor(bert(max_position_embeddings=8), tokenizer())
    with pytest.raises(TextError, match=r"has 12 tokens, but the model reads 8 at most; pass truncation=True"):
        attributor(TEXTS[0])
    found = attributor(TEXTS[0], truncation=True)
    assert (len(found.tokens), found.alignment.n_truncated) == (8, 4)
    assert "the text was cut: 4 tokens" in found.notes[0]
    with pytest.raises(TextError, match=r"has 12 tokens, but the model reads 8 at most; cut it to that length when"):
        attributor(tokenizer()(TEXTS[0]), truncation=True)


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_empty_texts(attributor, empty):
    with pytest.raises(TextError, match="the text is empty"):
        attributor(empty)
    with pytest.raises(TextError, match="text 1 is empty"):
        attributor(["the key", empty, "the cat"])


def test_no_texts_give_no_attributions(attributor):
    assert attributor([]) == []


def test_a_tokenizer_of_another_model_is_told():
    small = bert(vocab_size=8)
    with pytest.raises(TokenizerError, match=r"has id \d+, but the model knows only 8 ids"):
        Attributor(small, tokenizer())(TEXTS[0])


def test_python_only_tokenizers_work_without_offsets():
    byte_tokenizer = ByT5Tokenizer()
    attributor = Attributor(bert(vocab_size=400, cls_token_id=None), byte_tokenizer)
    found = attributor("key")
    assert found.tokens == ("k", "e", "y", "</s>")
    assert (found.offsets, found.word_ids) == (None, None)
    assert "no character offsets and word ids" in found.notes[0]
    with pytest.raises(TokenizerError, match="neither character offsets nor word ids"):
        found.to_words()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"method": "flows"},
            OptionError,
            "unknown method 'flows'; choose one of 'flow', 'flow_shapley', 'raw', 'rollout'",
        ),
        ({"backend": "cuda"}, OptionError, "unknown backend of flow 'cuda'; choose one of 'auto', 'networkx', 'numba'"),
        ({"method": "raw", "backend": "numba"}, OptionError, "unknown backend of raw 'numba'"),
        ({"layer": 3}, PositionError, "layer 3 is out of range: there are 3, so use -3 to 2"),
        ({"layer": "last"}, OptionError, "unknown layer 'last'; choose one of 'all'"),
        ({"layer": 1.0}, OptionError, "layer must be an integer, got 1.0"),
        ({"output_position": 4}, PositionError, "output_position 4 is out of range: there are 4, so use -4 to 3"),
        ({"output_position": "first"}, OptionError, "unknown output_position 'first'; choose one of 'all', 'auto'"),
        ({"normalize": "softmax"}, OptionError, "unknown normalize 'softmax'"),
        ({"special_tokens": "hide"}, OptionError, "unknown special_tokens 'hide'"),
        ({"head_reduction": "median"}, OptionError, "unknown head_reduction 'median'"),
        ({"head_reduction": 4}, PositionError, r"head \(of layer 0\) 4 is out of range"),
        ({"truncation": "no"}, OptionError, "truncation must be True or False, got 'no'"),
        ({"residual_weight": 2}, OptionError, "residual_weight must be a number from 0 to 1, or 'unlimited', got 2"),
    ],
)
def test_bad_options(attributor, options, error, message):
    with pytest.raises(error, match=message):
        attributor("the key", **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (3, "the text must be a string or a pair"),
        (["the key", None], "text 1 must be a string or a pair"),
        (("a", "b", "c"), "the text must be a string or a pair"),
    ],
)
def test_bad_inputs(attributor, inputs, message):
    with pytest.raises(OptionError, match=message):
        attributor(inputs)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", Path("nothing")])
def test_a_missing_folder_is_called_one(name):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Attributor.from_pretrained(name)


def test_bad_models():
    with pytest.raises(OptionError, match=r"model must be a Transformers model \(PreTrainedModel\), got str"):
        Attributor("bert-base-uncased")
    with pytest.raises(OptionError, match=r"PerceiverModel reads inputs; models of text .* can be explained"):
        Attributor(make("PerceiverConfig", "PerceiverModel", num_latents=4, d_latents=8, d_model=8))
    with pytest.raises(OptionError, match="batch_size must be a positive integer, got 0"):
        Attributor(bert(), batch_size=0)
    with pytest.raises(OptionError, match="tokenizer must be a Transformers tokenizer or None, got 'bert'"):
        Attributor(bert(), "bert")
    with pytest.raises(OptionError, match=r"got DataParallel; of a wrapped or compiled model pass the inner one"):
        Attributor(torch.nn.DataParallel(bert()))
    with pytest.raises(TokenizerError, match="text needs a tokenizer"):
        Attributor(bert())("the key")
    sizes = BERT | {"q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 4, "output_groups": 1}
    squeeze = make("SqueezeBertConfig", "SqueezeBertModel", **sizes, embedding_size=32)
    with pytest.raises(CaptureError, match=r"SqueezeBertModel cannot be captured: .* are no probabilities"):
        Attributor(squeeze, tokenizer())("the key")


def test_results_are_small_and_hold_no_tensors(attributor):
    kept = pickle.dumps(attributor(TEXTS[0]))
    assert len(kept) < 3000
    assert b"torch" not in kept


def test_embedded_model_by_name_and_in_float32():
    attributor = Attributor.from_pretrained()
    assert attributor.model.dtype == torch.float32
    assert attributor.model_name == EMBEDDED_MODEL
    assert repr(attributor) == "Attributor(BertForSequenceClassification, 'verb_number')"
    found = attributor("the key to the cabinets", method="flow")
    assert found.tokens == ("[CLS]", "the", "key", "to", "the", "cabinets")
    assert found.prediction.label == "singular"
    assert attributor("the keys to the cabinet").prediction.label == "plural"


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_minilm(method, tmp_path):
    attributor = Attributor.from_pretrained(minilm_folder())
    texts = ["The key to the old cabinets wasn't lost.", "Unbelievably, it rained."]
    batch = attributor(texts, method=method)
    for found, text in zip(batch, texts, strict=True):
        same(found, attributor(text, method=method))
        assert found.to_words().words[1:-1] == tuple(text.split())
        np.testing.assert_allclose(found.to_words().scores.sum(), 1, rtol=0, atol=1e-12)
        found.save(tmp_path / "a.json")
        np.testing.assert_array_equal(Attribution.load(tmp_path / "a.json").scores, found.scores)


def test_a_borrowed_sdpa_model_of_ones_own():
    model = AutoModel.from_pretrained(minilm_folder())
    assert model.config._attn_implementation == "sdpa"
    found = Attributor(model, AutoTokenizer.from_pretrained(minilm_folder()))("the key to the cabinets")
    same(found, Attributor.from_pretrained(minilm_folder())("the key to the cabinets"))
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.shared
@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_a_real_causal_model(method):
    attributor = Attributor.from_pretrained(shared_folder("models/stories260K"))
    texts = ["Once upon a time, there was a little girl", "Tom and his dog"]
    batch = attributor(texts, method=method)
    for found, text in zip(batch, texts, strict=True):
        same(found, attributor(text, method=method))
        assert found.output_position == len(found.tokens) - 1
        assert found.to_words().words[1:] == tuple(text.split())
    matrix = attributor(texts[0], method=method, output_position="all").scores
    assert not np.triu(matrix, 1).any()
    assert batch[0].prediction.label.strip() == "named"


@pytest.mark.shared
def test_a_real_classifier():
    attributor = Attributor.from_pretrained(shared_folder("models/minilm-sst2"), dtype=torch.float32)
    good, bad = attributor(["a warm, funny, engaging film", "a dull, lifeless and boring film"])
    assert (good.prediction.label, bad.prediction.label) == ("POSITIVE", "NEGATIVE")


@pytest.mark.network
def test_a_model_of_the_hub():
    found = Attributor.from_pretrained("bert-base-uncased")("the key to the [MASK]", output_position=5)
    assert found.prediction is not None


@pytest.mark.gpu
def test_gpu_equals_cpu(attributor):
    wanted = attributor(TEXTS)
    attributor.model.cuda()
    for got, cpu in zip(attributor(TEXTS), wanted, strict=True):
        same(got, cpu, tolerance=1e-5)
