"""`Plausibility`: how well scores find the words that humans marked, against the rationales of many texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnflow_hf.errors import BoolArray, FloatArray, OptionError, check_choice
from attnflow_hf.evaluation.plausibility_metrics import METRICS, measure
from attnflow_hf.evaluation.rationales import Rationale, majority
from attnflow_hf.evaluation.summary import Bootstrap, Measured, Summary, check_seed, summarize
from attnflow_hf.evaluation.word_scores import BEYOND, REDUCTIONS, word_scores

ANNOTATORS = ("each", "majority")
EMPTY = "empty rationale"


@dataclass(frozen=True)
class PlausibilityOptions:
    """How plausibility is measured.

    Attributes:
        annotators: `"each"`: against each annotator's rationale by itself; a text's value is the mean over those who
            marked a word. `"majority"`: against the words that more than half of them marked.
        metrics: Which: `"auprc"`, `"token_f1"`, `"iou"` (of token sets), `"iou_f1"` (of spans). The last three choose
            the words with the highest scores.
        share: How many words are chosen, as a share of the text's; `None`: as many as the rationale has, so that F1 is
            precision and recall at once.
        word_reduction: What a word's score is of its tokens': `"sum"`, `"mean"` or `"max"`.
        beyond: `"error"`, or `"drop"` the words behind the cut of a text that was truncated: the rationale is cut there
            too.
        seed: Of the orders of ties in `"iou_f1"`.

    Raises:
        OptionError: An unknown choice.
    """

    annotators: str = "each"
    metrics: tuple[str, ...] = METRICS
    share: float | None = None
    word_reduction: str = "sum"
    beyond: str = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices."""
        check_choice("annotators", self.annotators, ANNOTATORS)
        for name in self.metrics:
            check_choice("metric", name, METRICS)
        check_choice("word_reduction", self.word_reduction, REDUCTIONS)
        check_choice("beyond", self.beyond, BEYOND)
        check_seed(self.seed)
        if self.share is not None and not 0 < self.share <= 1:
            raise OptionError(f"share must lie above 0 and up to 1, or be None, got {self.share!r}")

    def n_chosen(self, mask: BoolArray) -> int:
        """Return how many words are chosen."""
        return int(mask.sum()) if self.share is None else max(1, round(self.share * len(mask)))


@dataclass(frozen=True)
class Plausibility:
    """How well scores find the words that humans marked.

    Attributes:
        summaries: For each metric the mean over texts, with its interval; a text of which no rationale marks a word is
            missing.
        annotators: `"each"` or `"majority"`.
        n_rationales: How many rationales were compared with; for the majority one a text.
        n_empty: How many of them mark no word (of those that the model saw), and count nowhere.
        n_dropped_words: How many words of all texts were left out, as the text was cut before them.
        share_marked: The share of marked words, in the mean over rationales that are not empty: what AUPRC comes to
            where all scores are tied; `None` where all are empty.
    """

    summaries: Mapping[str, Summary]
    annotators: str
    n_rationales: int
    n_empty: int
    n_dropped_words: int
    share_marked: float | None

    def to_rows(self, **columns: Any) -> list[dict[str, Any]]:
        """Return the rows of a results table, one a metric.

        Args:
            columns: What else shall stand in each row, such as `method="rollout"` and `layer=5`.
        """
        own = {"annotators": self.annotators, "n_rationales": self.n_rationales, "n_empty": self.n_empty}
        return [{**columns, "metric": name, **own, **found.to_row()} for name, found in self.summaries.items()]

    def __str__(self) -> str:
        """Return a line for each metric, and one of what was compared."""
        lines = [f"{name}: {found}" for name, found in self.summaries.items()]
        lines.append(f"annotators: {self.annotators}; rationales: {self.n_rationales}, of them empty: {self.n_empty}")
        return "\n".join(lines)


