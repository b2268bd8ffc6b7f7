"""Token attributions by raw attention, attention rollout and exact attention flow, for Transformers models.

The public names are loaded on first use, so that importing the package is fast and imports no torch. It makes
`transformers.pipeline("text-attribution", model=...)` known as soon as both packages are imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnflow_hf import registration

__version__ = "0.1.0"

_HOMES = {
    "Attribution": "attnflow_hf.attribution",
    "Attributor": "attnflow_hf.attributor",
    "AttnFlowError": "attnflow_hf.errors",
    "CapturedLayer": "attnflow_hf.captured_layer",
    "FlowResult": "attnflow_hf.flow_result",
    "LayerGraph": "attnflow_hf.layer_graph",
    "Options": "attnflow_hf.options",
    "Page": "attnflow_hf.page",
    "attach": "attnflow_hf.pipeline",
    "flow": "attnflow_hf.backends",
    "flow_shapley": "attnflow_hf.shapley",
    "register_backend": "attnflow_hf.backends",
    "register_edge_weights": "attnflow_hf.edge_weights",
    "rollout": "attnflow_hf.backends",
    "run_dataset": "attnflow_hf.runs",
}
__all__ = [
    "AttnFlowError",
    "Attribution",
    "Attributor",
    "CapturedLayer",
    "FlowResult",
    "LayerGraph",
    "Options",
    "Page",
    "attach",
    "flow",
    "flow_shapley",
    "register_backend",
    "register_edge_weights",
    "rollout",
    "run_dataset",
]

if TYPE_CHECKING:
    from attnflow_hf.attribution import Attribution
    from attnflow_hf.attributor import Attributor
    from attnflow_hf.backends import flow, register_backend, rollout
    from attnflow_hf.captured_layer import CapturedLayer
    from attnflow_hf.edge_weights import register_edge_weights
    from attnflow_hf.errors import AttnFlowError
    from attnflow_hf.flow_result import FlowResult
    from attnflow_hf.layer_graph import LayerGraph
    from attnflow_hf.options import Options
    from attnflow_hf.page import Page
    from attnflow_hf.pipeline import attach
    from attnflow_hf.runs import run_dataset
    from attnflow_hf.shapley import flow_shapley


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])


registration.register()
