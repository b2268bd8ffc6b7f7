import copy
import itertools

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from tiny_models import bert, gpt2, llama, make, tokenizer
from transformers import GenerationConfig

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import OptionError, TextError, TokenizerError
from attnflow_hf.grad_capture import capture_gradients

BY_NAME = {each.name: each for each in ARCHITECTURES}
TEXT = "the key to the old cabinets"


def seq2seq(name, **options):
    known = BY_NAME[name]  # T5 can only generate with as many layers in both halves
    layers = {"num_decoder_layers": 2} if name == "t5" else {}
    return make(known.config, known.model, **{**copy.deepcopy(known.options), **layers, **options})


CAUSAL = {"gpt2": gpt2, "llama": lambda **options: llama(bos_token_id=2, eos_token_id=3, **options)}
BOTH = {"t5": lambda: seq2seq("t5"), "bart": lambda: seq2seq("bart", forced_eos_token_id=None)}


@pytest.fixture(params=CAUSAL)
def causal(request):
    return Attributor(CAUSAL[request.param](), tokenizer(template="[CLS] $A"))


@pytest.fixture(params=BOTH)
def both(request):
    return Attributor(BOTH[request.param](), tokenizer())


def own_generation(attributor, **settings):
    """The ids that the model generates by itself, greedily."""
    ids = torch.tensor([attributor.tokenizer(TEXT)["input_ids"]])
    config = GenerationConfig(do_sample=False, eos_token_id=3, pad_token_id=0, max_new_tokens=5, **settings)
    if attributor.model.config.is_encoder_decoder:
        config.decoder_start_token_id = attributor.model.config.decoder_start_token_id
    out = attributor.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
    return out[1:] if attributor.model.config.is_encoder_decoder else out[ids.shape[1] :]


def state_of(model):
    return [module.training for module in model.modules()], model.generation_config.to_dict(), model.config.to_dict()


# Decoders


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
@pytest.mark.parametrize("options", [{}, {"layer": 1, "residual_weight": 0.3, "normalize": "none"}])
def test_each_token_is_explained_as_the_prefix_is_at_its_end(causal, method, options):
    found = causal.generate(TEXT, max_new_tokens=5, method=method, options=Options(**options))
    ids = own_generation(causal)
    assert [each.prediction.index for each in found] == ids
    prompt = causal.tokenizer(TEXT)["input_ids"]
    for number, each in enumerate(found):
        prefix = prompt + ids[:number]
        wanted = causal({"input_ids": prefix}, method=method, output_position=-1, **options)
        assert each.tokens == wanted.tokens
        assert each.output_position == wanted.output_position == len(prefix) - 1
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=0, atol=1e-6)


def test_shapley_values_of_each_token_have_their_errors(causal):
    options = Options(n_permutations=2, seed=1)
    prompt = f"{TEXT} {TEXT} {TEXT}"
    found = causal.generate(prompt, max_new_tokens=2, method="flow_shapley", options=options)
    ids = causal.tokenizer(prompt)["input_ids"] + [found[0].prediction.index]
    for each, prefix in zip(found, [ids[:-1], ids][: len(found)], strict=True):  # one may end at once
        wanted = causal({"input_ids": prefix}, method="flow_shapley", n_permutations=2, seed=1, output_position=-1)
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(each.standard_errors, wanted.standard_errors, rtol=0, atol=1e-6)
        assert each.standard_errors.max() > 1e-6


def test_predictions_are_those_of_a_plain_forward(causal):
    found = causal.generate(TEXT, max_new_tokens=5, method="rollout")
    ids = torch.tensor([causal.tokenizer(TEXT)["input_ids"] + [each.prediction.index for each in found]])
    with torch.no_grad():
        logits = causal.model(ids).logits[0]
    for each in found:
        row = logits[each.output_position]
        assert each.prediction.index == int(row.argmax())
        assert each.prediction.output == pytest.approx(float(row.max()), abs=1e-4)
        assert each.prediction.probability == pytest.approx(float(row.softmax(-1).max()), abs=1e-5)


def test_generated_tokens_are_aligned_with_the_continued_text(causal):
    found = causal.generate(TEXT, max_new_tokens=4, method="rollout")[-1]
    assert found.texts[0].startswith(f"{TEXT} ")
    words = found.to_words()
    assert words.words[1:6] == tuple(TEXT.split()[:5])
    assert len(words.words) == len(found.tokens) > 7
    assert found.notes == ()


def test_first_and_special_tokens_are_dropped_of_each(causal):
    plain = causal.generate(TEXT, max_new_tokens=3, method="rollout", options=Options(normalize="none"))
    found = causal.generate(TEXT, max_new_tokens=3, method="rollout", options=Options(first_token="drop"))
    for got, whole in zip(found, plain, strict=True):
        assert got.tokens == whole.tokens[1:]
        np.testing.assert_allclose(got.scores, whole.scores[1:] / whole.scores[1:].sum(), rtol=0, atol=1e-12)


