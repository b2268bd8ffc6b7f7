"""`evaluate_plausibility`: how well the scores of several scorers find marked words, as shards and as a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from datasets import Dataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.evaluated import Drawn, HowRun, evaluate
from attnflow_hf.evaluation.evaluation_report import EvaluationReport, Layout
from attnflow_hf.evaluation.plausibility_metrics import METRICS
from attnflow_hf.evaluation.plausibility_rows import PlausibilityRows, PlausibilitySettings, rationale_rows
from attnflow_hf.evaluation.rationales import Rationale
from attnflow_hf.evaluation.scorings import scorings_of
from attnflow_hf.options import Options
from attnflow_hf.run_ray import RayOptions

_LAYOUT = Layout(("method", "layer"), "metric", "interval", title="plausibility")


def evaluate_plausibility(
    rationales: Sequence[Rationale],
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    sample: int | None = None,
    seed: int = 0,
    scorer: str | Sequence[str | Mapping[str, Any]] = ("random", "raw", "rollout", "flow"),
    layer: int | Sequence[int] | Literal["all"] = -1,
    options: Options | None = None,
    compared_with: str | None = None,
    annotators: str = "each",
    metric: str | Sequence[str] = METRICS,
    share: float | None = None,
    word_reduction: str = "sum",
    replacement: str = "drop",
    signs: str = "keep",
    norm: str = "l2",
    embeddings: str = "word",
    baseline: str = "pad",
    n_steps: int = 50,
    columns: Sequence[str] | None = None,
    truncation: bool = False,
    window: int | None = None,
    stride: int = 0,
    shard_size: int = 200,
    on_error: str = "record",
    engine: str = "local",
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: int = 1,
    cost_rows: int = 32,
    progress: bool = True,
) -> EvaluationReport:
    """Return how well the scores of several scorers find the words that humans marked; see `measure_plausibility`.

    The folder's shards have a row for each text, with a column such as `auprc_rollout_layer_5` for each metric and
    scorer, null where no annotator marked a word. Like every run it can be resumed, shared among processes, and is the
    same byte for byte. The table is made as that of `evaluate_faithfulness`.

    Args:
        rationales: Such as `read_fair_rationales` and `read_eraser_movies` return.
        attributor: The wrapped model.
        output: The folder.
        sample: How many texts are drawn; `None` for all.
        seed: Of the draw, and of the orders of ties in `"iou_f1"`.
        scorer: As for `evaluate_faithfulness`, and so are `layer`, `options` and `compared_with`; but `"random"` is
            exact here: what words in random order give in the mean, `chance_plausibility`.
        layer: Of the methods: an index, a list of them, or `"all"`.
        options: Of the attributions.
        compared_with: The scorer that the paired differences are from; by default `"random"`, if it is there.
        annotators: `"each"` by itself, or the `"majority"` of them.
        metric: `"auprc"`, `"token_f1"`, `"iou"`, `"iou_f1"`, or a list of them.
        share: How many words are chosen, as a share of the text's; `None`: as many as were marked.
        word_reduction: What a word's score is of its tokens': `"sum"`, `"mean"` or `"max"`.
        replacement: Of blank-out: `"drop"`, or `"unk"`, `"mask"` or `"pad"` in a token's place.
        signs: Of importance: `"keep"`, or `"drop"` them.
        norm: Of input gradients: `"l2"` or `"sum"`.
        embeddings: Where gradients are taken: `"word"` or `"block"`.
        baseline: Of integrated gradients.
        n_steps: Of integrated gradients.
        columns: Which of `id`, `text`, `original_label`, `split`, `annotators`, `labels`, `masks` to keep; by default
            all.
        truncation: Cut texts that are longer than the model can read; the words behind the cut are left out of the
            comparison, the rationale too, and counted as `n_dropped_words`. Otherwise such texts are errors.
        window: Read longer texts in windows of so many tokens, as `run_dataset` does; for methods alone.
        stride: How many tokens a window shares with the one before it.
        shard_size: As for `run_dataset`; so are `on_error`, `engine`, `concurrency`, `num_gpus`, `num_cpus` and
            `progress`.
        on_error: `"record"`, `"skip"` or `"raise"`.
        engine: `"local"` or `"ray"`.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor.
        num_cpus: Cores of each actor.
        cost_rows: As for `evaluate_agreement`.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        OptionError: There are no rationales, or those of one id have different texts.
        AttnFlowError: As `run_dataset`.

    Example:
        >>> rationales = read_fair_rationales("SST_rationales.csv")  # doctest: +SKIP
        >>> print(evaluate_plausibility(rationales, attributor, "plausible", metric="auprc"))  # doctest: +SKIP
    """
    settings = PlausibilitySettings(
        scorer=scorer,
        layer=layer,
        options=options or Options(),
        compared_with=compared_with,
        seed=seed,
        annotators=annotators,
        metric=metric,
        share=share,
        word_reduction=word_reduction,
        replacement=replacement,
        signs=signs,
        norm=norm,
        embeddings=embeddings,
        baseline=baseline,
        n_steps=n_steps,
        truncation=truncation,
        window=window,
        stride=stride,
    )
    if not rationales:
        raise OptionError("there are no rationales to compare with")
    ray = RayOptions(concurrency, num_gpus, num_cpus)
    how = HowRun(columns, shard_size, on_error, engine, ray, cost_rows, progress)
    rows = Drawn(Dataset.from_list(rationale_rows(rationales)), None, sample, seed, {})
    measure = PlausibilityRows(attributor, settings, scorings_of(attributor, settings))
    return evaluate(rows, measure, output, how, _LAYOUT)
