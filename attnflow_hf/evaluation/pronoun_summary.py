"""How often attributions name the candidate that a masked pronoun stands for, over many sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attnflow_hf.errors import FloatArray
from attnflow_hf.evaluation.pronouns import CHANCE, METRICS, Choice, PronounScores, agreement_of
from attnflow_hf.evaluation.summary import Bootstrap, summarize
from attnflow_hf.evaluation.table import ResultTable

_ALWAYS_FIRST = np.array([[1.0, 0.0]])


def summarize_pronouns(
    found: Iterable[PronounScores], *, decimals: int | None = 9, bootstrap: Bootstrap | None = None
) -> ResultTable:
    """Return how often attributions name the candidate that the model names, and the one that the pronoun stands for.

    Args:
        found: What `measure_pronouns` returned.
        decimals: Scores are rounded to so many decimals first; `None` takes them as they are.
        bootstrap: How the interval of a rate is found.

    Returns:
        A row for each metric (`"prediction"`, `"referent"`), method and layer: the rate with its interval; `n`, of how
        many sentences it is, and how many are `missing` and why; `n_tied`, in how many of them both candidates have the
        same score, which counts a half; `chance`, the rate of random scores, a half; and `always_first`, that of naming
        the first candidate whatever the sentence: a rate no higher than it, or 1 less it, can be had without looking.
    """
    every = list(found)
    scores = {method: [each.scores[method] for each in every] for method in (every[0].scores if every else ())}
    rows = summary_rows([each.choices for each in every], scores, decimals=decimals, bootstrap=bootstrap)
    return ResultTable.from_rows(rows, config={"decimals": decimals})


def summary_rows(
    choices: Sequence[Mapping[str, Choice]],
    scores: Mapping[str, Sequence[FloatArray]],
    *,
    decimals: int | None,
    bootstrap: Bootstrap | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the table of `summarize_pronouns`.

    Args:
        choices: Of each sentence the right candidate, by metric.
        scores: By method, of each sentence `[layer, candidate]`.
        decimals: As there.
        bootstrap: As there.
    """
    rows = []
    for metric in METRICS:
        right = [each[metric] for each in choices]
        always_first = summarize(agreement_of(_ALWAYS_FIRST, each, None)[0] for each in right).mean
        shown = None if always_first is None else round(always_first, 4)
        for method, of_sentences in scores.items():
            agreement = [agreement_of(*each, decimals) for each in zip(of_sentences, right, strict=True)]
            for layer, measured in enumerate(zip(*agreement, strict=True)):
                rows.append(
                    {
                        "method": method,
                        "layer": layer,
                        "metric": metric,
                        **summarize(measured, bootstrap=bootstrap).to_row(),
                        "n_tied": sum(each.value == CHANCE for each in measured),
                        "chance": CHANCE,
                        "always_first": shown,
                    }
                )
    return rows
