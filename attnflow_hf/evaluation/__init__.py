"""How true an attribution is, measured: agreement with importance, plausibility to humans, cost, and results in tables.

The public names are loaded on first use, so that importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Agreement": "agreement",
    "Bootstrap": "summary",
    "Cost": "cost",
    "Measured": "summary",
    "Plausibility": "plausibility",
    "PlausibilityOptions": "plausibility",
    "Rationale": "rationales",
    "ResultTable": "table",
    "Summary": "summary",
    "agreement_with_randomized": "randomized",
    "chance_plausibility": "plausibility",
    "layer_rows": "agreement",
    "majority": "rationales",
    "measure_plausibility": "plausibility",
    "measured_cost": "cost",
    "randomizable_parts": "randomized",
    "randomize": "randomized",
    "rank_agreement": "agreement",
    "read_eraser_movies": "rationales",
    "read_fair_rationales": "rationales",
    "summarize": "summary",
}
__all__ = [
    "Agreement",
    "Bootstrap",
    "Cost",
    "Measured",
    "Plausibility",
    "PlausibilityOptions",
    "Rationale",
    "ResultTable",
    "Summary",
    "agreement_with_randomized",
    "chance_plausibility",
    "layer_rows",
    "majority",
    "measure_plausibility",
    "measured_cost",
    "randomizable_parts",
    "randomize",
    "rank_agreement",
    "read_eraser_movies",
    "read_fair_rationales",
    "summarize",
]

if TYPE_CHECKING:
    from attnflow_hf.evaluation.agreement import Agreement, layer_rows, rank_agreement
    from attnflow_hf.evaluation.cost import Cost, measured_cost
    from attnflow_hf.evaluation.plausibility import (
        Plausibility,
        PlausibilityOptions,
        chance_plausibility,
        measure_plausibility,
    )
    from attnflow_hf.evaluation.randomized import agreement_with_randomized, randomizable_parts, randomize
    from attnflow_hf.evaluation.rationales import Rationale, majority, read_eraser_movies, read_fair_rationales
    from attnflow_hf.evaluation.summary import Bootstrap, Measured, Summary, summarize
    from attnflow_hf.evaluation.table import ResultTable


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
