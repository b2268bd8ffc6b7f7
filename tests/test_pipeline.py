import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tiny_models import WORDS, bert, gpt2, llama, make, tokenizer
from tokenizer_makers import wordpiece
from transformers import ByT5Tokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from attnflow_hf import Attributor, Options, attach
from attnflow_hf.errors import CaptureError, OptionError

TEXTS = [
    "the key to the old cabinets is on a table",
    "the key",
    "one longer text and another text",
    "the cat sat",
    "a mat near the old table and the cat",
    "text",
    "the premise is old",
    "one key on a mat",
    "another hypothesis and a longer premise near the cat",
    "old cabinets",
]
MASKED = ["the [MASK] sat on a mat", "a [MASK]", "the key to the old [MASK] is on a table", "one text near [MASK]"]
LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
ENTITIES = {0: "O", 1: "I-KEY", 2: "I-OLD"}
DEBERTA = {"pos_att_type": ["p2c", "c2p"], "relative_attention": True, "max_position_embeddings": 64}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
XLNET = {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "d_head": 8}
VIT = SMALL | {"image_size": 16, "patch_size": 4, "num_labels": 3}


def classifier(model=None, tok=None, **options):
    return pipeline("text-classification", model or bert(num_labels=3), tokenizer=tok or tokenizer(), **options)


def tagger(model=None, tok=None, **options):
    model = model or bert("BertForTokenClassification", id2label=ENTITIES, vocab_size=150)
    return pipeline("token-classification", model, tokenizer=tok or wordpiece(), **options)


def filler(**options):
    return pipeline("fill-mask", bert("BertForMaskedLM", **options), tokenizer=tokenizer())


def zero_shot(tok=None, **options):
    model = bert(id2label=LABELS, label2id={name: i for i, name in LABELS.items()}, **options)
    return pipeline("zero-shot-classification", model, tokenizer=tok or tokenizer(token_types=True))


def generator(model=None, **options):
    tok = tokenizer(template="", padding_side="left")
    return pipeline("text-generation", model or gpt2(), tokenizer=tok, **{"do_sample": False, **options})


def plain(results):
    """The results without their attributions, as a pipeline has them without `attach`."""
    if isinstance(results, dict):
        return {name: plain(value) for name, value in results.items() if name != "attributions"}
    return [plain(each) for each in results] if isinstance(results, list) else results


def attributions_of(results):
    """All attributions, in order."""
    if isinstance(results, dict):
        found = results["attributions"]
        return found if isinstance(found, list) else [found]
    return [found for each in results for found in attributions_of(each)]


def close(got, wanted, tolerance=1e-5):
    """Both results are the same, numbers within `tolerance`."""
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert list(got) == list(wanted)
        for name in wanted:
            close(got[name], wanted[name], tolerance)
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            close(one, other, tolerance)
    elif isinstance(wanted, (float, np.floating)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
    else:
        assert got == wanted


def same(got, wanted, tolerance=1e-6):
    """Both attributions are the same, and so are their tokens."""
    assert got.tokens == wanted.tokens
    assert got.texts == wanted.texts
    assert got.input_ids.tolist() == wanted.input_ids.tolist()
    assert got.word_ids == wanted.word_ids
    assert got.sequence_ids == wanted.sequence_ids
    assert got.special_tokens_mask.tolist() == wanted.special_tokens_mask.tolist()
    np.testing.assert_array_equal(got.offsets, wanted.offsets)
    assert (got.method, got.layer, got.output_position) == (wanted.method, wanted.layer, wanted.output_position)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=tolerance)


def state_of(pipe):
    """All of a pipeline and its model that must not change."""
    model = pipe.model
    hooks = [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in model.modules()]
    flags = [each.training for each in model.modules()]
    own = {name: id(value) for name, value in vars(pipe).items() if name != "call_count"}
    return type(pipe), own, hooks, flags, model.config.to_dict(), model.config._attn_implementation, list(vars(model))


TASKS = {
    "text-classification": (classifier, TEXTS, {"top_k": None}),
    "token-classification": (tagger, TEXTS, {}),
    "entities": (tagger, TEXTS, {"aggregation_strategy": "simple"}),
    "words": (tagger, TEXTS, {"aggregation_strategy": "first"}),
    "fill-mask": (filler, MASKED, {"top_k": 2}),
    "zero-shot-classification": (zero_shot, TEXTS[:3], {"candidate_labels": ["table", "cat", "old key"]}),
    "text-generation": (generator, TEXTS[:3], {"max_new_tokens": 4}),
}
ATTENTIONS = pytest.mark.parametrize(("attention", "tolerance"), [("eager", 0), ("sdpa", 1e-5)])
BATCHES = pytest.mark.parametrize("batch_size", [1, 8])


