"""The table of backends: what `auto` takes, and backends of users' own."""

import numpy as np
import pytest

from attnflow_hf import LayerGraph, backends, flow, register_backend, rollout
from attnflow_hf.backends import NETWORKX_MAX_WORK, backend_names, choose_backend
from attnflow_hf.errors import ArrayError, OptionError, PositionError

GRAPH = LayerGraph(np.full((3, 4, 4), 0.25))


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
    monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))


def test_auto_goes_by_size():
    assert choose_backend("flow", "auto", NETWORKX_MAX_WORK) == "networkx"
    assert choose_backend("flow", "auto", NETWORKX_MAX_WORK + 1) == "numba"
    assert choose_backend("rollout", "auto", 0) == choose_backend("raw", "auto", 10**12) == "numpy"


def test_a_registered_backend_gets_checked_indices():
    seen = []

    def mine(graph, layers, positions):
        seen.append((graph, layers.tolist(), positions.tolist()))
        return np.zeros((len(layers), len(positions), graph.n_tokens))

    register_backend("flow", "mine", mine)
    assert backend_names("flow") == ["networkx", "numba", "mine"]
    assert flow(GRAPH, output_positions=[-1, 0], layer=-2, backend="mine").shape == (2, 4)
    assert flow(GRAPH, output_positions=2, layer="all", backend="mine").shape == (3, 1, 4)
    assert seen == [(GRAPH, [1], [3, 0]), (GRAPH, [0, 1, 2], [2])]


@pytest.mark.parametrize("name", ["numba", "auto"])
def test_a_name_is_not_given_twice(name):
    with pytest.raises(OptionError, match=f"there is a backend '{name}' for flow already"):
        register_backend("flow", name, lambda *_: np.zeros((1, 1, 1)))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.ones((2, 2)), r"returned float64 \(2, 2\); nonnegative float64 .* = \(1, 4, 4\) is needed"),
        (np.ones((1, 4, 4), dtype=np.float32), "returned float32"),
        (-np.ones((1, 4, 4)), r"returned float64 \(1, 4, 4\)"),
        (np.full((1, 4, 4), np.nan), r"returned float64 \(1, 4, 4\)"),
        ("no", "returned <U2"),
    ],
)
def test_what_a_backend_returns_is_checked(returned, message):
    register_backend("rollout", "bad", lambda *_: returned)
    with pytest.raises(ArrayError, match=f"backend 'bad' of rollout {message}"):
        rollout(GRAPH, backend="bad")


def test_a_graph_and_a_function_are_needed():
    with pytest.raises(OptionError, match=r"graph must be a LayerGraph, got ndarray; make one with LayerGraph\("):
        flow(GRAPH.weights)
    with pytest.raises(OptionError, match="a backend needs a name and a function, got None and 3"):
        register_backend("rollout", None, 3)


def test_unknown_names_and_indices():
    with pytest.raises(OptionError, match="unknown method 'flows'"):
        register_backend("flows", "mine", lambda *_: np.zeros((1, 1, 1)))
    with pytest.raises(OptionError, match="unknown backend of rollout 'numba'; choose one of 'auto', 'numpy'"):
        rollout(GRAPH, backend="numba")
    with pytest.raises(PositionError, match="output position 4 is out of range: there are 4, so use -4 to 3"):
        rollout(GRAPH, output_positions=[0, 4])
    with pytest.raises(PositionError, match="layer 3 is out of range"):
        flow(GRAPH, layer=3)
    with pytest.raises(OptionError, match="layer must be an integer, got 'last'"):
        flow(GRAPH, layer="last")
