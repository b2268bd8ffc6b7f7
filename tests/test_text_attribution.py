import copy
import json
import pickle

import numpy as np
import pytest
import torch
from architectures import OLD
from datasets import Dataset
from test_encoder_decoder import build
from tiny_models import bert, gpt2, llama, make, tokenizer
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from attnflow_hf import Attributor
from attnflow_hf.errors import AttnFlowError, CaptureError, OptionError, TextError, TokenizerError
from attnflow_hf.text_attribution import OPTIONS, TextAttributionPipeline

TEXTS = [
    "the key to the old cabinets is on a table",
    "the key",
    "one longer text and another text",
    "the cat sat",
    "a mat near the old table and the cat",
]
PAIR = {"text": "a premise", "text_pair": "another hypothesis"}


def padless(**options):
    """A tokenizer that does not know how to pad."""
    tok = copy.deepcopy(tokenizer(**options))
    tok.pad_token = None
    return tok


MODELS = {
    "bert": (bert, lambda: tokenizer(token_types=True)),
    "bert without a head": (lambda: bert("BertModel"), tokenizer),
    "bert of masks": (lambda: bert("BertForMaskedLM"), lambda: tokenizer(padding_side="left")),
    "gpt2": (gpt2, lambda: padless(template="")),
    "gpt2, padded on the left": (gpt2, lambda: tokenizer(template="", padding_side="left")),
    "gpt2 without a padding id": (lambda: gpt2(pad_token_id=None), lambda: padless(template="")),
    "llama that classifies": (
        lambda: llama("LlamaForSequenceClassification"),
        lambda: tokenizer(padding_side="left"),
    ),
    "llama that refuses batches": (
        lambda: llama("LlamaForSequenceClassification", pad_token_id=None),
        padless,
    ),
    "t5": (lambda: build("t5"), tokenizer),
}


def explainer(model=None, tok=None, **options):
    return pipeline("text-attribution", model or bert(), tokenizer=tok or tokenizer(token_types=True), **options)


