"""Accuracy of a verb-number model on labeled prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnflow_hf.errors import OptionError
from attnflow_hf.verb_number.examples import Example

__all__ = ["Score", "evaluate", "plural_probabilities", "render_scores"]


@dataclass(frozen=True)
class Score:
    """How well a model does on one set of examples.

    Attributes:
        name: The name of the set.
        n_examples: Number of examples.
        plural_share: The part of them whose verb is plural.
        accuracy: The part that is predicted right.
        balanced_accuracy: The mean of the accuracies on the singular and on the plural ones; 0.5 is chance.
    """

    name: str
    n_examples: int
    plural_share: float
    accuracy: float
    balanced_accuracy: float


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], *, name: str
) -> Score:
    """Return the `Score` of `model` on `examples`.

    Raises:
        OptionError: There are no examples.
    """
    if not examples:
        raise OptionError(f"no examples to evaluate on in {name!r}; at least one is needed")
    labels = np.array([example.label for example in examples])
    right = (plural_probabilities(model, tokenizer, [example.text for example in examples]) > 0.5) == labels
    by_label = [right[labels == label].mean() for label in np.unique(labels)]
    return Score(name, len(labels), float(labels.mean()), float(right.mean()), float(np.mean(by_label)))


def plural_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_size: int = 128
) -> NDArray[np.float64]:
    """Return the probability of a plural verb after each text, `[text]`, float64 from 0 to 1."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    result = np.empty(len(texts))
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            chosen = order[start : start + batch_size]
            inputs = tokenizer([texts[index] for index in chosen], padding=True, truncation=True, return_tensors="pt")
            result[chosen] = model(**inputs).logits.float().softmax(-1)[:, 1].numpy()
    model.train(was_training)
    return result


def render_scores(scores: Sequence[Score]) -> str:
    """Return the scores as a Markdown table."""
    rows = [
        f"| {each.name} | {each.n_examples:,} | {each.plural_share:.1%} | {each.accuracy:.1%} "
        f"| {each.balanced_accuracy:.1%} |"
        for each in scores
    ]
    return "\n".join(("| set | prefixes | plural | accuracy | balanced accuracy |", "|---|--:|--:|--:|--:|", *rows))
