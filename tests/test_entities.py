import numpy as np
import pytest
import torch
from test_pipeline import TEXTS, close, plain
from tiny_models import bert, tokenizer
from tokenizer_makers import wordpiece
from transformers import TokenClassificationPipeline, pipeline

from attnflow_hf import Attributor, attach
from attnflow_hf.entities import chunk_of, classes_of, positions_of
from attnflow_hf.errors import OptionError
from attnflow_hf.tokens import Tokens

LONG = " ".join(TEXTS)
ENTITIES = {0: "O", 1: "B-KEY", 2: "B-OLD"}  # no two of them are joined


class Counting(TokenClassificationPipeline):
    """Says of each entity, as `chunk`, in how manieth chunk it was found."""

    chunk = -1

    def aggregate(self, pre_entities, aggregation_strategy):
        self.chunk += 1
        found = super().aggregate(pre_entities, aggregation_strategy)
        return [{**entity, "chunk": self.chunk} for entity in found]


@pytest.fixture
def short():
    """A tokenizer that lets a model read 20 tokens."""
    tok = wordpiece()
    limit, side, tok.model_max_length = tok.model_max_length, tok.padding_side, 20
    yield tok
    tok.model_max_length, tok.padding_side = limit, side


def tagger(tok, **options):
    model = bert("BertForTokenClassification", id2label=ENTITIES, vocab_size=150)
    return pipeline("token-classification", model, tokenizer=tok, **options)


def chunks_of(text, tok, stride):
    encoding = tok(text, truncation=True, return_overflowing_tokens=True, stride=stride)
    return [(encoding["input_ids"][i], np.array(encoding.encodings[i].offsets)) for i in range(len(encoding.encodings))]


def touched_by(entity, offsets):
    return np.flatnonzero((offsets[:, 0] < entity["end"]) & (offsets[:, 1] > entity["start"])).tolist()


@pytest.mark.parametrize("stride", [4, 12])
@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_entity_of_several_chunks_is_explained_in_the_one_it_comes_from(short, stride, strategy, batch_size):
    pipe = tagger(short, aggregation_strategy=strategy, stride=stride)
    counting = Counting(model=pipe.model, tokenizer=short, aggregation_strategy=strategy, stride=stride)
    found = attach(pipe, method="rollout")(LONG, batch_size=batch_size)
    counted = counting(LONG)
    close(plain(found), pipe(LONG, batch_size=batch_size))
    chunks = chunks_of(LONG, short, stride)
    attributor = Attributor(pipe.model, short)
    later = 0
    for entity, known in zip(found, counted, strict=True):
        assert (entity["start"], entity["end"]) == (known["start"], known["end"])
        ids, offsets = chunks[known["chunk"]]
        touched = touched_by(entity, offsets)
        every = attributor({"input_ids": [ids]}, method="rollout", output_position="all")
        assert list(entity["attributions"].tokens) == list(every.tokens)
        assert entity["attributions"].output_position == touched[0]
        np.testing.assert_allclose(entity["attributions"].scores, every.scores[touched].mean(axis=0), rtol=0, atol=1e-6)
        holds = [i for i, (_, each) in enumerate(chunks) if touched_by(entity, each) and each.max() >= entity["end"]]
        later += known["chunk"] > holds[0]
    assert later  # some come from a later chunk than the first that holds them


def test_words_that_were_split_beforehand_in_chunks(short):
    def pipe():  # a call with words changes what a pipeline does with text
        return tagger(short, aggregation_strategy="first", stride=4)

    options = {"is_split_into_words": True, "ignore_labels": []}
    (found,) = attach(pipe(), method="rollout")(LONG.split(), **options)
    whole = attach(pipe(), method="rollout")(LONG, ignore_labels=[])
    close(plain(found), pipe()(LONG.split(), **options)[0])
    for got, wanted in zip(found, whole, strict=True):
        assert got["attributions"].tokens == wanted["attributions"].tokens
        np.testing.assert_allclose(got["attributions"].scores, wanted["attributions"].scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_index_counts_padding_on_the_left(short, batch_size):
    short.padding_side, short.model_max_length = "left", 64
    pipe = tagger(short)
    texts = TEXTS[:4]
    found = attach(pipe, method="rollout")(texts, batch_size=batch_size, ignore_labels=[])
    for text, entities in zip(texts, found, strict=True):
        assert len(entities) == len(short(text, add_special_tokens=False)["input_ids"])
        for position, entity in enumerate(entities, start=1):
            assert entity["attributions"].output_position == position
            assert entity["attributions"].tokens[position] == entity["word"]


def entity(**known):
    return {"word": "key", "score": np.float32(0.5), "start": 4, "end": 7, **known}


def test_of_equal_entities_the_first_is_its_own():
    by_chunk = [[], [entity(start=0)], [entity(), entity(start=9)], [entity()]]
    assert chunk_of(entity(), by_chunk) == 2
    assert chunk_of(entity(score=np.float32(0.25)), [*by_chunk, [entity(score=np.float32(0.25))]]) == 4
    with pytest.raises(OptionError, match="the entity 'key' was found in none of the 4 chunks"):
        chunk_of(entity(word="key", end=8), by_chunk)


def test_positions_are_found_by_characters_or_by_the_index():
    tok = tokenizer()
    encoding = tok("the key the key").encodings[0]
    tokens = Tokens.from_encoding(encoding, np.ones(len(encoding.ids), bool), texts=("the key the key",))
    assert positions_of(entity(), tokens, None) == [2]
    assert positions_of(entity(start=0, end=11), tokens, None) == [1, 2, 3]
    assert positions_of(entity(index=3), tokens, None) == [3]
    assert positions_of(entity(index=5), tokens, torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])) == [3]
    with pytest.raises(OptionError, match="the entity 'key' was not found among the tokens"):
        positions_of(entity(start=40, end=43), tokens, None)
    with pytest.raises(OptionError, match="use a fast tokenizer"):
        positions_of(entity(start=None, end=None), tokens, None)


def test_a_token_is_explained_as_the_likeliest_class_of_its_entity():
    model = bert("BertForTokenClassification", id2label={0: "O", 1: "B-KEY", 2: "I-KEY", 3: "OLD"})
    logits = np.array([[9.0, 2.0, 1.0, 8.0], [0.0, 3.0, 4.0, 5.0]])

    def tag_of(label):
        return label.rpartition("-")[2]

    assert classes_of({"entity_group": "KEY"}, model, tag_of, logits) == [1, 2]
    assert classes_of({"entity_group": "OLD"}, model, tag_of, logits) == [3, 3]
    assert classes_of({"entity": "I-KEY"}, model, tag_of, logits[:1]) == [2]
    with pytest.raises(OptionError, match=r"'key' has the label 'LOC', which is none .*: 'O', 'B-KEY', 'I-KEY', 'OLD'"):
        classes_of(entity(entity_group="LOC"), model, tag_of, logits)
