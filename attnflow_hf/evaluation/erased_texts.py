"""`ErasedTexts`: texts whose tokens go in the order of any scores, and what the model then says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import BoolArray, FloatArray, OptionError, check_choice
from attnflow_hf.evaluation.edits import REPLACEMENTS, SPECIAL_TOKENS, Replacement, editable, find_replacement
from attnflow_hf.evaluation.erasures import Erasures
from attnflow_hf.evaluation.faithfulness_result import Faithfulness
from attnflow_hf.evaluation.importance import blank_out_pairs, notes_on
from attnflow_hf.evaluation.outputs import OUTPUTS, find_targets, plain_samples, read_outputs
from attnflow_hf.evaluation.ranking import Scores, rank
from attnflow_hf.inputs import Sample, Text
from attnflow_hf.prediction import kind_of_head
from attnflow_hf.scoring import Wrapped
from attnflow_hf.targets import Asked, Target

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Erasing:
    """How tokens go, and what is looked at; `measure_faithfulness` explains each.

    Raises:
        OptionError: A value that cannot be.
    """

    replacement: str = "drop"
    output: str = "probability"
    special_tokens: str = "drop"
    bins: Sequence[float] = BINS
    n_points: int = 10

    def __post_init__(self) -> None:
        """Check all that can be checked without a model."""
        check_choice("replacement", self.replacement, REPLACEMENTS)
        check_choice("output", self.output, OUTPUTS)
        check_choice("special_tokens", self.special_tokens, SPECIAL_TOKENS)
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise OptionError(f"bins must be shares of the tokens above 0 and up to 1, got {self.bins!r}")
        if isinstance(self.n_points, bool) or not isinstance(self.n_points, (int, np.integer)) or self.n_points < 1:
            raise OptionError(f"n_points must be a positive integer, got {self.n_points!r}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The bins."""
        return tuple(float(share) for share in self.bins)


@dataclass(frozen=True, eq=False)
class ErasedTexts:
    """Texts whose tokens go in the order of scores; made once for any number of scorings.

    Attributes:
        wrapped: The model and its tokenizer.
        pairs: The texts with their targets.
        masks: Which tokens may go, bool `[token]` of each text.
        replacement: What stands in their place.
        how: What is looked at.
    """

    wrapped: Wrapped
    pairs: Sequence[tuple[Sample, Target]]
    masks: Sequence[BoolArray]
    replacement: Replacement
    how: Erasing

    @classmethod
    def of(
        cls,
        attributor: Attributor,
        inputs: Text | list[Text] | Mapping[str, Any],
        how: Erasing,
        *,
        target: Asked | Sequence[Asked] = None,
        output_position: int | Literal["auto"] = "auto",
        truncation: bool = False,
    ) -> ErasedTexts:
        """Return the texts with what is explained of them; arguments and errors are those of `measure_faithfulness`."""
        wrapped = attributor.wrapped
        samples = plain_samples(wrapped, inputs, truncation=truncation)
        chosen = find_replacement(wrapped, how.replacement)
        pairs = list(zip(samples, find_targets(wrapped, samples, target, output_position), strict=True))
        masks = [editable(wrapped, sample, each, chosen, how.special_tokens) for sample, each in pairs]
        return cls(wrapped, pairs, masks, chosen, how)

    @property
    def samples(self) -> list[Sample]:
        """The texts."""
        return [sample for sample, _ in self.pairs]

    def random(self, seeds: Sequence[tuple[int, ...]]) -> list[Scores]:
        """Return random scores of each text's tokens, drawn by its seed."""
        drawn = zip(self.samples, seeds, strict=True)
        return [np.random.default_rng((*seed, 1)).random(len(sample)) for sample, seed in drawn]

    def leave_one_out(self) -> list[Scores]:
        """Return the scores of each text by blank-out; zeros where there is one token at most, which is not ranked."""
        tells = [int(mask.sum()) > 1 for mask in self.masks]
        shown = [mask & each for mask, each in zip(self.masks, tells, strict=True)]
        found = blank_out_pairs(self.wrapped, self.pairs, shown, self.replacement, output=self.how.output)
        zipped = zip(found, tells, self.samples, strict=True)
        return [each if is_ranked else np.zeros(len(sample)) for each, is_ranked, sample in zipped]

    def measure(self, scores: Sequence[Scores], seeds: Sequence[tuple[int, ...]]) -> list[Faithfulness]:
        """Return how faithful scores are, one result for each text.

        Args:
            scores: An attribution, an importance or an array `[token]` for each text; the highest go first.
            seeds: Of the order of equal scores, for each text.

        Raises:
            ArrayError: Scores are not those of the text.
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        erasures = []
        for (sample, target), mask, own, seed in zip(self.pairs, self.masks, scores, seeds, strict=True):
            ranking = rank(sample.tokens, own, mask, seed=seed)
            one = Erasures(sample, target, self.replacement, mask, ranking, self.how.shares, int(self.how.n_points))
            erasures.append(one)
        return self._read(erasures)

    def _read(self, erasures: Sequence[Erasures]) -> list[Faithfulness]:
        model, output = self.wrapped.model, self.how.output
        has_odds = output == "probability" and kind_of_head(model, model.config.num_labels) != "regression"
        asked = (each for one in erasures for each in one.edited())
        values = read_outputs(self.wrapped, asked, "log_probability" if has_odds else output)
        parts = np.split(values, np.cumsum([1 + len(one.edits) for one in erasures])[:-1])
        return [
            _result(one, np.exp(part) if has_odds else part, part if has_odds else np.full_like(part, nan), output)
            for one, part in zip(erasures, parts, strict=True)
        ]


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