def measure_plausibility(
    scored: Mapping[str, Any],
    rationales: Sequence[Rationale],
    options: PlausibilityOptions | None = None,
    *,
    bootstrap: Bootstrap | None = None,
) -> Plausibility:
    """Return how well scores find the words that humans marked (DeYoung et al. 2020, ERASER, section 4).

    Args:
        scored: For the id of each text an attribution or importance of it, or an array `[word]`.
        rationales: Of those texts; several of one id are those of several annotators.
        options: How; by default against each annotator, by all metrics.
        bootstrap: How the intervals of the means are found; what is drawn are texts.

    Raises:
        OptionError: There are no rationales, or a text has no scores.
        AttnFlowError: Scores and words do not fit; see `word_scores`.

    Example:
        >>> from attnflow_hf.evaluation import Rationale
        >>> marks = np.array([False, False, True, True])
        >>> seen = Rationale("1", "the film is great", ("the", "film", "is", "great"), marks, "positive")
        >>> found = measure_plausibility({"1": [0.1, 0.3, 0.2, 0.4]}, [seen])
        >>> round(found.summaries["auprc"].mean, 4), found.summaries["token_f1"].mean
        (0.8333, 0.5)
    """
    return _measure(scored, rationales, options or PlausibilityOptions(), bootstrap, by_chance=False)


def chance_plausibility(
    rationales: Sequence[Rationale],
    options: PlausibilityOptions | None = None,
    *,
    scored: Mapping[str, Any] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Plausibility:
    """Return what `measure_plausibility` gives in the mean if each text's words are put in random order: the floor.

    It is exact for all metrics but `"iou_f1"`, where it is the mean over 32 orders of each rationale. The expected
    AUPRC lies above the share of marked words; see `expected_average_precision`.

    Args:
        rationales: As in `measure_plausibility`.
        options: The same as for what it is compared with.
        scored: The scores that it is compared with, where texts were cut: the same words are left out.
        bootstrap: How the intervals of the means are found.
    """
    return _measure(scored, rationales, options or PlausibilityOptions(), bootstrap, by_chance=True)


@dataclass(frozen=True, eq=False)
class _Case:
    """A rationale's mask and the scores of its words; how many words were left out behind them."""

    mask: BoolArray
    scores: FloatArray | None
    n_dropped: int


def _measure(
    scored: Mapping[str, Any] | None,
    rationales: Sequence[Rationale],
    options: PlausibilityOptions,
    bootstrap: Bootstrap | None,
    *,
    by_chance: bool,
) -> Plausibility:
    if not rationales:
        raise OptionError("there are no rationales to compare with")
    chosen = majority(rationales) if options.annotators == "majority" else rationales
    texts: dict[str, list[_Case]] = {}
    for each in chosen:
        texts.setdefault(each.id, []).append(_case(scored, each, options, by_chance))
    cases = [case for group in texts.values() for case in group]
    shares = [case.mask.mean() for case in cases if case.mask.any()]
    return Plausibility(
        summaries={
            name: summarize([_of_text(name, group, options) for group in texts.values()], bootstrap=bootstrap)
            for name in options.metrics
        },
        annotators=options.annotators,
        n_rationales=len(cases),
        n_empty=len(cases) - len(shares),
        n_dropped_words=sum(group[0].n_dropped for group in texts.values()),
        share_marked=float(np.mean(shares)) if shares else None,
    )


def _case(
    scored: Mapping[str, Any] | None, rationale: Rationale, options: PlausibilityOptions, by_chance: bool
) -> _Case:
    if scored is None:
        return _Case(rationale.mask, None, 0)
    if rationale.id not in scored:
        raise OptionError(f"there are rationales of text {rationale.id!r}, but no scores; attribute it")
    own = scored[rationale.id]
    scores = word_scores(own, rationale, word_reduction=options.word_reduction, beyond=options.beyond)
    n_dropped = len(rationale.words) - len(scores)
    return _Case(rationale.mask[: len(scores)], None if by_chance else scores, n_dropped)


def _of_text(metric: str, cases: Sequence[_Case], options: PlausibilityOptions) -> Measured:
    """Return the mean over a text's rationales that mark a word."""
    values = [
        measure(metric, case.mask, case.scores, options.n_chosen(case.mask), options.seed)
        for case in cases
        if case.mask.any()
    ]
    return Measured(float(np.mean(values))) if values else Measured(None, EMPTY)
