"""Dinic's algorithm on one layered graph after the other, compiled: exact, and its work follows the flow.

A maximum flow of one (output position, token) pair touches a few edges a node, out of the `n` that each node has. So
nothing here walks over all `L n^2` edges for a pair: the search for shortest paths looks once at each node, and a
phase of pushes at those edges that it uses, and at few more.

Numbering. `top` is the number of layers below the source, which stands on that level; the sink is on level 0. The nodes
between have the numbers `level * n + position`. The edges between those nodes, here called inner edges, have the
numbers `(v - 2 n) n + k`, from node `v` to position `k` of the level below. The edges of the source and of the sink are
kept as what each node of the highest level may still take (`supply`) and each of level 1 may still give (`demand`).

Phases. Each phase labels the nodes with their distance to the sink and sends all that goes along falling labels. A
node tries its edges in one order and never goes back, so that what is left of the one it has come to is all that must
be known: the capacities stay as they are, and what was sent stands in a log. Most pairs need one phase, and after it a
full cut can be read off: all edges into the sink, all out of the source, or all out of the output position's own column
of nodes. Only if there is none of these the log is settled: what was sent is taken from the spare capacities, and each
edge that carries flow keeps one push.

Start. What goes straight down, or along stars around the two ends, can be sent as vectors before the first phase. This
halves the work of some graphs and is lost on others, so both ways are tried on each source's first few sinks.

Lists. The nodes that a node can send to, those of the level below with the next label, stand side by side in `alive`.
When a quarter of such a list is dead it is closed up, and the cursors that point into it are moved along.

Exactness. All is float64. What is sent is the least of three numbers, and `a - b` is zero for no `b` but `a`; so an
edge is full when nothing is left of it. An edge's flow is kept beside its spare capacity, as 1 - 1e-300 is 1; and what
a node has sent is summed up, not subtracted from what it was asked for. Crumbs, less than 2^-64 of the flow found so
far, are not sent: a graph of local attention has more of them than of anything else. What they leave of the cut in the
end is summed up, and if that is more than the last digit of the value can show, the search goes on with smaller ones.
So each value is a flow and the capacity of a cut to the last digit, whatever the graph; there is no other tolerance.
"""

import numpy as np

from attnflow_hf.backends.flow_cut import INNER, SINK_COLUMN, SOURCE_SIDE, UNFINISHED, full_cut, sum_of, write_cut
from attnflow_hf.backends.flow_log import put_back, settle
from attnflow_hf.backends.flow_push import send_all
from attnflow_hf.backends.flow_search import label_by_level, label_by_search
from attnflow_hf.backends.flow_star import send_star
from attnflow_hf.backends.flow_workspace import (
    HIGH,
    LOW,
    N_PUSHES,
    N_SEARCHES,
    N_SETTLED,
    STARRED,
    U,
    Workspace,
    compiled,
    compiled_part,
)
from attnflow_hf.errors import BoolArray, FloatArray, IntArray

N_TRIALS, RETRIAL = 8, 32
"""So many pairs of a source try both starts in turn; later one in so many tries the start that was worse."""

CRUMB, SMALLEST_CRUMB, LAST_DIGIT = 2.0**-64, 2.0**-124, 2.0**-53
"""As shares of the flow: what is too little to be sent, and what may be left of a cut that proves the flow maximal.

Half of the last digit cannot be seen in the sum. If more than that is left, crumbs get smaller, down to nothing.
"""

STAR_WORK = 0.6
"""What the star costs for each node, in pushes."""


@compiled
def solve(
    work: Workspace,
    weights: FloatArray,
    inner: FloatArray,
    sink_weights: FloatArray,
    top: int,
    is_causal: bool,
    source: int,
    sinks: IntArray,
    largest: float,
    max_pushes: int,
    values: FloatArray,
    bounds: FloatArray,
    ends: IntArray,
    n_pushes: IntArray,
    cuts: BoolArray,
) -> None:
    """Write the flow value of each sink into `values`, and how its search has ended into `ends`.

    Dinic's algorithm: as long as the sink can be reached, label the nodes with their distance to it, and send as much
    as goes along falling labels. The distance grows from one such phase to the next.

    Args:
        work: Made for at least `top` layers of as many tokens.
        weights: The capacities, `[layer * n * n + query * n + key]`; no path from the source to a sink is unlimited.
        inner: Those of the inner edges: the same from `n * n` on.
        sink_weights: Those of the lowest layer, `[key * n + query]`.
        top: How many layers there are below the source, at least 3.
        is_causal: Whether no edge leads to a later position.
        source: The output position.
        sinks: The tokens.
        largest: The largest of all capacities.
        max_pushes: After so many pushes a pair is given up.
        values: One for each sink.
        bounds: Likewise; values that the maximum flows cannot pass.
        ends: Likewise; `UNFINISHED` or the full cut.
        n_pushes: Likewise.
        cuts: `[sink, level, position]`, which nodes are on the source's side; not written if it has no rows.
    """
    n = len(work.supply)
    _prepare(work.all_straight, work.all_row, work.narrowest, inner, top, n, source)
    star_work = plain_work = 0.0
    n_star = n_plain = 0
    for index in range(len(sinks)):
        sink = sinks[index]
        # In a causal graph only the tokens from the sink to the source can lie on a path.
        low, high = (sink, source + 1) if is_causal else (0, n)
        put_back(work, inner, n)
        values[index] = 0.0
        ends[index] = SOURCE_SIDE
        with_star = _is_star_better(index, star_work * n_plain, plain_work * n_star) and largest < np.inf
        work.counts[STARRED] = with_star
        work.counts[LOW], work.counts[HIGH] = low, high
        if low < high:
            values[index], ends[index] = _solve_pair(
                work, weights, inner, sink_weights, top, n, low, high, source, sink, largest, max_pushes
            )
            if with_star:
                star_work += _work_done(work.counts, top, high - low) + STAR_WORK * top * (high - low)
                n_star += 1
            else:
                plain_work += _work_done(work.counts, top, high - low)
                n_plain += 1
        bounds[index] = values[index]
        if ends[index] == UNFINISHED:
            supply, demand = sum_of(work.supply, low, high), sum_of(work.demand, low, high)
            bounds[index] += min(supply, demand)
            if bounds[index] == values[index]:  # what is left is less than the last digit
                ends[index] = SOURCE_SIDE if supply < demand else SINK_COLUMN
        n_pushes[index] = work.counts[N_PUSHES]
        if len(cuts) > 0:
            write_cut(work, top, n, low, high, source, sink, ends[index], cuts[index])


