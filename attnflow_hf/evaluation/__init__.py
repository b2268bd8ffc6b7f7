"""How true an attribution is, measured: importance to compare it with, agreement, faithfulness, plausibility, cost.

The public names are loaded on first use, so that importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Agreement": "agreement",
    "Bootstrap": "summary",
    "Cost": "cost",
    "EvaluationReport": "evaluation_report",
    "Faithfulness": "faithfulness_result",
    "FaithfulnessSummary": "faithfulness_result",
    "Importance": "importance",
    "Measured": "summary",
    "Plausibility": "plausibility",
    "PlausibilityOptions": "plausibility",
    "PronounScores": "pronouns",
    "PronounSentence": "pronouns",
    "Rationale": "rationales",
    "ResultTable": "table",
    "Summary": "summary",
    "Target": "outputs",
    "agreement_with_randomized": "randomized",
    "blank_out": "importance",
    "chance_plausibility": "plausibility",
    "evaluate_agreement": "evaluated_agreement",
    "evaluate_faithfulness": "evaluated_faithfulness",
    "evaluate_plausibility": "evaluated_plausibility",
    "evaluate_pronouns": "evaluated_pronouns",
    "gradient_x_input": "gradients",
    "input_gradient": "gradients",
    "integrated_gradients": "gradients",
    "layer_rows": "agreement",
    "layer_table": "layers",
    "majority": "rationales",
    "measure_faithfulness": "faithfulness",
    "measure_plausibility": "plausibility",
    "measure_pronouns": "masked_pronouns",
    "measured_cost": "cost",
    "randomizable_parts": "randomized",
    "randomize": "randomized",
    "rank_agreement": "agreement",
    "read_eraser_movies": "rationales",
    "read_fair_rationales": "rationales",
    "read_pronouns": "pronoun_files",
    "read_rationales": "rationales",
    "read_winogender": "winogender",
    "summarize": "summary",
    "summarize_faithfulness": "faithfulness_result",
    "summarize_pronouns": "pronoun_summary",
}
__all__ = [
    "Agreement",
    "Bootstrap",
    "Cost",
    "EvaluationReport",
    "Faithfulness",
    "FaithfulnessSummary",
    "Importance",
    "Measured",
    "Plausibility",
    "PlausibilityOptions",
    "PronounScores",
    "PronounSentence",
    "Rationale",
    "ResultTable",
    "Summary",
    "Target",
    "agreement_with_randomized",
    "blank_out",
    "chance_plausibility",
    "evaluate_agreement",
    "evaluate_faithfulness",
    "evaluate_plausibility",
    "evaluate_pronouns",
    "gradient_x_input",
    "input_gradient",
    "integrated_gradients",
    "layer_rows",
    "layer_table",
    "majority",
    "measure_faithfulness",
    "measure_plausibility",
    "measure_pronouns",
    "measured_cost",
    "randomizable_parts",
    "randomize",
    "rank_agreement",
    "read_eraser_movies",
    "read_fair_rationales",
    "read_pronouns",
    "read_rationales",
    "read_winogender",
    "summarize",
    "summarize_faithfulness",
    "summarize_pronouns",
]

if TYPE_CHECKING:
    from attnflow_hf.evaluation.agreement import Agreement, layer_rows, rank_agreement
    from attnflow_hf.evaluation.cost import Cost, measured_cost
    from attnflow_hf.evaluation.evaluated_agreement import evaluate_agreement
    from attnflow_hf.evaluation.evaluated_faithfulness import evaluate_faithfulness
    from attnflow_hf.evaluation.evaluated_plausibility import evaluate_plausibility
    from attnflow_hf.evaluation.evaluated_pronouns import evaluate_pronouns
    from attnflow_hf.evaluation.evaluation_report import EvaluationReport
    from attnflow_hf.evaluation.faithfulness import measure_faithfulness
    from attnflow_hf.evaluation.faithfulness_result import Faithfulness, FaithfulnessSummary, summarize_faithfulness
    from attnflow_hf.evaluation.gradients import gradient_x_input, input_gradient, integrated_gradients
    from attnflow_hf.evaluation.importance import Importance, blank_out
    from attnflow_hf.evaluation.layers import layer_table
    from attnflow_hf.evaluation.masked_pronouns import measure_pronouns
    from attnflow_hf.evaluation.plausibility import (
        Plausibility,
        PlausibilityOptions,
        chance_plausibility,
        measure_plausibility,
    )
    from attnflow_hf.evaluation.pronoun_files import read_pronouns
    from attnflow_hf.evaluation.pronoun_summary import summarize_pronouns
    from attnflow_hf.evaluation.pronouns import PronounScores, PronounSentence
    from attnflow_hf.evaluation.randomized import agreement_with_randomized, randomizable_parts, randomize
    from attnflow_hf.evaluation.rationales import (
        Rationale,
        majority,
        read_eraser_movies,
        read_fair_rationales,
        read_rationales,
    )
    from attnflow_hf.evaluation.summary import Bootstrap, Measured, Summary, summarize
    from attnflow_hf.evaluation.table import ResultTable
    from attnflow_hf.evaluation.winogender import read_winogender
    from attnflow_hf.targets import Target


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
