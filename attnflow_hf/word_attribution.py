"""`WordAttribution`: scores summed over the tokens of each word."""

from __future__ import annotations

from dataclasses import dataclass

from attnflow_hf.errors import FloatArray
from attnflow_hf.tokens import Word


@dataclass(frozen=True, eq=False)
class WordAttribution:
    """Scores summed over words.

    Attributes:
        parts: The words, with their tokens and character offsets.
        scores: float64 `[..., word]`; the axes in front are those of the attribution.
    """

    parts: tuple[Word, ...]
    scores: FloatArray

    @property
    def words(self) -> tuple[str, ...]:
        """The words as they stand in the text."""
        return tuple(part.text for part in self.parts)
