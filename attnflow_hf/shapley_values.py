"""`ShapleyValues`: how a game's worth is shared among its players, by all sets of players or by random orders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from attnflow_hf.errors import BoolArray, FloatArray, IntArray

Game = Callable[[BoolArray], FloatArray]
"""The worth of sets of players, float64 `[set]`; sets are bool `[set, player]`. More players are never worth less."""

SAME_WORTH = 1e-12
"""By so small a share of the worth of all players, rounding may have made a set's less."""


@dataclass(frozen=True, eq=False)
class ShapleyValues:
    """Shapley values of the input tokens.

    The axes are `[position, token]`, with `layer="all"` `[layer, position, token]`.

    Attributes:
        values: float64, nonnegative. A row sums to the maximum flow into all tokens.
        standard_errors: float64, likewise: how far random orders leave a value uncertain; 0 where all sets were taken.
        n_permutations: int64, the axes without `token`: how many random orders were taken; 0 where all sets were.
    """

    values: FloatArray
    standard_errors: FloatArray
    n_permutations: IntArray


def exact_values(game: Game, n_players: int) -> FloatArray:
    """Return the Shapley values of a game, from the worth of each of the `2^n` sets of players.

    The value of player `i` is the mean of `v(S + i) - v(S)` over all orders of the players, `S` those before `i`:
    each set `S` without `i` counts `|S|! (n - |S| - 1)! / n!` (Shapley 1953).

    Args:
        game: The worth `v` of sets; it is not asked for that of no players, which is 0.
        n_players: How many players.

    Returns:
        float64 `[player]`, nonnegative.

    Example:
        >>> exact_values(lambda sets: sets.any(axis=1) * 1.0, 2)
        array([0.5, 0.5])
    """
    sets = (np.arange(2**n_players)[:, None] >> np.arange(n_players) & 1).astype(np.bool_)
    worth = np.concatenate([[0.0], game(sets[1:])])
    sizes = sets.sum(axis=1)
    shares = np.array([1.0 / (n_players * comb(n_players - 1, size)) for size in range(n_players)])
    values = np.zeros(n_players)
    for player in range(n_players):
        without = np.flatnonzero(~sets[:, player])
        values[player] = shares[sizes[without]] @ (worth[without | 1 << player] - worth[without])
    return values.clip(min=0.0)  # below 0 by rounding alone


def sampled_values(
    game: Game,
    n_players: int,
    n_permutations: int,
    rng: np.random.Generator,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[FloatArray, FloatArray]:
    """Return estimates of a game's Shapley values from random orders of the players, and their standard errors.

    Each order is read as a ring: begun at each of its players, forwards and backwards, it is `2 n` orders, each of
    which is as likely as any. So each player comes in each place, which is what makes values of single orders differ
    most. All of them need the worth of the ring's arcs alone. Arcs around one that is worth as much as all players are
    worth that too, so they are not looked at.

    Args:
        game: The worth of sets.
        n_players: How many players.
        n_permutations: How many rings, at least 2. They are independent, so the standard error is that of their mean.
        rng: Where the orders come from.
        report: Called now and then with the share of the work that is done, estimated low.

    Returns:
        The values and the standard errors, float64 `[player]`. The values sum to the worth of all players.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sampled_values(lambda sets: sets.any(axis=1) * 1.0, 2, 2, rng)
        (array([0.5, 0.5]), array([0., 0.]))
    """
    rings = rng.permuted(np.tile(np.arange(n_players), (n_permutations, 1)), axis=1)
    places = rings.argsort(axis=1)
    of_all = float(game(np.ones((1, n_players), dtype=np.bool_))[0])
    gains, worth = np.zeros(rings.shape), np.zeros(rings.shape)
    n_done = 0
    for length in range(1, n_players + 1):
        longer, n_asked = _worth_of_longer(game, places, length, worth, of_all)
        gains += np.roll(longer - worth, length - 1, axis=1)  # of the arc's last player
        gains += longer - np.roll(worth, -1, axis=1)  # of its first
        worth, n_done = longer, n_done + n_asked
        report(n_done / (n_done + n_asked * (n_players - length) or 1))
    by_ring = np.take_along_axis(gains, places, axis=1) / (2 * n_players)
    errors = by_ring.std(axis=0, ddof=1) / np.sqrt(n_permutations)
    return by_ring.mean(axis=0), errors


def _worth_of_longer(
    game: Game, places: IntArray, length: int, worth: FloatArray, of_all: float
) -> tuple[FloatArray, int]:
    """Return the worth of arcs of a length, `[ring, first place]`, from that of those shorter by one; how many asked.

    Arcs are not worth less than the two arcs inside of them, nor more than all players; what rounding says is not kept.
    """
    n = places.shape[1]
    least = np.maximum(worth, np.roll(worth, -1, axis=1))
    is_full = least >= of_all * (1 - SAME_WORTH)
    if length == n:
        is_full[:] = True
    longer = np.full(worth.shape, of_all)
    ring, start = np.nonzero(~is_full)
    if len(ring):
        longer[ring, start] = game((places[ring] - start[:, None]) % n < length)
    return longer.clip(least, np.maximum(least, of_all)), len(ring)
