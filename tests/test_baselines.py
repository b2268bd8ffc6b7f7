"""The mean of two gradients: at a text, and where one token stands for all its words; against plain autograd."""

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from tiny_models import BERT, bert, gpt2, llama, make, tokenizer
from transformers import pipeline

from attnflow_hf import Attribution, Attributor, Options, attach, attention_function, query_blocks
from attnflow_hf.baselines import find_baseline
from attnflow_hf.errors import CaptureError, OptionError, TokenizerError
from attnflow_hf.given import given
from attnflow_hf.grad_capture import capture_gradients
from attnflow_hf.targets import Target

BY_NAME = {each.name: each for each in ARCHITECTURES}
IDS = torch.tensor([[2, 7, 8, 9, 11, 12, 13, 5, 6, 3], [2, 14, 5, 6, 7, 8, 3, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
MASKED = {**INPUTS, "input_ids": torch.where(IDS > 3, 4, IDS)}
TEXTS = ["the key to old cabinets", "a cat sat on the table near one another", "key"]
GRADS = {"edge_weights": "grad_attention", "normalize": "none"}


def classes(logits):
    return [Target(1, "1"), Target(0, "0")]


def contexts(model, inputs):
    """Of each layer the gradient of what the attention gives, its weights, and the values, by plain autograd."""
    kept: list = []
    values: list = []
    handles = []
    for layer in model.bert.encoder.layer:

        def keep(module, args, output):
            output[0].retain_grad()
            kept.append(output)

        handles.append(layer.attention.self.register_forward_hook(keep))
        handles.append(layer.attention.self.value.register_forward_hook(lambda *given: values.append(given[2])))
    try:
        outputs = model(**inputs, output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    (outputs.logits[0, 1] + outputs.logits[1, 0]).backward()
    model.zero_grad()
    shape = (*IDS.shape, 4, 8)
    return [
        (given[0].grad.view(shape), weights.detach(), value.detach().view(shape))
        for given, weights, value in zip(kept, outputs.attentions, values, strict=True)
    ]


def test_the_products_are_those_of_plain_autograd():
    model = bert(attn_implementation="eager")
    found = capture_gradients(model, INPUTS, classes, baseline=MASKED).matrices
    for matrix, (here, weights, values), (there, _, _) in zip(
        found, contexts(model, INPUTS), contexts(model, MASKED), strict=True
    ):
        of_weights = torch.einsum("bihd,bjhd->bhij", (here + there) / 2, values)
        expected = (weights * of_weights).sum(1).relu()
        torch.testing.assert_close(matrix, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "gpt_oss", "gemma2"])
def test_a_text_that_is_its_own_baseline_changes_nothing(name):
    makers = {
        "bert": bert,
        "llama": lambda: llama("LlamaForSequenceClassification"),
        "gpt2": lambda: gpt2("GPT2ForSequenceClassification"),
    }
    model = makers[name]() if name in makers else BY_NAME[name].build()
    find = classes if name in makers else lambda logits: [Target(9, "9", 6), Target(8, "8", 5)]
    plain = capture_gradients(model, INPUTS, find)
    same = capture_gradients(model, INPUTS, find, baseline=dict(INPUTS))
    for first, second in zip(plain.matrices, same.matrices, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6 * float(first.max()))


def test_blocks_of_queries_and_groups_of_samples_change_nothing(monkeypatch):
    model = bert()
    whole = capture_gradients(model, INPUTS, classes, baseline=MASKED).matrices
    parts, n_parts = query_blocks.QueryBlocks.parts, []

    def small(self, *arguments):
        self.size = 3
        n_parts.append(len(found := parts(self, *arguments)))
        return found

    monkeypatch.setattr(query_blocks, "MOST_WEIGHTS", 1)
    monkeypatch.setattr(query_blocks.QueryBlocks, "parts", small)
    cut = capture_gradients(model, INPUTS, classes, baseline=MASKED).matrices
    assert min(n_parts) == 2 * 4  # two samples, queries by three
    for first, second in zip(whole, cut, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=5e-5 * float(first.max()))


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("baseline", ["mask", "pad", "unk"])
def test_texts_are_the_same_alone_and_in_a_batch(padding_side, baseline):
    attributor = Attributor(bert(), tokenizer(padding_side=padding_side))
    encoding = tokenizer(padding_side=padding_side)(TEXTS, padding=True, return_tensors="pt")
    options = {**GRADS, "method": "rollout", "baseline": baseline}
    alone = [attributor(text, **options) for text in TEXTS]
    for several in (attributor(TEXTS, **options), attributor(encoding, **options)):
        for one, other in zip(alone, several, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-6 * one.scores.max())
            assert other.baseline == baseline
    assert not np.allclose(alone[0].scores, attributor(TEXTS[0], **GRADS, method="rollout").scores, rtol=1e-3)


def test_special_tokens_and_masks_stay_and_padding_is_none_of_the_text():
    words = tokenizer(padding_side="left")
    encoding = words(["the [MASK] to old", "key"], padding=True, return_tensors="pt")
    tokens = [sample.tokens for sample in given(bert(), words, ["the [MASK] to old", "key"]).samples]
    unk = find_baseline(bert(), words, "unk").inputs_of(encoding, tokens)
    assert unk["input_ids"].tolist() == [[2, 1, 4, 1, 1, 3], [0, 0, 0, 2, 1, 3]]
    assert encoding["input_ids"][0, 1] != 1  # a copy
    assert unk["attention_mask"] is encoding["attention_mask"]


def test_it_is_told_and_kept(tmp_path):
    found = Attributor(bert(), tokenizer())(TEXTS[0], **GRADS, baseline="mask")
    assert "grad_attention (baseline mask)" in found.summary()
    found.save(tmp_path / "a.json")
    assert Attribution.load(tmp_path / "a.json").baseline == "mask"
    assert Attributor(bert(), tokenizer())(TEXTS[0], **GRADS).baseline is None


def test_masked_and_causal_language_models():
    masked = Attributor(bert("BertForMaskedLM"), tokenizer())
    found = masked("the [MASK] to old cabinets", **GRADS, baseline="unk")
    assert found.target.index == masked("the [MASK] to old cabinets", **GRADS).target.index
    causal = Attributor(gpt2(), tokenizer(template=""))
    several = causal.generate(TEXTS[0], max_new_tokens=3, options=Options(**GRADS, baseline="pad"))
    alone = causal(TEXTS[0], **GRADS, baseline="pad", target=several[0].target.index)
    np.testing.assert_allclose(several[0].scores, alone.scores, rtol=1e-4, atol=1e-6 * alone.scores.max())


def test_pipelines():
    model, words = bert(), tokenizer()
    expected = Attributor(model, words)(TEXTS, **GRADS, method="rollout", baseline="mask")
    pipe = attach(
        pipeline("text-classification", model=model, tokenizer=words),
        method="rollout",
        options=Options(**GRADS, baseline="mask"),
    )
    for batch_size in (1, 3):
        for found, wanted in zip(pipe(TEXTS, batch_size=batch_size), expected, strict=True):
            scores = found["attributions"].scores
            np.testing.assert_allclose(scores, wanted.scores, rtol=1e-4, atol=1e-6 * wanted.scores.max())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_of_one_block_are_there_at_a_time(monkeypatch):
    seen = []
    own = attention_function.call_eager
    monkeypatch.setattr("attnflow_hf.grad_attention.call_eager", lambda *given: seen.append(1) or own(*given))
    capture_gradients(bert(), INPUTS, classes, baseline=MASKED)
    assert len(seen) == 2 * 2 * 3  # two passes up, and once more back, of three layers


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of DeBERTa in older Transformers
@pytest.mark.parametrize(
    ("make_call", "error", "message"),
    [
        (lambda: Options(baseline="mask"), OptionError, "a baseline is for edge weights with a gradient"),
        (lambda: Options(**GRADS, baseline="masks"), OptionError, "did you mean 'mask'"),
        (
            lambda: Attributor(gpt2(), tokenizer(template=""))(TEXTS[0], **GRADS, baseline="bos"),
            OptionError,
            "choose one of 'mask', 'pad', 'unk'",
        ),
        (
            lambda: Attributor(BY_NAME["deberta"].build())(INPUTS, **GRADS, baseline="mask"),
            TokenizerError,
            "needs a tokenizer that has a token for it",
        ),
        (
            lambda: Attributor(
                make("DebertaConfig", "DebertaForSequenceClassification", **BY_NAME["deberta"].options), tokenizer()
            )(TEXTS[0], **GRADS, baseline="mask"),
            CaptureError,
            "captured by hooks, does not show: leave baseline out",
        ),
        (
            lambda: Attributor(BY_NAME["bart"].build(), tokenizer())(
                TEXTS[0], text_target=TEXTS[1], **GRADS, baseline="mask"
            ),
            OptionError,
            "that one stack of layers reads",
        ),
        (
            lambda: Attributor(gpt2("GPT2ForSequenceClassification"), tokenizer(template=""))(
                TEXTS[0], **GRADS, baseline="pad"
            ),
            OptionError,
            "by which GPT2ForSequenceClassification finds where a text ends",
        ),
    ],
)
def test_what_it_is_not_for(make_call, error, message):
    with pytest.raises(error, match=message):
        make_call()


def test_padding_is_no_baseline_where_positions_are_counted_by_it():
    model = make(
        "RobertaConfig", "RobertaForSequenceClassification", **BERT, max_position_embeddings=66, pad_token_id=0
    )
    attributor = Attributor(model, tokenizer())
    with pytest.raises(OptionError, match="counts positions: it would read another text"):
        attributor(TEXTS[0], **GRADS, baseline="pad")
    assert attributor(TEXTS[0], **GRADS, baseline="mask").baseline == "mask"