def test_sinks_and_corrections_are_those_of_the_prefix():
    sinks = Attributor(BY_NAME["gpt_oss"].build(), tokenizer(template=""))
    for each in sinks.generate(TEXT, max_new_tokens=3, method="flow"):
        wanted = sinks({"input_ids": each.input_ids.tolist()}, method="flow")
        np.testing.assert_allclose(each.sink_scores, wanted.sink_scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=0, atol=1e-6)
    plain = Attributor(gpt2(), tokenizer(template=""))
    options = {"position_correction": "uniform"}
    for each in plain.generate(TEXT, max_new_tokens=3, method="rollout", options=Options(**options)):
        wanted = plain({"input_ids": each.input_ids.tolist()}, method="rollout", **options)
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_each_token_is_the_target_at_the_position_that_predicted_it(causal, method, batch_size):
    attributor = Attributor(causal.model, causal.tokenizer, batch_size=batch_size)
    config = GenerationConfig(do_sample=True, temperature=9.0, eos_token_id=[], pad_token_id=0)
    torch.manual_seed(0)
    options = {"edge_weights": "grad_attention", "normalize": "none"}
    found = attributor.generate(
        TEXT, max_new_tokens=5, generation_config=config, method=method, options=Options(**options)
    )
    ids = [each.prediction.index for each in found]
    prompt = attributor.tokenizer(TEXT)["input_ids"]
    for number, each in enumerate(found):
        wanted = attributor({"input_ids": prompt + ids[:number]}, method=method, target=ids[number], **options)
        assert each.prediction == each.target
        assert (each.target.index, each.target.label) == (ids[number], wanted.target.label)
        assert each.target.output == pytest.approx(wanted.target.output, abs=1e-5)
        assert (each.tokens, each.output_position) == (wanted.tokens, wanted.output_position)
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=1e-4, atol=1e-6 * wanted.scores.max())
        assert each.scores.max() > 0
    assert found[-1].texts[0].startswith(f"{TEXT} ")
    assert any(each.target != wanted.prediction for each in found)  # drawn, not the likeliest
    assert all(parameter.grad is None for parameter in attributor.model.parameters())


def test_no_more_prefixes_are_read_at_once_than_a_batch_has(monkeypatch):
    attributor = Attributor(gpt2(), tokenizer(template=""), batch_size=2)
    sizes = []

    def watched(model, inputs, *arguments, **options):
        sizes.append(len(inputs["input_ids"]))
        return capture_gradients(model, inputs, *arguments, **options)

    monkeypatch.setattr("attnflow_hf.target_capture.capture_gradients", watched)
    config = GenerationConfig(eos_token_id=[], pad_token_id=0)
    options = Options(edge_weights="grad_attention")
    attributor.generate(TEXT, max_new_tokens=5, generation_config=config, method="rollout", options=options)
    assert sizes == [2, 2, 1]


# An encoder and its decoder


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_each_token_is_explained_as_the_decoders_prefix_is_at_its_end(both, method):
    found = both.generate(TEXT, max_new_tokens=5, method=method)
    ids = own_generation(both)
    assert [each.prediction.index for each in found] == ids
    prompt, start = tokenizer()(TEXT)["input_ids"], both.model.config.decoder_start_token_id
    for number, each in enumerate(found):
        wanted = both({"input_ids": [prompt], "decoder_input_ids": [[start, *ids[:number]]]}, method=method)
        assert each.tokens == wanted.tokens
        assert each.alignment.parts == wanted.alignment.parts
        assert each.output_position == wanted.output_position == number
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=0, atol=1e-6)
        assert each.prediction.label == wanted.prediction.label
        assert each.prediction.probability == pytest.approx(wanted.prediction.probability, abs=1e-5)


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_each_token_is_the_target_at_its_decoder_position(both, method):
    options = {"edge_weights": "grad_attention", "normalize": "none"}
    found = both.generate(TEXT, max_new_tokens=4, method=method, options=Options(**options))
    ids = own_generation(both)
    prompt, start = tokenizer()(TEXT)["input_ids"], both.model.config.decoder_start_token_id
    assert len(found) > 1
    for number, each in enumerate(found):
        encoding = {"input_ids": [prompt], "decoder_input_ids": [[start, *ids[:number]]]}
        wanted = both(encoding, method=method, target=ids[number], **options)
        assert each.target == each.prediction
        assert (each.target.index, each.output_position) == (ids[number], number)
        assert (each.tokens, each.alignment.parts) == (wanted.tokens, wanted.alignment.parts)
        np.testing.assert_allclose(each.scores, wanted.scores, rtol=1e-4, atol=1e-6 * wanted.scores.max())


# How it is generated


def test_it_is_greedy_even_if_the_models_own_settings_sample(causal):
    wanted = own_generation(causal)
    settings = causal.model.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.top_p = True, 5.0, 3, 0.9
    before = state_of(causal.model)
    for _ in range(3):
        found = causal.generate(TEXT, max_new_tokens=5, method="rollout")
        assert [each.prediction.index for each in found] == wanted
    assert state_of(causal.model) == before


