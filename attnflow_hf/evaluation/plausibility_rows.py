"""`PlausibilityRows`: for each text, how well the scores of several scorers find the words that humans marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.costs import Timed
from attnflow_hf.evaluation.measured_texts import SAMPLE_TEXT, MeasuredTexts
from attnflow_hf.evaluation.plausibility import (
    EMPTY,
    Plausibility,
    PlausibilityOptions,
    chance_plausibility,
    measure_plausibility,
)
from attnflow_hf.evaluation.plausibility_metrics import METRICS
from attnflow_hf.evaluation.rationales import Rationale
from attnflow_hf.evaluation.score_settings import IMPORTANCES, several
from attnflow_hf.evaluation.scored_rows import Key, scored_rows, values_of
from attnflow_hf.evaluation.scorers import COLUMN_SUM, RANDOM, ScorerSettings
from attnflow_hf.evaluation.scorings import Scoring, scores_of
from attnflow_hf.evaluation.summary import Measured
from attnflow_hf.shards import Row
from attnflow_hf.windows import Windows


@dataclass(frozen=True, kw_only=True)
class PlausibilitySettings(ScorerSettings):
    """What is measured, and how; `evaluate_plausibility` explains each."""

    annotators: str
    metric: str | Sequence[str]
    share: float | None
    word_reduction: str
    window: int | None
    stride: int

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        super().__post_init__()
        self.measured  # noqa: B018 checks itself
        if self.windows is None:
            return
        if self.truncation:
            raise OptionError("a window goes over one long text: it has no truncation")
        if names := [each.name for each in self.scorers if each.method in (*IMPORTANCES, COLUMN_SUM)]:
            raise OptionError(
                f"windows are for methods; these need a text which the model reads whole: {', '.join(names)}; leave "
                "them out, or cut texts by truncation"
            )

    @property
    def metrics(self) -> list[str]:
        """The metrics asked for."""
        return several("metric", self.metric, METRICS)

    @property
    def measured(self) -> PlausibilityOptions:
        """What is measured, and how."""
        beyond = "drop" if self.truncation else "error"
        return PlausibilityOptions(
            self.annotators, tuple(self.metrics), self.share, self.word_reduction, beyond, self.seed
        )

    @property
    def windows(self) -> Windows | None:
        """How long texts are cut; `None` where they are not."""
        return None if self.window is None else Windows(self.window, self.stride)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {**super().to_dict(), "metric": self.metrics}


@dataclass(frozen=True)
class PlausibilityRows(MeasuredTexts):
    """Finds how plausible scores are, for an evaluation.

    Attributes:
        settings: What was asked for.
        scorings: The scorers, with the layers that the model has.
    """

    settings: PlausibilitySettings
    scorings: tuple[Scoring, ...]

    def schema(self) -> pa.Schema:
        """Return the columns that are added: of each scoring its metrics, null where no rationale marks a word."""
        counts = dict.fromkeys(("n_words", "n_dropped_words", "n_rationales", "n_empty"), pa.int32())
        names = [f"{metric}_{scoring.label}" for scoring in self.scorings for metric in self.settings.metrics]
        values = {"share_marked": pa.float64(), **dict.fromkeys(names, pa.float64())}
        return pa.schema(list({**counts, **values, "error": pa.string()}.items()))

    def result_rows(self, found: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table, from the columns of all shards."""
        known = found.filter(pc.is_valid(found["n_rationales"]))
        totals = {name: pc.sum(known[name]).as_py() for name in ("n_rationales", "n_empty", "n_dropped_words")}
        own = {"annotators": self.settings.annotators, **totals}
        measured: dict[Scoring, dict[Key, list[Measured]]] = {
            scoring: {
                (("metric", metric),): values_of(known[f"{metric}_{scoring.label}"], [None] * len(known), EMPTY)
                for metric in self.settings.metrics
            }
            for scoring in self.scorings
        }
        rows = scored_rows(measured, self.settings.compared_with) if len(known) else []
        return [{**row, **own} for row in rows]

    def timed(self, table: pa.Table) -> Iterator[Timed]:
        """Yield what is timed: the scores of the table's texts by each scoring but chance."""
        for scoring in self.scorings:
            if scoring.method != RANDOM:
                yield scoring.row, table["text"].to_pylist(), partial(self._scores, scorings=[scoring])

    def _scores(self, texts: list[str], scorings: Sequence[Scoring]) -> dict[Scoring, list[Any]]:
        return scores_of(self.attributor, texts, scorings, self.settings)

    def _read(self, table: pa.Table) -> list[Any]:
        return [rationales_of(row) for row in table.to_pylist()]

    def _sample(self) -> Any:
        words = tuple(SAMPLE_TEXT.split())
        return [Rationale("", SAMPLE_TEXT, words, np.ones(len(words), dtype=np.bool_), "")]

    def _rows(self, of_texts: list[list[Rationale]]) -> list[Row]:
        scored = [each for each in self.scorings if each.method != RANDOM]
        found = self._scores([rationales[0].text for rationales in of_texts], scored)
        return [
            self._row(rationales, {scoring: found[scoring][index] for scoring in scored})
            for index, rationales in enumerate(of_texts)
        ]

    def _row(self, rationales: list[Rationale], scores: Mapping[Scoring, Any]) -> Row:
        how, name = self.settings.measured, rationales[0].id
        row: Row = {"n_words": len(rationales[0].words)}
        for scoring in self.scorings:
            if scoring.method == RANDOM:  # of the words that the others see
                others = {name: next(iter(scores.values()))} if scores else None
                found = chance_plausibility(rationales, how, scored=others)
            else:
                found = measure_plausibility({name: scores[scoring]}, rationales, how)
            row |= {f"{metric}_{scoring.label}": each.mean for metric, each in found.summaries.items()}
            row |= _counts(found)
        return row


def rationale_rows(rationales: Sequence[Rationale]) -> list[dict[str, Any]]:
    """Return a row for each text, in the order in which they come: what all annotators marked of it.

    Raises:
        OptionError: Rationales of one id have different texts.
    """
    by_id: dict[str, list[Rationale]] = {}
    for each in rationales:
        by_id.setdefault(each.id, []).append(each)
        if each.text != by_id[each.id][0].text:
            raise OptionError(f"rationales of id {each.id!r} have different texts; each text needs an id of its own")
    return [
        {
            "id": name,
            "text": group[0].text,
            "original_label": group[0].original_label,
            "split": group[0].split,
            "annotators": [each.annotator for each in group],
            "labels": [each.label for each in group],
            "masks": [each.mask.tolist() for each in group],
        }
        for name, group in by_id.items()
    ]


def rationales_of(row: Mapping[str, Any]) -> list[Rationale]:
    """Return the rationales that `rationale_rows` made a row of."""
    words = tuple(row["text"].split())
    return [
        Rationale(
            id=row["id"],
            text=row["text"],
            words=words,
            mask=np.array(mask, dtype=np.bool_),
            label=label,
            annotator=annotator,
            original_label=row["original_label"],
            split=row["split"],
        )
        for mask, label, annotator in zip(row["masks"], row["labels"], row["annotators"], strict=True)
    ]


def _counts(found: Plausibility) -> Row:
    names = ("n_dropped_words", "n_rationales", "n_empty", "share_marked")
    return {name: getattr(found, name) for name in names}
