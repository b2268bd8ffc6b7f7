"""`Ranking`: the tokens of a text in the order of their scores, whoever gave them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, IntArray, OptionError, check_finite
from attnflow_hf.evaluation.importance import Importance
from attnflow_hf.evaluation.scored import ScoredTokens
from attnflow_hf.tokens import Tokens

Scores = Attribution | Importance | ScoredTokens | npt.ArrayLike


@dataclass(frozen=True, eq=False)
class Ranking:
    """Tokens in the order of their scores, the highest first.

    Attributes:
        order: int64 `[ranked token]`: indices of the text's tokens.
        n_tied: How many of them share their score with another.
        missing: Why the order says nothing: `"no token"`, `"one token"` or `"constant scores"`; `None` where it does.
    """

    order: IntArray
    n_tied: int
    missing: str | None


def rank(tokens: Tokens, scores: Scores, allowed: BoolArray, *, seed: tuple[int, ...]) -> Ranking:
    """Return the order of a text's tokens by their scores; signed scores by their value, not their size.

    Equal scores stand in an order drawn by `seed`, so that no place in the text is favored; it is the same whatever
    gave the scores. Tokens without a score (dropped from an attribution) are not ranked.

    Args:
        tokens: All tokens of the text.
        scores: An `Attribution`, `Importance` or `ScoredTokens` of it, or numbers `[token]` for all of its tokens.
        allowed: Which tokens may be ranked, bool `[token]`.
        seed: Of the order of ties.

    Raises:
        ArrayError: The scores are not those of this text's tokens.
        OptionError: An attribution has more than one row, or is that of an encoder with its decoder.
    """
    every, known = aligned_scores(tokens, scores)
    ranked = np.flatnonzero(allowed & known)
    values = every[ranked]
    drawn = np.random.default_rng(seed).permutation(len(tokens))[ranked]
    _, counts = np.unique(values, return_counts=True)
    missing = {0: "no token", 1: "one token"}.get(len(ranked), "constant scores" if len(counts) == 1 else None)
    return Ranking(ranked[np.lexsort((drawn, -values))], int(counts[counts > 1].sum()), missing)


def aligned_scores(tokens: Tokens, scores: Scores) -> tuple[FloatArray, BoolArray]:
    """Return the score of each token of a text, float64 `[token]`, and which tokens have one, bool `[token]`.

    Args:
        tokens: All tokens of the text.
        scores: As for `rank`.

    Raises:
        ArrayError: The scores are not those of this text's tokens.
        OptionError: An attribution has more than one row, or is that of an encoder with its decoder.
    """
    if not isinstance(scores, (Attribution, Importance, ScoredTokens)):
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(tokens),):
            raise ArrayError(f"scores of shape {values.shape} do not fit the text's {len(tokens)} tokens")
        check_finite("scores", values)
        return values, np.ones(len(tokens), dtype=bool)
    if scores.scores.ndim != 1 or scores.alignment.parts:
        raise OptionError(
            "tokens are ranked by one score each; attribute one output position and one layer, without a decoder"
        )
    own, positions = scores.alignment, scores.alignment.positions
    inside = positions < len(tokens)
    if not inside.all() or not np.array_equal(own.input_ids, tokens.input_ids[positions]):
        raise ArrayError(
            f"these scores are of another text: {' '.join(own.tokens)!r} is not {' '.join(tokens.tokens)!r}"
        )
    values, known = np.zeros(len(tokens)), np.zeros(len(tokens), dtype=bool)
    values[positions], known[positions] = scores.scores, True
    return values, known
