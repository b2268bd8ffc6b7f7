"""How far two scorings of the same tokens agree: rank correlation for each sentence, and its mean over sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import BoolArray, FloatArray, OptionError, check_choice
from attnflow_hf.evaluation.scored import (
    CONSTANT_SCORES,
    SPECIAL_TOKENS,
    TOO_FEW_TOKENS,
    Scored,
    check_pairs,
    check_same_tokens,
    each_layer,
    token_scores,
    tokens_of,
)
from attnflow_hf.evaluation.summary import Bootstrap, Measured, Summary, summarize


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Return Spearman's rho: Pearson's correlation of the ranks, tied scores sharing the mean of theirs.

    The same as `scipy.stats.spearmanr`; NaN where one of the two is constant.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.3, 0.2])), 3)
        0.5
    """
    ranks = [_mean_ranks(scores) for scores in (first, second)]
    one, other = (each - each.mean() for each in ranks)
    scale = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / scale) if scale > 0 else float("nan")


def kendall(first: FloatArray, second: FloatArray) -> float:
    """Return Kendall's tau-b: pairs in the same order less those in opposite, over the geometric mean of untied pairs.

    The same as `scipy.stats.kendalltau`; NaN where one of the two is constant. It takes one number for each pair of
    tokens: 2 MB for a text of 512.
    """
    one, other = (np.sign(scores[:, None] - scores).astype(np.int8) for scores in (first, second))
    agreeing = int((one * other).sum(dtype=np.int64))
    untied = [int(np.count_nonzero(signs)) for signs in (one, other)]
    return agreeing / float(np.sqrt(float(untied[0]) * untied[1])) if all(untied) else float("nan")


STATISTICS: dict[str, Callable[[FloatArray, FloatArray], float]] = {"kendall": kendall, "spearman": spearman}


@dataclass(frozen=True)
class Agreement:
    """How agreement is measured.

    Attributes:
        statistic: `"spearman"` (the paper's) or `"kendall"` (tau-b).
        special_tokens: `"keep"` or `"drop"` those that the tokenizer added. There is no default, as it moves the
            result: `[CLS]` often has the highest score by one scoring and the lowest by the other.
        decimals: Scores are rounded to so many decimals first, so that what differs in the last bits alone is tied;
            `None` takes them as they are. Flow values, many of which are equal but for rounding, need it.

    Raises:
        OptionError: An unknown choice.
    """

    statistic: str
    special_tokens: str
    decimals: int | None = None

    def __post_init__(self) -> None:
        """Check the choices."""
        check_choice("statistic", self.statistic, STATISTICS)
        check_choice("special_tokens", self.special_tokens, SPECIAL_TOKENS)
        if self.decimals is not None and (isinstance(self.decimals, bool) or not isinstance(self.decimals, int)):
            raise OptionError(f"decimals must be an integer or None, got {self.decimals!r}")

    def of(self, first: Scored | npt.ArrayLike, second: Scored | npt.ArrayLike) -> Measured:
        """Return the rank correlation of two scorings of one sentence.

        Args:
            first: An attribution, an importance, or an array `[token]`.
            second: Another one of the same tokens.

        Returns:
            A value from -1 to 1; or the reason why there is none: fewer than two tokens, or constant scores.

        Raises:
            ArrayError: The two do not stand for the same tokens, have several rows, or are not finite.
            OptionError: Special tokens of two bare arrays shall be dropped: they do not tell which those are.
        """
        check_same_tokens(first, second)
        keep = self._kept(first, second)
        one, other = (self._rounded(token_scores(each)[keep]) for each in (first, second))
        if len(one) < 2:
            return Measured(None, TOO_FEW_TOKENS)
        if (one == one[0]).all() or (other == other[0]).all():
            return Measured(None, CONSTANT_SCORES)
        return Measured(STATISTICS[self.statistic](one, other))

    def _rounded(self, scores: FloatArray) -> FloatArray:
        return scores if self.decimals is None else scores.round(self.decimals)

    def _kept(self, first: Any, second: Any) -> BoolArray:
        tokens = tokens_of(first) or tokens_of(second)
        if self.special_tokens == "keep":
            return np.ones(len(token_scores(first)), dtype=np.bool_)
        if tokens is None:
            raise OptionError(
                "arrays do not tell which tokens are special; give one of both with its tokens (an attribution), or "
                "drop them yourself and say special_tokens='keep'"
            )
        return ~tokens.special_tokens_mask


