"""What a model says of a target on many samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from attnflow_hf.borrowing import borrowed
from attnflow_hf.errors import FloatArray, OptionError, check_finite
from attnflow_hf.forward_pass import call
from attnflow_hf.given import given
from attnflow_hf.inputs import Sample
from attnflow_hf.model_facts import declares_causal
from attnflow_hf.prediction import kind_of_head
from attnflow_hf.reader import model_batches, model_inputs
from attnflow_hf.scoring import Wrapped
from attnflow_hf.targets import Asked, Target, check_logits, one_for_each, position_of_head, target_of

OUTPUTS = ("logit", "probability")
_BATCHES_HELD = 64
"""How many batches of edited samples are made at once; they are sorted by length."""


def plain_samples(wrapped: Wrapped, inputs: Any, *, truncation: bool) -> Sequence[Sample]:
    """Return the samples of texts or encodings whose tokens can be edited one by one.

    Args:
        wrapped: The model and its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding.
        truncation: Cut texts that are longer than the model can read.

    Raises:
        OptionError: The model or the input is of another kind: images, sound, a decoder beside an encoder.
        AttnFlowError: As of `Attributor.__call__`.
    """
    name = type(wrapped.model).__name__
    asked = given(wrapped.model, wrapped.tokenizer, inputs, truncation=truncation)
    if asked.signals is not None:
        raise OptionError(f"{name} reads images or sound, which have no tokens to replace; give a model of text")
    is_classifier = "ForSequenceClassification" in name
    if any(sample.decoder is not None for sample in asked.samples) or (
        wrapped.model.config.is_encoder_decoder and not is_classifier
    ):
        raise OptionError(
            f"{name} writes a text of its own; importance is that of classifiers, masked and causal language models"
        )
    if not asked.samples:
        raise OptionError("there is no text; give one at least")
    return asked.samples


def find_targets(
    wrapped: Wrapped,
    samples: Sequence[Sample],
    asked: Asked | Sequence[Asked] = None,
    output_position: int | Literal["auto"] = "auto",
) -> list[Target]:
    """Return the target of each sample: the class asked for, or the one that the model predicts.

    Args:
        wrapped: The model and its tokenizer.
        samples: The texts, as they are.
        asked: A class index or label, a token or its id for language models; `None` for what the model predicts; or a
            list with one for each text.
        output_position: Where a model that speaks of each position is asked. `"auto"`: at the mask of a masked
            language model, at the last token of a causal one.

    Raises:
        OptionError: The class is none of the model's, or the model has no head; a position is missing.
        PositionError: The position is outside of the text.
    """
    wanted = one_for_each(asked, len(samples))
    targets: dict[int, Target] = {}
    for indices, logits in _logits(wrapped, samples):
        for row, index in enumerate(indices):
            position = _position(wrapped, samples[index], output_position, logits.ndim == 3)
            of_class = logits[row] if position is None else logits[row, position]
            targets[index] = target_of(wrapped.model, wrapped.tokenizer, of_class, wanted[index], position)
    return [targets[index] for index in range(len(samples))]


def read_outputs(wrapped: Wrapped, asked: Iterable[tuple[Sample, Target]], output: str) -> FloatArray:
    """Return what the model says of each target on each sample, float64 `[sample]`.

    Samples are taken a few batches at a time, so that they may be made while they are read. The model comes back as it
    was.

    Args:
        wrapped: The model and its tokenizer.
        asked: The samples with their targets.
        output: `"probability"` (of a class among all, or of a label by itself where the head has several labels),
            its logarithm `"log_probability"`, or `"logit"`. A regression head has its value alone.

    Raises:
        ArrayError: The model says something that is not finite.
        CaptureError: The model fails on a sample.
    """
    stream, found = iter(asked), []
    while chunk := list(islice(stream, _BATCHES_HELD * wrapped.batch_size)):
        values = np.empty(len(chunk))
        samples, targets = zip(*chunk, strict=True)
        for indices, logits in _logits(wrapped, samples):
            batch = [targets[index] for index in indices]
            rows = at_positions(logits, [target.position for target in batch]).double().cpu()
            classes = torch.tensor([target.index for target in batch])[:, None]
            values[indices] = head_outputs(wrapped.model, rows, output).gather(1, classes)[:, 0].numpy()
        found.append(values)
    outputs = np.concatenate(found) if found else np.empty(0)
    check_finite("the model's output", outputs)
    return outputs


def head_outputs(model: Any, logits: torch.Tensor, output: str) -> torch.Tensor:
    """Return what a head says `[..., label]` as probabilities, their logarithms, or logits; differentiable."""
    kind = kind_of_head(model, logits.shape[-1])
    if output == "logit" or kind == "regression":
        return logits
    logs = torch.nn.functional.logsigmoid(logits) if kind == "multi_label" else logits.log_softmax(-1)
    return logs if output == "log_probability" else logs.exp()


def head_logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a forward pass, `[batch, label]` or `[batch, token, label]`.

    Raises:
        OptionError: The model has no head of classes or tokens.
    """
    return check_logits(model, call(model, inputs).get("logits"))


def at_positions(logits: torch.Tensor, positions: Sequence[int | None] | torch.Tensor) -> torch.Tensor:
    """Return `[batch, label]`: the logits at each row's position, or as they are where there are none."""
    if logits.ndim == 2:
        return logits
    return logits[torch.arange(len(logits), device=logits.device), torch.as_tensor(positions, device=logits.device)]


def _position(
    wrapped: Wrapped, sample: Sample, output_position: int | Literal["auto"], speaks_of_each: bool
) -> int | None:
    """Return where the model is asked, or `None` where its head speaks of the whole text."""
    if not speaks_of_each:
        if output_position != "auto":
            raise OptionError(
                f"{type(wrapped.model).__name__} says one thing of the whole text; leave output_position out"
            )
        return None
    is_causal = declares_causal(wrapped.model)
    return position_of_head(wrapped.model, wrapped.tokenizer, sample.tokens, output_position, is_causal)


def _logits(wrapped: Wrapped, samples: Sequence[Sample]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the indices of the samples of each batch, and their logits."""
    for indices in model_batches(wrapped.model, samples, wrapped.batch_size):
        inputs = model_inputs(wrapped.model, wrapped.tokenizer, [samples[index] for index in indices])
        with borrowed(wrapped.model, implementation=None):
            logits = head_logits(wrapped.model, inputs)
        yield indices, logits
