"""Pictures and animations of attributions, by matplotlib (the extra `plot`).

The names are loaded on first use, so that importing this package imports no matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnflow_hf.errors import OptionError

_HOMES = {
    "COLORS": "palette",
    "animate_flow": "animations",
    "animate_rollout": "animations",
    "plot_flow": "flow_paths",
    "plot_graph": "graphs",
    "plot_layers": "heat_maps",
    "plot_matrix": "heat_maps",
    "plot_patches": "patches",
    "plot_rollout": "rollout_ribbons",
    "plot_tokens": "bars",
}
__all__ = [
    "COLORS",
    "animate_flow",
    "animate_rollout",
    "plot_flow",
    "plot_graph",
    "plot_layers",
    "plot_matrix",
    "plot_patches",
    "plot_rollout",
    "plot_tokens",
]

if TYPE_CHECKING:
    from attnflow_hf.plot.animations import animate_flow, animate_rollout
    from attnflow_hf.plot.bars import plot_tokens
    from attnflow_hf.plot.flow_paths import plot_flow
    from attnflow_hf.plot.graphs import plot_graph
    from attnflow_hf.plot.heat_maps import plot_layers, plot_matrix
    from attnflow_hf.plot.palette import COLORS
    from attnflow_hf.plot.patches import plot_patches
    from attnflow_hf.plot.rollout_ribbons import plot_rollout


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise OptionError(f"plots need matplotlib ({error}); install it by: pip install 'attnflow_hf[plot]'") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