@compiled_part
def _is_star_better(index: int, star_work: float, plain_work: float) -> bool:
    """Whether the next pair is to start with the star: both ways are tried in turn, then mostly the better one."""
    if index < N_TRIALS:
        return index % 2 == 0
    return (star_work <= plain_work) != (index % RETRIAL == 0)


@compiled_part
def _work_done(counts: IntArray, top: int, width: int) -> float:
    """Return about how long the last pair took, in pushes."""
    n_pushes: float = counts[N_PUSHES] + 1.6 * counts[N_SETTLED] + 1.2 * counts[N_SEARCHES] * top * width
    return n_pushes


@compiled_part
def _prepare(
    all_straight: FloatArray,
    all_row: FloatArray,
    narrowest: FloatArray,
    inner: FloatArray,
    top: int,
    n: int,
    source: int,
) -> None:
    """Read what all pairs of a source have in common: the straight edges, and the edges out of its column."""
    for level in range(2, top):
        start = (level - 2) * n * n
        for k in range(n):
            all_straight[U(level * n + k)] = inner[U(start + k * n + k)]
            all_row[U(level * n + k)] = inner[U(start + source * n + k)]
    for k in range(n):
        least = np.inf
        for level in range(2, top):
            least = min(least, all_straight[U(level * n + k)])
        narrowest[U(k)] = least


@compiled_part
def _solve_pair(
    work: Workspace,
    weights: FloatArray,
    inner: FloatArray,
    sink_weights: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    source: int,
    sink: int,
    largest: float,
    max_pushes: int,
) -> tuple[float, int]:
    value = _start(work, weights, inner, sink_weights, top, n, low, high, source, sink, largest)
    label_by_level(work, top, n, low, high, source, sink)
    share = CRUMB
    value = send_all(work, inner, top, n, low, high, source, sink, top, 0.0, share, value, max_pushes)
    end = full_cut(work, top, n, low, high, source, sink, value * LAST_DIGIT)
    while end == UNFINISHED and work.counts[N_PUSHES] < max_pushes:
        settle(work, inner, top, n, source, sink)
        crumb = value * share
        distance = label_by_search(work, top, n, low, high, crumb)
        if distance > 0:
            value = send_all(
                work, work.spare_read, top, n, low, high, source, sink, distance, crumb, 0.0, value, max_pushes
            )
            end = full_cut(work, top, n, low, high, source, -1, value * LAST_DIGIT)
        elif work.left_of_cut[0] <= value * LAST_DIGIT:
            end = INNER
        else:
            share = share / 1024 if share > SMALLEST_CRUMB else 0.0
    return value, end


@compiled_part
def _start(
    work: Workspace,
    weights: FloatArray,
    inner: FloatArray,
    sink_weights: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    source: int,
    sink: int,
    largest: float,
) -> float:
    """Write the edges of the source and the sink; send the star, if it is wanted; return how much it carries.

    A star that carries little beside the capacities is not kept: what its edges carry is found by subtraction.
    """
    value = 0.0
    for turn in range(2):
        for k in range(low, high):
            work.supply[U(k)] = weights[U(((top - 1) * n + source) * n + k)]
            work.demand[U(k)] = sink_weights[U(sink * n + k)]
        for v in range(2 * n + low, (top - 1) * n + high):
            work.row[U(v)] = work.all_row[U(v)]
        if work.counts[STARRED] == 0 or turn == 1:
            work.counts[STARRED] = 0
            return 0.0
        for level in range(2, top):
            start = (level - 2) * n * n + sink
            for v in range(level * n + low, level * n + high):
                work.straight[U(v)] = work.all_straight[U(v)]
            for k in range(low, high):
                work.column[U(level * n + k)] = inner[U(start + k * n)]
        value = send_star(work, top, n, low, high, source, sink)
        if value >= largest / 1024:
            break
    return value
