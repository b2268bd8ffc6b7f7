"""Rows of a results table from what was measured of each text by several scorers, and from its shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from attnflow_hf.evaluation.scorings import Scoring, base_of
from attnflow_hf.evaluation.summary import Measured, summarize

Key = tuple[tuple[str, Any], ...]
"""What is measured, as columns of a results table and their values."""


def scored_rows(
    measured: Mapping[Scoring, Mapping[Key, Sequence[Measured]]], compared_with: str | None
) -> list[dict[str, Any]]:
    """Return a row for each scoring and each thing measured: mean, interval, what is missing; the paired difference.

    `difference` is the mean, over the texts on which both have a value, of the value less that of the scoring it is
    compared with; `difference_low` and `difference_high` are its bootstrap interval over those texts, `n_pairs`.

    Args:
        measured: For each scoring what was measured of each text, the same texts in the same order.
        compared_with: The name of a scorer; see `base_of`.
    """
    rows = []
    for scoring, by_key in measured.items():
        base = base_of(scoring, list(measured), compared_with)
        for key, values in by_key.items():
            row = {**scoring.row, **dict(key), **summarize(values).to_row()}
            rows.append({**row, **_difference(values, None if base is None else measured[base][key], base)})
    return rows


def _difference(values: Sequence[Measured], others: Sequence[Measured] | None, base: Scoring | None) -> dict[str, Any]:
    found = summarize(
        Measured(one.value - other.value)
        for one, other in zip(values, others or (), strict=others is not None)
        if one.value is not None and other.value is not None
    )
    return {
        "compared_with": None if base is None else base.shown,
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "n_pairs": None if base is None else found.n,
    }


def values_of(column: pa.ChunkedArray, reasons: Sequence[str | None], undefined: str) -> list[Measured]:
    """Return what a column of the shards holds of each text that could be evaluated.

    Args:
        column: Numbers, null where there is none.
        reasons: Why a text has no scores that tell anything; `None` where it has.
        undefined: Why a number is missing otherwise.
    """
    return [
        Measured(value, "" if value is not None else reason or undefined)
        for value, reason in zip(column.to_pylist(), reasons, strict=True)
    ]
