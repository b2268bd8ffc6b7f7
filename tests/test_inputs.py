"""Samples out of texts and encodings: the same tokens whatever the wrapping, and errors that name the row."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tokenizer
from tokenizer_makers import byt5, byte_bpe, llama, minilm, wordpiece
from transformers import BatchEncoding

from attnflow_hf.errors import ArrayError, OptionError, TextError, TokenizerError
from attnflow_hf.inputs import (
    Sample,
    batches,
    check_vocabulary,
    collate,
    is_encoding,
    samples_from_encoding,
    samples_from_texts,
)

SHORT, LONG = "the key", "the old cabinets is on a table"


def of_texts(*texts: Any, words: Any = None, max_length: int | None = None, truncation: bool = False) -> list[Sample]:
    return samples_from_texts(list(texts), words or tokenizer(), max_length=max_length, truncation=truncation)


def of_encoding(encoding: Any, words: Any = "own", max_length: int | None = None) -> list[Sample]:
    return samples_from_encoding(encoding, tokenizer() if words == "own" else words, max_length=max_length)


def check_same(left: list[Sample], right: list[Sample], *, aligned: bool = True) -> None:
    """Check that samples have the same tokens and features, and if `aligned` the same offsets and word ids."""
    assert len(left) == len(right)
    for one, two in zip(left, right, strict=True):
        assert one.tokens.tokens == two.tokens.tokens
        np.testing.assert_array_equal(one.tokens.input_ids, two.tokens.input_ids)
        np.testing.assert_array_equal(one.tokens.special_tokens_mask, two.tokens.special_tokens_mask)
        np.testing.assert_array_equal(one.tokens.positions, np.arange(len(one)))
        assert set(one.features) == set(two.features)
        for name, value in one.features.items():
            assert torch.equal(value, two.features[name]), name
            assert value.dtype == torch.long
        if aligned:
            np.testing.assert_array_equal(one.tokens.offsets, two.tokens.offsets)
            assert one.tokens.word_ids == two.tokens.word_ids
            assert one.tokens.sequence_ids == two.tokens.sequence_ids


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [None, "pt", "np"])
def test_a_padded_encoding_gives_the_samples_of_its_texts(side: str, kind: str | None) -> None:
    words = tokenizer(padding_side=side)
    encoding = words([SHORT, LONG], padding=True, return_tensors=kind)
    assert len(encoding["input_ids"][0]) == len(encoding["input_ids"][1])
    check_same(of_encoding(encoding), of_texts(SHORT, LONG))


def test_ragged_lists_and_single_rows() -> None:
    check_same(of_encoding(tokenizer()([SHORT, LONG])), of_texts(SHORT, LONG))
    check_same(of_encoding(tokenizer()(SHORT)), of_texts(SHORT))
    check_same(of_encoding(tokenizer()(SHORT, return_tensors="pt")), of_texts(SHORT))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [None, "pt"])
def test_what_pad_gives_has_no_alignment_but_the_same_tokens(side: str, kind: str | None) -> None:
    words = tokenizer(padding_side=side)
    encoding = words.pad(words([SHORT, LONG]), return_tensors=kind)
    assert encoding.encodings is None
    samples = of_encoding(encoding)
    check_same(samples, of_texts(SHORT, LONG), aligned=False)
    assert samples[0].tokens.offsets is None


@pytest.mark.parametrize(
    "rows",
    [
        [[2, 5, 6, 3], [2, 7, 3]],
        [torch.tensor([2, 5, 6, 3]), torch.tensor([2, 7, 3])],
        (np.array([2, 5, 6, 3]), np.array([2, 7, 3])),
        np.array([np.array([2, 5, 6, 3]), np.array([2, 7, 3])], dtype=object),
    ],
)
def test_rows_of_every_wrapping(rows: Any) -> None:
    samples = of_encoding({"input_ids": rows})
    assert [sample.tokens.tokens for sample in samples] == [("[CLS]", "the", "key", "[SEP]"), ("[CLS]", "to", "[SEP]")]


def test_a_mask_of_none_is_no_mask() -> None:
    check_same(of_encoding({"input_ids": [[2, 5, 6, 3]], "attention_mask": None}), of_texts(SHORT), aligned=False)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_ids_of_other_types_become_long(dtype: torch.dtype) -> None:
    check_same(of_encoding({"input_ids": torch.tensor([[2, 5, 6, 3]], dtype=dtype)}), of_texts(SHORT), aligned=False)


def test_holes_in_the_mask_are_refused() -> None:
    encoding = {"input_ids": [[2, 5, 6, 3], [2, 5, 7, 3]], "attention_mask": [[0, 1, 1, 1], [1, 1, 0, 1]]}
    with pytest.raises(ArrayError, match="the attention_mask of text 1 has holes; only padding in front or behind"):
        of_encoding(encoding)


def test_a_column_as_long_as_a_row_is_no_feature() -> None:
    encoding = {"input_ids": [[2, 5, 6, 3]] * 4, "label": [0, 1, 0, 1], "overflow_to_sample_mapping": torch.arange(4)}
    assert {name for sample in of_encoding(encoding) for name in sample.features} == {"input_ids"}


def test_one_row_of_positions_serves_all() -> None:
    encoding = {"input_ids": torch.tensor([[2, 5, 6, 3]] * 2), "position_ids": torch.arange(4)[None]}
    assert [sample.features["position_ids"].tolist() for sample in of_encoding(encoding)] == [[0, 1, 2, 3]] * 2


def test_batches_of_equal_lengths_when_asked() -> None:
    samples = of_encoding({"input_ids": [[2, 5, 3], [2, 5, 6, 3], [2, 6, 3], [2, 7, 3]]})
    assert list(batches(samples, 2)) == [[1, 0], [2, 3]]
    assert list(batches(samples, 2, equal_lengths=True)) == [[1], [0, 2], [3]]


def test_changed_ids_lose_their_offsets() -> None:
    encoding = tokenizer()(SHORT)
    encoding["input_ids"][1] = 4
    tokens = of_encoding(encoding)[0].tokens
    assert tokens.tokens == ("[CLS]", "[MASK]", "key", "[SEP]")
    assert tokens.offsets is None
    assert tokens.special_tokens_mask.tolist() == [True, False, False, True]


def test_without_a_tokenizer_ids_are_names() -> None:
    tokens = of_encoding({"input_ids": [2, 5, 3]}, words=None)[0].tokens
    assert tokens.tokens == ("2", "5", "3")


def test_split_words_keep_their_word_ids() -> None:
    encoding = wordpiece()(["don't", "stop"], is_split_into_words=True)
    words = of_encoding(encoding, words=wordpiece())[0].tokens.words()
    assert [word.text for word in words if not word.is_special] == ["don't", "stop"]
    assert [i for word in words for i in word.token_indices] == list(range(len(encoding["input_ids"])))


def test_token_types_and_positions_are_kept_and_the_rest_is_not() -> None:
    encoding = dict(minilm()("the cat", "a dog", return_special_tokens_mask=True, return_offsets_mapping=True))
    n = len(encoding["input_ids"])
    more = {"position_ids": list(range(n)), "labels": [1] * n, "length": n, "text": "the cat", "label": 1, "none": None}
    features = of_encoding(encoding | more, words=minilm())[0].features
    assert set(features) == {"input_ids", "token_type_ids", "position_ids"}
    assert features["token_type_ids"].tolist() == encoding["token_type_ids"]
    assert sum(encoding["token_type_ids"]) > 0


@pytest.mark.parametrize("text", ["of", "of the", "of the end"])
def test_offsets_and_lengths_are_no_features_of_short_texts(text: str) -> None:
    encoding = byte_bpe()(text, return_offsets_mapping=True, return_length=True, return_special_tokens_mask=True)
    assert set(of_encoding(encoding, words=byte_bpe())[0].features) == {"input_ids"}


def test_rows_of_a_data_set_with_texts_beside() -> None:
    batch = {**tokenizer()([SHORT, LONG]), "text": [SHORT, LONG], "label": [0, 1], "score": [0.1, 0.2]}
    check_same(of_encoding(batch), of_texts(SHORT, LONG), aligned=False)


def test_windows_of_a_long_text_keep_its_offsets() -> None:
    encoding = tokenizer()(LONG, max_length=6, stride=1, truncation=True, return_overflowing_tokens=True)
    samples = of_encoding(encoding)
    assert len(samples) == len(encoding["input_ids"]) == 2
    spans = [LONG[slice(*span)] for sample in samples for span in sample.tokens.offsets.tolist() if span != [0, 0]]
    assert spans == "the old cabinets is is on a table".split()


def test_pairs_are_kept_with_their_texts() -> None:
    sample = of_texts(("the cat", "a table"), words=minilm())[0]
    assert sample.tokens.texts == ("the cat", "a table")
    assert sample.tokens.sequence_ids == (None, 0, 0, None, 1, 1, None)
    assert sample.features["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    check_same(of_encoding(minilm()("the cat", "a table"), words=minilm()), [sample])


def test_a_python_only_tokenizer_marks_what_it_added() -> None:
    tokens = of_texts("a </s> b", words=byt5())[0].tokens
    assert tokens.tokens == ("a", "</s>", "b", "</s>")
    assert tokens.special_tokens_mask.tolist() == [False, False, False, True]
    encoding = byt5()("a </s> b", return_special_tokens_mask=True)
    assert of_encoding(encoding, words=byt5())[0].tokens.special_tokens_mask.tolist() == [False, False, False, True]


@pytest.mark.parametrize("words", [tokenizer, byt5, llama])
def test_truncation_counts_what_it_cut(words: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    full = of_texts(LONG, words=words())[0]
    cut = of_texts(LONG, words=words(), max_length=5, truncation=True)[0]
    assert (len(cut), cut.tokens.n_truncated) == (5, len(full) - 5)
    for length in (len(full), None):
        whole = of_texts(LONG, words=words(), max_length=length, truncation=True)[0]
        assert (len(whole), whole.tokens.n_truncated) == (len(full), 0)


def test_a_truncated_pair_keeps_both_texts() -> None:
    tokens = of_texts((LONG, SHORT), max_length=8, truncation=True)[0].tokens
    assert len(tokens) == 8
    assert {0, 1} <= set(tokens.sequence_ids)
    assert tokens.n_truncated == 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], r"^the text is empty: it has no token but special ones"),
        ([SHORT, " \n ", LONG], r"^text 1 is empty: "),
        ([SHORT, ("", "")], r"^text 1 is empty: "),
        ([SHORT, LONG], r"^text 1 has 9 tokens, but the model reads 5 at most; pass truncation=True to cut it$"),
        ([LONG], r"^the text has 9 tokens, but the model reads 5 at most; "),
        ([SHORT, "a \udcff"], r"^text 1 is not valid Unicode: it has a lone surrogate '\\udcff'"),
        ([("\ud800", "a")], r"^the text is not valid Unicode: it has a lone surrogate '\\ud800'"),
    ],
)
def test_a_bad_text_is_named(texts: list[Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        of_texts(*texts, max_length=5)


def test_an_empty_text_without_special_tokens_is_empty_too() -> None:
    with pytest.raises(TextError, match="the text is empty"):
        of_texts("", words=byte_bpe())
    assert len(of_texts(" ", words=byte_bpe())[0]) == 1


def test_a_text_of_unknown_words_and_masks_is_not_empty() -> None:
    assert len(of_texts("zebra [MASK]")[0]) == 4
    assert len(of_encoding({"input_ids": [2, 1, 4, 3]})[0]) == 4


@pytest.mark.parametrize("text", [None, 3, b"the", ["the", "key"], ("the",), ("a", "b", "c"), ("a", 1), {"text": "a"}])
def test_what_is_no_text_is_quoted(text: Any) -> None:
    with pytest.raises(OptionError, match=r"^text 1 must be a string or a pair \(tuple\) of strings, got ") as caught:
        of_texts(SHORT, text)
    assert repr(text) in str(caught.value)


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(TokenizerError, match=r"text needs a tokenizer: use Attributor\(model, tokenizer\)"):
        samples_from_texts([SHORT], None, max_length=None, truncation=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"input_ids": []}, "^the text is empty"),
        ({"input_ids": [[2, 5, 3], []]}, "^text 1 is empty"),
        ({"input_ids": [[2, 5, 3], [2, 3]]}, "^text 1 is empty"),
        ({"input_ids": [[2, 5, 3], [2, 5, 3]], "attention_mask": [[1, 1, 1], [0, 0, 0]]}, "^text 1 is empty"),
        ({"input_ids": [[2, 5, 3], [2, 5, 5, 5, 5, 3]]}, "^text 1 has 6 tokens, but the model reads 5 at most; cut it"),
    ],
)
def test_a_bad_row_is_named(rows: dict[str, Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        of_encoding(rows, max_length=5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"input_ids": [[2, 5, 3]], "attention_mask": [[1, 1]]}, r"^the text has 3 input_ids, but its attention_mask"),
        ({"input_ids": [[2, 5], [2, 5]], "attention_mask": [[1, 1]]}, r"^text 1 has 2 input_ids, but its attention"),
        ({"input_ids": [[2, 3]], "attention_mask": "yes"}, r"^the text has 2 input_ids, but its attention_mask"),
        ({"input_ids": [[2, 5, 3], [2, -100, 3]]}, r"^input_ids of text 1 must not be negative, got -100$"),
        ({"input_ids": torch.ones(1, 3)}, r"^input_ids must be integers .*, got torch\.float32 \[3\]$"),
        ({"input_ids": torch.ones(1, 2, 3, dtype=torch.long)}, r"^input_ids must be integers .* \[2, 3\]$"),
        ({"input_ids": torch.tensor(3)}, r"^input_ids must be integers \[token\] or \[batch, token\]"),
        ({"input_ids": [["a", "b"]]}, r"^input_ids must be integers \[token\] or \[batch, token\]$"),
        ({"input_ids": "the key"}, r"^input_ids must be integers \[token\] or \[batch, token\]$"),
        ({"input_ids": 5}, r"^input_ids must be integers \[token\] or \[batch, token\]$"),
    ],
)
def test_a_broken_encoding_is_told(rows: dict[str, Any], message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        of_encoding(rows)


def test_ignored_ids_under_padding_do_no_harm() -> None:
    rows = {"input_ids": [[2, 5, 3, -100]], "attention_mask": [[1, 1, 1, 0]]}
    assert of_encoding(rows)[0].tokens.tokens == ("[CLS]", "the", "[SEP]")


@pytest.mark.parametrize("words", [None, tokenizer()])
def test_ids_beyond_the_vocabulary_are_named(words: Any) -> None:
    samples = of_encoding({"input_ids": [[2, 5, 3], [2, 999, 5, 3]]}, words=words)
    message = (
        r"^token '999' has id 999, but the model knows only 999 ids: this tokenizer does not belong to this model$"
    )
    with pytest.raises(TokenizerError, match=message):
        check_vocabulary(samples, 999)
    check_vocabulary(samples, 1000)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"input_ids": [1]}, True),
        (BatchEncoding({"input_ids": [1]}), True),
        ({"text": "a"}, False),
        ("input_ids", False),
        (["input_ids"], False),
        (None, False),
    ],
)
def test_is_encoding(inputs: Any, expected: bool) -> None:
    assert is_encoding(inputs) is expected


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_hold_every_sample_once_the_longest_first(batch_size: int) -> None:
    samples = of_texts("a", LONG, SHORT, "the", LONG, "a table")
    found = list(batches(samples, batch_size))
    assert sorted(index for batch in found for index in batch) == list(range(len(samples)))
    assert all(len(batch) == batch_size for batch in found[:-1])
    lengths = [len(samples[index]) for batch in found for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert list(batches([], batch_size)) == []


def test_collate_pads_on_the_right_in_order() -> None:
    samples = of_texts(("the cat", "a table"), "the", words=minilm())
    batch = collate(samples, pad_id=7)
    assert batch["input_ids"].tolist()[1] == [101, 1996, 102, 7, 7, 7, 7]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0] * 7]
    assert torch.equal(batch["input_ids"][0], samples[0].features["input_ids"])
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
