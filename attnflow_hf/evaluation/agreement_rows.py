"""`AgreementRows`: for each text, how far attributions of every layer agree with importance; a measure of runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from attnflow_hf.attributing import attribute_each
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import methods_of
from attnflow_hf.errors import OptionError, TextError, check_choice
from attnflow_hf.evaluation.agreement import Agreement
from attnflow_hf.evaluation.captum_scores import NORMS
from attnflow_hf.evaluation.edits import REPLACEMENTS
from attnflow_hf.evaluation.embedded import EMBEDDINGS
from attnflow_hf.evaluation.gradients import gradient_x_input, input_gradient, integrated_gradients
from attnflow_hf.evaluation.importance import SIGNS, Importance, blank_out
from attnflow_hf.evaluation.scored import each_layer
from attnflow_hf.given import given
from attnflow_hf.options import Options
from attnflow_hf.shards import Row

REASONS = "missing"
_SAMPLE_TEXT = "a b c d"

_Function = Callable[..., list[Importance]]
IMPORTANCES: dict[str, tuple[_Function, tuple[str, ...]]] = {
    "blank_out": (blank_out, ("replacement", "signs")),
    "gradient_x_input": (gradient_x_input, ("embeddings", "signs")),
    "input_gradient": (input_gradient, ("embeddings", "norm")),
    "integrated_gradients": (integrated_gradients, ("embeddings", "signs")),
}
"""Each kind of importance, and which of the settings it takes."""


@dataclass(frozen=True)
class AgreementSettings:
    """What is compared, and how; `evaluate_agreement` explains each."""

    text_column: str
    method: str | Sequence[str]
    options: Options
    importance: str | Sequence[str]
    statistic: str | Sequence[str]
    special_tokens: str
    decimals: int | None
    replacement: str
    signs: str
    norm: str
    embeddings: str
    truncation: bool

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        methods_of(self.method)
        for importance in self.importances:
            check_choice("importance", importance, IMPORTANCES)
        for statistic in self.statistics:
            Agreement(statistic, self.special_tokens, self.decimals)
        check_choice("replacement", self.replacement, REPLACEMENTS)
        check_choice("signs", self.signs, SIGNS)
        check_choice("norm", self.norm, NORMS)
        check_choice("embeddings", self.embeddings, EMBEDDINGS)
        if self.options.output_position != "auto" or self.options.layer != -1:
            raise OptionError(
                "agreement is of every layer, at the position that the model's head reads: leave both out"
            )
        if (self.options.normalize, self.options.special_tokens, self.options.first_token) != ("sum", "keep", "keep"):
            raise OptionError(
                "normalize, special_tokens and first_token of the options change no order of tokens; leave them out, "
                "and say special_tokens of the agreement"
            )

    @property
    def importances(self) -> list[str]:
        """The kinds of importance asked for."""
        return _several("importance", self.importance)

    @property
    def statistics(self) -> list[str]:
        """The statistics asked for."""
        return _several("statistic", self.statistic)

    @property
    def columns(self) -> list[tuple[str, str, str]]:
        """What a row has a list of values for: each statistic, importance and method."""
        methods = methods_of(self.method)
        return [(s, i, m) for s in self.statistics for i in self.importances for m in methods]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        lists = {"method": methods_of(self.method), "importance": self.importances, "statistic": self.statistics}
        plain: dict[str, Any] = json.loads(json.dumps({**asdict(self), **lists}, default=lambda value: value.tolist()))
        return plain


@dataclass(frozen=True)
class AgreementRows:
    """Finds how far attributions agree with importance, for a run.

    Attributes:
        attributor: The wrapped model.
        settings: What was asked for.
    """

    attributor: Attributor
    settings: AgreementSettings

    def check(self) -> None:
        """Raise what would be an error in every row, before the first.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        with suppress(TextError):  # a tokenizer that knows none of the sample's words
            self._rows([_SAMPLE_TEXT])

    def schema(self) -> pa.Schema:
        """Return the columns that are added: a value for each layer, or null with the reason in `missing`."""
        names = [column_name(*column) for column in self.settings.columns]
        values = [pa.field(name, pa.list_(pa.float64())) for name in names]
        counted = [pa.field("n_tokens", pa.int32()), pa.field("prediction_label", pa.string())]
        return pa.schema([*counted, *values, pa.field(REASONS, pa.list_(pa.string())), pa.field("error", pa.string())])

    def rows(self, table: pa.Table) -> Iterator[tuple[int, Row]]:
        """Yield the index of each row of the data set, and what is added to it.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        if len(table):
            yield from enumerate(self._rows(table[self.settings.text_column].to_pylist()))

    def _rows(self, texts: list[str]) -> list[Row]:
        attributor, settings = self.attributor, self.settings
        asked = given(attributor.model, attributor.tokenizer, texts, truncation=settings.truncation)
        every = replace(settings.options, layer="all", normalize="none")
        methods = methods_of(settings.method)
        found = dict(attribute_each(attributor.wrapped, asked, methods, every, lambda _, by_method: by_method))
        importances = {kind: self._importance(kind, texts) for kind in settings.importances}
        return [
            self._row(found[index], {kind: scores[index] for kind, scores in importances.items()})
            for index in range(len(texts))
        ]

    def _importance(self, kind: str, texts: list[str]) -> list[Importance]:
        function, names = IMPORTANCES[kind]
        options = {name: getattr(self.settings, name) for name in names}
        return function(self.attributor, texts, special_tokens="keep", truncation=self.settings.truncation, **options)

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


def _several(name: str, value: Any) -> list[str]:
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, (list, tuple)) or not several or len(set(several)) < len(several):
        raise OptionError(f"{name} must be one, or a list of different ones, got {value!r}")
    return list(several)
