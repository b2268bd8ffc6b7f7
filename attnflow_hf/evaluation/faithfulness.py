"""`Faithfulness`: what becomes of the explained output when the highest scored tokens go, or they alone stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np

from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import BoolArray, FloatArray, OptionError, check_choice
from attnflow_hf.evaluation.edits import Replacement, editable, find_replacement
from attnflow_hf.evaluation.erasures import Erasures
from attnflow_hf.evaluation.importance import Importance, blank_out_pairs, notes_on
from attnflow_hf.evaluation.outputs import OUTPUTS, Asked, Target, find_targets, plain_samples, read_outputs
from attnflow_hf.evaluation.ranking import Scores, rank
from attnflow_hf.given import is_single
from attnflow_hf.inputs import Sample, Text
from attnflow_hf.prediction import kind_of_head
from attnflow_hf.scoring import Wrapped

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
BOUNDS = ("leave_one_out", "random")
METRICS = ("comprehensiveness", "sufficiency", "log_odds", "deletion_area", "insertion_area")


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How faithful one text's scores are to the model.

    With `f` the explained output on the text `x` of `n` tokens, and `top` the `k` highest scored of them, `k` the next
    whole number above a bin's share of `n`; a value is the mean over all bins (ERASER's AOPC; DeYoung et al. 2020,
    section 4, as its published scorer takes the mean).

    Attributes:
        target: The explained class.
        output: `"probability"` or `"logit"`: what of it `f` is.
        output_value: `f(x)`.
        replacement: `"drop"`, `"unk"`, `"mask"` or `"pad"`: how tokens go.
        n_tokens: How many tokens were ranked, `n`.
        n_tied: How many of them share their score with another; their order was drawn.
        bins: Shares of the ranked tokens.
        comprehensiveness_of_bins: float64 `[bin]`: `f(x) - f(x without top)`; high is faithful.
        sufficiency_of_bins: float64 `[bin]`: `f(x) - f(top alone)`; low is faithful.
        log_odds_of_bins: float64 `[bin]`: `log p(x without top) - log p(x)` of the probability `p`; low is faithful.
            NaN for logits and regression, which have no probability.
        fractions: float64 `[point]`: shares of the ranked tokens, from 0 to 1.
        deletion: float64 `[point]`: `f` without so many of the highest scored tokens.
        insertion: float64 `[point]`: `f` with so many of the highest scored tokens alone.
        missing: Why there are no values (all NaN then): `"no token"`, `"one token"`, `"constant scores"`; or `None`.
        notes: What a reader must know.
    """

    target: Target
    output: str
    output_value: float
    replacement: str
    n_tokens: int
    n_tied: int
    bins: tuple[float, ...]
    comprehensiveness_of_bins: FloatArray
    sufficiency_of_bins: FloatArray
    log_odds_of_bins: FloatArray
    fractions: FloatArray
    deletion: FloatArray
    insertion: FloatArray
    missing: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def comprehensiveness(self) -> float:
        """The mean of `comprehensiveness_of_bins`."""
        return float(self.comprehensiveness_of_bins.mean())

    @property
    def sufficiency(self) -> float:
        """The mean of `sufficiency_of_bins`."""
        return float(self.sufficiency_of_bins.mean())

    @property
    def log_odds(self) -> float:
        """The mean of `log_odds_of_bins`."""
        return float(self.log_odds_of_bins.mean())

    @property
    def deletion_area(self) -> float:
        """The area under `deletion` over `fractions`, by trapezoids; low is faithful."""
        return nan if self.missing else float(np.trapezoid(self.deletion, self.fractions))

    @property
    def insertion_area(self) -> float:
        """The area under `insertion` over `fractions`, by trapezoids; high is faithful."""
        return nan if self.missing else float(np.trapezoid(self.insertion, self.fractions))


@dataclass(frozen=True)
class FaithfulnessSummary:
    """The faithfulness of several texts.

    Attributes:
        n_texts: How many texts there are, also those without values.
        missing: How many texts have no values, by the reason; they are in no mean.
        n_with_ties: How many of the others had equal scores, whose order was drawn.
        means: The mean of each metric over the texts that have it; NaN where none has.
        deviations: Their standard deviations over texts (population).
    """

    n_texts: int
    missing: dict[str, int]
    n_with_ties: int
    means: dict[str, float]
    deviations: dict[str, float]