def of_attention(task, attention):
    build = {
        classifier: lambda: classifier(bert(num_labels=3, attn_implementation=attention)),
        tagger: lambda: tagger(
            bert("BertForTokenClassification", id2label=ENTITIES, vocab_size=150, attn_implementation=attention)
        ),
        filler: lambda: filler(attn_implementation=attention),
        zero_shot: lambda: zero_shot(attn_implementation=attention),
        generator: lambda: generator(gpt2(attn_implementation=attention)),
    }
    return build[TASKS[task][0]]()


@pytest.mark.parametrize("task", TASKS)
@ATTENTIONS
@BATCHES
def test_results_are_the_pipelines_own(task, attention, tolerance, batch_size):
    _, texts, options = TASKS[task]
    pipe = of_attention(task, attention)
    wanted = pipe(texts, batch_size=batch_size, **options)
    got = attach(pipe, method="rollout")(texts, batch_size=batch_size, **options)
    close(plain(got), wanted, tolerance)
    assert attributions_of(got)


@pytest.mark.parametrize("task", TASKS)
def test_one_text_and_a_list_of_one_give_what_they_give_without_attributions(task):
    build, texts, options = TASKS[task]
    pipe = build()
    attached = attach(pipe, method="raw")
    for inputs in (texts[0], texts[:1]):
        close(plain(attached(inputs, **options)), pipe(inputs, **options))


@pytest.mark.parametrize("task", TASKS)
@BATCHES
def test_a_batch_has_the_attributions_of_each_text_alone(task, batch_size):
    build, texts, options = TASKS[task]
    attached = attach(build(), method="rollout")
    together = attached(texts, batch_size=batch_size, **options)
    for text, results in zip(texts, together, strict=True):
        for got, wanted in zip(attributions_of(results), attributions_of(attached(text, **options)), strict=True):
            same(got, wanted)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # where there is one core
@pytest.mark.parametrize("form", ["generator", "KeyDataset", "workers"])
@pytest.mark.parametrize("task", ["text-classification", "entities", "zero-shot-classification", "text-generation"])
def test_every_way_to_give_many_texts(task, form):
    build, texts, options = TASKS[task]
    pipe = build()
    attached = attach(pipe, method="raw")

    def given():
        return {
            "generator": (text for text in texts),
            "KeyDataset": KeyDataset(Dataset.from_dict({"text": texts}), "text"),
            "workers": texts,
        }[form]

    options = options | {"batch_size": 2} | ({"num_workers": 2} if form == "workers" else {})
    got, wanted = list(attached(given(), **options)), list(pipe(given(), **options))
    close(plain(got), wanted)
    for one, other in zip(attributions_of(got), attributions_of(attached(texts, **TASKS[task][2])), strict=True):
        same(one, other)


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_every_label_of_a_text_carries_its_attribution(top_k):
    pipe = classifier()
    found = attach(pipe, method="raw")(TEXTS, top_k=top_k)
    close(plain(found), pipe(TEXTS, top_k=top_k))
    for text, labels in zip(TEXTS, found, strict=True):
        for label in labels:
            same(label["attributions"], Attributor(pipe.model, pipe.tokenizer)(text, method="raw"))


@BATCHES
def test_pairs_of_texts(batch_size):
    pipe = classifier(tok=tokenizer(token_types=True))
    pairs = [{"text": "a premise", "text_pair": text} for text in TEXTS]
    found = attach(pipe, method="rollout")(pairs, batch_size=batch_size)
    close(plain(found), pipe(pairs, batch_size=batch_size))
    for pair, result in zip(pairs, found, strict=True):
        wanted = Attributor(pipe.model, pipe.tokenizer)((pair["text"], pair["text_pair"]), method="rollout")
        same(result["attributions"], wanted)
        assert result["attributions"].to_words().words == wanted.to_words().words


def test_a_second_text_given_by_name():
    pipe = classifier(tok=tokenizer(token_types=True))
    found = attach(pipe, method="rollout")(TEXTS[0], text_pair="a premise")
    close(plain(found), pipe(TEXTS[0], text_pair="a premise"))
    same(found[0]["attributions"], Attributor(pipe.model, pipe.tokenizer)((TEXTS[0], "a premise"), method="rollout"))
    assert found[0]["attributions"].to_words().words[-2] == "premise"


