"""Attached pipelines whose results stand at positions, on attention times gradient: each is its own target."""

import numpy as np
import pytest
import torch
from test_entities import LONG, chunks_of
from test_pipeline import MASKED, TEXTS, attributions_of, close, filler, generator, plain, tagger
from tiny_models import bert, llama, tokenizer
from tokenizer_makers import wordpiece
from transformers import pipeline

from attnflow_hf import Attributor, Options, attach
from attnflow_hf.errors import OptionError

GRADS = {"edge_weights": "grad_attention", "normalize": "none"}
TAGS = {0: "O", 1: "B-KEY", 2: "I-KEY", 3: "B-OLD", 4: "I-OLD"}
BATCHES = pytest.mark.parametrize("batch_size", [1, 3])


def attached(pipe, method="rollout", **options):
    return attach(pipe, method=method, options=Options(**GRADS, **options))


def same(got, wanted):
    """Both attributions are of the same tokens and the same target, with the same scores."""
    assert (got.tokens, got.texts, got.output_position) == (wanted.tokens, wanted.texts, wanted.output_position)
    assert (got.target.index, got.target.label) == (wanted.target.index, wanted.target.label)
    assert got.target.output == pytest.approx(wanted.target.output, abs=1e-5)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-4, atol=1e-6 * wanted.scores.max())


def varied(**options):
    """A tagger by the sign of one number, whose mean over the tokens of the first text is zero: both tags are there."""
    model = bert("BertForTokenClassification", id2label=TAGS, vocab_size=150)
    states = model.bert(**wordpiece()(TEXTS[0], return_tensors="pt"))[0][0, 1:-1].detach()
    direction, factors = model.classifier.weight[0].detach().clone(), torch.tensor([0.0, 0.5, 1.0, -0.5, -1.0])
    with torch.no_grad():
        model.classifier.weight.copy_(factors[:, None] * direction)
        model.classifier.bias.copy_(-factors * (states @ direction).mean())
    return tagger(model, **options)


# Masks


@BATCHES
@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_a_mask_is_explained_as_its_best_candidate(method, batch_size):
    pipe = filler()
    found = attached(pipe, method)(MASKED, batch_size=batch_size)
    assert plain(found) == pipe(MASKED, batch_size=batch_size)  # to the last bit: it is the pipeline's own pass
    for text, row in zip(MASKED, found, strict=True):
        wanted = Attributor(pipe.model, tokenizer())(text, method=method, **GRADS)
        assert wanted.target.index == row[0]["token"]
        for candidate in row:
            same(candidate["attributions"], wanted)
    assert all(parameter.grad is None for parameter in pipe.model.parameters())


@BATCHES
def test_of_two_masks_each_is_explained_where_it_stands(batch_size):
    pipe = filler()
    texts = ["the [MASK] sat on a [MASK]", "[MASK] [MASK] near the old table"]
    for text, rows in zip(texts, attached(pipe)(texts, batch_size=batch_size), strict=True):
        masks = np.flatnonzero(np.array(tokenizer()(text)["input_ids"]) == tokenizer().mask_token_id)
        for position, row in zip(masks.tolist(), rows, strict=True):
            options = {"output_position": position, "target": row[0]["token"], **GRADS}
            same(row[0]["attributions"], Attributor(pipe.model, tokenizer())(text, method="rollout", **options))


@pytest.mark.parametrize("target", ["old", 9])
def test_a_token_that_is_named_is_the_target_of_every_mask(target):
    pipe = filler()
    wanted = Attributor(pipe.model, tokenizer())(MASKED[0], method="rollout", target=target, **GRADS)
    for candidate in attached(pipe, target=target)(MASKED[0]):
        same(candidate["attributions"], wanted)


def test_the_best_candidate_is_that_of_those_asked_for():
    pipe = filler()
    worst = [candidate["token_str"] for candidate in pipe(MASKED[0], top_k=20)[-2:]]
    row = attached(pipe)(MASKED[0], targets=worst)
    assert row[0]["attributions"].target.index == row[0]["token"]
    assert row[0]["attributions"].target != row[0]["attributions"].prediction


# Entities


@BATCHES
@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_token_is_explained_by_the_label_it_has(padding, batch_size):
    tok = wordpiece()
    before, tok.padding_side = tok.padding_side, padding
    try:
        pipe = varied(tok=tok)
        found = attached(pipe)(TEXTS[:4], batch_size=batch_size, ignore_labels=[])
        assert plain(found) == pipe(TEXTS[:4], batch_size=batch_size, ignore_labels=[])
    finally:
        tok.padding_side = before
    labels = set()
    for text, entities in zip(TEXTS[:4], found, strict=True):
        for position, entity in enumerate(entities, start=1):
            options = {"output_position": position, "target": entity["entity"], **GRADS}
            same(entity["attributions"], Attributor(pipe.model, wordpiece())(text, method="rollout", **options))
            labels.add(entity["entity"])
    assert len(labels) > 1 or (padding == "left" and batch_size > 1)  # there BERT counts positions from the padding


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_an_entity_has_the_mean_of_its_tokens_each_of_a_class_of_its_tag(strategy):
    pipe = varied(aggregation_strategy=strategy)
    attributor, n_tokens = Attributor(pipe.model, wordpiece()), set()
    for text, entities in zip(TEXTS[:5], attached(pipe)(TEXTS[:5]), strict=True):
        encoding = wordpiece()(text)
        logits = pipe.model(**wordpiece()(text, return_tensors="pt")).logits[0].detach().numpy()
        for entity in entities:
            touched = sorted({encoding.char_to_token(i) for i in range(entity["start"], entity["end"])} - {None})
            own = [index for index, name in TAGS.items() if index and name[2:] == entity["entity_group"]]
            targets = [max(own, key=lambda index, at=position: logits[at, index]) for position in touched]
            each = [
                attributor(text, method="rollout", output_position=position, target=target, **GRADS)
                for position, target in zip(touched, targets, strict=True)
            ]
            found = entity["attributions"]
            wanted = np.mean([one.scores for one in each], axis=0)
            np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-6 * wanted.max())
            assert (found.target.index, found.output_position) == (targets[0], touched[0])
            n_tokens.add(len(touched))
    assert len(n_tokens) > 1


