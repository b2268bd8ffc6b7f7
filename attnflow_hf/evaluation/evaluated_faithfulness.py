"""`evaluate_faithfulness`: how faithful the scores of several scorers are over a data set, as shards and as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from datasets import Dataset, DatasetDict, IterableDataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.evaluation.erased_texts import BINS
from attnflow_hf.evaluation.evaluated import Drawn, HowRun, evaluate
from attnflow_hf.evaluation.evaluation_report import EvaluationReport, Layout
from attnflow_hf.evaluation.faithfulness_rows import FaithfulnessRows, FaithfulnessSettings
from attnflow_hf.evaluation.scorings import scorings_of
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names
from attnflow_hf.run_ray import RayOptions

_LAYOUT = Layout(("method", "layer"), "metric", "interval", title="faithfulness")
_APART = replace(_LAYOUT, parts=("prediction", "n_texts"), title="faithfulness, prediction {prediction}: n = {n_texts}")


def evaluate_faithfulness(
    dataset: Dataset | IterableDataset | DatasetDict | Iterable[Mapping[str, Any]] | Names,
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    split: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    text_column: str = "text",
    label_column: str | None = None,
    scorer: str | Sequence[str | Mapping[str, Any]] = ("random", "raw", "rollout", "flow", "blank_out"),
    layer: int | Sequence[int] | Literal["all"] = -1,
    options: Options | None = None,
    compared_with: str | None = None,
    replacement: str = "drop",
    measured_output: str = "probability",
    special_tokens: str = "drop",
    bins: Sequence[float] = BINS,
    n_points: int = 10,
    signs: str = "keep",
    norm: str = "l2",
    embeddings: str = "word",
    baseline: str = "pad",
    n_steps: int = 50,
    columns: Sequence[str] | None = None,
    truncation: bool = False,
    shard_size: int = 200,
    on_error: str = "record",
    engine: str = "local",
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: int = 1,
    cost_rows: int = 32,
    progress: bool = True,
) -> EvaluationReport:
    """Return how faithful the scores of several scorers are to the model, over a data set; see `measure_faithfulness`.

    For each text and scorer the folder's shards have columns such as `comprehensiveness_rollout_layer_5` (a value for
    each bin; likewise `sufficiency` and `log_odds`) and `deletion_area_rollout_layer_5` (and `insertion_area`), null
    where they are undefined (one token, constant scores; `missing` has the reason of each scorer, in their order). Like
    every run it can be resumed, shared among processes, and is the same byte for byte.

    The table has the mean over texts of each number with its bootstrap interval, and the mean of the paired differences
    from one scorer with theirs.

    Args:
        dataset: As for `run_dataset`.
        attributor: The wrapped model.
        output: The folder.
        split: As for `run_dataset`.
        sample: How many texts are drawn from a `Dataset` (or files); `None` for all.
        seed: Of the draw, of random scores and of the order of equal ones, for each text by itself.
        text_column: The column of the texts.
        label_column: The column of the right labels, indices or names of the model's classes. The table then has all
            numbers for the texts predicted right and for those predicted wrong apart too (its column `prediction`:
            `"all"`, `"right"`, `"wrong"`), with intervals and paired differences of their own; shards have `is_right`.
        scorer: What gives the scores: `"raw"`, `"rollout"`, `"flow"`, `"flow_shapley"`; `"input_gradient"`,
            `"gradient_x_input"`, `"integrated_gradients"`; `"random"`, the floor; `"blank_out"`, leave-one-out with the
            same replacement and output, the ceiling of what knows of single tokens; `"column_sum"`, the edge weights
            into a token, summed over layers and queries without paths, the floor of rollout and flow; or a list of
            them. A list may hold mappings with a `method` (or a list of them) and what it has of its own: `layer` and
            fields of `options` such as `edge_weights`, or `baseline`, `n_steps`, `signs`, `norm`, `embeddings`,
            `replacement`; and the `name` that tables have, by default made of what differs.
        layer: Of the methods: an index, a list of them, or `"all"`.
        options: `edge_weights`, `head_reduction`, `residual_weight`, `backend`, ... of the attributions.
        compared_with: The name of the scorer that the paired differences are from, one of several layers layer by
            layer; by default `"random"` where it is among the scorers, else none.
        replacement: How tokens go: `"drop"`, or `"unk"`, `"mask"` or `"pad"` in their place.
        measured_output: `"probability"` or `"logit"` of the predicted class.
        special_tokens: `"drop"`: those that the tokenizer added are not ranked and stay; `"keep"`: like all others, but
            that importance gives them no score.
        bins: Shares of the tokens, above 0 and up to 1.
        n_points: The steps of deletion and insertion curves.
        signs: `"keep"`, or `"drop"` those of gradients.
        norm: Of input gradients: `"l2"` or `"sum"`.
        embeddings: Where gradients are taken: `"word"` or `"block"`.
        baseline: As for `evaluate_agreement`; so are `n_steps`, `columns`, `truncation`, `shard_size`, `on_error`,
            `engine`, `concurrency`, `num_gpus`, `num_cpus`, `cost_rows` and `progress`.
        n_steps: The points of integrated gradients.
        columns: Which columns of the data set to keep.
        truncation: Cut texts that are longer than the model can read.
        shard_size: How many texts make a shard.
        on_error: `"record"`, `"skip"` or `"raise"`.
        engine: `"local"` or `"ray"`.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor.
        num_cpus: Cores of each actor.
        cost_rows: On how many texts it is measured what the scores cost, each scorer and layer by itself.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        AttnFlowError: As `run_dataset`.

    Example:
        >>> report = evaluate_faithfulness("sentences.csv", attributor, "faithful", layer=[2, 5])  # doctest: +SKIP
        >>> print(report.to_markdown())  # doctest: +SKIP
    """
    settings = FaithfulnessSettings(
        text_column=text_column,
        label_column=label_column,
        scorer=scorer,
        layer=layer,
        options=options or Options(),
        compared_with=compared_with,
        seed=seed,
        replacement=replacement,
        measured_output=measured_output,
        special_tokens=special_tokens,
        bins=bins,
        n_points=n_points,
        signs=signs,
        norm=norm,
        embeddings=embeddings,
        baseline=baseline,
        n_steps=n_steps,
        truncation=truncation,
    )
    ray = RayOptions(concurrency, num_gpus, num_cpus)
    how = HowRun(columns, shard_size, on_error, engine, ray, cost_rows, progress)
    needed = {"text_column": [text_column], "label_column": [] if label_column is None else [label_column]}
    rows = Drawn(dataset, split, sample, seed, needed)
    measure = FaithfulnessRows(attributor, settings, scorings_of(attributor, settings))
    return evaluate(rows, measure, output, how, _LAYOUT if label_column is None else _APART)