def test_texts_that_are_cut_and_padded_by_the_call():
    pipe = classifier()
    options = {"truncation": True, "padding": "max_length", "max_length": 7}
    found = attach(pipe, method="rollout")(TEXTS, batch_size=4, **options)
    close(plain(found), pipe(TEXTS, batch_size=4, **options))
    for text, result in zip(TEXTS, found, strict=True):
        encoding = tokenizer()(text, truncation=True, max_length=7, return_tensors="pt")
        wanted = Attributor(pipe.model, pipe.tokenizer)(encoding, method="rollout")
        assert result["attributions"].tokens == wanted.tokens
        np.testing.assert_allclose(result["attributions"].scores, wanted.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_copies_give_the_same(copied):
    attached = attach(classifier(), method="rollout", options=Options(layer=0))
    other = copied(attached)
    assert isinstance(other, type(classifier()))
    for one, two in zip(attributions_of(other(TEXTS)), attributions_of(attached(TEXTS)), strict=True):
        same(one, two)


def test_a_second_call_gives_what_the_first_gave():
    attached = attach(classifier(), method="rollout")
    first, second = attached(TEXTS), attached(TEXTS)
    close(plain(second), plain(first), 0)
    for one, other in zip(attributions_of(first), attributions_of(second), strict=True):
        same(one, other, 0)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", "flow"),
        ("bert", "raw"),
        ("gpt2", "flow"),
        ("gpt2", "rollout"),
        ("llama", "rollout"),
        ("xlnet", "raw"),
        ("deberta", "rollout"),
        ("falcon", "flow"),
    ],
)
@BATCHES
def test_classified_texts_have_the_attributors_attributions(kind, method, batch_size):
    model = {
        "bert": bert,
        "gpt2": lambda: gpt2("GPT2ForSequenceClassification"),
        "llama": lambda: llama("LlamaForSequenceClassification"),
        "deberta": lambda: make("DebertaV2Config", "DebertaV2ForSequenceClassification", **SMALL, **DEBERTA),
        "falcon": lambda: make("FalconConfig", "FalconForSequenceClassification", **SMALL),
        "xlnet": lambda: make("XLNetConfig", "XLNetForSequenceClassification", **XLNET),
    }[kind]()
    tok = tokenizer(padding_side="left" if kind in ("llama", "xlnet") else "right")
    batch_size = 1 if kind == "xlnet" else batch_size  # its own pipeline fails in batches
    pipe = classifier(model, tok)
    wanted = pipe(TEXTS, batch_size=batch_size)
    found = attach(pipe, method=method)(TEXTS, batch_size=batch_size)
    close(plain(found), wanted)
    for text, result in zip(TEXTS, found, strict=True):
        alone = Attributor(model, tok)(text, method=method)
        same(result["attributions"], alone)
        assert result["attributions"].to_words().words == alone.to_words().words
        n_tokens = len(alone.tokens)
        position = {"bert": 0, "deberta": 0, "xlnet": 0}.get(kind, n_tokens - 1)
        assert result["attributions"].output_position == position


def test_a_prediction_says_what_the_pipeline_says():
    result = attach(classifier(), method="raw")(TEXTS, batch_size=8)
    for each in result:
        assert each["attributions"].prediction.label == each["label"]
        assert each["attributions"].prediction.probability == pytest.approx(each["score"], abs=1e-5)


@BATCHES
def test_a_mask_is_explained_at_its_position(batch_size):
    pipe = filler()
    for text, row in zip(MASKED, attach(pipe, method="rollout")(MASKED, batch_size=batch_size), strict=True):
        position = tokenizer()(text)["input_ids"].index(tokenizer().mask_token_id)
        wanted = Attributor(pipe.model, tokenizer())(text, method="rollout", output_position=position)
        for proposition in row:
            same(proposition["attributions"], wanted)


@BATCHES
def test_of_two_masks_each_has_its_own_attribution(batch_size):
    pipe = filler()
    texts = ["the [MASK] sat on a [MASK]", "a [MASK]", "[MASK] [MASK] near the old table"]
    found = attach(pipe, method="rollout")(texts, batch_size=batch_size)
    close(plain(found), pipe(texts, batch_size=batch_size))
    for text, rows in zip(texts, found, strict=True):
        ids = np.array(tokenizer()(text)["input_ids"])
        masks = np.flatnonzero(ids == tokenizer().mask_token_id)
        for position, row in zip(masks, rows if len(masks) > 1 else [rows], strict=True):
            wanted = Attributor(pipe.model, tokenizer())(text, method="rollout", output_position=int(position))
            for proposition in row:
                same(proposition["attributions"], wanted)


