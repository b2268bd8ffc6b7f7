"""Scores of tokens summed to the words that a human annotated, found by their characters."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnflow_hf.errors import ArrayError, FloatArray, IntArray, TextError, TokenizerError, check_finite
from attnflow_hf.evaluation.rationales import Rationale
from attnflow_hf.evaluation.scored import token_scores, tokens_of
from attnflow_hf.tokens import Tokens, Word

REDUCTIONS: dict[str, Any] = {"max": np.max, "mean": np.mean, "sum": np.sum}
BEYOND = ("drop", "error")


def word_scores(scored: Any, rationale: Rationale, *, word_reduction: str = "sum", beyond: str = "error") -> FloatArray:
    """Return a score for each word of a rationale, float64 `[word]`.

    The words of the tokenizer's side (`Attribution.to_words`) are laid on those of the rationale by their characters,
    white space apart: words that stand inside one word of the rationale are put together, special tokens are left out.

    Args:
        scored: An attribution or importance of the rationale's text; or an array `[word]`, which is taken as it is.
        rationale: Whose words.
        word_reduction: What the score of a word is of those of its tokens: the `"sum"`, as in `to_words`, which favors
            long words; the `"mean"` or the `"max"`.
        beyond: What becomes of the last words where a text was cut to the model's length: `"error"`, or `"drop"`, and
            the result is shorter.

    Raises:
        TextError: The text is another one, or a word has no token, or was cut off.
        TokenizerError: The tokens have no character offsets, or one spans several words.
        ArrayError: An array of another length.
    """
    tokens = tokens_of(scored)
    if tokens is None:
        return _checked_array(scored, rationale)
    scores = token_scores(scored)
    owners = _owners(tokens, rationale)
    groups: list[list[int]] = [[] for _ in rationale.words]
    for word, owner in owners:
        groups[owner].extend(word.token_indices)
    n_seen = _n_seen(groups, tokens, rationale, beyond)
    reduce = REDUCTIONS[word_reduction]
    return np.array([reduce(scores[group]) for group in groups[:n_seen]], dtype=np.float64)


def _checked_array(scored: Any, rationale: Rationale) -> FloatArray:
    scores = np.asarray(getattr(scored, "scores", scored), dtype=np.float64)
    if scores.shape != (len(rationale.words),):
        raise ArrayError(
            f"an array must have a score for each of the {len(rationale.words)} words of rationale {rationale.id!r}, "
            f"got shape {scores.shape}; attributions with their tokens are summed to words for you"
        )
    check_finite("scores", scores)
    return scores


def _owners(tokens: Tokens, rationale: Rationale) -> list[tuple[Word, int]]:
    """Return each word of the tokens that is not special, and the index of the rationale's word it stands in."""
    if tokens.offsets is None or len(tokens.texts) != 1:
        raise TokenizerError(
            "words are found by character offsets in one text; use a fast tokenizer, and give the text and no pair"
        )
    text = tokens.texts[0]
    if text.split() != list(rationale.words) and "".join(text.split()) != "".join(rationale.words):
        raise TextError(
            f"the scores are of another text than rationale {rationale.id!r}: {_difference(text, rationale)}; "
            "attribute rationale.text"
        )
    solid = np.cumsum([0, *(not character.isspace() for character in text)])  # solid characters before each one
    owner = np.repeat(np.arange(len(rationale.words)), [len(word) for word in rationale.words])
    words = [word for word in tokens.words("auto") if not word.is_special]
    return [(word, _owner(word, solid, owner, rationale)) for word in words]


def _owner(word: Word, solid: IntArray, owner: IntArray, rationale: Rationale) -> int:
    assert word.offsets is not None  # the tokens have offsets, and the word is not special
    touched = owner[solid[word.offsets[0]] : solid[word.offsets[1]]]
    if len(touched) == 0:  # white space alone at the end of the text belongs to the word before
        return int(owner[solid[word.offsets[0]] - 1])
    if touched[0] != touched[-1]:
        joined = " ".join(rationale.words[touched[0] : touched[-1] + 1])
        raise TokenizerError(
            f"the tokenizer's {word.text!r} spans several words of rationale {rationale.id!r}: {joined!r}; its score "
            "cannot be parted among them"
        )
    return int(touched[0])


def _n_seen(groups: list[list[int]], tokens: Tokens, rationale: Rationale, beyond: str) -> int:
    """Return how many words have scores: all, or those before the cut of a text that was truncated."""
    without = [index for index, group in enumerate(groups) if not group]
    if not without:
        return len(groups)
    first = without[0]
    if not tokens.n_truncated or any(groups[first:]):
        raise TextError(f"no token stands for word {first} of rationale {rationale.id!r}, {rationale.words[first]!r}")
    if beyond == "error":
        raise TextError(
            f"the text of rationale {rationale.id!r} was cut to the model's length: {len(groups) - first} of its "
            f"{len(groups)} words have no score; leave them out by beyond='drop', or take windows"
        )
    return first


def _difference(text: str, rationale: Rationale) -> str:
    pairs = zip(text.split(), rationale.words, strict=False)
    index = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if index is None:
        return f"it has {len(text.split())} words, the rationale {len(rationale.words)}"
    return f"word {index} is {text.split()[index]!r}, in the rationale {rationale.words[index]!r}"
