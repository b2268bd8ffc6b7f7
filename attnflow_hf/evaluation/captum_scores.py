"""Scores of gradient methods, computed by captum: how they are made, and what is made of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import BoolArray, FloatArray, OptionError, check_choice
from attnflow_hf.evaluation.edits import SPECIAL_TOKENS, Replacement, editable, find_replacement
from attnflow_hf.evaluation.embedded import EMBEDDINGS, Embedded, embedded
from attnflow_hf.evaluation.importance import SIGNS, Importance, notes_on
from attnflow_hf.evaluation.outputs import OUTPUTS, find_targets, plain_samples, read_outputs
from attnflow_hf.given import is_single
from attnflow_hf.inputs import Sample, Text
from attnflow_hf.reader import model_batches
from attnflow_hf.scoring import Wrapped
from attnflow_hf.targets import Asked, Target

NORMS = ("l2", "sum")
BASELINES = ("mask", "pad", "unk", "zero")
_ROUNDINGS, _LARGEST_ROUNDING = 100, 0.01
"""A sum of gradients is rounding below so many of the smallest steps, or below that share, of their absolute values."""
Inputs = Text | list[Text] | Mapping[str, Any]


@dataclass(frozen=True)
class GradientSettings:
    """How importance by gradients is made; each public function explains its own."""

    kind: str
    norm: str
    signs: str
    output: str
    special_tokens: str
    embeddings: str
    baseline: str | None = None
    n_steps: int = 0

    def __post_init__(self) -> None:
        """Check all that can be checked without a model."""
        check_choice("norm", self.norm, NORMS)
        check_choice("embeddings", self.embeddings, EMBEDDINGS)
        check_choice("signs", self.signs, SIGNS)
        check_choice("output", self.output, OUTPUTS)
        check_choice("special_tokens", self.special_tokens, SPECIAL_TOKENS)
        if self.baseline is None:
            return
        check_choice("baseline", self.baseline, BASELINES)
        if isinstance(self.n_steps, bool) or not isinstance(self.n_steps, (int, np.integer)) or self.n_steps < 1:
            raise OptionError(f"n_steps must be a positive integer, got {self.n_steps!r}")


def importances(
    attributor: Attributor,
    inputs: Inputs,
    asked: Asked | Sequence[Asked],
    output_position: int | Literal["auto"],
    truncation: bool,
    settings: GradientSettings,
) -> Importance | list[Importance]:
    """Return the importance of each token of the inputs; a single one for a single input.

    Args:
        attributor: The model with its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding.
        asked: The target, or one for each text.
        output_position: Where a model that speaks of each position is asked.
        truncation: Cut texts that are longer than the model can read.
        settings: How.

    Raises:
        OptionError: captum is not installed, or a sum over dimensions is nothing but rounding.
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    captum, wrapped = _captum(), attributor.wrapped
    samples = plain_samples(wrapped, inputs, truncation=truncation)
    chosen = _baseline(wrapped, settings)
    targets = find_targets(wrapped, samples, asked, output_position)
    pairs = list(zip(samples, targets, strict=True))
    values = read_outputs(wrapped, pairs, settings.output)
    masks = [_shown(wrapped, sample, target, settings, chosen) for sample, target in pairs]
    results: dict[int, Importance] = {}
    for indices in model_batches(wrapped.model, samples, wrapped.batch_size):
        batch = [pairs[index] for index in indices]
        baseline = None if settings.baseline is None else ([masks[index] for index in indices], chosen)
        with embedded(wrapped, batch, settings.output, settings.embeddings, baseline) as inside:
            scores, gaps = _attribute(captum, inside, settings)
        for row, index in enumerate(indices):
            reduced = _reduce(scores[row, : len(samples[index])], settings)
            value = float(values[index])
            results[index] = _importance(wrapped, pairs[index], masks[index], reduced, value, gaps[row], settings)
    found = [results[index] for index in range(len(samples))]
    return found[0] if is_single(inputs, len(found)) else found


def _importance(
    wrapped: Wrapped,
    pair: tuple[Sample, Target],
    mask: BoolArray,
    scores: FloatArray,
    value: float,
    gap: float | None,
    settings: GradientSettings,
) -> Importance:
    """Return the importance of the tokens of one text that are in the result."""
    sample, target = pair
    stays = np.ones(len(sample), dtype=bool) if settings.baseline is None else mask
    return Importance(
        alignment=sample.tokens.select(mask),
        scores=scores[mask],
        kind=settings.kind,
        target=target,
        output=settings.output,
        output_value=value,
        replacement=settings.baseline,
        norm=settings.norm,
        signs=settings.signs,
        model_name=wrapped.name,
        notes=notes_on(sample, target, stays),
        gap=gap,
    )


def _captum() -> Any:
    """Return captum's module of methods.

    Raises:
        OptionError: It is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise OptionError(
            f"importance by gradients needs captum ({error}); install it by: pip install 'attnflow_hf[evaluation]'"
        ) from error
    return captum.attr


def _attribute(captum: Any, batch: Embedded, settings: GradientSettings) -> tuple[torch.Tensor, Sequence[float | None]]:
    """Return a batch's scores `[batch, token, dimension]`, and by how much the sums of each text miss."""
    options: dict[str, Any] = {"target": batch.targets, "additional_forward_args": batch.arguments}
    if settings.kind == "input_gradient":
        return captum.Saliency(batch.output).attribute(batch.embeddings, abs=False, **options), [None] * len(
            batch.targets
        )
    if settings.kind == "gradient_x_input":
        return captum.InputXGradient(batch.output).attribute(batch.embeddings, **options), [None] * len(batch.targets)
    scores, gaps = captum.IntegratedGradients(batch.output).attribute(
        batch.embeddings,
        baselines=batch.baselines,
        n_steps=settings.n_steps,
        internal_batch_size=max(batch.n_rows, len(batch.targets)),
        return_convergence_delta=True,
        **options,
    )
    return scores, gaps.tolist()


def _baseline(wrapped: Wrapped, settings: GradientSettings) -> Replacement | None:
    return None if settings.baseline in (None, "zero") else find_replacement(wrapped, str(settings.baseline))


def _shown(
    wrapped: Wrapped, sample: Sample, target: Target, settings: GradientSettings, chosen: Replacement | None
) -> BoolArray:
    """Return which tokens are in the result; with a baseline, those that are something else there."""
    if settings.baseline is not None:
        return editable(wrapped, sample, target, chosen or Replacement("zero", 0), settings.special_tokens)
    special: BoolArray = sample.tokens.special_tokens_mask
    return ~special if settings.special_tokens == "drop" else np.ones(len(sample), dtype=bool)


def _reduce(scores: torch.Tensor, settings: GradientSettings) -> FloatArray:
    """Return one score for each token of `[token, dimension]`."""
    values = scores.detach().double().cpu().numpy()
    reduced = values.sum(-1) if settings.norm == "sum" else np.sqrt((values**2).sum(-1))
    rounding = min(_ROUNDINGS * torch.finfo(scores.dtype).eps, _LARGEST_ROUNDING) * np.abs(values).sum(-1)
    if settings.kind == "input_gradient" and settings.norm == "sum" and (np.abs(reduced) <= rounding).all():
        raise OptionError(
            "the sum over dimensions of these gradients is 0 but for rounding, as a layer norm takes out what all "
            "dimensions of an embedding share (or the gradients are 0); use norm='l2', or embeddings='block' where the "
            "layer norm stands behind the word embeddings"
        )
    return np.asarray(np.abs(reduced) if settings.signs == "drop" else reduced)