@pytest.mark.parametrize("targets", ["cat", ["cat", "mat", "key"]])
def test_targets_of_a_mask(targets):
    pipe = filler()
    found = attach(pipe, method="raw")(MASKED[0], targets=targets)
    close(plain(found), pipe(MASKED[0], targets=targets))
    assert [each["attributions"].output_position for each in found] == [2] * len(found)


@BATCHES
def test_a_token_is_explained_at_its_own_position(batch_size):
    pipe = tagger()
    found = attach(pipe, method="rollout")(TEXTS[:4], batch_size=batch_size, ignore_labels=[])
    for text, entities in zip(TEXTS[:4], found, strict=True):
        assert len(entities) == len(wordpiece()(text, add_special_tokens=False)["input_ids"])
        for entity in entities:
            wanted = Attributor(pipe.model, wordpiece())(text, method="rollout", output_position=entity["index"])
            same(entity["attributions"], wanted)
            assert entity["attributions"].tokens[entity["index"]] == entity["word"]


@pytest.mark.parametrize("strategy", ["simple", "first", "max"])
@BATCHES
def test_an_entity_has_the_mean_of_its_tokens(strategy, batch_size):
    pipe = tagger()
    found = attach(pipe, method="rollout")(TEXTS, batch_size=batch_size, aggregation_strategy=strategy)
    sizes = set()
    for text, entities in zip(TEXTS, found, strict=True):
        encoding = wordpiece()(text)
        every = Attributor(pipe.model, wordpiece())(text, method="rollout", output_position="all").scores
        for entity in entities:
            touched = {encoding.char_to_token(i) for i in range(entity["start"], entity["end"])} - {None}
            each = every[sorted(touched)]
            np.testing.assert_allclose(entity["attributions"].scores, np.mean(each, axis=0), rtol=0, atol=1e-6)
            assert entity["attributions"].output_position == min(touched)
            assert list(entity["attributions"].tokens) == encoding.tokens()
            assert entity["attributions"].texts == (text,)
            sizes.add(len(touched))
    assert len(sizes) > 1  # entities of one token and of several


def test_an_entity_has_the_mean_of_its_standard_errors():
    pipe, text = tagger(), " ".join(TEXTS)[:60]
    options = {"n_permutations": 2, "seed": 1}
    attached = attach(pipe, method="flow_shapley", options=Options(**options))
    attributor, encoding, sizes = Attributor(pipe.model, wordpiece()), wordpiece()(text), set()
    every = attributor(text, method="flow_shapley", output_position="all", **options).standard_errors
    for entity in attached(text, aggregation_strategy="simple"):
        touched = {encoding.char_to_token(i) for i in range(entity["start"], entity["end"])} - {None}
        wanted = every[sorted(touched)].mean(axis=0)
        np.testing.assert_allclose(entity["attributions"].standard_errors, wanted, rtol=0, atol=1e-6)
        sizes.add(len(touched))
    assert max(sizes) > 1


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_words_that_were_split_beforehand(strategy):
    pipe = tagger(aggregation_strategy=strategy)
    words = TEXTS[0].split()
    found = attach(pipe, method="rollout")(words, is_split_into_words=True, ignore_labels=[])
    close(plain(found), pipe(words, is_split_into_words=True, ignore_labels=[]))
    together = attach(tagger(aggregation_strategy=strategy), method="rollout")(TEXTS[0], ignore_labels=[])
    for got, wanted in zip(found[0], together, strict=True):
        assert got["attributions"].tokens == wanted["attributions"].tokens
        assert got["attributions"].output_position == wanted["attributions"].output_position
        np.testing.assert_allclose(got["attributions"].scores, wanted["attributions"].scores, rtol=0, atol=1e-6)


def test_overlapping_chunks_of_a_long_text():
    tok = wordpiece()
    pipe = pipeline("token-classification", tagger().model, tokenizer=tok, aggregation_strategy="simple", stride=4)
    text = " ".join(TEXTS[:4])
    limit, tok.model_max_length = tok.model_max_length, 20
    try:
        found = attach(pipe, method="rollout")(text)
        close(plain(found), pipe(text))
    finally:
        tok.model_max_length = limit
    for entity in found:
        attribution = entity["attributions"]
        assert len(attribution.tokens) <= 20
        start, _ = attribution.offsets[attribution.output_position]
        assert start == entity["start"]


