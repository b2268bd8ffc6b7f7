"""Flows as ribbons between the levels of a graph: as thick as what they carry, side by side, never over each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnflow_hf.errors import FloatArray

_STEPS = 33


@dataclass(frozen=True)
class Ribbon:
    """A part of a flow over one edge, from a node at the right to one at the left.

    Attributes:
        layer: The layer; the edge leads from level `layer + 1` to level `layer`.
        query: The row at its right end.
        key: The row at its left end.
        amount: How much it carries.
        group: What it belongs to; those of one group touch.
    """

    layer: int
    query: int
    key: int
    amount: float
    group: int = 0


@dataclass(frozen=True)
class Stacked:
    """A ribbon and where it lies.

    Attributes:
        ribbon: The ribbon.
        left: The middle of its left end, in rows.
        right: The middle of its right end, in rows.
        thickness: In rows.
    """

    ribbon: Ribbon
    left: float
    right: float
    thickness: float

    def middle(self, share: float) -> tuple[float, float]:
        """Return the point of its middle line at a share of the way from left to right: level and row."""
        return self.ribbon.layer + share, self.left + (self.right - self.left) * float(_smooth(np.array(share)))

    def outline(self) -> FloatArray:
        """Return its outline, float64 `[point, 2]`: level and row."""
        share = np.linspace(0, 1, _STEPS)
        middle = self.left + (self.right - self.left) * _smooth(share)
        level = self.ribbon.layer + share
        half = self.thickness / 2
        upper, lower = np.stack([level, middle - half], axis=-1), np.stack([level, middle + half], axis=-1)
        return np.concatenate([upper, lower[::-1]])


def stack(ribbons: Sequence[Ribbon], scale: float) -> list[Stacked]:
    """Return where ribbons lie: at each node one above the other, in the order of their other ends.

    Args:
        ribbons: All of a picture.
        scale: Rows for an amount of 1.
    """
    left, right = _ends(ribbons, scale, at_left=True), _ends(ribbons, scale, at_left=False)
    return [Stacked(each, left[i], right[i], each.amount * scale) for i, each in enumerate(ribbons)]


def _ends(ribbons: Sequence[Ribbon], scale: float, *, at_left: bool) -> dict[int, float]:
    """Return the middle of each ribbon's end on one side, in rows, by its index."""
    nodes: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for index, each in enumerate(ribbons):
        own, other = (each.key, each.query) if at_left else (each.query, each.key)
        nodes[each.layer, own].append((other, each.group, index))
    ends: dict[int, float] = {}
    for (_, row), members in nodes.items():
        amounts = np.array([ribbons[index].amount for _, _, index in sorted(members)]) * scale
        tops = row - amounts.sum() / 2 + np.concatenate([[0.0], np.cumsum(amounts)[:-1]])
        for (_, _, index), top, amount in zip(sorted(members), tops, amounts, strict=True):
            ends[index] = float(top + amount / 2)
    return ends


def _smooth(share: FloatArray) -> FloatArray:
    """Return a way from 0 to 1 that starts and ends level."""
    return np.asarray(share * share * (3 - 2 * share))
