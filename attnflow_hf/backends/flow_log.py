"""The log of pushes: settled into spare capacities, one push for each edge, and undone after each pair."""

from attnflow_hf.backends.flow_workspace import (
    COPIED,
    HIGH,
    LOW,
    N_LOGGED,
    N_PUSHES,
    N_SEARCHES,
    N_SETTLED,
    STARRED,
    NodeArray,
    Records,
    U,
    Workspace,
    compiled,
    compiled_part,
    inlined,
)
from attnflow_hf.errors import FloatArray, IntArray


@compiled
def settle(work: Workspace, inner: FloatArray, top: int, n: int, source: int, sink: int) -> None:
    """Take what was pushed since the last time from the spare capacities, and give each edge one push of its own."""
    spare, counts = work.spare, work.counts
    if counts[COPIED] == 0:
        for edge in range(len(spare)):
            spare[U(edge)] = inner[U(edge)]
        counts[COPIED] = 1
    if counts[STARRED] == 1:
        _log_star(work, inner, top, n, source, sink)
        counts[STARRED] = 0
    n_settled = counts[N_SETTLED]
    for at in range(n_settled + 1, counts[N_LOGGED] + 1):
        push = work.log[U(at)]
        if push.upper < 0:
            undone = work.log[U(push.lower)]
            undone.carried -= push.carried
            spare[U(_edge(work.level, n, undone.upper, undone.lower))] += push.carried
        else:
            edge = _edge(work.level, n, push.upper, push.lower)
            spare[U(edge)] -= push.carried
            own = work.push_of[U(edge)]
            if own > 0:
                work.log[U(own)].carried += push.carried
            else:
                n_settled += 1
                work.push_of[U(edge)] = n_settled
                _enlist(work.log, work.first_in, work.first_out, n_settled, push.upper, push.lower, push.carried)
    counts[N_SETTLED] = n_settled
    counts[N_LOGGED] = n_settled


@compiled_part
def _log_star(work: Workspace, inner: FloatArray, top: int, n: int, source: int, sink: int) -> None:
    """Log what the star has sent over each edge."""
    for level in range(2, top):
        for k in range(work.counts[LOW], work.counts[HIGH]):
            v = level * n + k
            edge = (v - 2 * n) * n
            _log(work.log, work.counts, v, v - n, inner[U(edge + k)] - work.straight[U(v)])
            if k not in (source, sink):
                _log(work.log, work.counts, v, (level - 1) * n + sink, inner[U(edge + sink)] - work.column[U(v)])
            if k != source:
                _log(work.log, work.counts, level * n + source, v - n, work.all_row[U(v)] - work.row[U(v)])


@inlined
def _log(log: Records, counts: IntArray, upper: int, lower: int, amount: float) -> None:
    if amount > 0.0:
        at = counts[N_LOGGED] + 1
        counts[N_LOGGED] = at
        push = log[U(at)]
        push.carried = amount
        push.upper = upper
        push.lower = lower


@inlined
def _edge(level: NodeArray, n: int, upper: int, lower: int) -> int:
    number: int = (upper - 2 * n) * n + lower - (level[U(upper)] - 1) * n
    return number


@inlined
def _enlist(
    log: Records, first_in: NodeArray, first_out: NodeArray, at: int, upper: int, lower: int, carried: float
) -> None:
    """Write a settled push, and put it at the front of the lists of its two nodes."""
    push = log[U(at)]
    push.upper = upper
    push.lower = lower
    push.carried = carried
    push.next_in = first_in[U(lower)]
    first_in[U(lower)] = at
    push.next_out = first_out[U(upper)]
    first_out[U(upper)] = at


@compiled_part
def put_back(work: Workspace, inner: FloatArray, n: int) -> None:
    """Undo all that the last pair has changed."""
    for at in range(1, work.counts[N_SETTLED] + 1):
        push = work.log[U(at)]
        edge = _edge(work.level, n, push.upper, push.lower)
        work.spare[U(edge)] = inner[U(edge)]
        work.push_of[U(edge)] = 0
        work.first_in[U(push.lower)] = 0
        work.first_out[U(push.upper)] = 0
    work.counts[N_SETTLED] = 0
    work.counts[N_LOGGED] = 0
    work.counts[N_PUSHES] = 0
    work.counts[N_SEARCHES] = 0