@pytest.mark.parametrize("multi_label", [False, True])
@BATCHES
def test_labels_of_zero_shot_have_their_own_attributions_in_the_order_of_the_labels(multi_label, batch_size):
    pipe = zero_shot()
    labels = ["table", "cat", "old key"]
    options = {"candidate_labels": labels, "multi_label": multi_label, "hypothesis_template": "the hypothesis is {}"}
    found = attach(pipe, method="rollout")(TEXTS, batch_size=batch_size, **options)
    close(plain(found), pipe(TEXTS, batch_size=batch_size, **options))
    for text, result in zip(TEXTS, found, strict=True):
        for label, got in zip(result["labels"], result["attributions"], strict=True):
            pair = (text, f"the hypothesis is {label}")
            wanted = Attributor(pipe.model, pipe.tokenizer)(pair, method="rollout")
            assert got.tokens == wanted.tokens
            np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=1e-6)


def test_words_of_zero_shot_are_those_of_both_texts():
    pipe = zero_shot()
    found = attach(pipe, method="rollout")(TEXTS[0], ["cat"], hypothesis_template="the hypothesis is {}")
    wanted = Attributor(pipe.model, pipe.tokenizer)((TEXTS[0], "the hypothesis is cat"), method="rollout")
    same(found["attributions"][0], wanted)
    assert found["attributions"][0].to_words().words == wanted.to_words().words


@pytest.mark.parametrize(("build", "method"), [(gpt2, "raw"), (gpt2, "flow"), (llama, "rollout")])
@BATCHES
def test_generated_tokens_have_the_attributions_of_generate(build, method, batch_size):
    pipe = generator(build())
    prompts = TEXTS[:4]
    found = attach(pipe, method=method)(prompts, batch_size=batch_size, max_new_tokens=5)
    for prompt, (record,) in zip(prompts, found, strict=True):
        wanted = Attributor(pipe.model, pipe.tokenizer).generate(prompt, max_new_tokens=5, method=method)
        for got, alone in zip(record["attributions"], wanted, strict=True):
            same(got, alone)
            assert got.prediction.label == alone.prediction.label
            assert got.prediction.probability == pytest.approx(alone.prediction.probability, abs=1e-5)


@pytest.mark.parametrize("options", [{"return_full_text": False}, {"return_tensors": True}])
def test_what_is_returned_of_a_text_changes_no_attribution(options):
    pipe = generator()
    attached = attach(pipe, method="rollout")
    found = attached(TEXTS[:2], max_new_tokens=4, **options)
    close(plain(found), pipe(TEXTS[:2], max_new_tokens=4, **options))
    for got, wanted in zip(attributions_of(found), attributions_of(attached(TEXTS[:2], max_new_tokens=4)), strict=True):
        same(got, wanted)


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"do_sample": True, "top_k": 5}, {"num_beams": 2, "length_penalty": -2.0}]
)
@BATCHES
def test_each_of_several_sequences_has_its_own_attributions(options, batch_size):
    pipe = generator()
    options = {"num_return_sequences": 2, "max_new_tokens": 4, "batch_size": batch_size, **options}
    torch.manual_seed(3)
    wanted = pipe(TEXTS[:3], **options)
    torch.manual_seed(3)
    found = attach(pipe, method="rollout")(TEXTS[:3], **options)
    close(plain(found), wanted)
    for prompt, records in zip(TEXTS, found, strict=False):
        assert len(records) == 2
        for record in records:
            labels = [each.prediction.label for each in record["attributions"]]
            words = [label for label in labels if not label.startswith("[") or label == "[UNK]"]
            new = record["generated_text"].removeprefix(prompt).split()
            assert [word for word in words if word in WORDS] == [word for word in new if word in WORDS]
            for index, each in enumerate(record["attributions"]):
                assert len(each.tokens) == len(prompt.split()) + index
                assert each.output_position == len(each.tokens) - 1


def ending(prompt, step):
    """A model that generates its end of a text at a step after the prompt."""
    model = gpt2()
    ids = tokenizer(template="")(prompt, return_tensors="pt")
    new = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
    model.generation_config.eos_token_id = int(new[step])
    return model, new.tolist().index(int(new[step])) + 1