def test_ones_own_settings_are_used_and_stay_as_they_are(causal):
    config = GenerationConfig(do_sample=True, temperature=3.0, eos_token_id=3, pad_token_id=0)
    before = config.to_dict()
    drawn = set()
    for seed in range(4):
        torch.manual_seed(seed)
        found = causal.generate(TEXT, max_new_tokens=4, generation_config=config, method="rollout")
        drawn.add(tuple(each.prediction.index for each in found))
        for each, following in itertools.pairwise(found):
            assert following.input_ids.tolist() == [*each.input_ids.tolist(), each.prediction.index]
    assert len(drawn) > 1
    assert config.to_dict() == before
    for each in found:  # a drawn token has its own probability, not that of the likeliest
        ids = torch.tensor(each.input_ids)[None]
        with torch.no_grad():
            shares = causal.model(ids).logits[0, -1].softmax(-1)
        assert each.prediction.probability == pytest.approx(float(shares[each.prediction.index]), abs=1e-5)


def test_the_end_of_the_text_ends_it():
    model = gpt2()
    first = own_generation(Attributor(model, tokenizer()))[0]
    config = GenerationConfig(eos_token_id=first, pad_token_id=0)
    found = Attributor(model, tokenizer()).generate(TEXT, max_new_tokens=5, generation_config=config, method="rollout")
    assert [each.prediction.index for each in found] == [first]


@pytest.mark.parametrize("build", [gpt2, BOTH["bart"]])
@pytest.mark.parametrize("train", [True, False])
def test_the_model_comes_back_as_it_came(build, train):
    model = build().train(train)
    list(model.modules())[-1].training = not train
    before = state_of(model)
    Attributor(model, tokenizer()).generate(TEXT, max_new_tokens=2, method="rollout")
    assert state_of(model) == before
    assert torch.is_grad_enabled()


def test_it_may_be_cut():
    attributor = Attributor(gpt2(), tokenizer(max_length=4, template=""))
    with pytest.raises(TextError, match="the text has 6 tokens, but the model reads 4 at most"):
        attributor.generate(TEXT)
    assert len(attributor.generate(TEXT, truncation=True, max_new_tokens=2, method="rollout")[0].tokens) == 4


# Errors


@pytest.mark.parametrize("model", [bert(), gpt2("GPT2Model"), gpt2("GPT2ForSequenceClassification")])
def test_a_model_without_a_language_model_head_cannot_generate(model):
    with pytest.raises(OptionError, match=f"{type(model).__name__} cannot generate text: load it with its language"):
        Attributor(model, tokenizer()).generate(TEXT)


@pytest.mark.parametrize("inputs", [[TEXT], {"input_ids": [[2, 5, 6]]}])
def test_it_takes_one_text(inputs):
    with pytest.raises(OptionError, match=r"generate takes one text, got (list|dict); call it for each text"):
        Attributor(gpt2(), tokenizer()).generate(inputs)


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_refused(settings):
    with pytest.raises(OptionError, match="generate explains one sequence of one beam"):
        Attributor(gpt2(), tokenizer()).generate(TEXT, generation_config=GenerationConfig(**settings))


@pytest.mark.parametrize("number", [0, -1, 1.0, True, None])
def test_at_least_one_token_is_generated(number):
    with pytest.raises(OptionError, match=f"max_new_tokens must be a positive integer, got {number}"):
        Attributor(gpt2(), tokenizer()).generate(TEXT, max_new_tokens=number)


@pytest.mark.parametrize("options", [{"output_position": 1}, {"output_position": "all"}, {"layer": "all"}])
def test_the_position_is_that_of_each_token(options):
    with pytest.raises(OptionError, match="explained from the position that predicted it, in one layer"):
        Attributor(gpt2(), tokenizer()).generate(TEXT, options=Options(**options))


@pytest.mark.parametrize("target", [7, "key", [7, 8]])
def test_each_token_is_its_own_target(target):
    with pytest.raises(OptionError, match="each generated token is explained as its own target, got target="):
        Attributor(gpt2(), tokenizer()).generate(TEXT, options=Options(edge_weights="grad_attention", target=target))


def test_a_text_needs_a_tokenizer():
    with pytest.raises(TokenizerError, match="text needs a tokenizer"):
        Attributor(gpt2()).generate(TEXT)


@pytest.mark.parametrize("options", [{"method": "flows"}, {"options": Options(backend="cuda")}])
def test_unknown_names_are_told(options):
    with pytest.raises(OptionError, match=r"unknown (method 'flows'|backend of flow 'cuda')"):
        Attributor(gpt2(), tokenizer()).generate(TEXT, max_new_tokens=2, **options)


def test_sound_is_refused():
    architecture = BY_NAME["whisper"]
    with pytest.raises(OptionError, match="generate"):
        Attributor(architecture.build(), tokenizer()).generate(
            {"input_features": architecture.inputs()["input_features"]}
        )
