"""`Prediction`: what a model's head says, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from attnflow_hf.errors import FloatArray, IntArray, check_finite


@dataclass(frozen=True)
class Prediction:
    """What the model's head says.

    Attributes:
        label: The class label, or the token for a language model.
        index: The class index, or the token id.
        probability: From 0 to 1; `None` for a regression head, which has none.
        output: The raw output of the head: a logit, or the value of a regression.

    Raises:
        ArrayError: The output is NaN or infinite.
    """

    label: str
    index: int
    probability: float | None
    output: float

    def __post_init__(self) -> None:
        """Check that the head gave a number."""
        check_finite("the model's output", np.array([self.output], dtype=np.float64))

    def describe(self, name: str = "prediction") -> str:
        """Return it in a few words, by the name of what it is."""
        if self.probability is None:
            return f"{name} {self.label} = {self.output:.4g}"
        return f"{name} {self.label!r} (probability {self.probability:.3f})"


def predict(
    model: Any, tokenizer: Any, logits: FloatArray | None, input_ids: IntArray, position: int | str
) -> Prediction | None:
    """Return what the model says of a text, or of its output position where the head speaks of each position.

    Args:
        model: The model, for its labels and the kind of its head.
        tokenizer: Gives names to the tokens that a language model predicts; or `None`.
        logits: `[label]`, or `[token, label]`, or `None` where the model has no head.
        input_ids: `[token]`.
        position: The output position; a head of each position says nothing of `"mean"` or `"all"`.

    Returns:
        The prediction; `None` where there is none to be made. A masked language model speaks of its masks alone.
    """
    if logits is None:
        return None
    name = type(model).__name__
    if name.endswith("ForPreTraining"):  # a discriminator's score for each token, no labels
        return None
    if logits.ndim == 1:
        return predict_label(model, logits)
    if isinstance(position, str):
        return None
    if name.endswith("ForTokenClassification"):
        return predict_label(model, logits[position])
    is_mask = tokenizer is not None and input_ids[position] == tokenizer.mask_token_id
    if name.endswith("ForMaskedLM") and not is_mask:
        return None
    return predict_token(tokenizer, logits[position], int(logits[position].argmax()))


def predict_token(tokenizer: Any, logits: FloatArray, token_id: int) -> Prediction:
    """Return what a language model's head `[label]` says of one token, whether or not it is the likeliest."""
    return Prediction(
        token_name(tokenizer, token_id), token_id, float(_softmax(logits)[token_id]), float(logits[token_id])
    )


def predict_label(model: Any, logits: FloatArray, index: int | None = None) -> Prediction:
    """Return what a classifier's head `[label]` says of a class; by default of the likeliest."""
    best = int(logits.argmax()) if index is None else index
    label, kind = label_name(model, best), kind_of_head(model, len(logits))
    output = float(logits[best])
    if kind == "regression":
        return Prediction(label, best, None, output)
    if kind == "multi_label":
        return Prediction(label, best, float(np.exp(-np.logaddexp(0, -output))), output)
    return Prediction(label, best, float(_softmax(logits)[best]), output)


def kind_of_head(model: Any, n_labels: int) -> Literal["regression", "multi_label", "single_label"]:
    """Return whether a head of `n_labels` outputs gives values, a probability for each label, or shares of 1."""
    kind = model.config.problem_type
    if kind == "regression" or (n_labels == 1 and kind is None):
        return "regression"
    return "multi_label" if kind == "multi_label_classification" else "single_label"


def label_name(model: Any, index: int) -> str:
    """Return what the model's config calls a class."""
    return str((model.config.id2label or {}).get(index, f"LABEL_{index}"))


def token_name(tokenizer: Any, token_id: int) -> str:
    """Return the text of a token, its name where it has none, or its id without a tokenizer."""
    if tokenizer is None:
        return str(token_id)
    text = str(tokenizer.decode([token_id]))
    if text.strip():
        return text
    token = tokenizer.convert_ids_to_tokens(token_id)
    return str(token_id if token is None else token)


def _softmax(logits: FloatArray) -> FloatArray:
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum())