@BATCHES
def test_tokens_behind_the_end_are_none(batch_size):
    model, _ = ending(TEXTS[0], 2)
    pipe = generator(model)
    found = attach(pipe, method="rollout")(TEXTS[:4], batch_size=batch_size, max_new_tokens=8)
    close(plain(found), pipe(TEXTS[:4], batch_size=batch_size, max_new_tokens=8))
    counts = set()
    for prompt, (record,) in zip(TEXTS, found, strict=False):
        wanted = Attributor(pipe.model, pipe.tokenizer).generate(prompt, max_new_tokens=8, method="rollout")
        for got, alone in zip(record["attributions"], wanted, strict=True):
            same(got, alone)
        counts.add(len(wanted))
    assert len(counts) > 1


def test_an_end_that_the_call_names_ends_attributions_too():
    model, n_new = ending(TEXTS[0], 1)
    end, model.generation_config.eos_token_id = model.generation_config.eos_token_id, 3
    attached = attach(generator(model), method="rollout")
    found = attached(TEXTS[:4], batch_size=4, max_new_tokens=8, eos_token_id=end)
    assert len(found[0][0]["attributions"]) == n_new


def test_a_prompt_behind_a_prefix_shows_both():
    pipe = generator()
    found = attach(pipe, method="rollout")(TEXTS[1], prefix="one text and ", max_new_tokens=3)
    close(plain(found), pipe(TEXTS[1], prefix="one text and ", max_new_tokens=3))
    wanted = Attributor(pipe.model, pipe.tokenizer).generate("one text and " + TEXTS[1], max_new_tokens=3)
    for got, alone in zip(found[0]["attributions"], wanted, strict=True):
        assert got.tokens == alone.tokens
        assert got.to_words().words == alone.to_words().words


def test_a_prompt_may_be_empty():
    pipe = generator()
    (found,) = attach(pipe, method="rollout")("", max_new_tokens=3)
    close([plain(found)], pipe("", max_new_tokens=3))
    assert [len(each.tokens) for each in found["attributions"]] == [1, 2, 3]
    assert " ".join(each.prediction.label for each in found["attributions"]) in found["generated_text"]


def test_chats_are_explained():
    tok = copy.deepcopy(tokenizer(template="", padding_side="left"))
    tok.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    pipe = pipeline("text-generation", gpt2(), tokenizer=tok, do_sample=False)
    chat = [{"role": "user", "content": TEXTS[0]}]
    found = attach(pipe, method="rollout")(chat, max_new_tokens=3)
    assert plain(found) == pipe(chat, max_new_tokens=3)
    wanted = Attributor(pipe.model, tok).generate(TEXTS[0], max_new_tokens=3, method="rollout")
    for got, alone in zip(found[0]["attributions"], wanted, strict=True):
        assert got.tokens == alone.tokens
        np.testing.assert_allclose(got.scores, alone.scores, rtol=0, atol=1e-6)


def test_a_prompt_cut_on_its_left_has_the_tokens_that_the_model_read():
    tok = tokenizer(template="", padding_side="left", max_length=8)
    pipe = pipeline("text-generation", gpt2(), tokenizer=tok, do_sample=False)
    found = attach(pipe, method="rollout")(TEXTS[0], max_new_tokens=3, handle_long_generation="hole")
    assert found[0]["attributions"][0].tokens == tuple(TEXTS[0].split()[-5:])


def images(n=3):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    return [image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(n)]


def image_classifier(**options):
    name = "ViTImageProcessorPil" if hasattr(transformers, "ViTImageProcessorPil") else "ViTImageProcessor"
    processor = getattr(transformers, name)(size={"height": 16, "width": 16})
    return pipeline(
        "image-classification",
        make("ViTConfig", "ViTForImageClassification", **VIT, **options),
        image_processor=processor,
    )


@ATTENTIONS
@BATCHES
def test_images_have_the_attributors_attributions(attention, tolerance, batch_size):
    pictures = images()
    pipe = image_classifier(attn_implementation=attention)
    wanted = pipe(pictures, batch_size=batch_size, top_k=2)
    found = attach(pipe, method="rollout")(pictures, batch_size=batch_size, top_k=2)
    close(plain(found), wanted, tolerance)
    for picture, labels in zip(pictures, found, strict=True):
        alone = Attributor(pipe.model)(pipe.image_processor(picture, return_tensors="pt"), method="rollout")
        for label in labels:
            same(label["attributions"], alone)
            assert label["attributions"].grid_scores.shape == (4, 4)


