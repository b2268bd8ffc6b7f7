"""`predict`: what each kind of head says, compared with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, bert, gpt2, make, tokenizer
from tokenizer_makers import byte_bpe

from attnflow_hf.errors import ArrayError
from attnflow_hf.prediction import Prediction, predict

IDS = np.array([VOCABULARY[word] for word in ["[CLS]", "the", "[MASK]", "cat", "[SEP]"]])
NAMES = {0: "plural", 1: "singular", 2: "neither"}


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(IDS[None])).logits[0]


def predict_at(model: Any, position: int | str = 0, words: Any = "own") -> Prediction | None:
    own = tokenizer() if words == "own" else words
    return predict(model, own, logits_of(model).numpy(), IDS, position)


@pytest.mark.parametrize("position", [0, 3, "mean", "all"])
def test_classification_is_softmax_whatever_the_position(position: int | str) -> None:
    model = bert(id2label=NAMES)
    found, logits = predict_at(model, position), logits_of(model)
    best = int(logits.argmax())
    assert (found.index, found.label, type(found.index)) == (best, NAMES[best], int)
    np.testing.assert_allclose(found.probability, torch.softmax(logits, 0)[best].item(), rtol=1e-6)
    assert found.output == logits[best].item()


def test_classification_with_default_labels_and_without_a_tokenizer() -> None:
    found = predict_at(bert(num_labels=4), words=None)
    assert found.label == f"LABEL_{found.index}"


def test_multi_label_is_a_sigmoid() -> None:
    model = bert(num_labels=3, problem_type="multi_label_classification")
    found, logits = predict_at(model), logits_of(model)
    np.testing.assert_allclose(found.probability, torch.sigmoid(logits.max()).item(), rtol=1e-6)


@pytest.mark.parametrize(("logit", "probability"), [(-2000.0, 0.0), (0.0, 0.5), (2000.0, 1.0)])
def test_sigmoid_of_extreme_logits(logit: float, probability: float) -> None:
    model = bert(problem_type="multi_label_classification")
    assert predict(model, None, np.array([logit, logit]), IDS, 0).probability == probability


def test_softmax_of_extreme_logits() -> None:
    found = predict(bert(), None, np.array([1e30, -np.inf]), IDS, 0)
    assert (found.index, found.probability) == (0, 1.0)


@pytest.mark.parametrize("options", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_regression_has_no_probability(options: dict[str, Any]) -> None:
    model = bert(**options)
    found = predict_at(model)
    assert found.probability is None
    assert found.output == logits_of(model).max().item()


@pytest.mark.parametrize("position", [0, 3])
def test_token_classification_speaks_of_the_position(position: int) -> None:
    model = bert("BertForTokenClassification", id2label=NAMES)
    found, logits = predict_at(model, position), logits_of(model)[position]
    assert found.label == NAMES[int(logits.argmax())]
    np.testing.assert_allclose(found.probability, torch.softmax(logits, 0).max().item(), rtol=1e-6)


@pytest.mark.parametrize("position", [1, 4])
def test_causal_models_speak_of_the_next_token(position: int) -> None:
    model = gpt2()
    found, logits = predict_at(model, position), logits_of(model)[position]
    assert found.index == int(logits.argmax())
    assert VOCABULARY[found.label] == found.index
    np.testing.assert_allclose(found.probability, torch.softmax(logits, 0).max().item(), rtol=1e-6)


def test_causal_models_without_a_tokenizer_name_the_id() -> None:
    found = predict_at(gpt2(), 4, words=None)
    assert found.label == str(found.index)


def test_masked_models_speak_of_masks_alone() -> None:
    model = bert("BertForMaskedLM")
    logits = logits_of(model)[2]
    found = predict_at(model, 2)
    assert VOCABULARY[found.label] == found.index == int(logits.argmax())
    np.testing.assert_allclose(found.probability, torch.softmax(logits, 0).max().item(), rtol=1e-6)
    for position in (0, 1, 3, 4):
        assert predict_at(model, position) is None
    assert predict_at(model, 2, words=None) is None
    assert predict_at(model, 2, words=byte_bpe()) is None, "a tokenizer without a mask"


@pytest.mark.parametrize("model_class", ["BertForTokenClassification", "BertForMaskedLM"])
@pytest.mark.parametrize("position", ["mean", "all"])
def test_heads_of_each_position_say_nothing_of_all(model_class: str, position: str) -> None:
    assert predict_at(bert(model_class), position) is None
    assert predict_at(gpt2(), position) is None


def test_a_model_without_head_says_nothing() -> None:
    assert predict(bert("BertModel"), tokenizer(), None, IDS, 0) is None


def test_a_discriminator_of_tokens_has_no_label() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    model = make("ElectraConfig", "ElectraForPreTraining", embedding_size=32, **sizes)
    assert logits_of(model).shape == (len(IDS),)
    assert predict_at(model) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_output_is_an_error(bad: float) -> None:
    with (
        pytest.raises(ArrayError, match=r"the model's output must be finite, got (nan|inf)"),
        np.errstate(all="ignore"),
    ):
        predict(bert(), None, np.array([0.0, bad]), IDS, 0)


def test_token_names_are_never_empty() -> None:
    words = byte_bpe()
    logits = np.zeros((len(IDS), 500))
    for token_id, name in [(words.convert_tokens_to_ids("\u0120"), "\u0120"), (499, "499")]:
        logits[0] = np.arange(500) == token_id
        assert predict(gpt2(), words, logits, IDS, 0).label == name


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (Prediction("singular", 1, 0.99361, 2.5), "prediction 'singular' (probability 0.994)"),
        (Prediction("it's\n", 1, 1e-9, -2.5), 'prediction "it\'s\\n" (probability 0.000)'),
        (Prediction("LABEL_0", 0, None, -1234.5678), "prediction LABEL_0 = -1235"),
    ],
)
def test_describe(prediction: Prediction, text: str) -> None:
    assert prediction.describe() == text