def test_one_label_may_be_named_for_all_entities():
    found = attached(varied(), target="I-OLD")(TEXTS[0], ignore_labels=[])
    assert {entity["attributions"].target.label for entity in found} == {"I-OLD"}
    assert len({entity["entity"] for entity in found}) > 1


def test_entities_of_a_long_text_are_explained_in_their_chunk():
    tok = wordpiece()
    limit, tok.model_max_length = tok.model_max_length, 20
    try:
        pipe = varied(tok=tok, aggregation_strategy="simple", stride=4)
        found = attached(pipe)(LONG)
        assert plain(found) == pipe(LONG)
        chunks = {tuple(tok.convert_ids_to_tokens(ids)): ids for ids, _ in chunks_of(LONG, tok, 4)}
    finally:
        tok.model_max_length = limit
    for entity in found:
        attribution = entity["attributions"]
        assert attribution.offsets[attribution.output_position][0] == entity["start"]
        assert attribution.target.label[2:] == entity["entity_group"]
        if "the mean of" in "".join(attribution.notes):
            continue
        options = {"output_position": attribution.output_position, "target": attribution.target.index, **GRADS}
        encoding = {"input_ids": [chunks[attribution.tokens]]}
        wanted = Attributor(pipe.model, wordpiece())(encoding, method="rollout", **options)
        np.testing.assert_allclose(attribution.scores, wanted.scores, rtol=1e-4, atol=1e-6 * wanted.scores.max())


def test_a_text_without_entities_has_none():
    assert attached(varied())(TEXTS[0], ignore_labels=[*TAGS.values(), *(name[2:] for name in TAGS.values())]) == []


# Generated texts


@pytest.mark.parametrize("build", [None, llama])
@BATCHES
def test_each_generated_token_is_its_own_target(build, batch_size):
    pipe = generator(build and build())
    found = attached(pipe, "flow")(TEXTS[:3], batch_size=batch_size, max_new_tokens=4)
    close(plain(found), pipe(TEXTS[:3], batch_size=batch_size, max_new_tokens=4))
    for prompt, (record,) in zip(TEXTS[:3], found, strict=True):
        attributor = Attributor(pipe.model, pipe.tokenizer)
        wanted = attributor.generate(prompt, max_new_tokens=4, method="flow", options=Options(**GRADS))
        assert len(record["attributions"]) == len(wanted)
        for got, alone in zip(record["attributions"], wanted, strict=True):
            same(got, alone)
            assert got.target == got.prediction


# What makes no sense


@pytest.mark.parametrize("build", [filler, tagger])
def test_a_position_beside_those_of_the_results_is_refused(build):
    with pytest.raises(OptionError, match="is explained where it stands, got output_position=3; call Attributor"):
        attached(build(), output_position=3)


@pytest.mark.parametrize("build", [filler, tagger])
def test_targets_of_several_texts_are_refused(build):
    with pytest.raises(OptionError, match="target must be one class for all texts of a pipeline"):
        attached(build(), target=[0, 1])


def test_a_target_beside_generated_tokens_is_refused():
    with pytest.raises(OptionError, match="each generated token is explained as its own target, got target=7"):
        attached(generator(), target=7)


def test_unknown_targets_are_told_with_those_that_there_are():
    with pytest.raises(OptionError, match="target 'no such token' is not one token of this tokenizer"):
        attached(filler(), target="no such token")(MASKED[0])
    with pytest.raises(OptionError, match=r"target 'I-KYE' is none .*: it has 0 \('O'\), 1 \('I-KEY'\).*mean 'I-KEY'"):
        attached(tagger(), target="I-KYE")(TEXTS[0], ignore_labels=[])


def test_encoder_decoder_models_of_other_tasks_are_refused():
    pipe = pipeline("token-classification", tagger().model, tokenizer=wordpiece())
    pipe.model.config.is_encoder_decoder = True
    with pytest.raises(OptionError, match="of those, attributions can be attached to classifiers of texts alone"):
        attached(pipe)


def test_repeated_calls_give_the_same():
    explained = attached(filler())
    one, other = explained(MASKED), explained(MASKED)
    for first, second in zip(attributions_of(one), attributions_of(other), strict=True):
        np.testing.assert_array_equal(first.scores, second.scores)
