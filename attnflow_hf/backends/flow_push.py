"""The phases of Dinic's algorithm, second half: depth first, send all that goes along falling labels."""

from attnflow_hf.backends.flow_workspace import (
    DETOURED,
    FRESH,
    N_LOGGED,
    N_OPEN,
    N_PUSHES,
    STARRED,
    U,
    Workspace,
    compiled_part,
    inlined,
)
from attnflow_hf.errors import FloatArray

STRAIGHT, END = -2, -3
"""Cursors of the edge straight below, and of a node that has tried all; `END - push` for what a push has brought.

From 0 on they are indices of a list; `FRESH` is that of a node that has tried nothing yet.
"""


@compiled_part
def send_all(
    work: Workspace,
    spare: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    source: int,
    sink: int,
    distance: int,
    crumb: float,
    crumb_share: float,
    value: float,
    max_pushes: int,
) -> float:
    """Send flow along falling labels until every such path has an edge that is full; return the value of all flow.

    An edge of which no more than a `crumb` is left counts as full; a crumb is at least `crumb_share` of the flow so
    far, whose value was `value`. The phase ends early if the log is full, or `max_pushes` are reached: the next one
    goes on from there.
    """
    supply = work.supply
    work.counts[DETOURED] = 0
    n_logged = work.counts[N_LOGGED]
    limit = min(len(work.log) - 4 * len(work.label) - 2 * n, n_logged + max_pushes - work.counts[N_PUSHES])
    for turn in range(low - 1, high):
        k = source if turn < low else turn  # first the edge that is the strongest as a rule
        v = (top - 1) * n + k
        crumb = max(crumb, value * crumb_share)
        if supply[U(k)] > crumb and work.label[U(v)] == distance - 1:
            wanted = supply[U(k)]
            sent = _send_from(
                work, spare, top, n, source, sink, k, distance - 1, crumb, crumb_share, value, wanted, limit
            )
            supply[U(k)] = wanted - sent if sent < wanted else 0.0
            value += sent
            if work.counts[N_OPEN] == 0 or work.counts[N_LOGGED] >= limit:
                break
    work.counts[N_PUSHES] += work.counts[N_LOGGED] - n_logged
    return value


@inlined
def _send_from(
    work: Workspace,
    spare: FloatArray,
    top: int,
    n: int,
    source: int,
    sink: int,
    root: int,
    root_label: int,
    crumb: float,
    crumb_share: float,
    value: float,
    wanted: float,
    limit: int,
) -> float:
    """Send up to `wanted` from `root` to the sink, depth first; return how much was sent.

    A node asks the nodes next to it, one after the other, until all that it was asked for is sent. If they cannot
    send so much, it is dead for the rest of the phase, and is never tried again.
    """
    label, cursor, rest, size, n_dead, counts = work.label, work.cursor, work.rest, work.size, work.n_dead, work.counts
    path, path_level, all_asked, all_sent, log = work.path, work.path_level, work.asked, work.sent, work.log
    n_logged = counts[N_LOGGED]
    starred = counts[STARRED] == 1
    depth = 0
    level = top - 1
    k = root
    d = root_label
    asked = wanted
    sent = 0.0
    while True:
        v = level * n + k
        below = (d - 1) * top + level - 1
        if level > 1 and 4 * n_dead[U(below)] > size[U(below)]:
            _close_up(work, spare, top, n, d, level, source, sink, starred)
        if d == 2:
            sent, n_logged = _send_by_level_one(work, spare, top, n, source, sink, starred, crumb, v, asked, n_logged)
            value += sent
            crumb = max(crumb, value * crumb_share)
        go_on = counts[N_OPEN] > 0 and n_logged < limit
        is_short = asked - sent > crumb and go_on
        if d > 2 and is_short:
            child = _find_child(work, spare, n, level, k, d, below, source, sink, starred, crumb)
            if child >= 0:
                path[U(depth)] = k
                path_level[U(depth)] = level
                all_asked[U(depth)] = asked
                all_sent[U(depth)] = sent
                depth += 1
                asked = min(asked - sent, rest[U(v)])
                sent = 0.0
                level += 1 if cursor[U(v)] < END else -1
                k = child
                d -= 1
                continue
        if is_short:
            label[U(v)] = 0
            n_dead[U(d * top + level)] += 1
        if depth == 0:
            counts[N_LOGGED] = n_logged
            return sent
        child, amount = k, sent
        depth -= 1
        d += 1
        k = path[U(depth)]
        level = path_level[U(depth)]
        v = level * n + k
        asked = all_asked[U(depth)]
        sent = all_sent[U(depth)]
        if amount > 0.0:
            at = cursor[U(v)]
            n_logged += 1
            push = log[U(n_logged)]
            push.carried = amount
            push.upper = -1 if at < END else v
            push.lower = END - at if at < END else (level - 1) * n + child
            rest[U(v)] -= amount
            sent = sent + amount if amount < asked - sent else asked
            if k == source:
                if at >= 0:
                    work.row_rest[U(v - k + child)] = rest[U(v)]
            elif child == source:
                counts[DETOURED] = 1


