"""`Summary`: what was measured on many sentences: mean, standard deviation, interval, and what is missing and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnflow_hf.errors import FloatArray, OptionError, check_finite

_CHUNK = 1_000_000
"""How many numbers are drawn at once."""


@dataclass(frozen=True)
class Measured:
    """What was measured on one sentence.

    Attributes:
        value: The number; `None` where it is undefined.
        reason: Why it is; empty where there is a value.

    Raises:
        OptionError: There are both or neither.
        ArrayError: The value is NaN or infinite.
    """

    value: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        """Check that there is just one of both."""
        if (self.value is None) != bool(self.reason):
            raise OptionError(f"give a value, or a reason why there is none; got {self.value!r} and {self.reason!r}")
        if self.value is not None:
            check_finite("the value", np.array([self.value], dtype=np.float64))


@dataclass(frozen=True)
class Bootstrap:
    """How the interval of a mean is found: by percentiles of the means of samples, drawn with replacement.

    Attributes:
        n_resamples: How many samples.
        level: The interval's level of confidence, between 0 and 1.
        seed: Of the random numbers; the same seed gives the same interval.

    Raises:
        OptionError: A value that cannot be.
    """

    n_resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_seed(self.seed)
        if isinstance(self.n_resamples, bool) or not isinstance(self.n_resamples, int) or self.n_resamples < 1:
            raise OptionError(f"n_resamples must be a positive integer, got {self.n_resamples!r}")
        if not isinstance(self.level, (int, float)) or not 0 < self.level < 1:
            raise OptionError(f"level must lie between 0 and 1, as 0.95 does; got {self.level!r}")

    def interval(self, values: FloatArray) -> tuple[float, float]:
        """Return the percentile interval of the mean of `values` `[sentence]` (Efron & Tibshirani 1993, chapter 13)."""
        rng, n = np.random.default_rng(self.seed), len(values)
        means: list[FloatArray] = []
        left, step = self.n_resamples, max(1, _CHUNK // n)
        while left > 0:
            means.append(values[rng.integers(n, size=(min(step, left), n))].mean(axis=1))
            left -= step
        tail = (1 - self.level) / 2
        low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """What was measured on many sentences.

    Attributes:
        n: How many sentences have a value; all figures are theirs.
        missing: How many have none, by the reason; they count nowhere else, and never as 0.
        mean: `None` where no sentence has a value.
        std: The standard deviation over sentences (that of the sample itself, divided by n); `None` for fewer than two.
        low: The lower end of the interval of the mean; `None` for fewer than two.
        high: Its upper end.
        level: Its level of confidence.
        n_resamples: From how many samples it was found.
    """

    n: int
    missing: tuple[tuple[str, int], ...]
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    level: float
    n_resamples: int

    @property
    def n_missing(self) -> int:
        """How many sentences have no value."""
        return sum(count for _, count in self.missing)

    def to_row(self) -> dict[str, Any]:
        """Return the columns of a results table: `value` (the mean), `std`, `low`, `high`, `level`, counts, reasons."""
        reasons = "; ".join(f"{reason}: {count}" for reason, count in self.missing)
        return {
            "value": self.mean,
            "std": self.std,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "n": self.n,
            "n_missing": self.n_missing,
            "missing": reasons or None,
        }

    def __str__(self) -> str:
        """Return mean, standard deviation, interval and counts in one line."""
        reasons = "".join(f", {count} missing ({reason})" for reason, count in self.missing)
        if self.mean is None:
            return f"no value; n = 0{reasons}"
        if self.std is None:
            return f"{self.mean:.3f}; n = {self.n}{reasons}"
        interval = f"[{self.low:.3f}, {self.high:.3f}] at {100 * self.level:g} %"
        return f"{self.mean:.3f} ± {self.std:.3f}, {interval}; n = {self.n}{reasons}"


def summarize(measured: Iterable[Measured], *, bootstrap: Bootstrap | None = None) -> Summary:
    """Return the summary of what was measured on each sentence.

    Args:
        measured: One for each sentence.
        bootstrap: How the interval is found; by default 95 % from 2,000 samples.

    Example:
        >>> print(summarize([Measured(0.5), Measured(0.7), Measured(None, "constant scores")]))
        0.600 ± 0.100, [0.500, 0.700] at 95 %; n = 2, 1 missing (constant scores)
    """
    every, how = list(measured), bootstrap or Bootstrap()
    values = np.array([each.value for each in every if each.value is not None], dtype=np.float64)
    missing = Counter(each.reason for each in every if each.value is None)
    low, high = how.interval(values) if len(values) > 1 else (None, None)
    return Summary(
        n=len(values),
        missing=tuple(sorted(missing.items())),
        mean=float(values.mean()) if len(values) else None,
        std=float(values.std()) if len(values) > 1 else None,
        low=low,
        high=high,
        level=float(how.level),
        n_resamples=how.n_resamples,
    )


def check_seed(seed: object) -> None:
    """Raise `OptionError` unless `seed` is an integer that random numbers can start from."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise OptionError(f"seed must be an integer from 0 on, got {seed!r}")
