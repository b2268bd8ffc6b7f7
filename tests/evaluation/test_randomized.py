"""Weights made random anew: as Transformers makes them, seeded, part by part, and the user's model untouched."""

import numpy as np
import pytest
import tiny_models
import torch
from torch import nn

from attnflow_hf import Attributor
from attnflow_hf.errors import CaptureError, OptionError
from attnflow_hf.evaluation import agreement_with_randomized, randomizable_parts, randomize
from attnflow_hf.evaluation.scored import ScoredTokens

PARTS = ("head", "layer 2", "layer 1", "layer 0", "embeddings")
TEXTS = ["the key to old cabinets", "a cat sat on the table near the key"]


def trained(model):
    """A model whose weights are none that Transformers would begin with."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(3.0)
    return model


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {name for name, weight in model.named_parameters() if not torch.equal(before[name], weight)}


def part_of(name):
    """The part of a weight of the tiny BERT and GPT-2, told by its name."""
    layer = [piece for piece in name.split(".") if piece.isdigit()]
    if layer:
        return f"layer {layer[0]}"
    return "embeddings" if "embeddings" in name or "wte" in name or "wpe" in name else "head"


@pytest.mark.parametrize("make", [tiny_models.bert, tiny_models.gpt2])
def test_each_part_in_its_turn_and_no_other(make):
    model = trained(make())
    before = state(model)
    assert randomizable_parts(model) == PARTS
    for count in range(len(PARTS) + 1):
        expected = {name for name in before if part_of(name) in PARTS[:count]} & dict(model.named_parameters()).keys()
        assert changed(before, randomize(model, n_parts=count)) == expected
    assert changed(before, randomize(model)) == dict(model.named_parameters()).keys()


def test_the_model_given_and_the_random_numbers_stay_as_they_were():
    model = trained(tiny_models.bert())
    before, names = state(model), set(vars(model))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    copy = randomize(model)
    assert torch.equal(torch.rand(3), expected)
    assert changed(before, model) == set()
    assert set(vars(model)) == names
    assert not copy.training
    for each in (*copy.modules(), *copy.parameters(), *copy.buffers()):
        assert not hasattr(each, "_is_hf_initialized")
    assert copy.classifier.weight.data_ptr() != model.classifier.weight.data_ptr()


def test_weights_are_those_of_a_new_model():
    model = trained(tiny_models.bert(initializer_range=0.05, hidden_size=64))
    found = randomize(model)
    assert bool((found.bert.encoder.layer[0].attention.self.query.bias == 0).all())
    assert bool((found.bert.encoder.layer[0].output.LayerNorm.weight == 1).all())
    assert bool((found.bert.embeddings.word_embeddings.weight[0] == 0).all())  # of the padding
    spread = float(found.bert.encoder.layer[1].attention.self.query.weight.detach().std())
    np.testing.assert_allclose(spread, 0.05, rtol=0, atol=0.003)  # of 4,096 numbers: 3 times 0.05 / sqrt(2 * 4096)


def test_a_seed_fixes_each_part_whatever_is_below():
    model = tiny_models.bert()
    some, more, other = (randomize(model, n_parts=n, seed=seed) for n, seed in ((2, 7), (5, 7), (2, 8)))
    name = "bert.encoder.layer.2.attention.self.query.weight"
    assert torch.equal(some.get_parameter(name), more.get_parameter(name))
    assert not torch.equal(some.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(more.get_parameter(name), more.get_parameter(name.replace("2", "1")))
    assert changed(state(randomize(model, seed=3)), randomize(model, seed=3)) == set()


def test_parts_that_stay_are_safe_from_an_initialization_that_writes_over_weights(monkeypatch):
    def write_over(self, module):
        for weight in module.parameters(recurse=False):
            weight.data.fill_(5.0)

    model = tiny_models.bert()
    monkeypatch.setattr("transformers.BertPreTrainedModel._init_weights", write_over)
    found = changed(state(model), randomize(model, n_parts=2))
    assert {part_of(name) for name in found} == {"head", "layer 2"}


def test_a_weight_that_is_shared_becomes_random_with_the_lower_part():
    model = trained(tiny_models.bert("BertForMaskedLM"))
    before = state(model)
    assert "bert.embeddings.word_embeddings.weight" not in changed(before, randomize(model, n_parts=4))
    found = randomize(model, n_parts=5)
    assert "bert.embeddings.word_embeddings.weight" in changed(before, found)
    assert found.cls.predictions.decoder.weight is found.bert.embeddings.word_embeddings.weight


def bart():
    return tiny_models.make("BartConfig", "BartModel", d_model=32, encoder_layers=2, decoder_layers=3)


def albert():
    return tiny_models.make("AlbertConfig", "AlbertModel", embedding_size=16, **tiny_models.BERT)


@pytest.mark.parametrize("make", [bart, albert])
def test_models_that_are_not_one_stack_are_made_random_as_a_whole(make):
    built = trained(make())
    with pytest.raises(OptionError, match=r"is not one stack of .* layers.*use n_parts='all'"):
        randomizable_parts(built)
    with pytest.raises(OptionError, match="is not one stack"):
        randomize(built, n_parts=1)
    assert changed(state(built), randomize(built)) == dict(built.named_parameters()).keys()


def test_weights_that_nobody_knows_how_to_begin():
    model = tiny_models.bert()
    model.classifier.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(CaptureError, match=r"does not say how these weights .* begin, .* anew: classifier\.scale"):
        randomize(model)
    model.classifier.scale = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(CaptureError, match=r"has quantized weights \(torch.int8\)"):
        randomize(model)


@pytest.mark.parametrize("n_parts", [6, -1, 1.5, True, "head"])
def test_bad_numbers_of_parts(n_parts):
    with pytest.raises(OptionError, match="n_parts must be 'all' or lie from 0 to 5"):
        randomize(tiny_models.bert(), n_parts=n_parts)


def test_bad_seeds():
    with pytest.raises(OptionError, match="seed must be an integer from 0 on, got -1"):
        randomize(tiny_models.bert(), seed=-1)


def test_agreement_falls_where_attention_changes_and_not_before():
    attributor = Attributor(tiny_models.bert(), tiny_models.tokenizer())
    found = agreement_with_randomized(
        attributor,
        lambda given: given(TEXTS, method="rollout"),
        special_tokens="keep",
        n_parts=[0, 1, 5, "all"],
    )
    assert [each.part for each in found] == ["none", "head", "embeddings", "all"]
    means = [each.summary.mean for each in found]
    np.testing.assert_allclose(means[:2], 1.0, rtol=0, atol=1e-12)  # the head stands above all attention
    assert means[2] < 0.9
    assert means[3] < 0.9
    assert found[1].to_row()["randomized"] == "head"
    assert found[1].summary.n == 2


def test_what_looks_at_no_weight_agrees_with_itself():
    attributor = Attributor(tiny_models.bert(), tiny_models.tokenizer())

    def by_position(given):
        every = given(TEXTS, method="raw")
        return [ScoredTokens(each.alignment, np.arange(len(each.tokens), dtype=float)) for each in every]

    (found,) = agreement_with_randomized(attributor, by_position, special_tokens="drop", statistic="kendall")
    assert (found.summary.mean, found.part) == (1.0, "all")
