"""`MeasuredTexts`: what the measures of evaluations share, however they read a row of the data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import TextError
from attnflow_hf.shards import Row

SAMPLE_TEXT = "a b c d"
"""What a measure is tried on before the first row."""


@dataclass(frozen=True)
class MeasuredTexts(ABC):
    """A measure of runs that reads something of each row, and finds what is added to many of them at once.

    Attributes:
        attributor: The wrapped model.
    """

    attributor: Attributor

    @abstractmethod
    def _read(self, table: pa.Table) -> list[Any]:
        """Return what is measured of each row."""

    @abstractmethod
    def _sample(self) -> Any:
        """Return the like of it that any model can read, such as `SAMPLE_TEXT`."""

    @abstractmethod
    def _rows(self, asked: list[Any]) -> list[Row]:
        """Return what is added to each row."""

    def check(self) -> None:
        """Raise what would be an error in every row, before the first.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        with suppress(TextError):  # a tokenizer that knows none of the sample's words
            self._rows([self._sample()])

    def rows(self, table: pa.Table) -> Iterator[tuple[int, Row]]:
        """Yield the index of each row of the data set, and what is added to it.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        if len(table):
            yield from enumerate(self._rows(self._read(table)))
