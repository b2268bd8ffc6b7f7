"""`FaithfulnessRows`: for each text, how faithful the scores of several scorers are; a measure of runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.costs import Timed
from attnflow_hf.evaluation.erased_texts import ErasedTexts, Erasing
from attnflow_hf.evaluation.faithfulness_result import METRICS, Faithfulness
from attnflow_hf.evaluation.measured_texts import SAMPLE_TEXT, MeasuredTexts
from attnflow_hf.evaluation.scored_rows import Key, scored_rows, values_of
from attnflow_hf.evaluation.scorers import RANDOM, ScorerSettings
from attnflow_hf.evaluation.scorings import Scoring, scores_of
from attnflow_hf.evaluation.summary import Measured
from attnflow_hf.inputs import Text
from attnflow_hf.prediction import kind_of_head
from attnflow_hf.shards import Row
from attnflow_hf.targets import Target, index_of_class

OF_BINS = METRICS[:3]
AREAS = METRICS[3:]
_BY_ERASING = ("blank_out", RANDOM)
NO_ODDS = "no probability"
IS_RIGHT = "is_right"


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSettings(ScorerSettings):
    """What is measured, and how; `evaluate_faithfulness` explains each."""

    text_column: str
    label_column: str | None
    special_tokens: str
    measured_output: str
    bins: Sequence[float]
    n_points: int

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        super().__post_init__()
        self.erasing  # noqa: B018 checks itself

    def own_settings(self, method: str) -> tuple[str, ...]:
        """Return which settings a scorer may have of its own; leave-one-out keeps its signs, as all that is ranked."""
        return ("replacement",) if method == "blank_out" else super().own_settings(method)

    @property
    def erasing(self) -> Erasing:
        """How tokens go."""
        return Erasing(self.replacement, self.measured_output, self.special_tokens, self.bins, self.n_points)


@dataclass(frozen=True)
class FaithfulnessRows(MeasuredTexts):
    """Finds how faithful scores are, for an evaluation.

    Attributes:
        settings: What was asked for.
        scorings: The scorers, with the layers that the model has.
    """

    settings: FaithfulnessSettings
    scorings: tuple[Scoring, ...]

    def schema(self) -> pa.Schema:
        """Return the columns that are added.

        Of each scoring those of its metrics, a list with a value for each bin or a number for an area; for all of them
        `missing`, why its scores tell nothing, and `n_tied`, how many tokens share their score with another.
        """
        of_text = {"n_tokens": pa.int32(), "prediction_label": pa.string(), "output_value": pa.float64()}
        if self.settings.label_column is not None:
            of_text[IS_RIGHT] = pa.bool_()
        values = {
            f"{metric}_{scoring.label}": pa.list_(pa.float64()) if metric in OF_BINS else pa.float64()
            for scoring in self.scorings
            for metric in METRICS
        }
        of_scorings = {"missing": pa.list_(pa.string()), "n_tied": pa.list_(pa.int32())}
        return pa.schema(list({**of_text, **values, **of_scorings, "error": pa.string()}.items()))

    def result_rows(self, found: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table, from the columns of all shards.

        Those of single bins have the bin, those of all bins together and of areas have none. Where labels are known,
        they are there for all texts, for those that the model predicts right, and for those that it predicts wrong.
        """
        known = found.filter(pc.is_valid(found["missing"]))
        if self.settings.label_column is None:
            return self._summed_up(known)
        groups = {"all": known, "right": known.filter(known[IS_RIGHT])}
        groups["wrong"] = known.filter(pc.invert(known[IS_RIGHT]))
        return [
            {**row, "prediction": name, "n_texts": len(group)}
            for name, group in groups.items()
            for row in self._summed_up(group)
        ]

    def _summed_up(self, known: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table of some texts, none of none."""
        reasons = known["missing"].to_pylist()
        measured: dict[Scoring, dict[Key, list[Measured]]] = {}
        for index, scoring in enumerate(self.scorings):
            why = [each[index] for each in reasons]
            measured[scoring] = self._measured(known, scoring, why)
        rows = scored_rows(measured, self.settings.compared_with)
        how = {"replacement": self.settings.replacement, "special_tokens": self.settings.special_tokens}
        return [{**row, **how} for row in rows] if len(known) else []

    def timed(self, table: pa.Table) -> Iterator[Timed]:
        """Yield what is timed: the scores of the table's texts by each scoring but chance."""
        texts = table[self.settings.text_column].to_pylist()
        for scoring in self.scorings:
            if scoring.method != RANDOM:
                yield scoring.row, texts, partial(self._scores, scorings=[scoring])

    def _measured(self, known: pa.Table, scoring: Scoring, why: Sequence[str | None]) -> dict[Key, list[Measured]]:
        found: dict[Key, list[Measured]] = {}
        for metric in METRICS:
            column = known[f"{metric}_{scoring.label}"]
            if metric in AREAS:
                found[_key(metric)] = values_of(column, why, NO_ODDS)
                continue
            bins = [values_of(pc.list_element(column, i), why, NO_ODDS) for i in range(len(self.settings.bins))]
            found[_key(metric)] = [_mean(each) for each in zip(*bins, strict=True)]
            found |= {_key(metric, share): each for share, each in zip(self.settings.erasing.shares, bins, strict=True)}
        return found

    def _erased(self, texts: list[str], how: Erasing) -> ErasedTexts:
        return ErasedTexts.of(self.attributor, list[Text](texts), how, truncation=self.settings.truncation)

    def _scores(
        self, texts: list[str], scorings: Sequence[Scoring], erased: ErasedTexts | None = None
    ) -> dict[Scoring, list[Any]]:
        """Return the scores of texts by each scoring; those that erasing makes are given what it needs, or make it."""
        others = [each for each in scorings if each.method not in _BY_ERASING]
        found = scores_of(self.attributor, texts, others, self.settings)
        for each in scorings:
            if each.method in _BY_ERASING:
                how = replace(self.settings.erasing, replacement=each.scorer.settings.replacement)
                own = erased if erased is not None and erased.how == how else self._erased(texts, how)
                found[each] = own.random(self._seeds(texts)) if each.method == RANDOM else own.leave_one_out()
        return found

    def _seeds(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Return a seed for each text that depends on it alone, and not on where it stands."""
        return [(self.settings.seed, *hashlib.sha256(text.encode()).digest()[:8]) for text in texts]

    def _read(self, table: pa.Table) -> list[Any]:
        """Return the texts, each with its label or `None`."""
        texts, labels = table[self.settings.text_column].to_pylist(), self.settings.label_column
        return list(zip(texts, [None] * len(table) if labels is None else table[labels].to_pylist(), strict=True))

    def _sample(self) -> Any:
        return SAMPLE_TEXT, 0

    def _rows(self, asked: list[tuple[str, Any]]) -> list[Row]:
        texts = [text for text, _ in asked]
        erased = self._erased(texts, self.settings.erasing)
        of_labels = self._of_labels([target for _, target in erased.pairs], [label for _, label in asked])
        scores, seeds = self._scores(texts, self.scorings, erased), self._seeds(texts)
        found = [erased.measure(scores[scoring], seeds) for scoring in self.scorings]
        rows = [self._row(of_text) for of_text in zip(*found, strict=True)]
        return [{**row, **more} for row, more in zip(rows, of_labels, strict=True)]

    def _of_labels(self, predicted: Sequence[Target], labels: Sequence[Any]) -> list[Row]:
        """Return for each text whether it is predicted right; nothing where labels are not asked for."""
        if self.settings.label_column is None:
            return [{} for _ in predicted]
        model, name = self.attributor.wrapped.model, f"label_column {self.settings.label_column!r}: the label"
        n_labels = model.config.num_labels
        if predicted[0].position is not None or kind_of_head(model, n_labels) != "single_label":
            raise OptionError(
                f"{type(model).__name__} does not choose one label of a text, so that none is right or wrong; leave "
                "label_column out"
            )
        pairs = zip(predicted, labels, strict=True)
        return [{IS_RIGHT: each.index == index_of_class(model, label, n_labels, name=name)} for each, label in pairs]

    def _row(self, of_text: Sequence[Faithfulness]) -> Row:
        first = of_text[0]
        row: Row = {
            "n_tokens": first.n_tokens,
            "prediction_label": first.target.label,
            "output_value": first.output_value,
            "missing": [each.missing for each in of_text],
            "n_tied": [each.n_tied for each in of_text],
        }
        for scoring, each in zip(self.scorings, of_text, strict=True):
            for metric in OF_BINS:
                values = getattr(each, f"{metric}_of_bins").tolist()
                row[f"{metric}_{scoring.label}"] = [_or_null(value) for value in values]
            row |= {f"{metric}_{scoring.label}": _or_null(getattr(each, metric)) for metric in AREAS}
        return row


def _key(metric: str, share: float | None = None) -> Key:
    return ("metric", metric), ("bin", share)


def _mean(of_bins: Sequence[Measured]) -> Measured:
    """Return the mean over a text's bins, which all have a value or none."""
    values = [each.value for each in of_bins if each.value is not None]
    return Measured(sum(values) / len(values)) if values else of_bins[0]


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
