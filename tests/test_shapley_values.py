"""Shapley values of games that are known by hand, by all sets and by random orders."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf.shapley_values import exact_values, sampled_values


def additive(worths):
    return lambda sets: sets @ np.asarray(worths, dtype=float)


def airport(costs):
    """The runway that the largest plane of a set needs."""
    return lambda sets: (sets * np.asarray(costs, dtype=float)).max(axis=1)


def coverage(seed, n, n_items=9):
    """What a set of players covers of some weighted items: a random monotone submodular game."""
    rng = np.random.default_rng(seed)
    covers, weights = rng.random((n, n_items)) < 0.4, rng.random(n_items)
    return lambda sets: ((sets.astype(int) @ covers) > 0) @ weights


def by_orders(game, n):
    """The mean over all orders of what a player adds to those before it: the definition."""
    totals, orders = np.zeros(n), list(permutations(range(n)))
    for order in orders:
        before = np.zeros((n + 1, n), dtype=bool)
        for place, player in enumerate(order):
            before[place + 1] = before[place]
            before[place + 1, player] = True
        worth = np.concatenate([[0.0], game(before[1:])])
        totals[list(order)] += np.diff(worth)
    return totals / len(orders)


class GivenRings:
    """In the place of a generator: these orders."""

    def __init__(self, *rings):
        self.rings = np.array(rings)

    def permuted(self, orders, axis):
        assert orders.shape == self.rings.shape
        return self.rings


class EveryRing:
    """In the place of a generator: all orders that begin with player 0, each ring once."""

    def permuted(self, orders, axis):
        n = orders.shape[1]
        return np.array([(0, *rest) for rest in permutations(range(1, n))])


def test_worked_example_of_an_airport():
    # Planes that need 1, 2 and 6 of runway. The first unit is shared by three, the second by two, and the rest is that
    # of plane 2 alone: 1/3; 1/3 + 1/2 = 5/6; 5/6 + 4 = 29/6. They sum to 6.
    assert_allclose(exact_values(airport([1, 2, 6]), 3), [1 / 3, 5 / 6, 29 / 6], rtol=1e-14)


def test_worked_example_of_gloves():
    # Player 0 has a left glove, 1 and 2 a right one; a pair is worth 1. 0 makes the pair unless it comes first: 2/3;
    # 1 makes it if it is the first right one after 0: 1 of 6 orders. (The game is not submodular; exact does not care.)
    game = lambda sets: (sets[:, 0] & (sets[:, 1] | sets[:, 2])) * 1.0  # noqa: E731
    assert_allclose(exact_values(game, 3), [2 / 3, 1 / 6, 1 / 6], rtol=1e-14)


def test_an_additive_game_gives_each_its_own():
    assert_allclose(exact_values(additive([3, 0, 5, 1]), 4), [3, 0, 5, 1], rtol=1e-14)
    values, errors = sampled_values(additive([3, 0, 5, 1]), 4, 2, np.random.default_rng(0))
    assert_allclose(values, [3, 0, 5, 1], rtol=1e-14)
    assert_allclose(errors, 0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_all_sets_give_the_mean_over_all_orders(n):
    game = coverage(n, n)
    assert_allclose(exact_values(game, n), by_orders(game, n), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_all_rings_give_the_exact_values(n):
    """Each order is one of one ring forwards and of one backwards, so all rings are all orders twice."""
    game = coverage(n, n)
    values, _ = sampled_values(game, n, len(list(permutations(range(n - 1)))), EveryRing())
    assert_allclose(values, exact_values(game, n), rtol=1e-12, atol=1e-15)


def test_a_ring_is_all_its_rotations_forwards_and_backwards():
    """One ring of the airport, 0 1 2: three begin there, and three go back; all six orders of three players."""
    values, errors = sampled_values(airport([1, 2, 6]), 3, 2, np.random.default_rng(1))
    assert_allclose(values, [1 / 3, 5 / 6, 29 / 6], rtol=1e-14)
    assert_allclose(errors, 0, atol=1e-14)


def test_the_standard_error_of_two_rings_is_half_of_their_difference():
    """Their standard deviation is the difference divided by the root of 2, and so is again the error of their mean."""
    game, one, two = coverage(3, 5), [0, 1, 2, 3, 4], [2, 0, 3, 1, 4]
    first, second = (sampled_values(game, 5, 2, GivenRings(ring, ring))[0] for ring in (one, two))
    values, errors = sampled_values(game, 5, 2, GivenRings(one, two))
    assert_allclose(values, (first + second) / 2, rtol=1e-12)
    assert_allclose(errors, np.abs(first - second) / 2, rtol=1e-9)
    assert (errors > 1e-3).all()


def test_standard_errors_tell_how_far_estimates_are_off():
    """Over 300 seeds the deviations from the exact values, in standard errors, have about the spread of Student's t."""
    n = 9
    game = coverage(3, n)
    exact, scaled = exact_values(game, n), []
    for seed in range(300):
        values, errors = sampled_values(game, n, 16, np.random.default_rng(seed))
        scaled.append((values - exact) / errors)
    assert_allclose(np.mean(scaled), 0, atol=0.1)
    assert_allclose(np.std(scaled), np.sqrt(15 / 13), rtol=0.1)  # 15 degrees of freedom


