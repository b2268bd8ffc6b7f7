import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from test_encoder_decoder import build
from tiny_models import make, tokenizer
from transformers import ByT5Tokenizer, pipeline

from attnflow_hf import Attributor, Options, attach
from attnflow_hf.errors import CaptureError, OptionError

TEXTS = [
    "the key to the old cabinets is on a table",
    "the key",
    "one longer text and another text",
    "the cat sat",
]
ENTAILMENT = {0: "contradiction", 1: "neutral", 2: "entailment"}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
BART |= {"eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 3}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"eos_token_id": 3, "decoder_start_token_id": 0}
GEMMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
GEMMA |= {"intermediate_size": 48, "vocab_size": 25, "pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
GEMMA |= {"query_pre_attn_scalar": 8, "max_position_embeddings": 64, "layer_types": ["full_attention"] * 2}
MODELS = {
    "Bart": BART,
    "BigBirdPegasus": BART | {"attention_type": "original_full"},
    "MBart": BART,
    "MT5": T5,
    "Mvp": BART,
    "PLBart": BART,
    "T5": T5,
    "UMT5": T5,
    "T5Gemma": {"encoder": GEMMA, "decoder": GEMMA},
}
FAMILIES = pytest.mark.parametrize("family", MODELS)
TEMPLATES = {"MBart": "$A [SEP] [CLS]", "PLBart": "$A [SEP] [CLS]"}  # a language behind the end


def classifier(family, **options):
    named = {"id2label": ENTAILMENT, "label2id": {name: i for i, name in ENTAILMENT.items()}}
    return make(f"{family}Config", f"{family}ForSequenceClassification", **MODELS[family], **named, **options)


def tokens_for(family):
    return tokenizer(template=TEMPLATES.get(family, "[CLS] $A [SEP]"))


def pipe_of(family, task="text-classification", **options):
    return pipeline(task, classifier(family, **options), tokenizer=tokens_for(family))


def read_by(family, ids, more=False):
    """What encoder and decoder read, put together by hand; with `more`, the decoder reads the last token, too."""
    start = {"T5": 0, "MT5": 0, "UMT5": 0, "Bart": 3, "Mvp": 3, "BigBirdPegasus": 3, "T5Gemma": 2}.get(family, ids[-1])
    decoder = [start, *(ids if more else ids[:-1])]
    return {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([decoder])}


def position_of(family, ids, more=False):
    return len(ids) - (0 if more else 2 if family in TEMPLATES else 1)


def wanted_of(pipe, family, text, more=False, **options):
    """What `Attributor` gives for what both halves read, at the position that the head reads."""
    ids = tokens_for(family)(*text)["input_ids"] if isinstance(text, tuple) else tokens_for(family)(text)["input_ids"]
    inputs = read_by(family, ids, more)
    return Attributor(pipe.model, pipe.tokenizer)(inputs, output_position=position_of(family, ids, more), **options)


def same(got, wanted, tolerance=1e-6):
    assert got.tokens == wanted.tokens
    assert got.alignment.parts == wanted.alignment.parts
    assert got.input_ids.tolist() == wanted.input_ids.tolist()
    assert (got.output_position, got.layer, got.method) == (wanted.output_position, wanted.layer, wanted.method)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=tolerance)
    if wanted.prediction is not None:
        assert got.prediction.label == wanted.prediction.label
        assert got.prediction.probability == pytest.approx(wanted.prediction.probability, abs=1e-5)


def close(got, wanted):
    assert [each["label"] for each in got] == [each["label"] for each in wanted]
    np.testing.assert_allclose([each["score"] for each in got], [each["score"] for each in wanted], rtol=0, atol=1e-5)


# Where the head reads


@FAMILIES
@pytest.mark.parametrize("many", [False, True])
def test_the_head_reads_no_other_position_of_the_decoder(family, many):
    """The gradient of the logits is 0 at the decoder's last states but for one position of each row."""
    pipe = pipe_of(family)
    batch = pipe.tokenizer(TEXTS if many else TEXTS[0], padding=many, return_tensors="pt")
    batch = {name: value if many else value.reshape(1, -1) for name, value in batch.items() if name != "token_type_ids"}
    states = []

    def keep(module, args, output):
        output[0].retain_grad()
        states.append(output[0])

    handle = pipe.model.get_decoder().register_forward_hook(keep)
    (pipe.model(**batch).logits ** 2).sum().backward()
    handle.remove()
    found = attach(pipe, method="raw")(TEXTS if many else TEXTS[:1], batch_size=4 if many else 1)
    touched = [row.abs().sum(dim=-1).nonzero().flatten().tolist() for row in states[0].grad]
    assert touched == [[each["attributions"].output_position] for each in found]


# What a result carries


@FAMILIES
@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_attributions_are_those_of_both_halves_at_that_position(family, method):
    pipe = pipe_of(family)
    for text in TEXTS:
        (found,) = attach(pipe, method=method)(text)
        same(found["attributions"], wanted_of(pipe, family, text, method=method))


@FAMILIES
@pytest.mark.parametrize("attention", ["eager", None])
def test_results_are_the_pipelines_own(family, attention):
    pipe = pipe_of(family, attn_implementation=attention)
    for options in ({"batch_size": 1}, {"batch_size": 4}, {"batch_size": 2, "padding": "max_length", "max_length": 20}):
        close(attach(pipe, method="raw")(TEXTS, truncation=True, **options), pipe(TEXTS, truncation=True, **options))


@FAMILIES
@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 20, "truncation": True}])
def test_a_batch_has_the_attributions_of_each_text_alone(family, options):
    pipe = pipe_of(family)
    found = attach(pipe, method="rollout")(TEXTS, batch_size=4, **options)
    longest = max(len(tokens_for(family)(text)["input_ids"]) for text in TEXTS)
    for text, each in zip(TEXTS, found, strict=True):
        # T5Gemma's head reads one place further where there is padding: another state than that of the text alone
        n_tokens = len(tokens_for(family)(text)["input_ids"])
        more = family == "T5Gemma" and (bool(options) or n_tokens < longest)
        same(each["attributions"], wanted_of(pipe, family, text, more, method="rollout"))


