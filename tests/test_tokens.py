"""Tokens and words over tokenizers of every kind: nothing lost, nothing twice, the text's own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import shared_folder
from tokenizer_makers import FAST, byt5, byte_bpe, llama, metaspace_bpe, minilm, wordpiece
from transformers import AutoTokenizer

from attnflow_hf.errors import ArrayError, OptionError, TokenizerError
from attnflow_hf.inputs import samples_from_texts
from attnflow_hf.tokens import Tokens, Word

TEXTS = [
    "the keys to the old cabinet",
    "don't stop, the fox's den.",
    "state-of-the-art: (isn't it?) \u201cquoted\u201d \u2026",
    "  leading, several   spaces and trailing  ",
    "lines\n\nand\ttabs\r\nand an end\n",
    "\n\n \t",
    "caf\u00e9 cre\u0300me e\u0301 \u00fcber",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 and \u4e2d\u6587",
    "\U0001f600 family \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1e9\U0001f1ea",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "no\u00a0break\u3000wide\u2028line",
    "[MASK] <s> </s> [SEP] <|endoftext|> ##ing \u2581x \u0120y",
    "\ufb01ne \u00bd \u2460 \ufdfa \u0e33",
    "of the end of the year, in the end of the year",
    "x",
]
HARD = st.text(
    st.one_of(
        st.sampled_from(list(" \t\n\r\u00a0\u3000\u2028\x1c")),
        st.sampled_from(
            list("theofndya',.-#\u2581\u0120\u00e9\u0301\u200d\u200b\ufeff\u65e5\U0001f600\u05e9\ufb01\x00\x85")
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=24,
)


def tokens_of(tokenizer: Any, *texts: str) -> Tokens | None:
    """Return the tokens of a text or a pair, `None` where the tokenizer leaves nothing of it."""
    encoding = tokenizer(*texts)
    if not encoding["input_ids"]:
        return None
    return Tokens.from_encoding(encoding.encodings[0], np.ones(len(encoding["input_ids"]), dtype=bool), texts=texts)


def expected_words(tokens: Tokens) -> list[str] | None:
    """Return text.split() with the words joined that one token touches, or `None` where a character has no token."""
    text = tokens.texts[0]
    spans = _split_spans(text)
    joined = [False] * len(spans)  # whether a word hangs on the one before
    covered = {i for i, c in enumerate(text) if c.isspace()}
    for (start, stop), special in zip(tokens.offsets.tolist(), tokens.special_tokens_mask, strict=True):
        touched = [k for k, (a, b) in enumerate(spans) if not special and a < stop and start < b]
        covered.update(range(start, stop))
        for k in touched[1:]:
            joined[k] = True
    if len(covered) < len(text):
        return None
    words: list[list[int]] = []
    for hangs, (a, b) in zip(joined, spans, strict=True):
        if hangs:
            words[-1][1] = b
        else:
            words.append([a, b])
    return [text[a:b] for a, b in words]


def _split_spans(text: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    return spans


def check_words(tokens: Tokens, words: tuple[Word, ...]) -> None:
    """Check that the words part the tokens, and that their offsets are those of their text."""
    assert [i for word in words for i in word.token_indices] == list(range(len(tokens)))
    for word in words:
        assert word.text
        specials = {bool(tokens.special_tokens_mask[i]) for i in word.token_indices}
        assert specials == {word.is_special}
        assert (word.offsets is None) == word.is_special
        if word.offsets is not None:
            sequences = {tokens.sequence_ids[i] for i in word.token_indices}
            assert len(sequences) == 1
            source = tokens.texts[sequences.pop() or 0][slice(*word.offsets)]
            assert source.strip() in ("", word.text)


def own_words(tokens: Tokens, split: str = "whitespace") -> list[str]:
    return [word.text for word in tokens.words(split) if not word.is_special]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", FAST)
def test_whitespace_words_part_the_tokens_and_equal_text_split(name: str, text: str) -> None:
    tokens = tokens_of(FAST[name](), text)
    assert tokens is not None
    for split in ("whitespace", "tokenizer", "auto"):
        check_words(tokens, tokens.words(split))
    expected = expected_words(tokens)
    if expected and text.strip():
        assert own_words(tokens) == expected


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=40, deadline=None)
@given(text=HARD)
def test_words_of_any_text(name: str, text: str) -> None:
    tokens = tokens_of(FAST[name](), text)
    if tokens is None:
        return
    for split in ("whitespace", "tokenizer"):
        check_words(tokens, tokens.words(split))
    expected = expected_words(tokens)
    if expected:
        assert own_words(tokens) == expected


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=15, deadline=None)
@given(first=HARD, second=HARD)
def test_words_of_any_pair_are_those_of_each_text(name: str, first: str, second: str) -> None:
    tokenizer = FAST[name]()
    pair, alone = tokens_of(tokenizer, first, second), tokens_of(tokenizer, first)
    if pair is None or alone is None:
        return
    check_words(pair, pair.words())
    of_first = [w.text for w in pair.words() if not w.is_special and pair.sequence_ids[w.token_indices[0]] == 0]
    assert of_first == own_words(alone)


def test_most_texts_are_covered_so_that_the_law_has_teeth() -> None:
    found = [expected_words(tokens_of(make(), text)) for make in FAST.values() for text in TEXTS]
    assert sum(words is not None for words in found) > 0.8 * len(found)


def test_worked_example_of_byte_bpe() -> None:
    tokens = tokens_of(byte_bpe(), "don't  stop\n")
    words = tokens.words()
    assert [(word.text, word.offsets) for word in words] == [("don't", (0, 5)), ("stop", (6, 12))]
    assert "".join(tokens.tokens[i] for i in words[1].token_indices) == "\u0120\u0120stop\u010a"
    assert not any(word.is_special for word in words)


def test_worked_example_of_wordpiece_by_both_splits() -> None:
    tokens = tokens_of(wordpiece(), "Don't stop.")
    assert own_words(tokens, "whitespace") == ["Don't", "stop."]
    assert own_words(tokens, "tokenizer") == ["Don", "'", "t", "stop", "."]
    assert [word.text for word in tokens.words() if word.is_special] == ["[CLS]", "[SEP]"]


def test_a_token_over_several_words_joins_them() -> None:
    tokens = tokens_of(metaspace_bpe(split=False), "in the end of the year ")
    assert any(t.strip("\u2581").count("\u2581") for t in tokens.tokens), "the tokenizer must span words"
    assert own_words(tokens) == ["in", "the", "end of the year"]


def test_white_space_goes_to_the_word_behind_it_and_at_the_end_to_the_word_before() -> None:
    tokens = tokens_of(byte_bpe(trim_offsets=False), "a  b\n\n")
    assert [("".join(tokens.tokens[i] for i in w.token_indices), w.text) for w in tokens.words()] == [
        ("a", "a"),
        ("\u0120\u0120b\u010a\u010a", "b"),
    ]


def test_an_empty_span_goes_with_the_token_behind_it() -> None:
    text = "<|endoftext|>\ufb01\u00a0t"  # found by random search: the space put in front gets a span in the next word
    tokens = tokens_of(byte_bpe(add_prefix_space=True), text)
    assert tokens.offsets[:3].tolist() == [[0, 13], [14, 14], [13, 14]]
    assert own_words(tokens) == ["<|endoftext|>\ufb01", "t"]


def test_white_space_at_the_end_of_a_first_text_stays_there() -> None:
    tokens = tokens_of(byte_bpe(), "a ", "the long second text")
    assert tokens.sequence_ids[:3] == (0, 0, 1), "no special token may stand between"
    assert [word.text for word in tokens.words()] == ["a", "the", "long", "second", "text"]


def test_a_text_of_white_space_is_one_word_with_a_label() -> None:
    words = tokens_of(byte_bpe(), " \n\t ").words()
    assert len(words) == 1
    assert words[0].text


def test_pieces_show_characters_and_mark_bare_spaces() -> None:
    tokens = tokens_of(llama(), "caf\u00e9 \U0001f600")
    assert "<0xF0>" in tokens.tokens
    assert tokens.pieces[-1] == "\U0001f600"
    assert all(tokens.pieces)
    bare = tokens_of(llama(), "\U0001f600")
    assert (bare.tokens[1], bare.pieces[1]) == ("\u2581", "\u2581"), "not the character behind the space"


def test_pieces_without_text_are_never_empty() -> None:
    tokens = Tokens.from_ids([0, 1, 2, 3], _Naming("##", "##ing", "\u0120", "\u0120the"))
    assert tokens.pieces == ("##", "ing", "\u0120", "the")


def test_typed_special_tokens_are_words_and_added_ones_are_not() -> None:
    tokens = tokens_of(minilm(), "[MASK] is [SEP] x")
    assert own_words(tokens) == ["[MASK]", "is", "[SEP]", "x"]
    assert tokens.special_tokens_mask.tolist() == [True, False, False, False, False, True]


def test_left_padding_is_taken_off() -> None:
    tokenizer = llama()
    encoding = tokenizer(["the keys", "the old cabinet don't"], padding=True)
    real = np.array(encoding["attention_mask"][0], dtype=bool)
    assert not real[0], "the tokenizer must pad on the left"
    tokens = Tokens.from_encoding(encoding.encodings[0], real, texts=("the keys",))
    alone = tokens_of(tokenizer, "the keys")
    for name in ("tokens", "word_ids", "sequence_ids"):
        assert getattr(tokens, name) == getattr(alone, name)
    for name in ("input_ids", "offsets", "positions", "special_tokens_mask"):
        np.testing.assert_array_equal(getattr(tokens, name), getattr(alone, name))
    assert own_words(tokens) == ["the", "keys"]


@pytest.mark.shared
@pytest.mark.parametrize("text", TEXTS)
def test_words_of_a_real_sentencepiece_tokenizer(text: str) -> None:
    tokens = tokens_of(AutoTokenizer.from_pretrained(shared_folder("models") / "stories260K"), text)
    check_words(tokens, tokens.words())
    if text.strip():
        assert own_words(tokens) == text.split()


def test_select_keeps_positions_and_words() -> None:
    tokens = tokens_of(wordpiece(), "don't stop")
    kept = tokens.select(~tokens.special_tokens_mask)
    assert kept.positions.tolist() == list(range(1, len(tokens) - 1))
    assert [word.text for word in kept.words()] == ["don't", "stop"]
    assert kept.words("tokenizer")[0].token_indices == (0,)
    np.testing.assert_array_equal(kept.input_ids, tokens.input_ids[1:-1])


def test_select_keeps_the_texts_of_a_pair_apart() -> None:
    tokens = tokens_of(wordpiece(), "the", "the")
    kept = tokens.select(~tokens.special_tokens_mask)
    for split in ("whitespace", "tokenizer"):
        assert [(word.text, word.token_indices) for word in kept.words(split)] == [("the", (0,)), ("the", (1,))]


def test_a_python_only_tokenizer_has_no_words_but_tells_so() -> None:
    tokens = samples_from_texts(["a caf\u00e9"], byt5(), max_length=None, truncation=False)[0].tokens
    assert (tokens.offsets, tokens.word_ids, tokens.sequence_ids) == (None, None, None)
    assert tokens.texts == ("a caf\u00e9",)
    for split in ("auto", "tokenizer"):
        with pytest.raises(TokenizerError, match=r"cannot be summed to words; use a fast tokenizer"):
            tokens.words(split)
    with pytest.raises(TokenizerError, match="words by white space need the text and its offsets"):
        tokens.words("whitespace")


def test_without_the_text_words_are_the_tokenizers() -> None:
    encoding = wordpiece()("cabinets")
    tokens = Tokens.from_encoding(encoding.encodings[0], np.ones(len(encoding["input_ids"]), dtype=bool))
    assert own_words(tokens, "auto") == ["cabinets"]
    with pytest.raises(TokenizerError, match="here one is not known"):
        tokens.words("whitespace")


def test_an_unknown_split_is_named() -> None:
    tokens = tokens_of(wordpiece(), "the")
    with pytest.raises(OptionError, match="unknown split 'space'; choose one of 'auto', 'tokenizer', 'whitespace'"):
        tokens.words("space")


@pytest.mark.parametrize("name", ["minilm", "wordpiece", "llama", "byte_bpe", "unigram"])
def test_from_ids_takes_neither_masks_nor_unknown_words_for_special(name: str) -> None:
    tokenizer = FAST[name]()
    ids = tokenizer(f"the {tokenizer.mask_token or ''} \u1234 x")["input_ids"]
    encoding = tokenizer(f"the {tokenizer.mask_token or ''} \u1234 x").encodings[0]
    tokens = Tokens.from_ids(ids, tokenizer)
    assert tokens.special_tokens_mask.tolist() == [bool(flag) for flag in encoding.special_tokens_mask]
    assert len(tokens.tokens) == len(encoding.tokens)


def test_from_ids_takes_an_unknown_word_that_is_also_an_end_for_special() -> None:
    ids = byte_bpe()("<|endoftext|>x")["input_ids"]
    assert Tokens.from_ids(ids, byte_bpe()).special_tokens_mask.tolist() == [True, False]


def test_from_ids_without_a_tokenizer_names_tokens_by_id() -> None:
    tokens = Tokens.from_ids([7, 8])
    assert tokens.tokens == ("7", "8")
    assert not tokens.special_tokens_mask.any()
    assert Tokens.from_ids([10**6], minilm()).tokens == ("1000000",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("positions", np.arange(3), "there are 2 tokens, but positions has 3 entries"),
        ("word_ids", (0,), "there are 2 tokens, but word_ids has 1 entries"),
        ("offsets", np.zeros(2, dtype=np.int64), r"offsets of 2 tokens cannot have shape \(2,\)"),
        ("input_ids", np.zeros((2, 1), dtype=np.int64), r"input_ids of 2 tokens cannot have shape \(2, 1\)"),
    ],
)
def test_fields_must_fit_the_tokens(field: str, value: Any, message: str) -> None:
    values = {"input_ids": [1, 2], "tokens": ("a", "b"), "special_tokens_mask": [0, 0], "positions": [0, 1]}
    with pytest.raises(ArrayError, match=message):
        Tokens(**{**values, field: value})


def test_arrays_are_frozen_copies() -> None:
    ids = np.array([1, 2])
    tokens = Tokens(ids, ("a", "b"), np.zeros(2, dtype=bool), np.arange(2), np.zeros((2, 2), dtype=np.int64))
    ids[0] = 9
    assert tokens.input_ids.tolist() == [1, 2]
    for name in ("input_ids", "special_tokens_mask", "positions", "offsets"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(tokens, name)[0] = 1


class _Naming:
    """The least of a tokenizer: names for ids."""

    unk_token_id = None

    def __init__(self, *names: str) -> None:
        self.names = names

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.names[i] for i in ids]

    def get_special_tokens_mask(self, ids: list[int], already_has_special_tokens: bool) -> list[int]:
        assert already_has_special_tokens
        return [0] * len(ids)
