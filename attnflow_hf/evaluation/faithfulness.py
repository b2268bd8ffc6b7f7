"""`measure_faithfulness`: how faithful scores of texts are to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.evaluation.erased_texts import BINS, ErasedTexts, Erasing
from attnflow_hf.evaluation.faithfulness_result import Faithfulness
from attnflow_hf.evaluation.importance import Importance
from attnflow_hf.evaluation.ranking import Scores
from attnflow_hf.given import is_single
from attnflow_hf.inputs import Text
from attnflow_hf.targets import Asked

BOUNDS = ("leave_one_out", "random")


def measure_faithfulness(
    attributor: Attributor,
    inputs: Text | list[Text] | Mapping[str, Any],
    scores: Scores | Sequence[Scores] | Literal["random", "leave_one_out"],
    *,
    replacement: str = "drop",
    output: str = "probability",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "drop",
    bins: Sequence[float] = BINS,
    n_points: int = 10,
    seed: int = 0,
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> list[Faithfulness]:
    """Return how faithful scores are to the model, one result for each text.

    Comprehensiveness, sufficiency and their AOPC over bins (ERASER, DeYoung et al. 2020), log-odds, deletion and
    insertion curves: see `Faithfulness`. It costs at most two forward passes for each bin and each point of a curve.

    Args:
        attributor: The model with its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding, as for the attributor.
        scores: An `Attribution`, an `Importance` or an array `[token]` (special tokens counted), or a list with one
            for each text; the highest go first, signs counted. `"random"`: the floor, drawn by `seed`.
            `"leave_one_out"`: the ceiling, `blank_out` with the same replacement and output; a forward pass a token. It
            knows of single tokens alone, so that scores which know how tokens act together can pass it.
        replacement: `"drop"` (ERASER's), or `"unk"`, `"mask"` or `"pad"` in a token's place.
        output: `"probability"` or `"logit"` of the class. A regression head has its value alone.
        target: The class, by index or label (a token or its id for language models), or a list with one for each
            text; by default what the model predicts of the text as it is.
        special_tokens: `"drop"`: those that the tokenizer added are not ranked and always stay. `"keep"`: they are
            tokens like all others.
        bins: Shares of the tokens, above 0 and up to 1.
        n_points: The steps of deletion and insertion curves; short texts have a step for each token at most.
        seed: Of random scores, and of the order of equal scores.
        output_position: Where a model that speaks of each position is asked, as for `blank_out`.
        truncation: Cut texts that are longer than the model can read.

    Returns:
        A list, also for a single text. A text of one ranked token, and one whose scores are all equal, tells nothing:
        its values are NaN, and `missing` says why.

    Raises:
        ArrayError: Scores are not those of the text.
        AttnFlowError: One of its children says what came, what is needed and what to do.

    Example:
        >>> from attnflow_hf.evaluation import summarize_faithfulness
        >>> attributor = Attributor.from_pretrained()
        >>> texts = ["the keys to the cabinet", "the authors that the critic likes"]
        >>> rollout = attributor(texts, method="rollout")
        >>> found = [measure_faithfulness(attributor, texts, each) for each in ("leave_one_out", rollout, "random")]
        >>> [round(summarize_faithfulness(each).means["comprehensiveness"], 2) for each in found]
        [0.97, 0.97, 0.5]
    """
    how = Erasing(replacement, output, special_tokens, bins, n_points)
    texts = ErasedTexts.of(
        attributor, inputs, how, target=target, output_position=output_position, truncation=truncation
    )
    seeds = [(seed, index) for index in range(len(texts.pairs))]
    return texts.measure(_scores_of_each(texts, scores, is_single(inputs, len(seeds)), seeds), seeds)


def _scores_of_each(texts: ErasedTexts, scores: Any, is_one: bool, seeds: Sequence[tuple[int, ...]]) -> list[Scores]:
    if isinstance(scores, str):
        check_choice("scores", scores, BOUNDS)
        return texts.random(seeds) if scores == "random" else texts.leave_one_out()
    samples = texts.samples
    if is_one and isinstance(scores, (Attribution, Importance)):
        return [scores]
    if is_one and np.ndim(scores) == 1 and len(scores) == len(samples[0]) and np.isscalar(scores[0]):
        return [scores]
    if not isinstance(scores, Sequence) or len(scores) != len(samples):
        raise OptionError(
            f"scores must be one for each of {len(samples)} texts: an Attribution, an Importance or an array; or "
            f"'random' or 'leave_one_out'; got {type(scores).__name__}"
        )
    return list(scores)
