"""`AgreementRows`: for each text, how far attributions of every layer agree with importance; a measure of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from attnflow_hf.attributing import attribute_all
from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import methods_of
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.agreement import STATISTICS, Agreement
from attnflow_hf.evaluation.costs import Timed
from attnflow_hf.evaluation.importance import Importance
from attnflow_hf.evaluation.measured_texts import SAMPLE_TEXT, MeasuredTexts
from attnflow_hf.evaluation.score_settings import IMPORTANCES, ScoreSettings, several
from attnflow_hf.evaluation.scored import each_layer
from attnflow_hf.evaluation.summary import Measured, summarize
from attnflow_hf.given import given
from attnflow_hf.shards import Row

REASONS = "missing"


@dataclass(frozen=True, kw_only=True)
class AgreementSettings(ScoreSettings):
    """What is compared, and how; `evaluate_agreement` explains each."""

    text_column: str
    method: str | Sequence[str]
    importance: str | Sequence[str]
    statistic: str | Sequence[str]
    special_tokens: str
    decimals: int | None

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        super().__post_init__()
        methods_of(self.method)
        several("importance", self.importance, IMPORTANCES)
        for statistic in self.statistics:
            Agreement(statistic, self.special_tokens, self.decimals)
        if self.options.layer != -1:
            raise OptionError("agreement is of every layer: leave layer out")

    @property
    def importances(self) -> list[str]:
        """The kinds of importance asked for."""
        return several("importance", self.importance, IMPORTANCES)

    @property
    def statistics(self) -> list[str]:
        """The statistics asked for."""
        return several("statistic", self.statistic, STATISTICS)

    @property
    def columns(self) -> list[tuple[str, str, str]]:
        """What a row has a list of values for: each statistic, importance and method."""
        methods = methods_of(self.method)
        return [(s, i, m) for s in self.statistics for i in self.importances for m in methods]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        lists = {"method": methods_of(self.method), "importance": self.importances, "statistic": self.statistics}
        return {**super().to_dict(), **lists}


@dataclass(frozen=True)
class AgreementRows(MeasuredTexts):
    """Finds how far attributions agree with importance, for an evaluation.

    Attributes:
        settings: What was asked for.
    """

    settings: AgreementSettings

    def schema(self) -> pa.Schema:
        """Return the columns that are added: a value for each layer, or null with the reason in `missing`."""
        names = [column_name(*column) for column in self.settings.columns]
        values = [pa.field(name, pa.list_(pa.float64())) for name in names]
        counted = [pa.field("n_tokens", pa.int32()), pa.field("prediction_label", pa.string())]
        return pa.schema([*counted, *values, pa.field(REASONS, pa.list_(pa.string())), pa.field("error", pa.string())])

    def result_rows(self, found: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table, from the columns of all shards."""
        reasons = [each for each in found[REASONS].to_pylist() if each is not None]
        rows, first = [], 0
        for statistic, importance, method in self.settings.columns:
            of_texts = [each for each in found[column_name(statistic, importance, method)].to_pylist() if each]
            n_layers = len(of_texts[0]) if of_texts else 0
            for layer in range(n_layers):
                measured = [
                    Measured(values[layer], "" if values[layer] is not None else why[first + layer])
                    for values, why in zip(of_texts, reasons, strict=True)
                ]
                own = {"method": method, "layer": layer, "metric": statistic, "importance": importance}
                rows.append({**own, "special_tokens": self.settings.special_tokens, **summarize(measured).to_row()})
            first += n_layers
        return rows

    def timed(self, table: pa.Table) -> Iterator[Timed]:
        """Yield what is timed: the attributions of all layers of the table's texts, by each method."""
        texts = self._read(table)
        for method in methods_of(self.settings.method):
            yield {"method": method}, texts, partial(self._attributions, methods=[method])

    def _attributions(self, texts: list[str], methods: Sequence[str]) -> list[dict[str, Attribution]]:
        attributor, settings = self.attributor, self.settings
        asked = given(attributor.model, attributor.tokenizer, texts, truncation=settings.truncation)
        every = replace(settings.options, layer="all", normalize="none")
        return attribute_all(attributor.wrapped, asked, methods, every)

    def _read(self, table: pa.Table) -> list[Any]:
        return list(table[self.settings.text_column].to_pylist())

    def _sample(self) -> Any:
        return SAMPLE_TEXT

    def _rows(self, texts: list[str]) -> list[Row]:
        settings = self.settings
        found = self._attributions(texts, methods_of(settings.method))
        of_kinds = {kind: settings.importance_of(kind, self.attributor, texts, "keep") for kind in settings.importances}
        return [
            self._row(by_method, {kind: scores[index] for kind, scores in of_kinds.items()})
            for index, by_method in enumerate(found)
        ]

    def _row(self, attributions: Mapping[str, Attribution], importances: Mapping[str, Importance]) -> Row:
        first = next(iter(attributions.values()))
        row: Row = {
            "n_tokens": len(first.tokens),
            "prediction_label": None if first.prediction is None else first.prediction.label,
        }
        reasons: list[str] = []
        for statistic, kind, method in self.settings.columns:
            how = Agreement(statistic, self.settings.special_tokens, self.settings.decimals)
            measured = [how.of(scored, importances[kind]) for scored in each_layer(attributions[method])]
            row[column_name(statistic, kind, method)] = [each.value for each in measured]
            reasons += [each.reason for each in measured]
        return {**row, REASONS: reasons}


def column_name(statistic: str, importance: str, method: str) -> str:
    """Return the name of a column of agreement: `spearman_blank_out_rollout`."""
    return f"{statistic}_{importance}_{method}"
