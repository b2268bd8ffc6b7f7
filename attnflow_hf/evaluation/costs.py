"""What the scores of an evaluation cost: time and memory on some of its texts, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from attnflow_hf.evaluation.cost import Cost, measured_cost

Timed = tuple[Mapping[str, Any], list[Any], Callable[[list[Any]], object]]
"""Which rows of a results table scores belong to (the values of their columns), texts, and what makes the scores."""


def costs_of(timed: Iterable[Timed], device: str) -> Iterator[tuple[Mapping[str, Any], Cost]]:
    """Yield what each kind of scores costs a text, and which rows it belongs to.

    The longest text is scored once before, so that nothing is measured that is compiled or loaded on first use.

    Args:
        timed: What is measured.
        device: Where the model is.
    """
    for own, texts, score in timed:
        score([max(texts, key=len)])
        _, cost = measured_cost(partial(score, texts), n_sentences=len(texts), device=device)
        yield own, cost


def with_costs(rows: Iterable[Mapping[str, Any]], costs: Iterable[tuple[Mapping[str, Any], Cost]]) -> list[Any]:
    """Return rows of a results table with the columns of the costs that belong to them."""
    known = list(costs)
    return [
        {
            **row,
            **{
                name: value
                for own, cost in known
                if own.items() <= row.items()
                for name, value in cost.to_row().items()
            },
        }
        for row in rows
    ]