def measure_faithfulness(
    attributor: Attributor,
    inputs: Text | list[Text] | Mapping[str, Any],
    scores: Scores | Sequence[Scores] | Literal["random", "leave_one_out"],
    *,
    replacement: str = "drop",
    output: str = "probability",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "drop",
    bins: Sequence[float] = BINS,
    n_points: int = 10,
    seed: int = 0,
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> list[Faithfulness]:
    """Return how faithful scores are to the model, one result for each text.

    Comprehensiveness, sufficiency and their AOPC over bins (ERASER, DeYoung et al. 2020), log-odds, deletion and
    insertion curves: see `Faithfulness`. It costs at most two forward passes for each bin and each point of a curve.

    Args:
        attributor: The model with its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding, as for the attributor.
        scores: An `Attribution`, an `Importance` or an array `[token]` (special tokens counted), or a list with one
            for each text; the highest go first, signs counted. `"random"`: the floor, drawn by `seed`.
            `"leave_one_out"`: the ceiling, `blank_out` with the same replacement and output; a forward pass a token. It
            knows of single tokens alone, so that scores which know how tokens act together can pass it.
        replacement: `"drop"` (ERASER's), or `"unk"`, `"mask"` or `"pad"` in a token's place.
        output: `"probability"` or `"logit"` of the class. A regression head has its value alone.
        target: The class, by index or label (a token or its id for language models), or a list with one for each
            text; by default what the model predicts of the text as it is.
        special_tokens: `"drop"`: those that the tokenizer added are not ranked and always stay. `"keep"`: they are
            tokens like all others.
        bins: Shares of the tokens, above 0 and up to 1.
        n_points: The steps of deletion and insertion curves; short texts have a step for each token at most.
        seed: Of random scores, and of the order of equal scores.
        output_position: Where a model that speaks of each position is asked, as for `blank_out`.
        truncation: Cut texts that are longer than the model can read.

    Returns:
        A list, also for a single text. A text of one ranked token, and one whose scores are all equal, tells nothing:
        its values are NaN, and `missing` says why.

    Raises:
        ArrayError: Scores are not those of the text.
        AttnFlowError: One of its children says what came, what is needed and what to do.

    Example:
        >>> attributor = Attributor.from_pretrained()
        >>> texts = ["the keys to the cabinet", "the authors that the critic likes"]
        >>> rollout = attributor(texts, method="rollout")
        >>> found = [measure_faithfulness(attributor, texts, each) for each in ("leave_one_out", rollout, "random")]
        >>> [round(summarize_faithfulness(each).means["comprehensiveness"], 2) for each in found]
        [0.97, 0.97, 0.5]
    """
    check_choice("output", output, OUTPUTS)
    shares, steps = _check_bins(bins), _check_points(n_points)
    wrapped = attributor.wrapped
    samples = plain_samples(wrapped, inputs, truncation=truncation)
    chosen = find_replacement(wrapped, replacement)
    targets = find_targets(wrapped, samples, target, output_position)
    pairs = list(zip(samples, targets, strict=True))
    masks = [editable(wrapped, sample, each, chosen, special_tokens) for sample, each in pairs]
    if isinstance(scores, str) and scores == "leave_one_out":
        scores = _leave_one_out(wrapped, pairs, masks, chosen, output)
    given = _scores_of_each(samples, scores, is_single(inputs, len(samples)), seed)
    erasures = []
    for index, ((sample, each), mask) in enumerate(zip(pairs, masks, strict=True)):
        ranking = rank(sample.tokens, given[index], mask, seed=(seed, index))
        erasures.append(Erasures(sample, each, chosen, mask, ranking, shares, steps))
    return _measure(wrapped, erasures, output)


def summarize_faithfulness(results: Sequence[Faithfulness]) -> FaithfulnessSummary:
    """Return the means of the metrics over texts; texts without values are counted and in no mean."""
    known = [result for result in results if result.missing is None]
    columns = {name: np.array([getattr(result, name) for result in known]) for name in METRICS}
    return FaithfulnessSummary(
        n_texts=len(results),
        missing=dict(Counter(result.missing for result in results if result.missing is not None)),
        n_with_ties=sum(result.n_tied > 0 for result in known),
        means={name: float(column.mean()) if known else nan for name, column in columns.items()},
        deviations={name: float(column.std()) if known else nan for name, column in columns.items()},
    )


def _result(erasures: Erasures, values: FloatArray, logs: FloatArray, output: str) -> Faithfulness:
    """Return the result, of outputs and log-probabilities of a text as it is and then edited."""
    ranking = erasures.ranking
    without, alone = erasures.read(values)
    log_without, _ = erasures.read(logs)
    return Faithfulness(
        target=erasures.target,
        output=output,
        output_value=float(values[0]),
        replacement=erasures.replacement.name,
        n_tokens=len(ranking.order),
        n_tied=ranking.n_tied,
        bins=erasures.bins,
        comprehensiveness_of_bins=values[0] - without(erasures.of_bins),
        sufficiency_of_bins=values[0] - alone(erasures.of_bins),
        log_odds_of_bins=log_without(erasures.of_bins) - logs[0],
        fractions=np.array(erasures.of_points) / max(len(ranking.order), 1),
        deletion=without(erasures.of_points),
        insertion=alone(erasures.of_points),
        missing=ranking.missing,
        notes=notes_on(erasures.sample, erasures.target, erasures.allowed),
    )


def _measure(wrapped: Wrapped, erasures: Sequence[Erasures], output: str) -> list[Faithfulness]:
    config = wrapped.model.config
    has_odds = output == "probability" and kind_of_head(wrapped.model, config.num_labels) != "regression"
    asked = (each for one in erasures for each in one.edited())
    values = read_outputs(wrapped, asked, "log_probability" if has_odds else output)
    parts = np.split(values, np.cumsum([1 + len(one.edits) for one in erasures])[:-1])
    return [
        _result(one, np.exp(part) if has_odds else part, part if has_odds else np.full_like(part, nan), output)
        for one, part in zip(erasures, parts, strict=True)
    ]


def _leave_one_out(
    wrapped: Wrapped,
    pairs: Sequence[tuple[Sample, Target]],
    masks: Sequence[BoolArray],
    replacement: Replacement,
    output: str,
) -> list[Scores]:
    """Return the scores of each text by blank-out; zeros where there is one token at most, which is not ranked."""
    tells = [int(mask.sum()) > 1 for mask in masks]
    found = blank_out_pairs(
        wrapped, pairs, [mask & each for mask, each in zip(masks, tells, strict=True)], replacement, output=output
    )
    return [
        each if is_one else np.zeros(len(sample)) for each, is_one, (sample, _) in zip(found, tells, pairs, strict=True)
    ]


def _scores_of_each(samples: Sequence[Sample], scores: Any, is_one: bool, seed: int) -> list[Scores]:
    if isinstance(scores, str):
        check_choice("scores", scores, BOUNDS)
        return [np.random.default_rng((seed, index, 1)).random(len(sample)) for index, sample in enumerate(samples)]
    if is_one and isinstance(scores, (Attribution, Importance)):
        return [scores]
    if is_one and np.ndim(scores) == 1 and len(scores) == len(samples[0]) and np.isscalar(scores[0]):
        return [scores]
    if not isinstance(scores, Sequence) or len(scores) != len(samples):
        raise OptionError(
            f"scores must be one for each of {len(samples)} texts: an Attribution, an Importance or an array; or "
            f"'random' or 'leave_one_out'; got {type(scores).__name__}"
        )
    return list(scores)


def _check_bins(bins: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in bins)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise OptionError(f"bins must be shares of the tokens above 0 and up to 1, got {bins!r}")
    return shares


def _check_points(n_points: int) -> int:
    if isinstance(n_points, bool) or not isinstance(n_points, (int, np.integer)) or n_points < 1:
        raise OptionError(f"n_points must be a positive integer, got {n_points!r}")
    return int(n_points)
