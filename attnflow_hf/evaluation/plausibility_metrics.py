"""How well scores of words find the marked ones: average precision, token F1, IoU and IoU F1 of one text.

Scores of words say nothing about the order of tied words. Where that matters, the value is the one expected if ties
are broken at random, exactly; for `iou_f1` the mean over orders drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, IntArray, OptionError, check_finite

_N_DRAWS = 32
_IOU_THRESHOLD = 0.5


def average_precision(mask: BoolArray, scores: FloatArray) -> float:
    """Return the area under the precision-recall curve (AUPRC), as scikit-learn's `average_precision_score` defines it.

    The sum over thresholds, from the highest score down, of precision times the gain in recall; tied words come in
    together. Constant scores give the share of marked words.

    Args:
        mask: bool `[word]`, at least one marked.
        scores: float64 `[word]`.

    Example:
        >>> round(average_precision(np.array([True, False, True]), np.array([0.5, 0.3, 0.2])), 4)
        0.8333
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last word of each run of ties
    hits = np.cumsum(mask[order])[ends]
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / mask.sum())


def expected_average_precision(mask: BoolArray) -> float:
    """Return the average precision that words in random order have in the mean, exactly.

    With n words, r of them marked, the word at rank i is marked with probability r / n, and the i - 1 before it hold
    (i - 1)(r - 1) / (n - 1) of the others: the mean is the sum over i of (1 + (i - 1)(r - 1) / (n - 1)) / i, over n.
    It lies above r / n, most of all in short texts.

    Example:
        >>> expected_average_precision(np.array([True, False]))
        0.75
    """
    n, r = len(mask), int(mask.sum())
    before = np.arange(n, dtype=np.float64)
    return float(((1 + before * (r - 1) / max(n - 1, 1)) / (before + 1)).sum() / n)


def token_f1(mask: BoolArray, scores: FloatArray, k: int) -> float:
    """Return the F1 of the `k` words with the highest scores: 2 hits / (k + marked words).

    The hits are linear in the order of ties, so the expected ones give the expected F1.
    """
    sure, tied, n_left = _top(scores, k)
    hits = mask[sure].sum() + n_left * mask[tied].mean()
    return float(2 * hits / (k + mask.sum()))


def iou(mask: BoolArray, scores: FloatArray, k: int) -> float:
    """Return the words both marked and among the `k` highest, over those that are either (intersection over union).

    Ties at the k-th word: the number of marked ones taken is hypergeometric, and the mean is taken over it.
    """
    sure, tied, n_left = _top(scores, k)
    hits, marked, n_tied = int(mask[sure].sum()), int(mask[tied].sum()), int(tied.sum())
    total, n_ways = k + int(mask.sum()), comb(n_tied, n_left)
    mean = 0.0
    for more in range(max(0, n_left - (n_tied - marked)), min(n_left, marked) + 1):
        ways = comb(marked, more) * comb(n_tied - marked, n_left - more)
        mean += ways / n_ways * (hits + more) / (total - hits - more)
    return float(mean)


def iou_f1(mask: BoolArray, scores: FloatArray, k: int, *, seed: int = 0) -> float:
    """Return ERASER's IoU F1: the F1 of spans, where a chosen span counts if it overlaps one that was marked by half.

    Spans are runs of words; those chosen are of the `k` words with the highest scores. A chosen span is a hit if its
    intersection over union with some marked span is at least 0.5; precision is hits over chosen spans, recall hits
    over marked spans (no span can be hit twice: two runs in it leave out a word between them, so that one of them has
    less than half). Ties at the k-th word: the mean over 32 orders drawn at random. ERASER's own script takes the F1 of
    precision and recall averaged over texts; here it is that of each text, so that texts can be averaged and compared.

    Args:
        mask: bool `[word]`, at least one marked.
        scores: float64 `[word]`.
        k: How many words are chosen.
        seed: Of the orders of ties.
    """
    sure, tied, n_left = _top(scores, k)
    if n_left == tied.sum():
        return span_f1(mask, sure | tied)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_N_DRAWS):
        chosen = sure.copy()
        chosen[rng.choice(np.flatnonzero(tied), size=n_left, replace=False)] = True
        values.append(span_f1(mask, chosen))
    return float(np.mean(values))


def span_f1(mask: BoolArray, chosen: BoolArray) -> float:
    """Return the F1 of the spans of `chosen` `[word]` against those of `mask` `[word]`, as `iou_f1` explains."""
    overlaps = _overlaps(_spans(chosen), _spans(mask))
    return float(2 * (overlaps >= _IOU_THRESHOLD).sum() / sum(overlaps.shape))


def _spans(mask: BoolArray) -> IntArray:
    """Return the first word of each run of true and the one behind its last, `[span, 2]`."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def _overlaps(ones: IntArray, others: IntArray) -> FloatArray:
    """Return the intersection over union of each two spans, `[one, other]`; below 0 where they are apart."""
    starts, stops = ones[:, None, 0], ones[:, None, 1]
    both = np.minimum(stops, others[:, 1]) - np.maximum(starts, others[:, 0])
    either: FloatArray = both / (np.maximum(stops, others[:, 1]) - np.minimum(starts, others[:, 0]))
    return either


def _top(scores: FloatArray, k: int) -> tuple[BoolArray, BoolArray, int]:
    """Return the words above the k-th highest score, those that tie with it, and how many of these are to be taken."""
    if not 1 <= k <= len(scores):
        raise OptionError(f"k must lie from 1 to the number of words, {len(scores)}, got {k}")
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    sure = scores > kth
    return sure, scores == kth, k - int(sure.sum())


@dataclass(frozen=True)
class _Metric:
    """A metric of scores, and what it is in the mean if the words are in random order."""

    of_scores: Callable[[BoolArray, FloatArray, int, int], float]
    by_chance: Callable[[BoolArray, int, int], float]


_METRICS = {
    "auprc": _Metric(
        lambda mask, scores, k, seed: average_precision(mask, scores),
        lambda mask, k, seed: expected_average_precision(mask),
    ),
    "token_f1": _Metric(
        lambda mask, scores, k, seed: token_f1(mask, scores, k),
        lambda mask, k, seed: token_f1(mask, np.zeros(len(mask)), k),
    ),
    "iou": _Metric(
        lambda mask, scores, k, seed: iou(mask, scores, k),
        lambda mask, k, seed: iou(mask, np.zeros(len(mask)), k),
    ),
    "iou_f1": _Metric(
        lambda mask, scores, k, seed: iou_f1(mask, scores, k, seed=seed),
        lambda mask, k, seed: iou_f1(mask, np.zeros(len(mask)), k, seed=seed),
    ),
}
METRICS = tuple(_METRICS)


def measure(metric: str, mask: BoolArray, scores: FloatArray | None, k: int, seed: int) -> float:
    """Return one of `METRICS`.

    Args:
        metric: Which.
        mask: bool `[word]`, at least one marked.
        scores: float64 `[word]`, or `None` for what words in random order have in the mean.
        k: How many words are chosen, where words are.
        seed: Of the orders of ties of `iou_f1`.

    Raises:
        ArrayError: Mask and scores do not fit, or no word is marked.
    """
    if not mask.any():
        raise ArrayError("no word is marked: no metric is defined for an empty rationale")
    if scores is None:
        return _METRICS[metric].by_chance(mask, k, seed)
    if scores.shape != mask.shape:
        raise ArrayError(f"scores of shape {scores.shape} do not fit a mask of shape {mask.shape}")
    check_finite("scores", scores)
    return _METRICS[metric].of_scores(mask, scores, k, seed)
