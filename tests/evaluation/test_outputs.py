"""Targets, and what models say of them: compared with the model called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bag_of_words import bag_of_words, sigmoid
from tiny_models import VOCABULARY, bert, gpt2, make, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError, PositionError, TokenizerError
from attnflow_hf.evaluation import blank_out
from attnflow_hf.evaluation.outputs import find_targets, plain_samples, read_outputs
from attnflow_hf.targets import Target

NAMES = {0: "plural", 1: "singular", 2: "neither"}
TEXTS = ["the key to old cabinets", "cat sat", "a table and a mat"]


def targets_of(attributor, texts=TEXTS, asked=None, output_position="auto"):
    samples = plain_samples(attributor.wrapped, texts, truncation=False)
    return samples, find_targets(attributor.wrapped, samples, asked, output_position)


def logits_of(attributor, text):
    with torch.no_grad():
        return attributor.model(**attributor.tokenizer(text, return_tensors="pt")).logits[0].double()


def test_the_default_target_is_the_prediction() -> None:
    attributor = Attributor(bert(id2label=NAMES, attn_implementation="eager"), tokenizer(), batch_size=2)
    samples, targets = targets_of(attributor)
    probabilities = [torch.softmax(logits_of(attributor, text), 0) for text in TEXTS]
    assert [target.index for target in targets] == [int(each.argmax()) for each in probabilities]
    assert [target.label for target in targets] == [NAMES[target.index] for target in targets]
    assert {target.position for target in targets} == {None}
    values = read_outputs(attributor.wrapped, zip(samples, targets, strict=True), "probability")
    np.testing.assert_allclose(values, [float(each.max()) for each in probabilities], rtol=1e-5)
    logits = read_outputs(attributor.wrapped, zip(samples, targets, strict=True), "logit")
    np.testing.assert_allclose(logits, [float(logits_of(attributor, text).max()) for text in TEXTS], rtol=1e-5)


@pytest.mark.parametrize("asked", [2, np.int64(2), "neither"])
def test_a_class_may_be_asked_for(asked) -> None:
    attributor = Attributor(bert(id2label=NAMES), tokenizer())
    assert [target.index for target in targets_of(attributor, asked=asked)[1]] == [2, 2, 2]
    assert [target.index for target in targets_of(attributor, asked=[asked, None, 0])[1]][::2] == [2, 0]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (3, PositionError, r"target 3 is outside .*: it has 0 \('plural'\), 1 \('singular'\), 2 \('neither'\)"),
        (-1, PositionError, "target -1 is outside"),
        ("plurall", OptionError, r"'plurall' is none of the model's classes.*did you mean 'plural'"),
        (True, OptionError, "class index or label, got True"),
        (1.0, OptionError, "one class, or a list of 3"),
        ([0, 1], OptionError, "a list of 3, one for each text"),
    ],
)
def test_a_class_that_the_model_has_not(asked, error, message) -> None:
    with pytest.raises(error, match=message):
        targets_of(Attributor(bert(id2label=NAMES), tokenizer()), asked=asked)


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(PositionError, match=r"9 \('LABEL_9'\), \.\.\. up to 11$"):
        targets_of(Attributor(bert(num_labels=12), tokenizer()), asked=12)


def test_masked_language_models_speak_at_the_mask() -> None:
    attributor = Attributor(bert("BertForMaskedLM", attn_implementation="eager"), tokenizer())
    _, (target,) = targets_of(attributor, ["the [MASK] to old"])
    assert target.position == 2
    assert target.index == int(logits_of(attributor, "the [MASK] to old")[2].argmax())
    assert VOCABULARY[target.label] == target.index
    assert not target.is_causal


def test_causal_language_models_speak_at_the_last_token() -> None:
    attributor = Attributor(gpt2(attn_implementation="eager"), tokenizer(template=""))
    samples, targets = targets_of(attributor)
    expected = [torch.softmax(logits_of(attributor, text)[-1], 0) for text in TEXTS]
    assert [target.position for target in targets] == [4, 1, 4]
    assert [target.index for target in targets] == [int(each.argmax()) for each in expected]
    values = read_outputs(attributor.wrapped, zip(samples, targets, strict=True), "probability")
    np.testing.assert_allclose(values, [float(each.max()) for each in expected], rtol=1e-5)


def test_a_token_is_asked_for_by_its_name_or_id() -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    for asked in ("cat", VOCABULARY["cat"]):
        assert {target.index for target in targets_of(attributor, asked=asked)[1]} == {VOCABULARY["cat"]}
    with pytest.raises(OptionError, match="'zebra' is not one token"):
        targets_of(attributor, asked="zebra")
    with pytest.raises(PositionError, match=f"it has {len(VOCABULARY)} token ids"):
        targets_of(attributor, asked=len(VOCABULARY))
    with pytest.raises(TokenizerError, match="needs a tokenizer"):
        targets_of(Attributor(gpt2()), {"input_ids": [5, 6]}, asked="cat")


def test_positions_that_are_asked_for() -> None:
    words = tokenizer()
    attributor = Attributor(bert("BertForTokenClassification", attn_implementation="eager"), words)
    _, (target,) = targets_of(attributor, ["the key"], output_position=-2)
    assert (target.position, target.index) == (2, int(logits_of(attributor, "the key")[2].argmax()))
    with pytest.raises(OptionError, match="speaks of each token; choose one by output_position"):
        targets_of(attributor, ["the key"])
    with pytest.raises(PositionError, match="output_position 9 is out of range"):
        targets_of(attributor, ["the key"], output_position=9)
    with pytest.raises(OptionError, match="this text has 0 masks"):
        targets_of(Attributor(bert("BertForMaskedLM"), words), ["the key"])
    with pytest.raises(OptionError, match="this text has 2 masks"):
        targets_of(Attributor(bert("BertForMaskedLM"), words), ["[MASK] [MASK]"])
    with pytest.raises(OptionError, match="says one thing of the whole text"):
        targets_of(Attributor(bert(), words), ["the key"], output_position=0)


def test_heads_of_other_kinds() -> None:
    labels = bag_of_words(problem_type="multi_label_classification")
    samples, targets = targets_of(labels, ["key old"], asked=1)
    pairs = list(zip(samples, targets, strict=True))
    np.testing.assert_allclose(read_outputs(labels.wrapped, pairs, "probability"), [sigmoid(3)], rtol=1e-12)
    np.testing.assert_allclose(read_outputs(labels.wrapped, pairs, "log_probability"), [np.log(sigmoid(3))], rtol=1e-12)
    other = [(samples[0], Target(0, "LABEL_0"))]  # each label by itself
    np.testing.assert_allclose(read_outputs(labels.wrapped, other, "probability"), [0.5], rtol=1e-12)
    value = bag_of_words(num_labels=1)
    samples, targets = targets_of(value, ["key old"])
    for output in ("probability", "logit"):
        np.testing.assert_allclose(
            read_outputs(value.wrapped, zip(samples, targets, strict=True), output), [3.0], rtol=1e-12
        )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("BertModel", "BertModel has no head"),
        ("BertForPreTraining", "BertForPreTraining has no head"),
        ("BertForQuestionAnswering", "BertForQuestionAnswering has no head"),
    ],
)
def test_models_without_a_class_are_refused(model, message) -> None:
    with pytest.raises(OptionError, match=message):
        targets_of(Attributor(bert(model), tokenizer()))


def test_what_has_no_tokens_to_edit_is_refused() -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 0}
    bart = make("BartConfig", "BartForConditionalGeneration", **sizes, **heads)
    with pytest.raises(OptionError, match="BartForConditionalGeneration writes a text of its own"):
        blank_out(Attributor(bart, tokenizer()), "the key")
    vit = make("ViTConfig", "ViTForImageClassification", hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    with pytest.raises(OptionError, match="reads images or sound"):
        blank_out(Attributor(vit), {"pixel_values": torch.zeros(1, 3, 224, 224)})
    with pytest.raises(OptionError, match="there is no text"):
        blank_out(Attributor(bert(), tokenizer()), [])


def test_more_samples_than_are_held_at_once(monkeypatch) -> None:
    monkeypatch.setattr("attnflow_hf.evaluation.outputs._BATCHES_HELD", 1)
    attributor = bag_of_words()
    texts = ["key", "old old old", "cat", "mat mat", "key key key key", "the", "old"]
    samples, targets = targets_of(attributor, texts, asked=1)
    values = read_outputs(attributor.wrapped, iter(zip(samples, targets, strict=True)), "logit")
    np.testing.assert_allclose(values, [2, 3, -1, 1, 8, 0, 1], rtol=1e-12)


def test_outputs_must_be_finite() -> None:
    attributor = bag_of_words()
    with torch.no_grad():
        attributor.model.words.weight[VOCABULARY["cat"]] = torch.nan
    samples = plain_samples(attributor.wrapped, ["key", "cat"], truncation=False)
    with pytest.raises(ArrayError, match=r"the model's output must be finite, got nan at index \(1,\)"):
        read_outputs(attributor.wrapped, [(sample, Target(1, "1")) for sample in samples], "logit")


def test_probabilities_of_a_half_precision_model_are_float64() -> None:
    attributor = bag_of_words()
    attributor.model.half()
    samples = plain_samples(attributor.wrapped, ["key old"], truncation=False)
    values = read_outputs(attributor.wrapped, [(samples[0], Target(1, "1"))], "probability")
    np.testing.assert_allclose(values, [sigmoid(3)], rtol=1e-12)


def test_no_samples_are_no_outputs() -> None:
    assert read_outputs(bag_of_words().wrapped, [], "logit").shape == (0,)