def test_standard_errors_fall_with_the_root_of_the_number_of_orders():
    game = coverage(1, 9)
    few, many = (sampled_values(game, 9, count, np.random.default_rng(0))[1] for count in (50, 5000))
    assert_allclose(few.mean() / many.mean(), 10, rtol=0.2)


@pytest.mark.parametrize("n", [13, 20])
def test_estimates_sum_to_the_worth_of_all(n):
    game = coverage(n, n)
    values, errors = sampled_values(game, n, 3, np.random.default_rng(0))
    assert_allclose(values.sum(), game(np.ones((1, n), dtype=bool))[0], rtol=1e-12)
    assert (values >= 0).all()
    assert (errors > 0).any()


def test_arcs_around_one_that_is_worth_all_are_not_asked_for():
    asked = []

    def game(sets):
        asked.append(len(sets))
        return sets.any(axis=1) * 1.0

    sampled_values(game, 20, 3, np.random.default_rng(0))
    assert asked == [1, 60]  # all players once, and each arc of one player
    asked.clear()
    count = sampled_values(lambda sets: game(sets) * sets.sum(axis=1), 20, 3, np.random.default_rng(0))
    assert asked == [1, *[60] * 19]
    assert_allclose(count[0], 1, rtol=1e-14)


def test_what_rounding_says_is_not_kept():
    """A game that is worth 1, give or take 1e-13, for any set: no one is given less than nothing."""
    rng = np.random.default_rng(0)
    for game in (lambda sets: 1 + rng.normal(size=len(sets)) * 1e-13, lambda sets: np.zeros(len(sets))):
        values, errors = sampled_values(game, 15, 2, np.random.default_rng(0))
        assert (values >= 0).all()
        assert_allclose(errors, 0, atol=1e-12)
        assert (exact_values(game, 5) >= 0).all()
    assert_array_equal(values, np.zeros(15))
    for seed in range(20):  # the last player adds nothing but what rounding says
        noise = np.random.default_rng(seed)
        game = lambda sets: sets[:, :-1].sum(axis=1) * (1 + noise.normal(size=len(sets)) * 1e-14)  # noqa: B023, E731
        assert (exact_values(game, 6) >= 0).all()
        assert (sampled_values(game, 6, 2, np.random.default_rng(0))[0] >= 0).all()


def test_the_share_that_is_done_grows_to_one():
    shares = []
    sampled_values(coverage(0, 20), 20, 3, np.random.default_rng(0), shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