def test_both_halves_have_their_tokens_words_and_characters():
    pipe = pipe_of("Bart")
    (found,) = attach(pipe, method="flow")(TEXTS[1])
    encoder, decoder = (found["attributions"].part(name) for name in ("encoder", "decoder"))
    assert encoder.tokens == ("[CLS]", "the", "key", "[SEP]")
    assert decoder.tokens == ("[SEP]", "[CLS]", "the", "key")
    assert found["attributions"].output_position == 3
    assert encoder.offsets.tolist() == [[0, 0], [0, 3], [4, 7], [0, 0]]
    assert decoder.offsets.tolist() == [[0, 0], [0, 0], [0, 3], [4, 7]]
    assert found["attributions"].to_words().words == ("[CLS]", "the", "key", "[SEP]", "[SEP]", "[CLS]", "the", "key")
    assert found["label"] == found["attributions"].prediction.label


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("family", ["Bart", "T5", "MBart", "T5Gemma"])
def test_labels_of_zero_shot_have_their_own_attributions(family, batch_size):
    tok = tokenizer()
    pipe = pipeline("zero-shot-classification", classifier(family), tokenizer=tok)
    options = {"hypothesis_template": "the hypothesis is {}", "candidate_labels": ["table", "cat", "mat"]}
    found, wanted = (each(TEXTS, batch_size=batch_size, **options) for each in (attach(pipe, method="rollout"), pipe))
    for text, got, own in zip(TEXTS, found, wanted, strict=True):
        assert got["labels"] == own["labels"]
        np.testing.assert_allclose(got["scores"], own["scores"], rtol=0, atol=1e-5)
        for label, attribution in zip(got["labels"], got["attributions"], strict=True):
            ids = tok(text, f"the hypothesis is {label}")["input_ids"]
            more = attribution.output_position == len(ids)
            assert not more or (family == "T5Gemma" and batch_size > 1)
            inputs = read_by(family, ids, more)
            ends = {"output_position": len(ids) - (not more), "method": "rollout"}
            same(attribution, Attributor(pipe.model, tok)(inputs, **ends))
            assert attribution.texts[:2] == (text, f"the hypothesis is {label}")


@pytest.mark.parametrize(
    "options",
    [{"output_position": 1}, {"output_position": "mean"}, {"output_position": "all"}, {"layer": 0}, {"layer": "all"}],
    ids=str,
)
def test_options_count_the_decoders_positions_and_layers(options):
    pipe = pipe_of("Bart")
    (found,) = attach(pipe, method="rollout", options=Options(**options))(TEXTS[0])
    ids = tokens_for("Bart")(TEXTS[0])["input_ids"]
    named = {"output_position": len(ids) - 1, **options}
    same(found["attributions"], Attributor(pipe.model, pipe.tokenizer)(read_by("Bart", ids), method="rollout", **named))


