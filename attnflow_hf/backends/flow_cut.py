"""The cuts that end a search: those at the two ends, which can be read off, and what is written of any."""

import numpy as np

from attnflow_hf.backends.flow_workspace import (
    DETOURED,
    N_LOGGED,
    STARRED,
    Records,
    U,
    Workspace,
    compiled_part,
)
from attnflow_hf.errors import BoolArray, FloatArray

UNFINISHED, SOURCE_SIDE, SINK_COLUMN, OWN_COLUMN, INNER = range(5)
"""What has ended the search: too many pushes, or the full cut that was found."""


@compiled_part
def full_cut(work: Workspace, top: int, n: int, low: int, high: int, source: int, sink: int, least: float) -> int:
    """Return which cut at the two ends is full, so that no more than `least` is left of it, or `UNFINISHED`.

    After the first phase, in which `sink` is given, this may also be the source's column.
    """
    if sum_of(work.demand, low, high) <= least:
        return SINK_COLUMN
    if sum_of(work.supply, low, high) <= least:
        return SOURCE_SIDE
    if sink >= 0 and _left_of_own_column(work, top, n, low, high, source, sink) <= least:
        return OWN_COLUMN
    return UNFINISHED


@compiled_part
def _left_of_own_column(work: Workspace, top: int, n: int, low: int, high: int, source: int, sink: int) -> float:
    """Return what is left of the edges out of the source's column, if nothing has come back into it.

    An edge to level 1 may have something left: its node is then on the source's side too, if it can give no more to the
    sink and has got nothing from elsewhere.
    """
    if source == sink or work.counts[DETOURED]:
        return np.inf
    total: float = work.demand[U(source)]
    for k in range(low, high):
        if k != source:
            total += work.supply[U(k)]
    for level in range(3, top):
        for k in range(low, high):
            if k != source:
                total += work.row_rest[U(level * n + k)]
    any_reached = False
    for k in range(low, high):
        if k != source and work.row_rest[U(2 * n + k)] > 0.0:
            any_reached = True
            has_straight = work.counts[STARRED] and work.straight[U(2 * n + k)] < work.all_straight[U(2 * n + k)]
            if k == sink or has_straight:
                return np.inf
            total += work.demand[U(k)]
    is_cut = not any_reached or not _gets_reached_more(work.log, work.counts[N_LOGGED], work.row_rest, n, source)
    return total if is_cut else np.inf


@compiled_part
def _gets_reached_more(log: Records, n_logged: int, row_rest: FloatArray, n: int, source: int) -> bool:
    """Whether a node of level 1 that the source's column can reach has got flow from elsewhere."""
    for at in range(1, n_logged + 1):
        push = log[U(at)]
        if push.lower < 2 * n and push.upper != 2 * n + source and row_rest[U(push.lower + n)] > 0.0:
            return True
    return False


@compiled_part
def write_cut(
    work: Workspace, top: int, n: int, low: int, high: int, source: int, sink: int, end: int, cut: BoolArray
) -> None:
    """Write which nodes are on the source's side of the full cut, `[level, position]`.

    Nodes that lead nowhere are on it: tokens but the sink, and in a causal graph the positions before the sink.
    """
    for k in range(n):
        cut[0, k] = k != sink
        cut[top, k] = k == source
    for level in range(1, top):
        for k in range(n):
            v = level * n + k
            if low <= k < high:
                is_reached = k == source or (level == 1 and work.row_rest[2 * n + k] > 0.0)
                on_top = end == SINK_COLUMN or (end == OWN_COLUMN and is_reached)
                cut[level, k] = on_top or (end == INNER and work.label[v] == 0)
            else:
                cut[level, k] = k < low


@compiled_part
def sum_of(numbers: FloatArray, low: int, high: int) -> float:
    """Return the sum of `numbers` from `low` to `high`."""
    total = 0.0
    for k in range(low, high):
        total += numbers[U(k)]
    return total