@pytest.mark.parametrize("task", TASKS)
def test_the_pipeline_stays_as_it_is(task):
    build, texts, options = TASKS[task]
    pipe = build()
    first, state = pipe(texts, **options), state_of(pipe)
    attached = attach(pipe, method="raw")
    assert isinstance(attached, type(pipe))
    assert attached.model is pipe.model
    assert state_of(pipe) == state
    attached(texts, **options)
    assert state_of(pipe) == state
    assert "attnflow" not in vars(pipe)
    close(pipe(texts, **options), first, 0)


def test_both_pipelines_interleaved():
    pipe = classifier()
    attached = attach(pipe, method="raw")
    wanted = pipe(TEXTS)
    streams = zip(pipe(text for text in TEXTS), attached(text for text in TEXTS), strict=True)
    for result, (own, other) in zip(wanted, streams, strict=True):
        close(own, result, 0)
        close(plain(other), result)


def test_a_model_in_train_state_is_in_it_afterwards():
    pipe = classifier(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train())
    pipe.model.bert.encoder.layer[1].eval()
    state = state_of(pipe)
    attach(pipe, method="raw")(TEXTS)
    assert state_of(pipe) == state


def test_an_attached_pipeline_can_be_attached_to_once_more():
    pipe = classifier()
    twice = attach(attach(pipe, method="flow"), method="raw")
    found = twice(TEXTS)
    close(plain(found), pipe(TEXTS))
    assert {each.method for each in attributions_of(found)} == {"raw"}


@pytest.mark.parametrize("kind", ["bert", "deberta", "xlnet", "generation"])
def test_threads_get_what_one_gets_alone(kind):
    model = {
        "bert": bert,
        "deberta": lambda: make("DebertaV2Config", "DebertaV2ForSequenceClassification", **SMALL, **DEBERTA),
        "xlnet": lambda: make("XLNetConfig", "XLNetForSequenceClassification", **XLNET),
        "generation": gpt2,
    }[kind]()
    pipe = generator(model, max_new_tokens=3) if kind == "generation" else classifier(model)
    attached = attach(pipe, method="rollout")
    chunks = [TEXTS[i : i + 3] for i in (0, 2, 4, 6)]
    alone, wanted = [attached(chunk) for chunk in chunks], [pipe(chunk) for chunk in chunks]
    barrier = threading.Barrier(8)

    def work(index):
        barrier.wait(timeout=20)
        return [(attached if index < 4 else pipe)(chunks[index % 4]) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for index, several in enumerate(results):
        for found in several:
            close(plain(found), wanted[index % 4])
            if index < 4:
                for one, other in zip(attributions_of(found), attributions_of(alone[index]), strict=True):
                    same(one, other)


@pytest.mark.parametrize("task", ["feature-extraction", "question-answering-like"])
def test_another_task_is_told_what_to_call(task):
    pipe = pipeline("feature-extraction", bert("BertModel"), tokenizer=tokenizer())
    if task != "feature-extraction":
        pipe = object()
    with pytest.raises(OptionError, match=r"call Attributor\(pipe.model, pipe.tokenizer\) beside it"):
        attach(pipe)


def test_an_unknown_method_is_told_at_once():
    with pytest.raises(OptionError, match="unknown method 'gradient'"):
        attach(classifier(), method="gradient")


def test_folded_rollout_is_refused():
    with pytest.raises(OptionError, match="keep='rollout' is for Attributor"):
        attach(classifier(), method="rollout", options=Options(keep="rollout"))


def test_a_model_without_attention_is_refused_at_attach():
    model = make("FNetConfig", "FNetForSequenceClassification", **SMALL, max_position_embeddings=64)
    with pytest.raises(CaptureError, match="FNetForSequenceClassification gave no attentions"):
        attach(classifier(model))


@pytest.mark.parametrize("options", [{"output_position": "mean"}, {"output_position": 1}, {"layer": "all"}])
def test_options_that_generated_tokens_do_not_have_are_refused(options):
    with pytest.raises(OptionError, match="from the position that predicted it, in one layer"):
        attach(generator(), method="raw", options=Options(**options))


@pytest.mark.parametrize("bad", ["a text that is far too long " * 20, 7, ["a list"]])
@pytest.mark.parametrize("kind", ["bert", "deberta", "xlnet"])
def test_after_a_bad_input_all_is_as_before(bad, kind):
    model = {
        "bert": bert,
        "deberta": lambda: make("DebertaV2Config", "DebertaV2ForSequenceClassification", **SMALL, **DEBERTA),
        "xlnet": lambda: make("XLNetConfig", "XLNetForSequenceClassification", **XLNET),
    }[kind]()
    pipe = classifier(model)
    wanted, state = pipe(TEXTS), state_of(pipe)
    attached = attach(pipe, method="raw")
    if kind != "bert" and isinstance(bad, str):
        with torch.no_grad():  # these read texts of any length
            model.get_input_embeddings().weight = torch.nn.Parameter(model.get_input_embeddings().weight[:8])
        state = state_of(pipe)
    with pytest.raises((IndexError, RuntimeError, ValueError), match=r"index|size|input|match|text"):
        attached([*TEXTS[:2], bad])
    assert state_of(pipe) == state
    if kind == "bert" or not isinstance(bad, str):
        close(plain(attached(TEXTS)), wanted)


def test_a_tokenizer_written_in_python():
    sizes = {"vocab_size": 384, "max_position_embeddings": 128}
    pipe = classifier(bert(**sizes), ByT5Tokenizer())
    found = attach(pipe, method="rollout")(TEXTS, batch_size=4)
    close(plain(found), pipe(TEXTS, batch_size=4))
    for text, result in zip(TEXTS, found, strict=True):
        wanted = Attributor(pipe.model, pipe.tokenizer)(text, method="rollout")
        got = result["attributions"]
        assert (got.tokens, got.offsets, got.output_position) == (wanted.tokens, None, wanted.output_position)
        np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=1e-6)


