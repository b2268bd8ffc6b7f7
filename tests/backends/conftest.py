from collections.abc import Callable

import numpy as np
import pytest

from attnflow_hf.backends import flow_networkx, flow_numba
from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph

Flow = Callable[..., FloatArray]
BACKENDS = {"networkx": flow_networkx.flow, "numba": flow_numba.flow}


@pytest.fixture(params=BACKENDS)
def flow(request: pytest.FixtureRequest) -> Flow:
    """A backend of flow, called as `flow(weights, layer, positions)`; it returns `[position, token]`."""
    backend = BACKENDS[request.param]

    def solve(graph: object, layer: int = -1, positions: object = None) -> FloatArray:
        checked = graph if isinstance(graph, LayerGraph) else LayerGraph(graph)
        wanted = range(checked.n_tokens) if positions is None else positions
        values = backend(checked, np.array([layer % checked.n_layers]), np.array(list(wanted), dtype=np.int64))
        assert values.dtype == np.float64
        assert values.shape == (1, len(list(wanted)), checked.n_tokens)
        return values[0]

    return solve
