"""Method `flow_shapley`: the maximum flow into all input tokens, shared among them by their Shapley values."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from attnflow_hf.backends import check_values, checked_question, choose_backend, function_of
from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, IntArray, check_memory
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.options import check_sampling
from attnflow_hf.shapley_values import Game, ShapleyValues, exact_values, sampled_values

EXACT_UP_TO = 12
"""Of so many tokens that can be reached, all sets are taken: 4,095."""

PATIENCE = 5.0
"""After so many seconds it is said how long it will take, if that is as long again."""

_logger = logging.getLogger("attnflow_hf")


def flow_shapley(
    graph: LayerGraph,
    *,
    output_positions: Sequence[int] | int | None = None,
    layer: int | Literal["all"] = -1,
    backend: str = "auto",
    n_permutations: int = 16,
    seed: int = 0,
) -> ShapleyValues:
    """Return the Shapley values of the game "how much flow do these input tokens take from the output position".

    The players are the input tokens. The payoff `v(S)` of a set `S` of them is the value of the maximum flow from the
    node of the output position, on top of the explained layer, into all tokens of `S` together (as if each had an edge
    without limit to one sink). A token's Shapley value is the mean of `v(S + token) - v(S)` over all orders in which
    the tokens can come, `S` those before it (Shapley 1953).

    What that has to do with attention flow: `flow` gives `v` of single tokens. These are not Shapley values of this
    game: each is the token's marginal payoff when it comes first, and as `v` is submodular no later one is larger, so
    a Shapley value is at most the token's flow. They sum to `v` of all tokens, 1 for attention weights; flow values to
    more. Ethayarajh and Jurafsky (2021) call attention flows Shapley values for the payoff "total flow through the
    layer" that one joint maximum flow carries; a joint flow is not unique, and the flows of Abnar and Zuidema (2020)
    are not taken from one.

    Up to 12 tokens that a path leads to, all their sets are taken and the values are exact. Above,
    they are estimated from random orders, with standard errors. Tokens that cannot be reached have 0.

    Args:
        graph: Any finite nonnegative edge weights.
        output_positions: The rows wanted: an index, a list of indices (negative ones count from the end), or
            `None` for every position (as many times the work).
        layer: The explained layer; negative counts from the last; `"all"` for every layer.
        backend: `"numba"` (compiled, fast), which is also `"auto"`, or `"networkx"` (the readable reference, which
            takes seconds for 8 tokens). They agree to 1e-9.
        n_permutations: Above 12 tokens, how many random orders are taken, each as a ring that stands for `2 n` orders
            of `n` tokens; 2 or more. The time is proportional to it, the standard errors to one by its square root. A
            ring needs at most `n^2` maximum flows: up to 6 ms on a 6-layer encoder at 30 tokens, 30 ms at 64, 0.2 s at
            128, 1 s at 256, and a tenth of that where few tokens take all the flow. What takes longer than some
            seconds says how long, by a warning of `logging.getLogger("attnflow_hf")`.
        seed: Of the random orders. Equal seeds give equal values, whichever other positions are asked for.

    Returns:
        `ShapleyValues`, whose `values` are float64 `[position, token]`, or `[layer, position, token]` with
        `layer="all"`.

    Raises:
        PositionError: A position or the layer is out of range.
        OptionError: An unknown backend, or numbers that `n_permutations` or `seed` cannot be.
        ArrayError: The graph has unlimited edges.
        FlowError: A flow of more than 1,024 tokens was not finished.

    Example:
        >>> one_layer = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
        >>> flow_shapley(LayerGraph([one_layer, one_layer]), output_positions=[2]).values
        array([[0.5 , 0.25, 0.25]])
    """
    check_sampling(n_permutations, seed)
    graph, layers, positions = checked_question(graph, output_positions, layer)
    chosen = choose_backend("flow_shapley", backend, 0)
    found = compute_shapley(chosen, graph, layers, positions, n_permutations, seed)
    where = ... if layer == "all" else 0
    return ShapleyValues(found.values[where], found.standard_errors[where], found.n_permutations[where])


def compute_shapley(
    backend: str, graph: LayerGraph, layers: Sequence[int], positions: Sequence[int], n_permutations: int, seed: int
) -> ShapleyValues:
    """Return the Shapley values `[layer, position, token]` of checked layers and positions, by the named backend.

    Raises:
        ArrayError: A used weight is infinite, or the backend returned something else than flows.
    """
    shape = (len(layers), len(positions), graph.n_tokens)
    check_memory("flow_shapley", 8 * graph.n_tokens**2 * n_permutations)
    values, errors, counts = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2], dtype=np.int64)
    pace = _Pace(len(layers) * len(positions))
    for a, layer in enumerate(layers):
        _check_finite(graph.weights[: layer + 1])
        for b, position in enumerate(positions):
            players = _reached(graph, layer, position)
            game = _game(backend, graph, layer, position, players)
            if len(players) <= EXACT_UP_TO:
                values[a, b, players] = exact_values(game, len(players))
            else:
                rng = np.random.default_rng([seed, layer, position])
                found = sampled_values(game, len(players), n_permutations, rng, pace.report)
                values[a, b, players], errors[a, b, players] = found
                counts[a, b] = n_permutations
            pace.next()
    return ShapleyValues(values, errors, counts)


def _game(backend: str, graph: LayerGraph, layer: int, position: int, players: IntArray) -> Game:
    """Return the worth of sets of the players. Of a causal graph the nodes up to the position are enough."""
    n = position + 1 if graph.is_causal else graph.n_tokens
    below = graph if n == graph.n_tokens else LayerGraph(graph.weights[:, :n, :n])
    flow_into_sets = function_of("flow_shapley", backend)

    def worth(sets: BoolArray) -> FloatArray:
        of_tokens = np.zeros((len(sets), n), dtype=np.bool_)
        of_tokens[:, players] = sets
        flows = np.asarray(flow_into_sets(below, layer, position, of_tokens))
        check_values(flows, (len(sets),), "[set]", backend, "flow_shapley")
        return flows

    return worth


def _reached(graph: LayerGraph, layer: int, position: int) -> IntArray:
    """Return the tokens that a path leads to; the others take no flow in any set."""
    reached = np.arange(graph.n_tokens) == position
    for weights in graph.weights[layer::-1]:
        reached = (weights[reached] > 0).any(axis=0)
    return np.flatnonzero(reached)


def _check_finite(weights: FloatArray) -> None:
    if not np.isfinite(weights).all():
        layer, position = (int(i) for i in np.argwhere(~np.isfinite(weights))[0][:2])
        raise ArrayError(
            f"flow_shapley needs finite weights, but the residual edge of layer {layer}, position {position} is "
            "unlimited; use method='flow', or give the diagonal finite weights"
        )


class _Pace:
    """Says once how long the rest will take, if it takes long."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows, self.n_done = n_rows, 0
        self.start, self.has_spoken = time.monotonic(), False

    def next(self) -> None:
        """A row is done."""
        self.n_done += 1
        self.report(0.0)

    def report(self, share: float) -> None:
        """Of the row that is at work a share is done, or more."""
        passed = time.monotonic() - self.start
        done = (self.n_done + share) / self.n_rows
        if self.has_spoken or passed < PATIENCE or done <= 0.0:
            return
        left = passed * (1 - done) / done
        if left > PATIENCE:
            self.has_spoken = True
            _logger.warning(
                "flow_shapley has taken %.0f s and will take up to %.0f s more; fewer n_permutations, or fewer output "
                "positions, take less",
                passed,
                left,
            )
