"""Samples with tokens replaced or dropped, and where the explained position goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, bert, gpt2, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import OptionError, TextError, TokenizerError
from attnflow_hf.evaluation.edits import edit, editable, find_replacement
from attnflow_hf.evaluation.outputs import plain_samples
from attnflow_hf.targets import Target

TEXT = "the key to old cabinets"


def sample_of(attributor, text=TEXT):
    return plain_samples(attributor.wrapped, text, truncation=False)[0]


@pytest.fixture(name="attributor")
def _attributor():
    return Attributor(bert(), tokenizer(token_types=True))


@pytest.mark.parametrize(("name", "token"), [("unk", "[UNK]"), ("mask", "[MASK]"), ("pad", "[PAD]")])
def test_tokens_are_replaced(attributor, name, token) -> None:
    sample = sample_of(attributor)
    chosen = np.array([False, False, True, False, True, False, False])
    target = Target(0, "plural")
    edited, same = edit(sample, target, chosen, find_replacement(attributor.wrapped, name))
    assert edited.tokens.tokens == ("[CLS]", "the", token, "to", token, "cabinets", "[SEP]")
    expected = [VOCABULARY[each] for each in edited.tokens.tokens]
    assert edited.features["input_ids"].tolist() == edited.tokens.input_ids.tolist() == expected
    assert edited.features["token_type_ids"] is sample.features["token_type_ids"]
    assert same is target
    assert sample.features["input_ids"].tolist() == attributor.tokenizer(TEXT)["input_ids"]  # as it was


def test_tokens_are_dropped_with_all_that_belongs_to_them(attributor) -> None:
    sample = sample_of(attributor, ("the key", "to old"))
    sample.features["position_ids"] = torch.arange(3, 3 + len(sample))
    chosen = np.isin(np.arange(len(sample)), [1, 4])
    edited, _ = edit(sample, Target(0, "plural"), chosen, find_replacement(attributor.wrapped, "drop"))
    assert edited.tokens.tokens == ("[CLS]", "key", "[SEP]", "old", "[SEP]")
    assert edited.tokens.positions.tolist() == [0, 2, 3, 5, 6]
    assert edited.features["input_ids"].tolist() == edited.tokens.input_ids.tolist()
    assert edited.features["token_type_ids"].tolist() == [0, 0, 0, 1, 1]
    assert edited.features["position_ids"].tolist() == [3, 4, 5, 6, 7]  # what follows closes up


@pytest.mark.parametrize(
    ("position", "dropped", "moved"), [(4, [0, 1], 2), (4, [5], 4), (4, [4], 3), (4, [3, 4], 2), (0, [1], 0)]
)
def test_the_explained_position_is_followed(position, dropped, moved) -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    sample = sample_of(attributor, "the key to old cabinets is")
    chosen, target = np.isin(np.arange(6), dropped), Target(7, "a", position, is_causal=True)
    drop = find_replacement(attributor.wrapped, "drop")
    assert edit(sample, target, chosen, drop)[1] == Target(7, "a", moved, is_causal=True)
    assert edit(sample, target, chosen, find_replacement(attributor.wrapped, "unk"))[1] is target


def test_nothing_left_is_an_error() -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    sample, drop = sample_of(attributor), find_replacement(attributor.wrapped, "drop")
    with pytest.raises(TextError, match="leaves nothing for the model to read; replace them by 'unk'"):
        edit(sample, Target(0, "a"), np.ones(5, dtype=bool), drop)
    with pytest.raises(TextError, match="up to position 1 leaves nothing to predict from"):
        edit(sample, Target(0, "a", 1, is_causal=True), np.arange(5) < 2, drop)


@pytest.mark.parametrize(
    ("position", "is_causal", "name", "kept", "free"),
    [
        (None, False, "drop", "drop", [1, 2, 3]),
        (None, False, "drop", "keep", [0, 1, 2, 3, 4]),
        (2, False, "unk", "drop", [1, 3]),  # the mask stays
        (2, False, "mask", "keep", [0, 1, 3, 4]),
        (1, False, "unk", "drop", [1, 2, 3]),  # another position may be replaced,
        (1, False, "drop", "drop", [2, 3]),  # but not dropped
        (4, True, "drop", "keep", [0, 1, 2, 3, 4]),  # a causal model speaks through the token before
    ],
)
def test_what_may_be_edited(attributor, position, is_causal, name, kept, free) -> None:
    sample = sample_of(attributor, "the [MASK] to")
    replacement = find_replacement(attributor.wrapped, name)
    found = editable(attributor.wrapped, sample, Target(0, "a", position, is_causal), replacement, kept)
    assert np.flatnonzero(found).tolist() == free


def test_replacements_that_are_not_there(attributor) -> None:
    with pytest.raises(OptionError, match="unknown replacement 'unknown'"):
        find_replacement(attributor.wrapped, "unknown")
    with pytest.raises(TokenizerError, match="'mask' needs a tokenizer that has a token for it; here use 'drop'"):
        find_replacement(Attributor(bert()).wrapped, "mask")
    assert find_replacement(Attributor(bert()).wrapped, "drop").token_id is None
    with pytest.raises(TokenizerError, match="the mask token has id 4, but the model knows only 3 ids"):
        find_replacement(Attributor(bert(vocab_size=3), tokenizer()).wrapped, "mask")
    with pytest.raises(OptionError, match="unknown special_tokens 'zero'"):
        editable(
            attributor.wrapped,
            sample_of(attributor),
            Target(0, "a"),
            find_replacement(attributor.wrapped, "drop"),
            "zero",
        )
