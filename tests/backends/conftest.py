from collections.abc import Callable

import numpy as np
import pytest

from attnflow_hf.backends import backend_names, compute
from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph

Flow = Callable[..., FloatArray]


@pytest.fixture(params=backend_names("flow"))
def flow(request: pytest.FixtureRequest) -> Flow:
    """A backend of flow, called as `flow(weights, layer, positions)`; it returns `[position, token]`.

    Every row of the table is held to the same tests.
    """

    def solve(graph: object, layer: int = -1, positions: object = None) -> FloatArray:
        checked = graph if isinstance(graph, LayerGraph) else LayerGraph(graph)
        wanted = list(range(checked.n_tokens) if positions is None else positions)
        values = compute("flow", request.param, checked, [layer % checked.n_layers], wanted)
        assert values.dtype == np.float64
        assert values.shape == (1, len(wanted), checked.n_tokens)
        return values[0]

    return solve
