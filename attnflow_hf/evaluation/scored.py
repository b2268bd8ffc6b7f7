"""`Scored`: what has a score for each token, an attribution or an importance; one layer of it, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import ArrayError, FloatArray, OptionError, check_finite
from attnflow_hf.tokens import Tokens

SPECIAL_TOKENS = ("drop", "keep")
TOO_FEW_TOKENS = "fewer than two tokens"
CONSTANT_SCORES = "constant scores"


class Scored(Protocol):
    """What has scores aligned with tokens: an `Attribution`, an importance, or any object with these two."""

    @property
    def alignment(self) -> Tokens:
        """The tokens."""

    @property
    def scores(self) -> FloatArray:
        """The scores, `[token]`, or `[layer, token]` where all layers were explained; they may be negative."""


@dataclass(frozen=True, eq=False)
class ScoredTokens:
    """Scores of one layer, `[token]`, and their tokens."""

    alignment: Tokens
    scores: FloatArray


def each_layer(scored: Scored) -> list[ScoredTokens]:
    """Return the scores of each layer, the lowest first, of what was explained with `layer="all"`.

    Raises:
        OptionError: The scores are not `[layer, token]`: another layer was asked for, or all output positions.
    """
    if np.ndim(scored.scores) != 2 or getattr(scored, "layer", "all") != "all":
        raise OptionError(
            f"scores of all layers are [layer, token], got shape {np.shape(scored.scores)}; attribute with "
            "layer='all' and one output position"
        )
    return [ScoredTokens(scored.alignment, np.asarray(row)) for row in scored.scores]


def token_scores(scored: Scored | npt.ArrayLike) -> FloatArray:
    """Return the scores `[token]` of an attribution, an importance or an array, checked.

    Raises:
        ArrayError: They have more axes than one, or are not finite.
    """
    scores = np.asarray(getattr(scored, "scores", scored), dtype=np.float64)
    if scores.ndim != 1:
        raise ArrayError(
            f"one score for each token is needed, [token], got shape {scores.shape}; choose one layer and one output "
            "position, or take each_layer(...)"
        )
    check_finite("scores", scores)
    return scores


def tokens_of(scored: Any) -> Tokens | None:
    """Return the tokens that scores are aligned with, or `None` for a bare array."""
    tokens = getattr(scored, "alignment", None)
    return tokens if isinstance(tokens, Tokens) else None


def check_same_tokens(first: Any, second: Any) -> None:
    """Raise `ArrayError` unless the scores of both stand for the same tokens, as far as both know theirs."""
    n_first, n_second = len(token_scores(first)), len(token_scores(second))
    if n_first != n_second:
        raise ArrayError(
            f"scores of {n_first} and of {n_second} tokens cannot be compared; make both from the same text, with the "
            "same special_tokens and first_token"
        )
    one, other = tokens_of(first), tokens_of(second)
    if one is not None and other is not None and one is not other:
        same = (one.input_ids == other.input_ids) & (one.positions == other.positions)
        if not same.all():
            i = int(np.flatnonzero(~same)[0])
            raise ArrayError(
                f"the scores stand for different tokens: number {i} is {one.tokens[i]!r} (position "
                f"{one.positions[i]}) in one and {other.tokens[i]!r} (position {other.positions[i]}) in the other"
            )


def check_pairs(name: str, firsts: Sequence[Any], other: str, seconds: Sequence[Any]) -> None:
    """Raise `ArrayError` unless two lists are as long as each other, one entry a sentence."""
    if len(firsts) != len(seconds):
        raise ArrayError(f"there are {len(firsts)} {name} but {len(seconds)} {other}; give one of each for a sentence")
