"""Importance by gradients: against finite differences, a formula written by hand, and what gradients must satisfy."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from bag_of_words import WEIGHTS, bag_of_words
from tiny_models import BERT, bert, gpt2, llama, make, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import gradient_x_input, input_gradient, integrated_gradients
from attnflow_hf.evaluation.captum_scores import _captum
from attnflow_hf.evaluation.embedded import embedded
from attnflow_hf.evaluation.outputs import find_targets, plain_samples

TEXTS = ["the key to old cabinets", "cat sat", "a mat"]
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
METHODS = [input_gradient, gradient_x_input, integrated_gradients]


def albert(**options: object) -> torch.nn.Module:
    return make("AlbertConfig", "AlbertForSequenceClassification", **BERT, embedding_size=16, **options)


MODELS = {
    "bert": (lambda: bert(), "[CLS] $A [SEP]", TEXTS),
    "albert": (albert, "[CLS] $A [SEP]", TEXTS),
    "distilbert": (
        lambda: make("DistilBertConfig", "DistilBertForSequenceClassification", dim=32, n_layers=2, n_heads=4),
        "[CLS] $A [SEP]",
        TEXTS,
    ),
    "masked": (lambda: bert("BertForMaskedLM"), "[CLS] $A [SEP]", ["the [MASK] to", "[MASK] sat on a mat"]),
    "gpt2": (lambda: gpt2(), "", TEXTS),
    "llama": (lambda: llama(), "", TEXTS),
}


@pytest.fixture(name="case", params=MODELS)
def _case(request):
    make_model, template, texts = MODELS[request.param]
    return Attributor(make_model().double(), tokenizer(template=template), batch_size=2), texts


def output_of(attributor, text, target, embeddings, output="logit"):
    """What the model says of one text, of word embeddings put in by its own argument."""
    logits = attributor.model(inputs_embeds=embeddings[None]).logits[0]
    values = logits if target.position is None else logits[target.position]
    return values[target.index] if output == "logit" else torch.softmax(values, 0)[target.index]


def words_of(attributor, text):
    ids = torch.tensor(attributor.tokenizer(text)["input_ids"])
    return attributor.model.get_input_embeddings()(ids).detach()


def gradient_by_hand(attributor, text, target, output):
    embeddings = words_of(attributor, text).requires_grad_()
    return torch.autograd.grad(output_of(attributor, text, target, embeddings, output), embeddings)[
        0
    ], embeddings.detach()


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_captum_gives_what_autograd_gives(case, output) -> None:
    attributor, texts = case
    norms = input_gradient(attributor, texts, output=output)
    products = gradient_x_input(attributor, texts, output=output)
    sizes = gradient_x_input(attributor, texts, output=output, signs="drop", norm="l2")
    for index, text in enumerate(texts):
        gradient, embeddings = gradient_by_hand(attributor, text, norms[index].target, output)
        np.testing.assert_allclose(norms[index].scores, gradient.norm(dim=-1), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(products[index].scores, (gradient * embeddings).sum(-1), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(sizes[index].scores, (gradient * embeddings).norm(dim=-1), rtol=1e-8, atol=1e-10)
        value = output_of(attributor, text, norms[index].target, embeddings, output)
        np.testing.assert_allclose(norms[index].output_value, value.item(), rtol=1e-8)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_gradients_are_finite_differences(kind) -> None:
    model = bert(**SMALL) if kind == "bert" else gpt2(n_embd=8, n_layer=2, n_head=2)
    attributor = Attributor(model.double(), tokenizer(template="" if kind == "gpt2" else "[CLS] $A [SEP]"))
    text, step = "the key to", 1e-5
    found, product = input_gradient(attributor, text), gradient_x_input(attributor, text)
    embeddings = words_of(attributor, text)
    gradient = torch.zeros_like(embeddings)
    with torch.no_grad():
        for place in np.ndindex(*embeddings.shape):
            up, down = embeddings.clone(), embeddings.clone()
            up[place] += step
            down[place] -= step
            difference = output_of(attributor, text, found.target, up) - output_of(attributor, text, found.target, down)
            gradient[place] = difference / (2 * step)
    np.testing.assert_allclose(found.scores, gradient.norm(dim=-1), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(product.scores, (gradient * embeddings).sum(-1), rtol=1e-6, atol=1e-8)


def test_the_sum_over_dimensions() -> None:
    attributor = Attributor(llama().double(), tokenizer(template=""))  # RMSNorm lets the sum be
    found = input_gradient(attributor, TEXTS, norm="sum")
    for text, each in zip(TEXTS, found, strict=True):
        gradient, _ = gradient_by_hand(attributor, text, each.target, "logit")
        np.testing.assert_allclose(each.scores, gradient.sum(-1).abs(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_sum_that_is_rounding_is_an_error(kind, dtype) -> None:
    make_model, template, texts = MODELS[kind]
    attributor = Attributor(make_model().to(dtype), tokenizer(template=template))
    with pytest.raises(OptionError, match="is 0 but for rounding, as a layer norm takes out what all dimensions"):
        input_gradient(attributor, texts, norm="sum")


def test_a_sum_in_half_precision_is_no_rounding() -> None:
    attributor = Attributor(llama().bfloat16(), tokenizer(template=""))
    exact = Attributor(llama().double(), tokenizer(template=""))
    pairs = zip(*(input_gradient(each, TEXTS, norm="sum", target="cat") for each in (attributor, exact)), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found.scores, expected.scores, rtol=0.2, atol=0.5)


def test_the_embedding_block_of_bert() -> None:
    attributor = Attributor(bert().double(), tokenizer(), batch_size=2)
    model, found = attributor.model, input_gradient(attributor, TEXTS, norm="sum", embeddings="block")
    for text, each in zip(TEXTS, found, strict=True):
        inputs = attributor.tokenizer(text, return_tensors="pt")
        block = model.bert.embeddings(inputs["input_ids"]).detach().requires_grad_()
        logits = model.classifier(model.bert.pooler(model.bert.encoder(block).last_hidden_state))
        gradient = torch.autograd.grad(logits[0, each.target.index], block)[0][0]
        np.testing.assert_allclose(each.scores, gradient.sum(-1).abs(), rtol=1e-8, atol=1e-12)


def test_models_without_an_embedding_block() -> None:
    with pytest.raises(OptionError, match="GPT2LMHeadModel has no embedding block"):
        input_gradient(Attributor(gpt2(), tokenizer(template="")), "the key", embeddings="block")


SMOOTH = {"initializer_range": 0.1}  # so that 50 points are enough
PATHS = {
    "bert": (lambda: bert(**SMOOTH), ["pad", "mask", "unk", "zero"]),
    "albert": (lambda: albert(**SMOOTH), ["mask", "zero"]),
    "masked": (lambda: bert("BertForMaskedLM", **SMOOTH), ["mask", "zero"]),
    "gpt2": (lambda: gpt2(**SMOOTH), ["unk", "zero"]),
    "llama": (lambda: llama(**SMOOTH), ["unk", "mask"]),  # from 0 on, RMSNorm is too steep for points
}


@pytest.mark.parametrize(
    ("kind", "baseline"), [(kind, baseline) for kind, (_, baselines) in PATHS.items() for baseline in baselines]
)
def test_integrated_gradients_are_complete(kind, baseline) -> None:
    _, template, texts = MODELS[kind]
    attributor = Attributor(PATHS[kind][0]().double(), tokenizer(template=template), batch_size=2)
    for text, found in zip(texts, integrated_gradients(attributor, texts, baseline=baseline), strict=True):
        embeddings, positions = words_of(attributor, text), found.alignment.positions.tolist()
        ids = attributor.tokenizer(text)["input_ids"]
        assert positions == [i for i, each in enumerate(ids) if each not in (2, 3, 4)]  # neither special nor the mask
        start = embeddings.clone()
        new = getattr(attributor.tokenizer, f"{baseline}_token_id", None)
        start[positions] = 0 if new is None else attributor.model.get_input_embeddings().weight[new].detach()
        with torch.no_grad():
            change = output_of(attributor, text, found.target, embeddings) - output_of(
                attributor, text, found.target, start
            )
        np.testing.assert_allclose(found.scores.sum(), change, rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.gap, found.scores.sum() - change.item(), rtol=0, atol=1e-6)


def test_the_gap_tells_of_too_few_points() -> None:
    attributor = Attributor(bert().double(), tokenizer())
    few, many = (integrated_gradients(attributor, "the key to old", n_steps=n).gap for n in (2, 200))
    assert abs(few) > 10 * abs(many)


def test_integrated_gradients_of_a_linear_model_are_exact() -> None:
    # The logit is the sum of the weights, so a token's score is its weight less that of the baseline's token.
    for baseline, weight in (("pad", 0.0), ("unk", 0.25), ("mask", -0.5), ("zero", 0.0)):
        found = integrated_gradients(bag_of_words(), "key old cat", baseline=baseline, n_steps=3, target=1)
        expected = [WEIGHTS[word] - weight for word in ("key", "old", "cat")]
        np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)  # captum's steps are float32
        np.testing.assert_allclose(found.gap, 0, rtol=0, atol=1e-6)
        assert found.replacement == baseline


def test_special_tokens_are_in_the_baseline_or_not() -> None:
    attributor = Attributor(bert().double(), tokenizer())
    kept = integrated_gradients(attributor, "the key", special_tokens="keep")
    dropped = integrated_gradients(attributor, "the key", special_tokens="drop")
    assert (kept.tokens, dropped.tokens) == (("[CLS]", "the", "key", "[SEP]"), ("the", "key"))
    assert abs(kept.scores[1:3] - dropped.scores).max() > 1e-3  # other paths
    for method in (input_gradient, gradient_x_input):
        every = method(attributor, "the key").scores
        np.testing.assert_allclose(method(attributor, "the key", special_tokens="drop").scores, every[1:3], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_batch_is_single(method) -> None:
    attributor = Attributor(bert().double(), tokenizer(), batch_size=3)
    for text, found in zip(TEXTS, method(attributor, TEXTS), strict=True):
        np.testing.assert_allclose(found.scores, method(attributor, text).scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_model_comes_back_as_it_came(method, is_frozen) -> None:
    model = bert(hidden_dropout_prob=0.5).train().requires_grad_(not is_frozen)
    model.classifier.bias.grad = torch.ones_like(model.classifier.bias)
    hooks = len(model.get_input_embeddings()._forward_hooks)
    with torch.no_grad():
        first, second = (method(Attributor(model, tokenizer()), "the key to").scores for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
    assert {parameter.requires_grad for parameter in model.parameters()} == {not is_frozen}
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["classifier.bias"]
    assert model.classifier.bias.grad.tolist() == [1, 1]
    assert len(model.get_input_embeddings()._forward_hooks) == hooks


def test_the_hook_is_gone_after_an_error(monkeypatch) -> None:
    attributor = Attributor(bert(), tokenizer())

    def stop(*_):
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr("attnflow_hf.evaluation.captum_scores._attribute", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        input_gradient(attributor, "the key")
    assert not attributor.model.get_input_embeddings()._forward_hooks
    assert torch.is_grad_enabled()


def test_other_threads_see_the_model_as_it_is() -> None:
    attributor = Attributor(bert(), tokenizer())
    inputs = attributor.tokenizer("the key", return_tensors="pt")
    with torch.no_grad():
        before = attributor.model(**inputs).logits
    samples = plain_samples(attributor.wrapped, "the key", truncation=False)
    pairs = list(zip(samples, find_targets(attributor.wrapped, samples), strict=True))
    seen = []
    with embedded(attributor.wrapped, pairs, "logit") as batch:
        forward = attributor.model.bert.encoder.forward

        def meanwhile(*args, **named):
            if threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=lambda: seen.append(attributor.model(**inputs).logits.detach()))
                thread.start()
                thread.join()
            return forward(*args, **named)

        attributor.model.bert.encoder.forward = meanwhile
        try:
            zeroed = batch.output(torch.zeros_like(batch.embeddings), *batch.arguments)
        finally:
            del attributor.model.bert.encoder.forward
    np.testing.assert_allclose(seen[0], before, rtol=0, atol=1e-6)
    assert abs(zeroed.detach() - before).max() > 1e-3


def test_models_that_embed_twice_are_refused() -> None:
    attributor = bag_of_words()
    forward = attributor.model.forward

    def twice(input_ids, attention_mask, return_dict=True):
        attributor.model.words(input_ids)
        return forward(input_ids, attention_mask)

    attributor.model.forward = twice
    with pytest.raises(OptionError, match="used its embeddings 2 times in a pass"):
        input_gradient(attributor, "key")


def test_a_model_that_refuses_batches() -> None:
    model = gpt2("GPT2ForSequenceClassification", pad_token_id=None).double()
    attributor = Attributor(model, tokenizer(template=""))
    found = integrated_gradients(attributor, ["the key", "cat sat"], baseline="unk")
    for text, each in zip(["the key", "cat sat"], found, strict=True):
        one = integrated_gradients(attributor, text, baseline="unk")
        np.testing.assert_allclose(each.scores, one.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (input_gradient, {"norm": "l1"}, "unknown norm 'l1'"),
        (input_gradient, {"embeddings": "all"}, "unknown embeddings 'all'"),
        (input_gradient, {"output": "log_probability"}, "unknown output"),
        (gradient_x_input, {"signs": "abs"}, "unknown signs 'abs'"),
        (gradient_x_input, {"special_tokens": "zero"}, "unknown special_tokens 'zero'"),
        (integrated_gradients, {"baseline": "drop"}, "unknown baseline 'drop'"),
        (integrated_gradients, {"n_steps": 0}, "n_steps must be a positive integer, got 0"),
    ],
)
def test_options_are_checked(method, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        method(bag_of_words(), "key", **options)


def test_without_captum_the_error_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(OptionError, match=r"pip install 'attnflow_hf\[evaluation\]'"):
        _captum()