def rank_agreement(
    firsts: Sequence[Any],
    seconds: Sequence[Any],
    *,
    special_tokens: str,
    statistic: str = "spearman",
    decimals: int | None = None,
    bootstrap: Bootstrap | None = None,
) -> Summary:
    """Return how far two scorings agree over many sentences: the mean of each sentence's rank correlation.

    Args:
        firsts: For each sentence an attribution, an importance or an array `[token]`.
        seconds: Another one for each.
        special_tokens: `"keep"` or `"drop"`; see `Agreement`.
        statistic: `"spearman"` or `"kendall"`.
        decimals: Round the scores first; see `Agreement`.
        bootstrap: How the interval of the mean is found.

    Raises:
        ArrayError: A pair does not stand for the same tokens.
        OptionError: An unknown choice.

    Example:
        >>> print(rank_agreement([[0.1, 0.2, 0.7], [0.5]], [[1, 3, 2], [1]], special_tokens="keep"))
        0.500; n = 1, 1 missing (fewer than two tokens)
    """
    check_pairs("scorings", firsts, "others", seconds)
    how = Agreement(statistic, special_tokens, decimals)
    pairs = zip(firsts, seconds, strict=True)
    return summarize([how.of(first, second) for first, second in pairs], bootstrap=bootstrap)


def layer_rows(
    attributions: Sequence[Scored],
    importances: Sequence[Scored | npt.ArrayLike],
    *,
    special_tokens: str,
    statistics: Sequence[str] = ("spearman", "kendall"),
    decimals: int | None = None,
    bootstrap: Bootstrap | None = None,
    **columns: Any,
) -> list[dict[str, Any]]:
    """Return the rows of a results table: the agreement of each layer's attributions with an importance.

    Args:
        attributions: For each sentence an attribution with `layer="all"`.
        importances: For each sentence an importance, or an array `[token]`.
        special_tokens: `"keep"` or `"drop"`; see `Agreement`.
        statistics: Which, a row each.
        decimals: Round the scores first; see `Agreement`.
        bootstrap: How the interval of the mean is found.
        columns: What else shall stand in each row, such as `importance="blank-out"`.

    Returns:
        For each layer, the lowest first, and statistic the columns `method`, `layer`, `metric`, `special_tokens`, those
        of `Summary.to_row` and those given.

    Raises:
        ArrayError: A pair does not stand for the same tokens, or the attributions have different numbers of layers.
        OptionError: There are none, they are not of all layers, or not of one method.
    """
    check_pairs("attributions", attributions, "importances", importances)
    methods = sorted({str(getattr(each, "method", "")) for each in attributions})
    if len(methods) != 1:
        raise OptionError(
            f"rows are made from attributions of one method, got {', '.join(methods) or 'no attributions'}"
        )
    by_layer = _by_layer(attributions)
    rows = []
    for layer, scored in enumerate(by_layer):
        for name in statistics:
            how = Agreement(name, special_tokens, decimals)
            found = summarize(map(how.of, scored, importances), bootstrap=bootstrap)
            own = {"method": methods[0], "layer": layer, "metric": name, "special_tokens": special_tokens}
            rows.append({**own, **columns, **found.to_row()})
    return rows


def _by_layer(attributions: Sequence[Scored]) -> list[list[Scored]]:
    of_sentences = [each_layer(each) for each in attributions]
    counts = sorted({len(layers) for layers in of_sentences})
    if len(counts) != 1:
        raise OptionError(f"attributions of one model have one number of layers, got {counts}")
    return [[layers[layer] for layers in of_sentences] for layer in range(counts[0])]


def _mean_ranks(scores: FloatArray) -> FloatArray:
    """Return the ranks from 1 on, tied scores sharing the mean of theirs."""
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[index]
    return ranks
