"""The start of a maximum flow in whole columns of nodes: what needs no search is sent as vectors.

Residual connections make the edges straight down the strongest, so most of the flow of a trained model goes straight
down, gathers in the column of the sink, spreads from the column of the source, or goes from one to the other by one
node between. These four are sums over all positions at once, a few vector operations for each layer, where the search
would touch each edge. What remains is left to the search; the maximum does not depend on where it starts.

No column of nodes but the two gets more than the narrowest of its straight edges lets through. So the straight edges
need not be looked at one by one: what they carry is summed up once, at the end.
"""

from attnflow_hf.backends.flow_workspace import U, Workspace, vectorized
from attnflow_hf.errors import FloatArray


@vectorized
def send_star(work: Workspace, top: int, n: int, low: int, high: int, source: int, sink: int) -> float:
    """Send what goes along stars of edges, and return how much; the workspace holds what is left of each edge."""
    supply, demand, room, part = work.supply, work.demand, work.room, work.part
    entering, straight, column, row = work.entering, work.straight, work.column, work.row
    for k in range(low, high):
        room[U(k)] = work.narrowest[U(k)]
    for v in range(n, top * n):
        entering[U(v)] = 0.0
    total = _send_down(supply, demand, straight, top, n, sink)
    if source != sink:
        total += _send_down(supply, demand, straight, top, n, source)
    # The two columns are taken out of the vectors.
    own_supply, sink_supply = supply[U(source)], supply[U(sink)]
    own_demand, sink_demand = demand[U(source)], demand[U(sink)]
    for k in (source, sink):
        supply[U(k)] = 0.0
        demand[U(k)] = 0.0
    # What has the fewest ways goes first: what leaves the source's column on the lowest layers, and what can enter the
    # sink's on the highest; what goes straight down could have gone across anywhere.
    spread = _spread(demand, room, part, entering, straight, row, top, n, low, high, source, own_supply)
    own_supply = _less(own_supply, spread)
    gathered = _gather(supply, room, part, entering, straight, column, top, n, low, high, sink, sink_demand)
    sink_demand = _less(sink_demand, gathered)
    total += spread + gathered
    total += _send_straight(supply, demand, room, part, entering, (top - 1) * n, low, high)
    room[U(source)] = 0.0
    room[U(sink)] = 0.0
    if source != sink:
        wanted = min(own_supply, sink_demand)
        crossed = _cross(room, part, entering, straight, row, column, top, n, low, high, source, sink, wanted)
        own_supply = _less(own_supply, crossed)
        sink_demand = _less(sink_demand, crossed)
        total += crossed
    supply[U(sink)] = sink_supply
    supply[U(source)] = own_supply
    demand[U(source)] = own_demand
    demand[U(sink)] = sink_demand
    for k in range(low, high):
        room[U(k)] = 0.0
    for level in range(top - 1, 1, -1):
        _add(room, 0, entering, level * n, low, high)
        for k in range(low, high):
            left = straight[U(level * n + k)] - room[U(k)]
            straight[U(level * n + k)] = left if left > 0.0 else 0.0
    return total


@vectorized
def _less(room: float, amount: float) -> float:
    return room - amount if amount < room else 0.0


@vectorized
def _send_down(supply: FloatArray, demand: FloatArray, straight: FloatArray, top: int, n: int, k: int) -> float:
    """Send straight down one column what its narrowest edge lets through."""
    amount: float = min(supply[U(k)], demand[U(k)])
    for level in range(2, top):
        amount = min(amount, straight[U(level * n + k)])
    supply[U(k)] -= amount
    demand[U(k)] -= amount
    for level in range(2, top):
        straight[U(level * n + k)] -= amount
    return amount


@vectorized
def _send_straight(
    supply: FloatArray,
    demand: FloatArray,
    room: FloatArray,
    part: FloatArray,
    entering: FloatArray,
    start: int,
    low: int,
    high: int,
) -> float:
    """Send straight down all other columns."""
    total = _least(part, room, supply, 0, demand, 0, low, high)
    _take(supply, 0, part, low, high)
    _take(demand, 0, part, low, high)
    _take(room, 0, part, low, high)
    _add(entering, start, part, 0, low, high)
    return total


@vectorized
def _least(
    part: FloatArray,
    room: FloatArray,
    a: FloatArray,
    a_start: int,
    b: FloatArray,
    b_start: int,
    low: int,
    high: int,
) -> float:
    """Write the least of two numbers and of the column's room for each position into `part`; return the sum."""
    for k in range(low, high):
        x, y, z = a[U(a_start + k)], b[U(b_start + k)], room[U(k)]
        x = x if x < y else y
        part[U(k)] = x if x < z else z
    total = 0.0
    for k in range(low, high):
        total += part[U(k)]
    return total