def test_pairs_of_texts():
    pipe = pipe_of("Bart")
    found = attach(pipe, method="rollout")([{"text": "a premise", "text_pair": text} for text in TEXTS], batch_size=4)
    for text, each in zip(TEXTS, found, strict=True):
        same(each["attributions"], wanted_of(pipe, "Bart", ("a premise", text), method="rollout"))


def test_a_tokenizer_written_in_python():
    model = make("T5Config", "T5ForSequenceClassification", **T5 | {"eos_token_id": 1, "vocab_size": 384})
    pipe = pipeline("text-classification", model, tokenizer=ByT5Tokenizer())
    (found,) = attach(pipe, method="rollout")("the key")
    assert found["attributions"].offsets is None
    assert len(found["attributions"].part("decoder").tokens) == 8
    assert found["attributions"].output_position == 7


@pytest.mark.parametrize("family", ["Bart", "Mvp"])
def test_threads_get_what_one_gets_alone(family):
    pipe = pipe_of(family)
    attached = attach(pipe, method="rollout")
    alone, own = attached(TEXTS), pipe(TEXTS)
    barrier = threading.Barrier(6)

    def work(index):
        barrier.wait(timeout=20)
        return [(attached if index < 3 else pipe)(TEXTS, batch_size=1 + index % 3) for _ in range(3)]

    with ThreadPoolExecutor(6) as pool:
        for index, several in enumerate(pool.map(work, range(6))):
            for found in several:
                close(found, own)
                for got, wanted in zip(found, alone, strict=True):
                    if index < 3:
                        same(got["attributions"], wanted["attributions"])
    assert not any(each._forward_pre_hooks for each in pipe.model.modules())


# What cannot be right


def test_padding_on_the_left_is_refused():
    pipe = pipeline("text-classification", classifier("Bart"), tokenizer=tokenizer(padding_side="left"))
    attached = attach(pipe, method="raw")
    assert len(attached(TEXTS, batch_size=1)) == len(TEXTS)
    with pytest.raises(CaptureError, match="the decoder of BartForSequenceClassification attends to that padding"):
        attached(TEXTS, batch_size=4)
    assert not any(each._forward_pre_hooks for each in pipe.model.modules())


def test_padding_that_is_read_as_the_texts_end_is_refused():
    tok = copy.deepcopy(tokenizer())
    tok.pad_token = tok.sep_token
    attached = attach(pipeline("text-classification", classifier("Bart"), tokenizer=tok), method="raw")
    assert attached(TEXTS[0])[0]["attributions"].output_position == 11
    with pytest.raises(CaptureError, match="at position 19, behind the 12 tokens of the text"):
        attached(TEXTS[0], padding="max_length", max_length=20, truncation=True)


@pytest.mark.parametrize("task", ["fill-mask", "text-generation"])
def test_other_tasks_than_classification_are_refused(task):
    pipe = pipeline(task, build("bart"), tokenizer=tokenizer())
    with pytest.raises(OptionError, match="attached to classifiers of texts alone"):
        attach(pipe)


def test_a_head_that_is_not_known_is_refused():
    class LedgerForSequenceClassification(transformers.BartForSequenceClassification):
        pass

    config = classifier("Bart").config
    pipe = pipeline("text-classification", LedgerForSequenceClassification(config), tokenizer=tokenizer())
    with pytest.raises(OptionError, match=r"LedgerForSequenceClassification .* known are Bart, BigBirdPegasus, MBart"):
        attach(pipe)


def test_encoders_that_classify_tokens_alone_are_no_encoder_decoder_models():
    model = make("T5Config", "T5ForTokenClassification", **T5, id2label={0: "O", 1: "I-KEY"})
    pipe = pipeline("token-classification", model, tokenizer=tokenizer())
    found = attach(pipe, method="rollout")(TEXTS[0], ignore_labels=[])
    wanted = Attributor(model, tokenizer())(TEXTS[0], method="rollout", output_position=found[3]["index"])
    np.testing.assert_allclose(found[3]["attributions"].scores, wanted.scores, rtol=0, atol=1e-6)