def test_entities_of_a_tokenizer_without_offsets_are_refused():
    model = bert("BertForTokenClassification", vocab_size=384, max_position_embeddings=128, id2label=ENTITIES)
    attached = attach(tagger(model, ByT5Tokenizer(), aggregation_strategy="simple"), method="rollout")
    with pytest.raises(OptionError, match="use a fast tokenizer"):
        attached("the key", ignore_labels=[])


def test_tokens_of_a_tokenizer_written_in_python_are_explained_at_their_index():
    model = bert("BertForTokenClassification", vocab_size=384, max_position_embeddings=128, id2label=ENTITIES)
    pipe = tagger(model, ByT5Tokenizer())
    found = attach(pipe, method="rollout")("the key", ignore_labels=[])
    close(plain(found), pipe("the key", ignore_labels=[]))
    assert [each["attributions"].output_position for each in found] == [each["index"] for each in found]


CHOICES = [
    {"normalize": "none"},
    {"normalize": "max"},
    {"special_tokens": "drop"},
    {"special_tokens": "zero"},
    {"first_token": "drop"},
    {"layer": 0},
    {"layer": "all"},
    {"output_position": "mean"},
    {"output_position": "all"},
    {"output_position": -2},
    {"head_reduction": 1},
    {"head_reduction": "max"},
    {"residual_weight": 0.2},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("method", ["raw", "flow"])
def test_options_are_those_of_the_attributor(options, method):
    pipe = classifier()
    texts = [text for text in TEXTS if len(text.split()) > 1][:3]
    found = attach(pipe, method=method, options=Options(**options))(texts, batch_size=3)
    for text, result in zip(texts, found, strict=True):
        same(result["attributions"], Attributor(pipe.model, pipe.tokenizer)(text, method=method, **options))


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_options_hold_for_masks(options):
    pipe = filler()
    found = attach(pipe, method="rollout", options=Options(**options))(MASKED[0])
    wanted = Attributor(pipe.model, pipe.tokenizer)(MASKED[0], method="rollout", **{"output_position": 2, **options})
    for proposition in found:
        same(proposition["attributions"], wanted)


@pytest.mark.parametrize("position", [0, "mean"])
def test_a_chosen_output_position_is_that_of_every_entity(position):
    pipe = tagger(aggregation_strategy="simple")
    found = attach(pipe, method="rollout", options=Options(output_position=position))(TEXTS[0], ignore_labels=[])
    wanted = Attributor(pipe.model, pipe.tokenizer)(TEXTS[0], method="rollout", output_position=position)
    for entity in found:
        same(entity["attributions"], wanted)
        assert entity["attributions"].notes == wanted.notes


@pytest.mark.parametrize("options", [{"layer": 0}, {"normalize": "none"}, {"special_tokens": "zero"}])
def test_options_hold_for_generated_tokens(options):
    pipe = generator()
    chosen = Options(**options)
    found = attach(pipe, method="rollout", options=chosen)(TEXTS[0], max_new_tokens=3)
    wanted = Attributor(pipe.model, pipe.tokenizer).generate(
        TEXTS[0], max_new_tokens=3, method="rollout", options=chosen
    )
    for got, alone in zip(found[0]["attributions"], wanted, strict=True):
        same(got, alone)
