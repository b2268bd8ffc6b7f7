"""The phases of Dinic's algorithm, first half: each node's distance to the sink, and lists of those that are alive."""

from attnflow_hf.backends.flow_workspace import (
    FRESH,
    N_OPEN,
    N_SEARCHES,
    NodeArray,
    U,
    Workspace,
    compiled_part,
)


@compiled_part
def label_by_level(work: Workspace, top: int, n: int, low: int, high: int, source: int, sink: int) -> None:
    """Label the nodes with their levels.

    Before anything flows no path can be shorter; a node from which none leads on is found out when it is tried. The
    flow must gather in the column of the sink in the end, so this node stands first in each list. Going back to the
    column of the source is of little use, so this one stands last.
    """
    label, alive, demand = work.label, work.alive, work.demand
    for v in range(n, top * n):
        label[U(v)] = work.level[U(v)]
    for v in range(n, top * n):
        work.cursor[U(v)] = FRESH
    for v in range(n, top * n):
        work.row_rest[U(v)] = work.row[U(v)]
    size = _list_positions(alive, 2 * n, low, high, source, sink)
    for level in range(2, top):
        for index in range(size):
            alive[U(level * n + index)] = alive[U(2 * n + index)]
        work.first[U(level * top + level)] = level * n
        work.size[U(level * top + level)] = size
        work.n_dead[U(level * top + level)] = 0
    n_open = 0
    for index in range(size):
        k = alive[U(2 * n + index)]
        alive[U(n + n_open)] = k
        n_open += demand[U(k)] > 0.0
    for k in range(low, high):
        label[U(n + k)] = demand[U(k)] > 0.0
    work.first[U(top + 1)] = n
    work.size[U(top + 1)] = n_open
    work.n_dead[U(top + 1)] = 0
    work.counts[N_OPEN] = n_open


@compiled_part
def _list_positions(alive: NodeArray, start: int, low: int, high: int, source: int, sink: int) -> int:
    """List the positions from `low` to `high`, the sink's first and the source's last; return their number."""
    alive[U(start)] = sink
    size = 1
    for k in range(low, high):
        alive[U(start + size)] = k
        size += k not in (sink, source)
    if source != sink:
        alive[U(start + size)] = source
        size += 1
    return size


@compiled_part
def label_by_search(work: Workspace, top: int, n: int, low: int, high: int, crumb: float) -> int:
    """Label the nodes with their distance to the sink, breadth first; return that of the source, or 0 if cut off.

    No path takes an edge of which no more than a `crumb` is left. What is left of those that were met is summed up: if
    the source is cut off, it is at least what is left of the cut.
    """
    work.left_of_cut[0] = 0.0
    work.counts[N_SEARCHES] += 1
    n_queued = _label_level_one(work, top, n, low, high, crumb)
    distance = 0
    at = 0
    while at < n_queued and distance == 0:
        v = work.queue[U(at)]
        at += 1
        level = work.level[U(v)]
        if level == top - 1:
            if work.supply[U(v - level * n)] > crumb:
                distance = work.label[U(v)] + 1
            else:
                work.left_of_cut[0] += work.supply[U(v - level * n)]
        else:
            n_queued = _label_above(work, n, v, level, n_queued, crumb)
        if level > 1 and work.n_unlabeled[U(level - 1)] > 0:
            n_queued = _label_below(work, v, level, n_queued, crumb)
    if distance > 0:
        _list_alive(work, top, n, n_queued, distance)
    return distance


@compiled_part
def _label_level_one(work: Workspace, top: int, n: int, low: int, high: int, crumb: float) -> int:
    """Take all labels away, then label and queue the nodes next to the sink; return how many are queued."""
    for level in range(1, top):
        for k in range(low, high):
            work.label[U(level * n + k)] = 0
            work.unseen[U(level * n + k - low)] = k
        work.n_unseen[U(level)] = high - low
        work.n_unlabeled[U(level)] = high - low
    n_queued = 0
    for k in range(low, high):
        if work.demand[U(k)] > crumb:
            work.label[U(n + k)] = 1
            work.queue[U(n_queued)] = n + k
            n_queued += 1
        else:
            work.left_of_cut[0] += work.demand[U(k)]
    work.n_unlabeled[1] -= n_queued
    work.counts[N_OPEN] = n_queued
    return n_queued


@compiled_part
def _label_above(work: Workspace, n: int, v: int, level: int, n_queued: int, crumb: float) -> int:
    """Label the unseen nodes above `v` whose edge to it has spare capacity; return how many are queued."""
    label, unseen, spare, queue = work.label, work.unseen, work.spare, work.queue
    above = (level + 1) * n
    edge_to_v = (level - 1) * n * n + v - level * n
    n_kept = 0
    for index in range(above, above + work.n_unseen[U(level + 1)]):
        k = unseen[U(index)]
        if label[U(above + k)] != 0:
            continue
        if spare[U(edge_to_v + k * n)] > crumb:
            label[U(above + k)] = label[U(v)] + 1
            queue[U(n_queued)] = above + k
            n_queued += 1
            work.n_unlabeled[U(level + 1)] -= 1
        else:
            work.left_of_cut[0] += spare[U(edge_to_v + k * n)]
            unseen[U(above + n_kept)] = k
            n_kept += 1
    work.n_unseen[U(level + 1)] = n_kept
    return n_queued


@compiled_part
def _label_below(work: Workspace, v: int, level: int, n_queued: int, crumb: float) -> int:
    """Label the unseen nodes below `v` that can send flow back up to it; return how many are queued."""
    at = work.first_out[U(v)]
    while at > 0:
        push = work.log[U(at)]
        if push.carried <= crumb:
            work.left_of_cut[0] += push.carried
        elif work.label[U(push.lower)] == 0:
            work.label[U(push.lower)] = work.label[U(v)] + 1
            work.queue[U(n_queued)] = push.lower
            n_queued += 1
            work.n_unlabeled[U(level - 1)] -= 1
        at = push.next_out
    return n_queued


@compiled_part
def _list_alive(work: Workspace, top: int, n: int, n_queued: int, distance: int) -> None:
    """List the queued nodes by label and level; those not nearer to the sink than the source lose their labels."""
    label, queue, size, first = work.label, work.queue, work.size, work.first
    for index in range(top, distance * top):
        size[U(index)] = 0
        work.n_dead[U(index)] = 0
    n_near = n_queued
    while label[U(queue[U(n_near - 1)])] >= distance:
        n_near -= 1
        label[U(queue[U(n_near)])] = 0
    for at in range(n_near):
        v = queue[U(at)]
        size[U(label[U(v)] * top + work.level[U(v)])] += 1
    start = 0
    for index in range(top, distance * top):
        first[U(index)] = start
        start += size[U(index)]
        size[U(index)] = 0
    for at in range(n_near):
        v = queue[U(at)]
        level = work.level[U(v)]
        index = label[U(v)] * top + level
        work.alive[U(first[U(index)] + size[U(index)])] = v - level * n
        size[U(index)] += 1
        work.cursor[U(v)] = FRESH