@vectorized
def _scale(part: FloatArray, share: float, low: int, high: int) -> None:
    if share < 1.0:
        for k in range(low, high):
            part[U(k)] *= share


@vectorized
def _take(numbers: FloatArray, start: int, part: FloatArray, low: int, high: int) -> None:
    for k in range(low, high):
        numbers[U(start + k)] -= part[U(k)]


@vectorized
def _add(numbers: FloatArray, start: int, part: FloatArray, part_start: int, low: int, high: int) -> None:
    for k in range(low, high):
        numbers[U(start + k)] += part[U(part_start + k)]


@vectorized
def _gather(
    supply: FloatArray,
    room: FloatArray,
    part: FloatArray,
    entering: FloatArray,
    straight: FloatArray,
    column: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    sink: int,
    wanted: float,
) -> float:
    """Send straight down, across into the column of the sink, as early as there is room, and then straight down."""
    start = (top - 1) * n
    total = 0.0
    for level in range(top - 1, 1, -1):
        limit = wanted
        for q in range(2, level):
            limit = min(limit, straight[U(q * n + sink)])
        if limit <= 0.0:
            continue
        at = level * n
        amount = _least(part, room, supply, 0, column, at, low, high)
        if amount <= 0.0:
            continue
        _scale(part, limit / amount, low, high)
        _take(supply, 0, part, low, high)
        _take(column, at, part, low, high)
        _take(room, 0, part, low, high)
        _add(entering, start, part, 0, low, high)
        _take(entering, at, part, low, high)
        amount = min(amount, limit)
        for q in range(2, level):
            straight[U(q * n + sink)] = _less(straight[U(q * n + sink)], amount)
        wanted = _less(wanted, amount)
        total += amount
    return total


@vectorized
def _spread(
    demand: FloatArray,
    room: FloatArray,
    part: FloatArray,
    entering: FloatArray,
    straight: FloatArray,
    row: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    source: int,
    given: float,
) -> float:
    """Send down the column of the source, across, as late as there is room, and then straight down."""
    total = 0.0
    for level in range(2, top):
        limit = given - total
        for q in range(level + 1, top):
            limit = min(limit, straight[U(q * n + source)])
        if limit <= 0.0:
            continue
        at = level * n
        amount = _least(part, room, demand, 0, row, at, low, high)
        if amount <= 0.0:
            continue
        _scale(part, limit / amount, low, high)
        _take(demand, 0, part, low, high)
        _take(row, at, part, low, high)
        _take(room, 0, part, low, high)
        _add(entering, at - n, part, 0, low, high)
        amount = min(amount, limit)
        for q in range(level + 1, top):
            straight[U(q * n + source)] = _less(straight[U(q * n + source)], amount)
        total += amount
    return total


@vectorized
def _cross(
    room: FloatArray,
    part: FloatArray,
    entering: FloatArray,
    straight: FloatArray,
    row: FloatArray,
    column: FloatArray,
    top: int,
    n: int,
    low: int,
    high: int,
    source: int,
    sink: int,
    wanted: float,
) -> float:
    """Send from the column of the source to that of the sink, at once or by one column between."""
    left = wanted
    total = 0.0
    for upper in range(top - 1, 1, -1):
        given = left
        for q in range(upper + 1, top):
            given = min(given, straight[U(q * n + source)])
        if given <= 0.0:
            break
        for lower in range(upper, 1, -1):
            limit = given
            for q in range(2, lower):
                limit = min(limit, straight[U(q * n + sink)])
            if limit <= 0.0:
                continue
            if lower == upper:
                amount = min(limit, row[U(upper * n + sink)])
                row[U(upper * n + sink)] -= amount
            else:
                amount = _least(part, room, row, upper * n, column, lower * n, low, high)
                if amount <= 0.0:
                    continue
                _scale(part, limit / amount, low, high)
                _take(row, upper * n, part, low, high)
                _take(column, lower * n, part, low, high)
                _take(room, 0, part, low, high)
                _add(entering, (upper - 1) * n, part, 0, low, high)
                _take(entering, lower * n, part, low, high)
                amount = min(amount, limit)
            for q in range(2, lower):
                straight[U(q * n + sink)] = _less(straight[U(q * n + sink)], amount)
            for q in range(upper + 1, top):
                straight[U(q * n + source)] = _less(straight[U(q * n + source)], amount)
            given = _less(given, amount)
            left = _less(left, amount)
            total += amount
    return total
