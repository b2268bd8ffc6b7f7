"""`Faithfulness`: what becomes of the explained output when the highest scored tokens go, or they alone stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np

from attnflow_hf.errors import FloatArray
from attnflow_hf.storage import field_values
from attnflow_hf.targets import Target

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

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values, ready for JSON, the metrics too; `None` for NaN."""
        values = {**field_values(self), **{name: getattr(self, name) for name in METRICS}}
        return {name: _without_nan(value) for name, value in values.items()}

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


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value
