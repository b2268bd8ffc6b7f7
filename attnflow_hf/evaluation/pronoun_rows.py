"""`PronounRows`: for each masked pronoun whom the model and its attention name; a measure of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import methods_of
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.costs import Timed
from attnflow_hf.evaluation.masked_pronouns import check_masked_model, check_options, measure_pronouns
from attnflow_hf.evaluation.pronoun_summary import summary_rows
from attnflow_hf.evaluation.pronouns import CANDIDATES, NO_REFERENT, Choice, PronounScores, PronounSentence
from attnflow_hf.options import Options
from attnflow_hf.shards import Row

_FOUND = {
    "mask_position": pa.int32(),
    "p_male": pa.float64(),
    "p_female": pa.float64(),
    "named": pa.string(),
    "not_named": pa.string(),
    "stands_for": pa.string(),
}


@dataclass(frozen=True, kw_only=True)
class PronounSettings:
    """What is asked of masked pronouns, and how; `evaluate_pronouns` explains each."""

    method: str | Sequence[str]
    options: Options
    decimals: int | None

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        methods_of(self.method)
        check_options(self.options)
        if self.decimals is not None and (isinstance(self.decimals, bool) or not isinstance(self.decimals, int)):
            raise OptionError(f"decimals must be an integer or None, got {self.decimals!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        plain = {**asdict(self), "method": methods_of(self.method)}
        return dict(json.loads(json.dumps(plain, default=lambda value: value.tolist())))


@dataclass(frozen=True)
class PronounRows:
    """Finds whom a masked language model and its attention name, for an evaluation.

    Attributes:
        attributor: The wrapped model.
        settings: What was asked for.
    """

    attributor: Attributor
    settings: PronounSettings

    def check(self) -> None:
        """Raise what would be an error in every row, before the first.

        Raises:
            AttnFlowError: The model is none that can be asked.
        """
        check_masked_model(self.attributor.wrapped)

    def schema(self) -> pa.Schema:
        """Return the columns that are added.

        They are the mask's position, both probabilities, whom the model names (`"first"` or `"second"`, or null and why
        not), whom the pronoun stands for, and of each method the scores `[layer, candidate]`.
        """
        scores = {_column(method): pa.list_(pa.list_(pa.float64())) for method in methods_of(self.settings.method)}
        return pa.schema([*_FOUND.items(), *scores.items(), ("error", pa.string())])

    def rows(self, table: pa.Table) -> Iterator[tuple[int, Row]]:
        """Yield the index of each row of the data set, and what is added to it.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        for index, found in enumerate(self._measured(table.to_pylist(), methods_of(self.settings.method))):
            scores = {_column(method): values.tolist() for method, values in found.scores.items()}
            yield (
                index,
                {
                    "mask_position": found.mask_position,
                    "p_male": found.p_male,
                    "p_female": found.p_female,
                    "named": None if found.named is None else CANDIDATES[found.named],
                    "not_named": found.reason or None,
                    "stands_for": found.sentence.referent,
                    **scores,
                },
            )

    def result_rows(self, found: pa.Table) -> list[dict[str, Any]]:
        """Return the rows of the results table, from the columns of all shards."""
        right = [each for each in found.to_pylist() if each["mask_position"] is not None]  # others are errors
        choices = [
            {
                "prediction": _choice(each["named"], each["not_named"]),
                "referent": _choice(each["stands_for"], NO_REFERENT),
            }
            for each in right
        ]
        scores = {
            method: [np.array(each[_column(method)]) for each in right] for method in methods_of(self.settings.method)
        }
        return summary_rows(choices, scores, decimals=self.settings.decimals) if right else []

    def timed(self, table: pa.Table) -> Iterator[Timed]:
        """Yield what is timed: the attributions of all layers, and the probabilities, by each method."""
        of_texts = {row["text"]: row for row in table.to_pylist()}
        for method in methods_of(self.settings.method):

            def score(texts: list[str], method: str = method) -> object:
                return self._measured([of_texts[text] for text in texts], [method])

            yield {"method": method}, list(of_texts), score

    def _measured(self, rows: Sequence[Mapping[str, Any]], methods: list[str]) -> list[PronounScores]:
        sentences = [PronounSentence.from_row(row) for row in rows]
        return measure_pronouns(self.attributor, sentences, method=methods, options=self.settings.options)


def _column(method: str) -> str:
    return f"scores_{method}"


def _choice(candidate: str | None, reason: str) -> Choice:
    return (None, reason) if candidate is None else (CANDIDATES.index(candidate), "")
