"""Tokens in the order of their scores, ties, and scores of other texts."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError
from attnflow_hf.evaluation import blank_out
from attnflow_hf.evaluation.ranking import aligned_scores, rank
from attnflow_hf.tokens import Tokens

TOKENS = Tokens.from_ids([5, 6, 7, 8, 9])
ALL = np.ones(5, dtype=bool)


def order(scores, allowed=ALL, seed=(0,)):
    return rank(TOKENS, scores, allowed, seed=seed).order.tolist()


def test_the_highest_stand_first_with_their_signs() -> None:
    assert order([0.1, -5.0, 0.3, 0.0, 2.0]) == [4, 2, 0, 3, 1]
    assert order([0.1, -5.0, 0.3, 0.0, 2.0], np.array([True, True, False, False, True])) == [4, 0, 1]


def test_ties_are_drawn_counted_and_the_same_for_all() -> None:
    scores = [1.0, 2.0, 1.0, 1.0, 2.0]
    found = rank(TOKENS, scores, ALL, seed=(0,))
    assert found.n_tied == 5
    assert {*found.order[:2].tolist()} == {1, 4}
    drawn = {tuple(order(scores, seed=(seed,))) for seed in range(40)}
    assert len(drawn) == 2 * 6  # each order of the two, and of the three
    assert order([7.0, 9.0, 7.0, 7.0, 9.0]) == found.order.tolist()
    assert rank(TOKENS, [1.0, 2.0, 3.0, 4.0, 4.0], ALL, seed=(0,)).n_tied == 2


def test_orders_that_say_nothing() -> None:
    assert rank(TOKENS, [0.5] * 5, ALL, seed=(0,)).missing == "constant scores"
    assert rank(TOKENS, [0.5] * 5, ~ALL, seed=(0,)).missing == "no token"
    assert rank(TOKENS, [0.5] * 5, np.arange(5) == 2, seed=(0,)).missing == "one token"
    assert rank(TOKENS, [0.5, 0.5, 0.6, 0.5, 0.5], ALL, seed=(0,)).missing is None
    assert rank(TOKENS, [0.5, 0.5, 0.6, 0.5, 0.5], np.arange(5) != 2, seed=(0,)).missing == "constant scores"


def test_scores_find_their_tokens() -> None:
    attributor = Attributor(bert(), tokenizer())
    text = "the key to"
    tokens = attributor(text, method="rollout").alignment
    for each in (
        attributor(text, method="rollout", special_tokens="drop"),
        blank_out(attributor, text, special_tokens="drop"),
    ):
        scores, known = aligned_scores(tokens, each)
        assert known.tolist() == [False, True, True, True, False]
        np.testing.assert_allclose(scores[known], each.scores, rtol=0, atol=0)


def test_scores_of_something_else() -> None:
    attributor = Attributor(bert(), tokenizer())
    tokens = attributor("the key to", method="rollout").alignment
    for other in ("the cat to", "the key to old"):
        with pytest.raises(ArrayError, match=r"of another text: '\[CLS\] the .*' is not '\[CLS\] the key to \[SEP\]'"):
            aligned_scores(tokens, attributor(other, method="rollout"))
    with pytest.raises(OptionError, match="one output position and one layer"):
        aligned_scores(tokens, attributor("the key to", method="rollout", layer="all"))
    with pytest.raises(ArrayError, match=r"scores of shape \(4,\) do not fit the text's 5 tokens"):
        aligned_scores(tokens, np.zeros(4))
    with pytest.raises(ArrayError, match="scores must be finite"):
        aligned_scores(tokens, [0, 0, np.inf, 0, 0])