@inlined
def _find_child(
    work: Workspace,
    spare: FloatArray,
    n: int,
    level: int,
    k: int,
    d: int,
    below: int,
    source: int,
    sink: int,
    starred: bool,
    crumb: float,
) -> int:
    """Return the position of the next node that the node `k` of `level` and label `d` can send to, or -1.

    The node straight below comes first, as the residual connection makes that edge strong; then the other nodes of that
    level; then those above, to which `v` gives back flow that came from them.
    """
    label, alive = work.label, work.alive
    v = level * n + k
    at = work.cursor[U(v)]
    left = work.rest[U(v)]
    if level == 1:
        if at == FRESH:
            at = END - work.first_in[U(v)]
            left = work.log[U(work.first_in[U(v)])].carried
    else:
        base = (level - 1) * n
        start, size = work.first[U(below)], work.size[U(below)]
        if at == FRESH:
            at = STRAIGHT
            left = work.straight[U(v)] if starred else spare[U((v - 2 * n) * n + k)]
        if at == STRAIGHT:
            if left > crumb and label[U(base + k)] == d - 1:
                work.cursor[U(v)] = at
                work.rest[U(v)] = left
                return k
            at = 0
            if size > 0:
                left = _left(work, spare, n, v, k, alive[U(start)], source, sink, starred)
        if at >= 0:
            while at < size:
                x: int = alive[U(start + at)]
                if left > crumb and label[U(base + x)] == d - 1:
                    work.cursor[U(v)] = at
                    work.rest[U(v)] = left
                    return x
                at += 1
                if at < size:
                    left = _left(work, spare, n, v, k, alive[U(start + at)], source, sink, starred)
            at = END - work.first_in[U(v)]
            left = work.log[U(work.first_in[U(v)])].carried
    while at < END:
        push = work.log[U(END - at)]
        if left > crumb and label[U(push.upper)] == d - 1:
            work.cursor[U(v)] = at
            work.rest[U(v)] = left
            above: int = push.upper - (level + 1) * n
            return above
        at = END - push.next_in
        left = work.log[U(push.next_in)].carried
    work.cursor[U(v)] = at
    return -1


@inlined
def _left(
    work: Workspace, spare: FloatArray, n: int, v: int, k: int, x: int, source: int, sink: int, starred: bool
) -> float:
    """Return what is left of an edge of a list: of the one straight below nothing, as it has been tried."""
    left: float
    if x == k:
        left = 0.0
    elif starred and k == source:
        left = work.row[U(v - k + x)]
    elif starred and x == sink:
        left = work.column[U(v)]
    else:
        left = spare[U((v - 2 * n) * n + x)]
    return left


@inlined
def _send_by_level_one(
    work: Workspace,
    spare: FloatArray,
    top: int,
    n: int,
    source: int,
    sink: int,
    starred: bool,
    crumb: float,
    v: int,
    asked: float,
    n_logged: int,
) -> tuple[float, int]:
    """Send what is asked of `v`, of label 2, by nodes of label 1: the hops that are most of the work."""
    alive, demand, log = work.alive, work.demand, work.log
    k = v - 2 * n
    start, size = work.first[U(top + 1)], work.size[U(top + 1)]
    at = work.cursor[U(v)]
    left = work.rest[U(v)]
    if at == FRESH:
        at = STRAIGHT
        left = work.straight[U(v)] if starred else spare[U(k * n + k)]
    x = k if at == STRAIGHT else (alive[U(start + at)] if at < size else k)
    sent = 0.0
    while at < size:
        amount = min(min(asked - sent, left), demand[U(x)])
        if amount > crumb:
            n_logged += 1
            push = log[U(n_logged)]
            push.carried = amount
            push.upper = v
            push.lower = n + x
            left -= amount
            demand[U(x)] -= amount
            if demand[U(x)] <= crumb:
                work.label[U(n + x)] = 0
                work.n_dead[U(top + 1)] += 1
                work.counts[N_OPEN] -= 1
            if k == source:
                if at >= 0:
                    work.row_rest[U(v - k + x)] = left
            elif x == source:
                work.counts[DETOURED] = 1
            sent = sent + amount if amount < asked - sent else asked
            if asked - sent <= crumb:
                break
        at = at + 1 if at >= 0 else 0
        if at < size:
            x = alive[U(start + at)]
            left = _left(work, spare, n, v, k, x, source, sink, starred)
    work.cursor[U(v)] = at
    work.rest[U(v)] = left
    return sent, n_logged


@compiled_part
def _close_up(
    work: Workspace, spare: FloatArray, top: int, n: int, d: int, level: int, source: int, sink: int, starred: bool
) -> None:
    """Take the dead nodes out of the list below label `d` of `level`, and move the cursors that point into it."""
    alive, cursor, moved = work.alive, work.cursor, work.moved
    below, own = (d - 1) * top + level - 1, d * top + level
    start, size = work.first[U(below)], work.size[U(below)]
    n_kept = 0
    for at in range(size):
        x = alive[U(start + at)]
        alive[U(start + n_kept)] = x
        moved[U(at)] = n_kept
        n_kept += work.label[U((level - 1) * n + x)] == d - 1
    moved[U(size)] = n_kept
    work.size[U(below)] = n_kept
    work.n_dead[U(below)] = 0
    for index in range(work.first[U(own)], work.first[U(own)] + work.size[U(own)]):
        k = alive[U(index)]
        v = level * n + k
        at = cursor[U(v)]
        if at >= 0:
            cursor[U(v)] = moved[U(at)]
            if at < size and moved[U(at + 1)] == moved[U(at)] and moved[U(at)] < n_kept:
                x = alive[U(start + moved[U(at)])]
                work.rest[U(v)] = _left(work, spare, n, v, k, x, source, sink, starred)
