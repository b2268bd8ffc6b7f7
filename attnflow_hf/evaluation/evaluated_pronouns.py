"""`evaluate_pronouns`: whom a model and its attention name over many masked pronouns, as shards and as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence

from datasets import Dataset

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.evaluated import Drawn, HowRun, evaluate
from attnflow_hf.evaluation.evaluation_report import EvaluationReport, Layout
from attnflow_hf.evaluation.pronoun_rows import PronounRows, PronounSettings
from attnflow_hf.evaluation.pronouns import PronounSentence
from attnflow_hf.options import Options
from attnflow_hf.run_ray import RayOptions

_LAYOUT = Layout(
    ("method",),
    "layer",
    "interval",
    parts=("metric", "n", "missing", "always_first"),
    title="{metric}: n = {n} (missing: {missing}), by chance 0.5, always the first candidate: {always_first}",
)


def evaluate_pronouns(
    sentences: Sequence[PronounSentence],
    attributor: Attributor,
    output: str | os.PathLike[str],
    *,
    sample: int | None = None,
    seed: int = 0,
    method: str | Sequence[str] = ("raw", "rollout", "flow"),
    options: Options | None = None,
    decimals: int | None = 9,
    columns: Sequence[str] | None = None,
    shard_size: int = 200,
    on_error: str = "record",
    engine: str = "local",
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: int = 1,
    cost_rows: int = 32,
    progress: bool = True,
) -> EvaluationReport:
    """Return how often attributions name the candidate that a masked pronoun stands for; see `measure_pronouns`.

    For each sentence the folder's shards have the probabilities of both pronouns (`p_male`, `p_female`), whom the model
    names (`named`: `"first"`, `"second"`, or null, and `not_named` why), whom the pronoun stands for (`stands_for`),
    and of each method the scores of both candidates in every layer (`scores_flow`, `[layer, candidate]`). Like every
    run it can be resumed, shared among processes, and is the same byte for byte. The table is that of
    `summarize_pronouns`.

    Args:
        sentences: The sentences.
        attributor: A wrapped masked language model.
        output: The folder.
        sample: How many sentences are drawn; `None` for all.
        seed: Of the draw.
        method: One method, or a list of them.
        options: `backend`, `head_reduction`, `residual_weight`, `n_permutations`, `seed` of the attributions.
        decimals: Scores are rounded to so many decimals first, so that flows equal but for rounding are tied.
        columns: Which columns of `PronounSentence.to_row` to keep beside the results; by default all.
        shard_size: How many sentences make a shard.
        on_error: What becomes of a sentence that cannot be measured: `"record"`, `"skip"` or `"raise"`.
        engine: As for `run_dataset`; so are `concurrency`, `num_gpus` and `num_cpus`.
        concurrency: How many actors of Ray.
        num_gpus: GPUs of each actor.
        num_cpus: Cores of each actor.
        cost_rows: As for `evaluate_agreement`.
        progress: Show a bar, if stderr is a terminal.

    Raises:
        OptionError: There are no sentences, or the model is no masked language model.
        AttnFlowError: As `run_dataset`.

    Example:
        >>> sentences = read_winogender("templates.tsv")  # doctest: +SKIP
        >>> print(evaluate_pronouns(sentences, attributor, "pronouns"))  # doctest: +SKIP
    """
    settings = PronounSettings(method=method, options=options or Options(), decimals=decimals)
    if not sentences:
        raise OptionError("there are no sentences with a masked pronoun")
    ray = RayOptions(concurrency, num_gpus, num_cpus)
    how = HowRun(columns, shard_size, on_error, engine, ray, cost_rows, progress)
    rows = Drawn(Dataset.from_list([each.to_row() for each in sentences]), None, sample, seed, {})
    return evaluate(rows, PronounRows(attributor, settings), output, how, _LAYOUT)
