"""`Erasures`: one text with more and more of its highest scored tokens gone, and with so many of them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, nan

import numpy as np

from attnflow_hf.errors import BoolArray, FloatArray
from attnflow_hf.evaluation.edits import Replacement, edit
from attnflow_hf.evaluation.ranking import Ranking
from attnflow_hf.inputs import Sample
from attnflow_hf.targets import Target

_Read = Callable[[Sequence[int]], FloatArray]


@dataclass(frozen=True, eq=False)
class Erasures:
    """Which edited texts are read of one text.

    Attributes:
        sample: The text.
        target: The target on it.
        replacement: How tokens go.
        allowed: Which tokens may go, bool `[token]`.
        ranking: The order in which they do.
        bins: Shares of the ranked tokens.
        n_points: The steps of a curve.
    """

    sample: Sample
    target: Target
    replacement: Replacement
    allowed: BoolArray
    ranking: Ranking
    bins: tuple[float, ...]
    n_points: int

    @property
    def of_bins(self) -> list[int]:
        """How many tokens each bin has: its share of them, rounded up."""
        return [ceil(share * len(self.ranking.order) - 1e-9) for share in self.bins]  # 0.28 of 25 is 7

    @property
    def of_points(self) -> list[int]:
        """How many tokens each point of a curve has, from none to all."""
        n = len(self.ranking.order)
        return sorted({round(point * n / self.n_points) for point in range(self.n_points + 1)})

    @property
    def edits(self) -> list[tuple[str, int]]:
        """The edited texts: without the top `k` tokens, or with them alone; none where the order says nothing."""
        if self.ranking.missing is not None:
            return []
        n, counts = len(self.ranking.order), sorted({*self.of_bins, *self.of_points})
        return [("without", k) for k in counts if k > 0] + [("alone", k) for k in counts if k < n]

    def edited(self) -> Iterator[tuple[Sample, Target]]:
        """Yield the text as it is, and then the edited ones.

        Raises:
            TextError: Nothing would be left of it.
        """
        yield self.sample, self.target
        for kind, k in self.edits:
            gone = self.ranking.order[:k] if kind == "without" else self.ranking.order[k:]
            chosen: BoolArray = np.isin(np.arange(len(self.sample)), gone)
            yield edit(self.sample, self.target, chosen, self.replacement)

    def read(self, values: FloatArray) -> tuple[_Read, _Read]:
        """Return what looks up values without the top `k` tokens, and with them alone; NaN where there are none.

        Args:
            values: One for each text that `edited` yields.
        """
        found = dict(zip(self.edits, values[1:], strict=True))
        if self.ranking.missing is None:
            found |= {("without", 0): values[0], ("alone", len(self.ranking.order)): values[0]}

        def reader(kind: str) -> _Read:
            return lambda counts: np.array([found.get((kind, k), nan) for k in counts])

        return reader("without"), reader("alone")
