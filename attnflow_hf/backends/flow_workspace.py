"""The arrays that the compiled flow solver works on, one set for each thread, and how it is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core.options import DefaultOptions

from attnflow_hf.errors import FloatArray, IntArray

U = np.uintp
"""Around an index: numba asks of a signed one at each access whether it counts from the end, a quarter of the time."""

PUSH = np.dtype(
    [
        ("carried", np.float64),  # how much flow it has brought, less what was given back; or how much it gives back
        ("upper", np.int32),  # the edge's upper node; -1 if flow is given back
        ("lower", np.int32),  # its lower node; the push that is taken back
        ("next_in", np.int32),  # the next push to the lower node; 0 if none
        ("next_out", np.int32),  # the next push from the upper node; 0 if none
    ],
    align=True,
)
Records = npt.NDArray[np.void]
NodeArray = npt.NDArray[np.int32]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


FRESH = -1
"""The cursor of a node that has tried none of its edges in this phase."""


class Workspace(NamedTuple):
    """The arrays of one thread, used for one pair after the other.

    numba's cache on disk knows this class by its name: under another one the files of an older version would not load.

    Attributes:
        supply: What is left of the source's edges to the highest level.
        demand: What is left of the sink's edges from level 1.
        straight: What is left of the edge straight below each node.
        column: What is left of each node's edge to the column of the sink.
        row: `[level * n + position]`, what is left of the edge from the source's column on that level to a position,
            before the first phase.
        row_rest: What is left of it after that phase.
        all_straight: What `straight` is before anything flows.
        all_row: Likewise `row`.
        narrowest: The narrowest of the straight edges of each column.
        room: How much more each column may carry.
        part: What each column gets of a vector that is being sent.
        entering: How much enters each node across, less what leaves it so.
        level: Each node's level.
        label: Each node's distance to the sink in this phase; 0 if it cannot be reached (any more).
        cursor: How far each node has got with its edges.
        rest: What is left of the edge at the cursor.
        alive: Positions of nodes, one list for each label and level.
        first: `[label * top + level]`, where that list starts.
        size: Its length.
        n_dead: How many in it are dead.
        queue: Nodes that have got a label, in the order of labels.
        unseen: `[level * n + index]`, positions of a level most of which have no label yet.
        n_unseen: How many there are, `[level]`.
        n_unlabeled: How many nodes of a level have no label yet.
        left_of_cut: `[0]`, a bound of what is left of the edges of the cut that a search has found.
        moved: Where the entries of a list have gone that is being closed up.
        path: The positions of the nodes from the highest level to where the search stands.
        path_level: Their levels.
        asked: How much each of them was asked to send.
        sent: How much of that it has sent.
        log: `PUSH` records, counted from 1.
        spare: Spare capacities of the inner edges.
        spare_read: The same memory, read-only as a graph's weights are, so that one compiled function reads both.
        push_of: The one settled push of an inner edge; 0 if there is none.
        first_in: Each node's first push to it; 0 if none.
        first_out: Each node's first push from it; 0 if none.
        counts: `N_LOGGED`, `N_SETTLED`, `N_PUSHES`, `N_OPEN`, `COPIED`, `DETOURED`, `STARRED`,
            `N_SEARCHES`, `LOW`, `HIGH`.
    """

    supply: FloatArray
    demand: FloatArray
    straight: FloatArray
    column: FloatArray
    row: FloatArray
    row_rest: FloatArray
    all_straight: FloatArray
    all_row: FloatArray
    narrowest: FloatArray
    room: FloatArray
    part: FloatArray
    entering: FloatArray
    level: NodeArray
    label: NodeArray
    cursor: NodeArray
    rest: FloatArray
    alive: NodeArray
    first: NodeArray
    size: NodeArray
    n_dead: NodeArray
    queue: NodeArray
    unseen: NodeArray
    n_unseen: NodeArray
    n_unlabeled: NodeArray
    left_of_cut: FloatArray
    moved: NodeArray
    path: NodeArray
    path_level: NodeArray
    asked: FloatArray
    sent: FloatArray
    log: Records
    spare: FloatArray
    spare_read: FloatArray
    push_of: NodeArray
    first_in: NodeArray
    first_out: NodeArray
    counts: IntArray


N_LOGGED, N_SETTLED, N_PUSHES, N_OPEN, COPIED, DETOURED, STARRED, N_SEARCHES, LOW, HIGH = range(10)


def new_workspace(top: int, n: int) -> Workspace:
    """Return the arrays that pairs of `n` tokens and up to `top` layers need; most pages are never touched."""
    n_nodes, n_edges, n_lists = top * n, max(top - 2, 0) * n * n, (top * n + 2) * top

    def nodes(size: int) -> NodeArray:
        return np.zeros(size, np.int32)

    log = np.empty(n_edges + 64 * n_nodes + 3 * n, PUSH)  # room for each edge, and for a phase
    log[0] = 0
    spare = np.empty(n_edges)
    spare_read = spare.view()
    spare_read.setflags(write=False)
    return Workspace(
        supply=np.empty(n),
        demand=np.empty(n),
        straight=np.zeros(n_nodes),
        column=np.zeros(n_nodes),
        row=np.zeros(n_nodes),
        row_rest=np.zeros(n_nodes),
        all_straight=np.zeros(n_nodes),
        all_row=np.zeros(n_nodes),
        narrowest=np.zeros(n),
        room=np.zeros(n),
        part=np.zeros(n),
        entering=np.zeros(n_nodes),
        level=np.repeat(np.arange(top, dtype=np.int32), n),
        label=nodes(n_nodes),
        cursor=nodes(n_nodes),
        rest=np.zeros(n_nodes),
        alive=nodes(n_nodes + 1),
        first=nodes(n_lists),
        size=nodes(n_lists),
        n_dead=nodes(n_lists),
        queue=nodes(n_nodes),
        unseen=nodes(n_nodes),
        n_unseen=nodes(top),
        n_unlabeled=nodes(top),
        left_of_cut=np.zeros(1),
        moved=nodes(n + 1),
        path=nodes(n_nodes + 1),
        path_level=nodes(n_nodes + 1),
        asked=np.empty(n_nodes + 1),
        sent=np.empty(n_nodes + 1),
        log=log,
        spare=spare,
        spare_read=spare_read,
        push_of=nodes(n_edges),
        first_in=nodes(n_nodes),
        first_out=nodes(n_nodes),
        counts=np.zeros(10, np.int64),
    )


def renew(work: Workspace) -> None:
    """Make a workspace ready for another graph of its size; what the last pair left is put back by the next one."""
    work.counts[COPIED] = 0


def compiled(function: Callable[Parameters, Result], **more: Any) -> Callable[Parameters, Result]:
    """Return `function` compiled at its first call; the machine code is kept on disk if there is a place for it.

    Without reference counts of its arguments (a private option of numba, left out if it ever goes) the solver runs
    about six times as fast. It owns no array: all come from Python, which holds them until the end.
    """
    jit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", **more}
    if hasattr(DefaultOptions, "_nrt"):
        options["_nrt"] = False
    try:
        return cast(Callable[Parameters, Result], jit(cache=True, **options)(function))
    except RuntimeError:  # no folder that can be written to
        return cast(Callable[Parameters, Result], jit(**options)(function))


def compiled_part(function: Callable[Parameters, Result], **more: Any) -> Callable[Parameters, Result]:
    """Return `function` compiled for other compiled functions to call: with no way in from Python, in half the time."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **more)


def vectorized(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return `function` compiled so that sums may be taken in any order, as vector instructions need it."""
    return compiled_part(function, fastmath={"reassoc", "nsz"})


def inlined(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return `function` compiled into those that call it: the workspace is long to hand on."""
    return compiled_part(function, forceinline=True)


def is_cached(function: Any) -> bool:
    """Whether the machine code of a compiled function is kept on disk."""
    return getattr(getattr(function, "_cache", None), "cache_path", None) is not None