def same(row, wanted, words=False):
    """A row is what `Attributor` gives by each method."""
    for method, each in wanted.items():
        assert row["tokens"] == list(each.tokens)
        assert row["offsets"] == (None if each.offsets is None else each.offsets.tolist())
        assert row["special_tokens_mask"] == each.special_tokens_mask.tolist()
        assert row["output_position"] == (None if isinstance(each.output_position, str) else each.output_position)
        np.testing.assert_allclose(row[f"scores_{method}"], each.scores, rtol=0, atol=1e-6)
        if each.prediction is not None:
            assert row["prediction_label"] == each.prediction.label
            assert row["prediction_probability"] == pytest.approx(each.prediction.probability, abs=1e-6)
        if words:
            assert row["words"] == list(each.to_words().words)
            np.testing.assert_allclose(row[f"word_scores_{method}"], each.to_words().scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_what_the_attributor_gives_for_each_text_alone(name, batch_size):
    model, tok = (each() for each in MODELS[name])
    rows = explainer(model, tok)(TEXTS, method=["rollout", "raw"], words=True, batch_size=batch_size)
    assert len(rows) == len(TEXTS)
    attributor = Attributor(model, tok)
    for text, row in zip(TEXTS, rows, strict=True):
        same(row, attributor.compare(text, methods=["rollout", "raw"]), words=True)


def test_one_text_gives_one_row_that_json_takes_to_the_last_bit():
    row = explainer()(TEXTS[0])
    attribution = Attributor(bert(), tokenizer(token_types=True))(TEXTS[0], method="flow")
    assert list(row) == [
        "tokens",
        "offsets",
        "special_tokens_mask",
        "prediction_label",
        "prediction_probability",
        "output_position",
        "notes",
        "scores_flow",
    ]
    assert row["scores_flow"] == attribution.scores.tolist()
    assert row["notes"] == list(attribution.notes)
    assert json.loads(json.dumps(row)) == row
    assert explainer()([]) == []
    assert explainer()(TEXTS[:1]) == [row]


def test_rows_tell_the_explained_class_where_there_is_one():
    row = explainer()(TEXTS[0], method="rollout", edge_weights="grad_attention")
    target = Attributor(bert(), tokenizer(token_types=True))(TEXTS[0], edge_weights="grad_attention").target
    assert list(row)[5:9] == ["target_label", "target_index", "target_probability", "target_output"]
    assert (row["target_label"], row["target_index"]) == (target.label, target.index)
    assert row["target_output"] == pytest.approx(target.output, abs=1e-6)
    assert json.loads(json.dumps(row)) == row


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one core
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("form", ["generator", "KeyDataset", "workers", "generator with workers"])
def test_every_way_to_give_many_texts(form, batch_size):
    pipe = explainer()
    given = {
        "generator": (text for text in TEXTS),
        "KeyDataset": KeyDataset(Dataset.from_dict({"text": TEXTS}), "text"),
        "workers": TEXTS,
        "generator with workers": (text for text in TEXTS),
    }[form]
    options = {"num_workers": 2} if "workers" in form else {}
    found = pipe(given, batch_size=batch_size, method="raw", **options)
    assert form != "workers" or isinstance(found, list)
    for row, wanted in zip(found, pipe(TEXTS, method="raw"), strict=True):
        assert row["tokens"] == wanted["tokens"]
        np.testing.assert_allclose(row["scores_raw"], wanted["scores_raw"], rtol=0, atol=1e-6)


def test_the_length_of_a_data_set_is_known_while_it_is_read():
    assert len(explainer()(KeyDataset(Dataset.from_dict({"text": TEXTS}), "text"))) == len(TEXTS)


def test_pairs_as_tuples_and_as_dictionaries():
    pipe = explainer()
    pair = (PAIR["text"], PAIR["text_pair"])
    wanted = Attributor(pipe.model, pipe.tokenizer).compare(pair, methods=["rollout"])
    for given in (PAIR, pair):
        same(pipe(given, method="rollout"), wanted)
    texts = [PAIR, pair, {"text": TEXTS[0]}, {"text": TEXTS[0], "text_pair": None}, TEXTS[0]]
    for row, alone in zip(pipe(texts, batch_size=5, method="rollout"), [pair] * 2 + TEXTS[:1] * 3, strict=True):
        same(row, Attributor(pipe.model, pipe.tokenizer).compare(alone, methods=["rollout"]))


@pytest.mark.parametrize(
    "options",
    [
        {"layer": 0},
        {"layer": "all"},
        {"output_position": "mean"},
        {"output_position": "all"},
        {"output_position": -2},
        {"head_reduction": "max"},
        {"head_reduction": [0, 1]},
        {"residual_weight": 0.2},
        {"normalize": "none"},
        {"special_tokens": "drop"},
        {"first_token": "zero"},
        {"keep": "rollout"},
        {"backend": "numpy"},
    ],
    ids=str,
)
def test_options_when_it_is_made_and_when_it_is_called(options):
    wanted = Attributor(bert(), tokenizer(token_types=True))(TEXTS[0], method="rollout", **options)
    for row in (explainer(method="rollout", **options)(TEXTS[0]), explainer()(TEXTS[0], method="rollout", **options)):
        same(row, {"rollout": wanted})


def test_what_the_call_says_goes_before_what_was_said_before():
    pipe = explainer(method="raw", layer=0, words=True)
    assert "scores_rollout" in pipe(TEXTS[0], method="rollout", words=False)
    assert "words" not in pipe(TEXTS[0], method="rollout", words=False)
    same(pipe(TEXTS[0], layer=1), {"raw": Attributor(bert(), pipe.tokenizer)(TEXTS[0], method="raw", layer=1)})
    assert "word_scores_raw" in pipe(TEXTS[0])


def test_position_correction_of_a_causal_model():
    model, tok = gpt2(), tokenizer(template="")
    options = {"method": "flow", "position_correction": "uniform", "normalize": "none"}
    same(explainer(model, tok)(TEXTS[0], **options), {"flow": Attributor(model, tok)(TEXTS[0], **options)})


def test_every_option_of_options_is_taken():
    assert set(OPTIONS) == {"method", "words", "truncation", *Attributor.__call__.__kwdefaults__} - {"text_target"}


@pytest.mark.parametrize("when", ["made", "called"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual_wieght": 0.1}, "unknown option 'residual_wieght'; did you mean 'residual_weight'"),
        ({"zzz": 1}, "unknown option 'zzz'. The text-attribution pipeline takes backend, baseline, edge_weights, "),
        ({"method": "gradient"}, "unknown method 'gradient'; choose one of 'flow', 'flow_shapley', 'raw', 'rollout'"),
        ({"method": []}, "method must be a method or a list of them"),
        ({"method": ["raw", "raw"]}, "methods must differ"),
        ({"method": None}, "method must be a method or a list of them, got None"),
        ({"words": 1}, "words must be True or False, got 1"),
        ({"normalize": "l2"}, "unknown normalize 'l2'"),
        ({"layer": "top"}, "unknown layer 'top'"),
    ],
)
def test_what_it_does_not_know_is_an_error_that_names_what_it_knows(options, message, when):
    with pytest.raises(OptionError, match=message):
        explainer(**options) if when == "made" else explainer()(TEXTS[0], **options)


@pytest.mark.parametrize("bad", [7, None, ["a", "b"], {"text": "a", "second": "b"}, {"texts": "a"}, ("a", "b", "c")])
def test_what_is_no_text_is_an_error_that_says_what_is(bad):
    with pytest.raises(OptionError, match="text"):
        explainer()([TEXTS[0], bad])


def test_texts_that_are_empty_or_too_long():
    pipe = explainer()
    with pytest.raises(TextError, match="empty"):
        pipe("")
    with pytest.raises(TextError, match="truncation=True"):
        pipe("the key " * 40)
    assert len(pipe("the key " * 40, truncation=True)["tokens"]) == 64
    assert "the text was cut" in pipe("the key " * 40, truncation=True)["notes"][0]
    with pytest.raises(OptionError, match="truncation must be True or False"):
        pipe(TEXTS[0], truncation="longest_first")


def test_a_method_that_does_not_fold_is_refused_with_folding():
    with pytest.raises(AttnFlowError, match="serves method='rollout' alone"):
        explainer(keep="rollout")(TEXTS[0], method=["raw", "rollout"])


def test_a_model_by_its_folder_has_the_head_it_was_saved_with(tmp_path):
    for model in (bert(id2label={0: "no", 1: "yes"}), gpt2(), bert("BertForTokenClassification")):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        pipe = pipeline("text-attribution", model=str(folder), device="cpu", method="rollout")
        assert type(pipe.model) is type(model)
        same(pipe(TEXTS[0]), {"rollout": Attributor(model, tokenizer())(TEXTS[0], method="rollout")})


def test_dtype_and_device_and_batch_size_are_those_of_every_pipeline(tmp_path):
    bert().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    options = {"dtype": torch.bfloat16, "device": torch.device("cpu"), "batch_size": 2, "local_files_only": True}
    pipe = pipeline("text-attribution", model=str(tmp_path), **options)
    assert pipe.model.dtype == torch.bfloat16
    assert (pipe._batch_size, pipe.device.type) == (2, "cpu")
    same(pipe(TEXTS[0], method="raw"), {"raw": Attributor(pipe.model, pipe.tokenizer)(TEXTS[0], method="raw")})


def test_without_a_model_it_is_the_embedded_one():
    row = pipeline("text-attribution", device="cpu")("the keys to the cabinet", method="rollout")
    same(row, {"rollout": Attributor.from_pretrained()("the keys to the cabinet", method="rollout")})


@pytest.mark.skipif(OLD, reason="no pipeline of Transformers 5.0 can be saved: they lack what they save")
def test_a_saved_pipeline_is_a_model_with_its_tokenizer(tmp_path):
    pipe = explainer()
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert pipeline("text-attribution", model=str(tmp_path), device="cpu")(TEXTS[0]) == pipe(TEXTS[0])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_copies_give_the_same(copied):
    pipe = explainer(method="raw", layer=0)
    other = copied(pipe)
    assert type(other) is TextAttributionPipeline
    assert other(TEXTS) == pipe(TEXTS)


def test_the_model_stays_as_it_is():
    model = bert().train()
    state, implementation = model.config.to_dict(), model.config._attn_implementation
    explainer(model)(TEXTS, batch_size=2)
    assert model.training
    assert (model.config.to_dict(), model.config._attn_implementation) == (state, implementation)
    assert not any(module._forward_hooks for module in model.modules())


def test_models_that_cannot_be_explained_are_refused():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 64}
    with pytest.raises(CaptureError, match="FNetForSequenceClassification gave no attentions"):
        explainer(make("FNetConfig", "FNetForSequenceClassification", **sizes))(TEXTS[0])
    with pytest.raises(OptionError, match="model must be a Transformers model"):
        TextAttributionPipeline(model=torch.nn.Linear(2, 2), tokenizer=tokenizer())
    with pytest.raises(TokenizerError, match="text needs a tokenizer"):
        TextAttributionPipeline(model=bert())(TEXTS[0])
