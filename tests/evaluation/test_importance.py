"""Blank-out against values worked by hand and against the model called by hand on edited ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bag_of_words import bag_of_words, sigmoid
from tiny_models import VOCABULARY, bert, gpt2, make, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError
from attnflow_hf.evaluation import Importance, Target, blank_out
from attnflow_hf.tokens import Tokens


@pytest.mark.parametrize(
    ("replacement", "weight"),
    [("drop", 0.0), ("pad", 0.0), ("unk", 0.25), ("mask", -0.5)],
    ids=lambda value: str(value),
)
def test_blank_out_of_a_bag_of_words(replacement, weight) -> None:
    # The logit of class 1 is 0 + 2 + 1 - 1 = 2; a word's own weight goes and the replacement's comes.
    weights = np.array([0.0, 2.0, 1.0, -1.0])
    found = blank_out(bag_of_words(), "the key old cat", replacement=replacement, special_tokens="drop")
    expected = [sigmoid(2) - sigmoid(2 - each + weight) for each in weights]
    assert found.tokens == ("the", "key", "old", "cat")
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.output_value, sigmoid(2), rtol=1e-12)
    logits = blank_out(
        bag_of_words(), "the key old cat", replacement=replacement, special_tokens="drop", output="logit"
    )
    np.testing.assert_allclose(logits.scores, weights - weight, rtol=0, atol=1e-12)
    sizes = blank_out(
        bag_of_words(), "the key old cat", replacement=replacement, special_tokens="drop", output="logit", signs="drop"
    )
    np.testing.assert_allclose(sizes.scores, np.abs(weights - weight), rtol=0, atol=1e-12)


def test_the_target_changes_the_sign() -> None:
    one, zero = (blank_out(bag_of_words(), "key cat", target=target, special_tokens="drop") for target in (1, 0))
    np.testing.assert_allclose(one.scores, -zero.scores, rtol=0, atol=1e-12)
    assert (one.target.index, zero.target.label) == (1, "LABEL_0")


def test_regression_has_its_value() -> None:
    found = blank_out(bag_of_words(num_labels=1), "key cat", replacement="drop", special_tokens="drop")
    np.testing.assert_allclose(found.scores, [2.0, -1.0], rtol=1e-12)


def by_hand(model, ids, index, position=None):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return float(torch.softmax(logits if position is None else logits[position], 0)[index])


@pytest.mark.parametrize("replacement", ["unk", "drop"])
def test_a_classifier_in_batches_is_the_model_called_by_hand(replacement) -> None:
    attributor = Attributor(bert(), tokenizer(), batch_size=4)
    texts = ["the key to old cabinets", "cat sat", "a mat"]
    for text, found in zip(texts, blank_out(attributor, texts, replacement=replacement), strict=True):
        ids = attributor.tokenizer(text)["input_ids"]
        assert found.alignment.input_ids.tolist() == ids  # special tokens, too
        new = [VOCABULARY["[UNK]"]] if replacement == "unk" else []
        edited = [
            by_hand(attributor.model, [*ids[:i], *new, *ids[i + 1 :]], found.target.index) for i in range(len(ids))
        ]
        np.testing.assert_allclose(
            found.scores, by_hand(attributor.model, ids, found.target.index) - np.array(edited), rtol=0, atol=1e-6
        )


def test_a_masked_language_model_keeps_its_mask() -> None:
    attributor = Attributor(bert("BertForMaskedLM"), tokenizer(template=""))
    found = blank_out(attributor, "the [MASK] to old", replacement="drop")
    assert found.tokens == ("the", "to", "old")
    assert found.notes == ("the explained position 1 ([MASK]) stays as it is",)
    ids, index = attributor.tokenizer("the [MASK] to old")["input_ids"], found.target.index
    assert index == VOCABULARY[found.target.label]
    cut = [[*ids[1:]], [*ids[:2], ids[3]], ids[:3]]
    expected = [by_hand(attributor.model, each, index, each.index(VOCABULARY["[MASK]"])) for each in cut]
    whole = by_hand(attributor.model, ids, index, 1)
    np.testing.assert_allclose(found.scores, whole - np.array(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("replacement", ["unk", "drop"])
def test_a_causal_language_model_speaks_at_what_is_last(replacement) -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    found = blank_out(attributor, "the key to old", replacement=replacement)
    ids, new = attributor.tokenizer("the key to old")["input_ids"], [VOCABULARY["[UNK]"]] * (replacement == "unk")
    edited = [by_hand(attributor.model, [*ids[:i], *new, *ids[i + 1 :]], found.target.index, -1) for i in range(4)]
    whole = by_hand(attributor.model, ids, found.target.index, -1)
    np.testing.assert_allclose(found.scores, whole - np.array(edited), rtol=0, atol=1e-6)


def test_a_model_that_refuses_batches() -> None:
    model = gpt2("GPT2ForSequenceClassification", pad_token_id=None)
    texts = ["the key", "cat sat mat"]
    found = blank_out(Attributor(model, tokenizer(template="")), texts)
    single = [blank_out(Attributor(model, tokenizer(template="")), text) for text in texts]
    for one, other in zip(found, single, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)


def test_the_model_comes_back_as_it_came() -> None:
    model = bert(hidden_dropout_prob=0.5).train()
    attributor = Attributor(model, tokenizer())
    first, second = (blank_out(attributor, "the key to old").scores for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=0, atol=0)  # no dropout
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_one_result_for_one_text_and_a_list_for_a_list() -> None:
    attributor = bag_of_words()
    assert isinstance(blank_out(attributor, "key"), Importance)
    assert isinstance(blank_out(attributor, attributor.tokenizer("key")), Importance)
    assert len(blank_out(attributor, ["key"])) == 1
    assert len(blank_out(attributor, attributor.tokenizer(["key", "cat mat"]))) == 2


def test_a_cut_text_says_so() -> None:
    attributor = Attributor(bert(), tokenizer(max_length=6))
    found = blank_out(attributor, "the key to old cabinets is on a table", truncation=True)
    assert len(found.tokens) == 6
    assert found.notes[0].startswith("the text was cut: 5 tokens")


def test_encoder_decoder_classifiers_are_blanked_out() -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 0, "eos_token_id": 3}
    attributor = Attributor(make("BartConfig", "BartForSequenceClassification", **sizes, **heads), tokenizer())
    found = blank_out(attributor, "the key to", special_tokens="drop")
    ids = attributor.tokenizer("the key to")["input_ids"]
    edited = [by_hand(attributor.model, [*ids[:i], 1, *ids[i + 1 :]], found.target.index) for i in (1, 2, 3)]
    whole = by_hand(attributor.model, ids, found.target.index)
    np.testing.assert_allclose(found.scores, whole - np.array(edited), rtol=0, atol=1e-6)


def test_nothing_to_blank_out_is_no_score() -> None:
    found = blank_out(Attributor(bert("BertForMaskedLM"), tokenizer()), "[MASK]", special_tokens="drop")
    assert found.scores.shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "log_probability"}, "unknown output 'log_probability'"),
        ({"signs": "absolute"}, "unknown signs 'absolute'"),
        ({"special_tokens": "zero"}, "unknown special_tokens 'zero'"),
        ({"replacement": "delete"}, "unknown replacement 'delete'"),
    ],
)
def test_options_are_checked(options, message) -> None:
    with pytest.raises(OptionError, match=message):
        blank_out(bag_of_words(), "key", **options)


def test_importance_checks_itself() -> None:
    tokens, target = Tokens.from_ids([5, 6]), Target(0, "a")
    values = np.array([1.0, 2.0])
    found = Importance(tokens, values, "blank_out", target, "logit", 0.5)
    values[0] = 7
    assert found.scores.tolist() == [1.0, 2.0]
    assert not found.scores.flags.writeable
    assert repr(found) == "Importance(blank_out, logit of 'a', 5:1.000 6:2.000)"
    with pytest.raises(ArrayError, match=r"scores of shape \(3,\) do not fit 2 tokens"):
        Importance(tokens, np.zeros(3), "blank_out", target, "logit", 0.5)
    with pytest.raises(ArrayError, match=r"scores must be finite, got nan at index \(1,\)"):
        Importance(tokens, np.array([0, np.nan]), "blank_out", target, "logit", 0.5)


def test_as_plain_values_for_json() -> None:
    found = blank_out(bag_of_words(), "the key", special_tokens="drop")
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["scores"] == found.scores.tolist()
    assert (values["tokens"], values["positions"]) == (["the", "key"], [1, 2])
    assert (values["target"]["index"], values["kind"], values["replacement"]) == (1, "blank_out", "unk")
    assert "alignment" not in values
