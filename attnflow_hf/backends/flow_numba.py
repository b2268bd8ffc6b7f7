"""Attention flow, exact and compiled: Dinic's algorithm on the layered graph, whose work follows the flow.

A maximum flow of one (output position, token) pair touches a few edges a node, out of the `n` that each node has. So
nothing here walks over all `L n^2` edges for a pair: the edges that carry flow are listed and put back at the end, and
the search for shortest paths looks once at each node, at each edge that carries flow, and at few edges that are full.

Numbering. `top` is the number of layers below the source, which stands on that level; the sink is on level 0. The nodes
between have the numbers `level * n + position`. The edges between those nodes, here called inner edges, have the
numbers `(v - 2 n) n + k`, from node `v` to position `k` of the level below. An inner edge that carries flow has a slot.

Exactness. All is float64 and there is no tolerance: an edge is full when its spare capacity is zero, and the edge that
limits a push is set to zero, not computed to be. An edge's flow is kept beside its spare capacity, as 1 - 1e-300 is 1;
and what a node has sent is summed up, not subtracted from what it was asked for.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core.options import DefaultOptions

from attnflow_hf.errors import FloatArray, IntArray
from attnflow_hf.layer_graph import LayerGraph

MIN_WORK_OF_A_THREAD = 50_000
"""So many (pairs x nodes) take some milliseconds; a thread for less costs more than it gives."""

# Records, not one array for each field: a node is one cache line, and the functions keep few arguments.
NODE = np.dtype(
    [
        ("label", np.int32),  # number of edges to the sink in this phase; 0 if it cannot be reached (any more)
        ("level", np.int16),
        ("stage", np.int16),  # which of its edges it tries: STRAIGHT, LIST or BACK
        ("cursor", np.int32),  # how far it has got there: a node of the list, or a slot
        ("following", np.int32),  # the next node alive that has its label and level; -1 at the end
        ("preceding", np.int32),  # the one before; -1 at the start
        ("parent", np.int32),  # the node from which the path has come
        ("via", np.int64),  # the edge by which: its number, or minus its slot if it was gone backwards
        ("asked", np.float64),  # how much the path wants to send on from here
        ("sent", np.float64),  # how much of that has been sent
        ("end", np.float64),  # spare capacity from the source (on the highest level) or to the sink (on level 1)
        ("first_in", np.int32),  # first of the slots of edges into it; 0 if none
        ("first_out", np.int32),  # first of the slots of edges out of it; 0 if none
    ],
    align=True,
)
SLOT = np.dtype(
    [
        ("carried", np.float64),  # the flow of the edge
        ("edge", np.int64),
        ("upper", np.int32),  # its upper node
        ("lower", np.int32),  # its lower node
        ("next_in", np.int32),  # next slot of an edge into the lower node; 0 if none
        ("next_out", np.int32),  # next slot of an edge out of the upper node; 0 if none
    ],
    align=True,
)
Records = npt.NDArray[np.void]
NodeArray = npt.NDArray[np.int32]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

STRAIGHT, LIST, BACK = 0, 1, 2
TAKEN, LISTED = 0, 1

_logger = logging.getLogger("attnflow_hf")


def flow(graph: LayerGraph, layers: IntArray, output_positions: IntArray) -> FloatArray:
    """Return attention flow: the value of the maximum flow from each output position down to each single token.

    The edge from `(l + 1, query)` to `(l, key)` has the capacity `A_l[query, key]` (Abnar & Zuidema 2020, section 3).
    The values are exact but for the rounding of float64.

    Args:
        graph: The capacities `A`, `[layer, query, key]`.
        layers: Indices of the explained layers.
        output_positions: Indices of the explained positions.

    Returns:
        float64 `[layer, output position, token]`, nonnegative: 0 where no path leads to the token, `inf` where
        one of unlimited edges does. A row of a trained encoder takes milliseconds at 128 tokens; each thread holds a
        copy of the layers between the lowest and the explained one.

    Example:
        >>> graph = LayerGraph([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> flow(graph, np.array([1]), np.array([1]))
        array([[[1. , 0.5]]])
    """
    values = np.empty((len(layers), len(output_positions), graph.n_tokens))
    for index, layer in enumerate(layers.tolist()):
        if layer == 0:
            values[index] = graph.weights[0, output_positions]
        elif layer == 1:
            values[index] = _flow_of_two_layers(graph.weights, output_positions)
        else:
            values[index] = _flow_of_more_layers(graph, layer + 1, output_positions)
    return values


def _flow_of_two_layers(weights: FloatArray, output_positions: IntArray) -> FloatArray:
    """Return the flow through two layers: each node between them lets through the lesser of its two edges."""
    values = np.empty((len(output_positions), weights.shape[2]))
    for index, position in enumerate(output_positions):
        values[index] = np.minimum(weights[1, position, :, None], weights[0]).sum(axis=0)
    return values


def _flow_of_more_layers(graph: LayerGraph, top: int, output_positions: IntArray) -> FloatArray:
    """Return the flow through `top` layers, `[output position, token]`; the pairs are dealt out to threads."""
    n = graph.n_tokens
    sources, sinks = np.repeat(output_positions, n), np.tile(np.arange(n), len(output_positions))
    values = np.empty(len(sources))
    n_threads, n_shares = _count_threads_and_shares(len(values), top, n)
    weights, sink_weights = graph.weights[:top], graph.weights[0].T.copy()

    def solve_share(share: int) -> None:
        own = slice(share, None, n_shares)
        pairs = sources[own].copy(), sinks[own].copy()
        solved = np.empty(len(pairs[0]))
        _solve(_new_workspace(weights), weights, sink_weights, graph.is_causal, *pairs, solved)
        values[own] = solved

    if not getattr(_solve, "overloads", True):
        _logger.info("loading the compiled flow solver; the first time on a machine it is compiled, for some seconds")
    _run_in_threads(solve_share, n_shares, n_threads)
    return values.reshape(len(output_positions), n)


def _run_in_threads(solve_share: Callable[[int], None], n_shares: int, n_threads: int) -> None:
    """Call `solve_share` with each index below `n_shares`; the compiled code runs without the GIL.

    The threads are Python's, made here and gone at the end. Unlike the threads of numba they survive a fork, and
    several callers may have their own at the same time.
    """
    if n_threads == 1:
        for share in range(n_shares):
            solve_share(share)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for done in [pool.submit(solve_share, share) for share in range(n_shares)]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count_threads_and_shares(n_pairs: int, top: int, n: int) -> tuple[int, int]:
    """Return how many threads are worth it, and in how many shares the pairs are dealt out.

    More shares than threads leave a long computation open to an interrupt; each costs a copy of the layers.
    """
    config: Any = numba.config
    n_threads = max(1, min(config.NUMBA_NUM_THREADS, n_pairs * top * n // MIN_WORK_OF_A_THREAD))
    return n_threads, max(n_threads, n_pairs // (8 * n))


class Workspace(NamedTuple):
    """The arrays of one thread, used for one pair after the other.

    numba's cache on disk knows this class by its name: under another one the files of an older version would not load.

    Attributes:
        nodes: `NODE` records.
        first: `[label * top + level]`, the first node alive that has this label and level; -1 if none.
        queue: Nodes that have got a label, in the order of labels.
        unseen: `[level * n + index]`, nodes of a level of which most have no label yet.
        n_unseen: How many there are, `[level]`.
        inner: The capacities of the inner edges.
        spare: Their spare capacities.
        slot_of: Their slots; 0 for an edge that has carried nothing.
        slots: `SLOT` records, from 1 on.
        counts: How many slots are `TAKEN`, and how many of these are `LISTED` in the nodes' lists.
    """

    nodes: Records
    first: NodeArray
    queue: NodeArray
    unseen: NodeArray
    n_unseen: NodeArray
    inner: FloatArray
    spare: FloatArray
    slot_of: NodeArray
    slots: Records
    counts: NodeArray


def _new_workspace(weights: FloatArray) -> Workspace:
    top, n, _ = weights.shape
    nodes = np.zeros(top * n, NODE)
    nodes["level"] = np.repeat(np.arange(top), n)
    inner = weights[1 : top - 1].reshape(-1)
    return Workspace(
        nodes=nodes,
        first=np.empty((top * n + 1) * top, np.int32),
        queue=np.empty(top * n, np.int32),
        unseen=np.empty(top * n, np.int32),
        n_unseen=np.empty(top, np.int32),
        inner=inner,
        spare=inner.copy(),
        slot_of=np.zeros(inner.size, np.int32),
        # One slot for each edge cannot overflow; memory that is never touched is address space alone.
        slots=np.empty(inner.size + 1, SLOT),
        counts=np.zeros(2, np.int32),
    )


def _compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return `function` compiled at its first call; the machine code is kept on disk if there is a place for it.

    Without reference counts of its arguments (a private option of numba, left out if it ever goes) the solver runs
    about six times as fast. It owns no array: all come from Python, which holds them until the end.
    """
    jit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy"} | ({"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {})
    try:
        return cast(Callable[Parameters, Result], jit(cache=True, **options)(function))
    except RuntimeError:  # no folder that can be written to
        return cast(Callable[Parameters, Result], jit(**options)(function))


@_compiled
def _solve(
    work: Workspace,
    weights: FloatArray,
    sink_weights: FloatArray,
    is_causal: bool,
    sources: IntArray,
    sinks: IntArray,
    values: FloatArray,
) -> None:
    """Write the flow value of each pair of `sources` and `sinks` into `values`.

    Dinic's algorithm: as long as the sink can be reached, label the nodes with their distance to it, and send as much
    as goes along falling labels. The distance grows from one such phase to the next.
    """
    top, n = weights.shape[0], weights.shape[1]
    for pair in range(len(sources)):
        source, sink = sources[pair], sinks[pair]
        values[pair] = 0.0
        # In a causal graph only the tokens from the sink to the source can lie on a path.
        low, high = (sink, source + 1) if is_causal else (0, n)
        if low >= high:
            continue
        for k in range(low, high):
            work.nodes[(top - 1) * n + k].end = weights[top - 1, source, k]
            work.nodes[n + k].end = sink_weights[sink, k]
        distance = _label_by_level(work, top, n, low, high, sink)
        while distance > 0:
            values[pair] += _send_all(work, top, n, low, high, source, distance)
            distance = _label_by_search(work, top, n, low, high)
        _put_back(work)


@_compiled
def _label_by_level(work: Workspace, top: int, n: int, low: int, high: int, sink: int) -> int:
    """Label the nodes with their levels, and return that of the source.

    Before anything flows no path can be shorter; a node from which none leads on is found out when it is tried.
    """
    for level in range(1, top):
        work.first[level * top + level] = -1
        for k in range(high - 1, low - 1, -1):
            _enlist(work, top, level * n + k, level)
        # The flow must gather in the column of the sink in the end, so this node is tried first.
        _unlist(work, top, level * n + sink)
        _enlist(work, top, level * n + sink, level)
    for v in range(n + low, n + high):
        if work.nodes[v].end == 0.0:
            _unlist(work, top, v)
    return top


@_compiled
def _label_by_search(work: Workspace, top: int, n: int, low: int, high: int) -> int:
    """Label the nodes with their distance to the sink, breadth first; return that of the source, or 0 if cut off."""
    highest = (top - 1) * n
    if not _any_spare(work, n + low, n + high) or not _any_spare(work, highest + low, highest + high):
        return 0
    _list_slots(work)
    n_queued = _label_level_one(work, top, n, low, high)
    distance = 0
    at = 0
    while at < n_queued and distance == 0:
        v = work.queue[at]
        at += 1
        if v >= highest:
            if work.nodes[v].end > 0.0:
                distance = work.nodes[v].label + 1
        else:
            n_queued = _label_above(work, n, v, n_queued)
        n_queued = _label_below(work, v, n_queued)
    if distance > 0:
        _enlist_all(work, top, n_queued, distance)
    return distance


@_compiled
def _any_spare(work: Workspace, start: int, stop: int) -> bool:
    for v in range(start, stop):  # noqa: SIM110 (numba does not compile any() of a generator)
        if work.nodes[v].end > 0.0:
            return True
    return False


@_compiled
def _list_slots(work: Workspace) -> None:
    """Put the slots taken since the last time into the lists of their two nodes."""
    for s in range(work.counts[LISTED] + 1, work.counts[TAKEN] + 1):
        slot = work.slots[s]
        upper, lower = work.nodes[slot.upper], work.nodes[slot.lower]
        slot.next_out = upper.first_out
        upper.first_out = s
        slot.next_in = lower.first_in
        lower.first_in = s
    work.counts[LISTED] = work.counts[TAKEN]


@_compiled
def _label_level_one(work: Workspace, top: int, n: int, low: int, high: int) -> int:
    """Take all labels away, then label and queue the nodes next to the sink; return how many are queued."""
    for level in range(1, top):
        for k in range(low, high):
            work.nodes[level * n + k].label = 0
            work.unseen[level * n + k - low] = level * n + k
        work.n_unseen[level] = high - low
    n_queued = 0
    for v in range(n + low, n + high):
        if work.nodes[v].end > 0.0:
            work.nodes[v].label = 1
            work.queue[n_queued] = v
            n_queued += 1
    return n_queued


@_compiled
def _label_above(work: Workspace, n: int, v: int, n_queued: int) -> int:
    """Label the unseen nodes above `v` whose edge to it has spare capacity; return how many are queued."""
    level = work.nodes[v].level
    label = work.nodes[v].label + 1
    start = (level + 1) * n
    edge_to_v = v - level * n - 2 * n * n
    n_kept = 0
    for index in range(start, start + work.n_unseen[level + 1]):
        u = work.unseen[index]
        if work.nodes[u].label != 0:
            continue
        if work.spare[edge_to_v + u * n] > 0.0:
            work.nodes[u].label = label
            work.queue[n_queued] = u
            n_queued += 1
        else:
            work.unseen[start + n_kept] = u
            n_kept += 1
    work.n_unseen[level + 1] = n_kept
    return n_queued


@_compiled
def _label_below(work: Workspace, v: int, n_queued: int) -> int:
    """Label the unseen nodes below `v` that can send flow back up to it; return how many are queued."""
    s = work.nodes[v].first_out
    while s > 0:
        slot = work.slots[s]
        if slot.carried > 0.0 and work.nodes[slot.lower].label == 0:
            work.nodes[slot.lower].label = work.nodes[v].label + 1
            work.queue[n_queued] = slot.lower
            n_queued += 1
        s = slot.next_out
    return n_queued


@_compiled
def _enlist_all(work: Workspace, top: int, n_queued: int, distance: int) -> None:
    """Make the queued nodes alive that are nearer to the sink than the source."""
    for index in range(top, distance * top):
        work.first[index] = -1
    for at in range(n_queued - 1, -1, -1):
        v = work.queue[at]
        if work.nodes[v].label < distance:
            _enlist(work, top, v, work.nodes[v].label)
        else:
            work.nodes[v].label = 0


@_compiled
def _enlist(work: Workspace, top: int, v: int, label: int) -> None:
    """Make `v` alive: put it at the start of the list of its label and level, with all its edges to be tried."""
    node = work.nodes[v]
    index = label * top + node.level
    old = work.first[index]
    work.first[index] = v
    if old >= 0:
        work.nodes[old].preceding = v
    node.label = label
    node.following = old
    node.preceding = -1
    node.stage = STRAIGHT if node.level > 1 else BACK
    node.cursor = node.first_in


@_compiled
def _unlist(work: Workspace, top: int, v: int) -> None:
    """Make `v` dead. It still knows what follows, for those whose cursor stands on it."""
    node = work.nodes[v]
    if node.preceding >= 0:
        work.nodes[node.preceding].following = node.following
    else:
        work.first[node.label * top + node.level] = node.following
    if node.following >= 0:
        work.nodes[node.following].preceding = node.preceding
    node.label = 0


@_compiled
def _send_all(work: Workspace, top: int, n: int, low: int, high: int, source: int, distance: int) -> float:
    """Send flow along falling labels until every such path has a full edge; return how much was sent."""
    total = 0.0
    for at in range(low - 1, high):
        k = source if at < low else at  # first the edge that is the strongest as a rule
        v = (top - 1) * n + k
        if work.nodes[v].end > 0.0 and work.nodes[v].label == distance - 1:
            sent = _send_from(work, top, n, v, work.nodes[v].end)
            work.nodes[v].end = _less(work.nodes[v].end, sent)
            total += sent
    return total


@_compiled
def _send_from(work: Workspace, top: int, n: int, root: int, wanted: float) -> float:
    """Send up to `wanted` from `root` to the sink, depth first; return how much was sent.

    A node asks the nodes next to it, one after the other, until all that it was asked for is sent. If they cannot
    send so much, it is dead for the rest of the phase, and is never tried again.
    """
    work.nodes[root].asked = wanted
    work.nodes[root].sent = 0.0
    v = root
    while True:
        node = work.nodes[v]
        if node.label == 1:
            _send_to_sink(work, top, v)
        elif node.label == 2:
            _send_by_level_one(work, top, n, v)
        elif node.sent < node.asked:
            child = _ask_next(work, top, n, v)
            if child >= 0:
                v = child
                continue
            _unlist(work, top, v)
        if v == root:
            sent: float = node.sent
            return sent
        _record(work, node.parent, v)
        v = node.parent


@_compiled
def _ask_next(work: Workspace, top: int, n: int, v: int) -> int:
    """Ask the next node by which `v` can send on; return it, or -1 if there is none.

    The node straight below comes first, as the residual connection makes that edge strong; then the other nodes of that
    level; then those above, to which `v` gives back flow that came from them.
    """
    node = work.nodes[v]
    label = node.label - 1
    below = (node.level - 1) * n
    edge_to_below = (v - 2 * n) * n - below
    if node.stage == STRAIGHT:
        u = v - n
        if work.nodes[u].label == label and work.spare[edge_to_below + u] > 0.0:
            return _ask(work, v, u, edge_to_below + u, work.spare[edge_to_below + u])
        node.stage = LIST
        node.cursor = work.first[label * top + node.level - 1]
    if node.stage == LIST:
        u = node.cursor
        while u >= 0:
            if work.nodes[u].label == label and work.spare[edge_to_below + u] > 0.0:
                node.cursor = u
                return _ask(work, v, u, edge_to_below + u, work.spare[edge_to_below + u])
            u = work.nodes[u].following
        node.stage = BACK
        node.cursor = node.first_in
    s = node.cursor
    while s > 0:
        slot = work.slots[s]
        if work.nodes[slot.upper].label == label and slot.carried > 0.0:
            node.cursor = s
            return _ask(work, v, slot.upper, -s, slot.carried)
        s = slot.next_in
    node.cursor = 0
    return -1


@_compiled
def _ask(work: Workspace, v: int, u: int, via: int, room: float) -> int:
    """Ask `u` for what `v` has still to send, as far as there is room on the edge between; return `u`."""
    child = work.nodes[u]
    child.parent = v
    child.via = via
    child.asked = min(work.nodes[v].asked - work.nodes[v].sent, room)
    child.sent = 0.0
    return u


@_compiled
def _send_by_level_one(work: Workspace, top: int, n: int, v: int) -> None:
    """Send what is asked of `v`, of label 2, by nodes of label 1: the hops that are most of the work."""
    node = work.nodes[v]
    edge_to_below = (v - 2 * n) * n - n
    u = v - n if node.stage == STRAIGHT else node.cursor
    while True:
        if node.stage == LIST and u < 0:
            _unlist(work, top, v)
            return
        if work.nodes[u].label == 1 and work.spare[edge_to_below + u] > 0.0:
            _ask(work, v, u, edge_to_below + u, work.spare[edge_to_below + u])
            _send_to_sink(work, top, u)
            _record(work, v, u)
            if node.sent >= node.asked:
                node.cursor = u
                return
        if node.stage == STRAIGHT:
            node.stage = LIST
            u = work.first[top + 1]
        else:
            u = work.nodes[u].following


@_compiled
def _send_to_sink(work: Workspace, top: int, v: int) -> None:
    """Send what is asked of `v`, of label 1, by its edge to the sink; `v` is dead if that is full then."""
    node = work.nodes[v]
    if node.asked < node.end:
        node.sent = node.asked
        node.end -= node.asked
    else:
        node.sent = node.end
        node.end = 0.0
        _unlist(work, top, v)


@_compiled
def _record(work: Workspace, v: int, u: int) -> None:
    """Count what `u` has sent on as flow from `v` to it."""
    parent, child = work.nodes[v], work.nodes[u]
    amount = child.sent
    if amount == 0.0:
        return
    parent.sent = parent.sent + amount if amount < parent.asked - parent.sent else parent.asked
    if child.via < 0:
        slot = work.slots[-child.via]
        work.spare[slot.edge] += amount
        slot.carried = _less(slot.carried, amount)
        return
    edge = child.via
    work.spare[edge] = _less(work.spare[edge], amount)
    s = work.slot_of[edge]
    if s == 0:
        s = _take_slot(work, edge, v, u)
    work.slots[s].carried += amount


@_compiled
def _take_slot(work: Workspace, edge: int, v: int, u: int) -> int:
    s: int = work.counts[TAKEN] + 1
    work.counts[TAKEN] = s
    work.slot_of[edge] = s
    slot = work.slots[s]
    slot.carried = 0.0
    slot.edge = edge
    slot.upper = v
    slot.lower = u
    return s


@_compiled
def _less(room: float, amount: float) -> float:
    """Return `room` less `amount`: exactly 0 if all is used, and above it otherwise, however little is left."""
    return room - amount if amount < room else 0.0


@_compiled
def _put_back(work: Workspace) -> None:
    """Undo all that a pair has changed."""
    for s in range(1, work.counts[TAKEN] + 1):
        slot = work.slots[s]
        work.spare[slot.edge] = work.inner[slot.edge]
        work.slot_of[slot.edge] = 0
        work.nodes[slot.lower].first_in = 0
        work.nodes[slot.upper].first_out = 0
    work.counts[TAKEN] = 0
    work.counts[LISTED] = 0
