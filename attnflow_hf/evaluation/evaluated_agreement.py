"""`evaluate_agreement`: the agreement of attributions with importance over a data set, as shards and as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.evaluation.agreement_rows import AgreementRows, AgreementSettings
from attnflow_hf.evaluation.evaluated import Drawn, HowRun, evaluate
from attnflow_hf.evaluation.evaluation_report import EvaluationReport, Layout
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names
from attnflow_hf.run_ray import RayOptions

_LAYOUT = Layout(("method",), "layer", "std", "max", ("importance", "metric"), "{metric} with {importance}")


def evaluate_agreement(
    dataset: Dataset | IterableDataset | DatasetDict | Iterable[Mapping[str, Any]] | Names,
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    special_tokens: str,
    split: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    text_column: str = "text",
    method: str | Sequence[str] = ("raw", "rollout", "flow"),
    options: Options | None = None,
    importance: str | Sequence[str] = "blank_out",
    statistic: str | Sequence[str] = "spearman",
    decimals: int | None = 9,
    replacement: str = "unk",
    signs: str = "drop",
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
    """Return how far attributions of each layer order the tokens of texts as importance does.

    So are tables 1 and 2 of Abnar & Zuidema (2020) made. For each text, statistic, importance and method the folder's
    shards have a column such as `spearman_blank_out_rollout`: a value for each layer, null where it is undefined (one
    token, constant scores), with the reason in `missing`. Like every run it can be resumed, shared among processes, and
    is the same byte for byte.

    Args:
        dataset: As for `run_dataset`.
        attributor: The wrapped model.
        output: The folder.
        special_tokens: `"keep"` or `"drop"` them from the comparison. There is no default, as it moves the result.
        split: As for `run_dataset`.
        sample: How many texts are drawn from a `Dataset` (or files); `None` for all.
        seed: Of the draw.
        text_column: The column of the texts.
        method: One method, or a list of them.
        options: `backend`, `head_reduction`, `residual_weight`, `n_permutations`, `seed` of the attributions.
        importance: `"blank_out"`, `"input_gradient"`, `"gradient_x_input"`, `"integrated_gradients"`, or a list.
        statistic: `"spearman"`, `"kendall"`, or both.
        decimals: Scores are rounded to so many decimals first, so that flows equal but for rounding are tied.
        replacement: What blank-out puts in a token's place.
        signs: `"drop"`: absolute values, as in the paper's code; or `"keep"`.
        norm: Of input gradients: `"l2"` or `"sum"`.
        embeddings: Where gradients are taken: `"word"` or `"block"`.
        baseline: Of integrated gradients: the embedding of `"pad"`, `"mask"` or `"unk"`, or `"zero"`.
        n_steps: The points of integrated gradients.
        columns: Which columns of the data set to keep beside the results; by default all.
        truncation: Cut texts that are longer than the model can read.
        shard_size: How many texts make a shard.
        on_error: What becomes of a text that cannot be compared: `"record"`, `"skip"` or `"raise"`.
        engine: As for `run_dataset`; so are `concurrency`, `num_gpus` and `num_cpus`.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor.
        num_cpus: Cores of each actor.
        cost_rows: On how many texts, the first, it is measured what the attributions cost, each method by itself; 0 for
            none. It is measured anew in each call, by one process, and stands in the results and not in the shards.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        AttnFlowError: As `run_dataset`.

    Example:
        >>> report = evaluate_agreement("sentences.csv", attributor, "table1", special_tokens="drop")  # doctest: +SKIP
        >>> print(report.to_markdown())  # doctest: +SKIP
    """
    settings = AgreementSettings(
        text_column=text_column,
        method=method,
        options=options or Options(),
        importance=importance,
        statistic=statistic,
        special_tokens=special_tokens,
        decimals=decimals,
        replacement=replacement,
        signs=signs,
        norm=norm,
        embeddings=embeddings,
        baseline=baseline,
        n_steps=n_steps,
        truncation=truncation,
    )
    ray = RayOptions(concurrency, num_gpus, num_cpus)
    how = HowRun(columns, shard_size, on_error, engine, ray, cost_rows, progress)
    rows = Drawn(dataset, split, sample, seed, {"text_column": [text_column]})
    return evaluate(rows, AgreementRows(attributor, settings), output, how, _LAYOUT)
