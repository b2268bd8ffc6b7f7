"""Importance by gradients of the explained output with respect to the input embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from attnflow_hf.attributor import Attributor
from attnflow_hf.evaluation.captum_scores import GradientSettings, Inputs, importances
from attnflow_hf.evaluation.importance import Importance
from attnflow_hf.inputs import Text
from attnflow_hf.targets import Asked


class _Options(TypedDict, total=False):
    """The options of `input_gradient`, for type checkers."""

    norm: str
    output: str
    embeddings: str
    target: Asked | Sequence[Asked]
    special_tokens: str
    output_position: int | Literal["auto"]
    truncation: bool


class _ProductOptions(_Options, total=False):
    """Those of `gradient_x_input`."""

    signs: str


class _PathOptions(_ProductOptions, total=False):
    """Those of `integrated_gradients`."""

    baseline: str
    n_steps: int


@overload
def input_gradient(
    attributor: Attributor, inputs: Text | Mapping[str, Any], **options: Unpack[_Options]
) -> Importance: ...
@overload
def input_gradient(attributor: Attributor, inputs: list[Text], **options: Unpack[_Options]) -> list[Importance]: ...
def input_gradient(
    attributor: Attributor,
    inputs: Inputs,
    *,
    norm: str = "l2",
    output: str = "logit",
    embeddings: str = "word",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "keep",
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> Importance | list[Importance]:
    """Return the size of the explained output's gradient with respect to each input embedding.

    With `g` the gradient of the output with respect to the embedding `e` of a token: the L2 norm of `g`, or
    `|sum over dimensions of g|`, as the code of Abnar & Zuidema 2020 has it (the paper's text says only "input
    gradients"). It costs one forward and one backward pass.

    Where a layer norm comes next, as behind the word embeddings of BERT and in front of each of GPT-2's layers, the sum
    over dimensions is 0 whatever the model has learned: adding the same number to all dimensions changes nothing. What
    is computed is then rounding, and an error here; BERT's have a sum with `embeddings="block"`.

    Args:
        attributor: The model with its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding, as for the attributor.
        norm: `"l2"` or `"sum"`.
        output: `"logit"` or `"probability"` of the class.
        embeddings: Where gradients are taken: `"word"`, what the word embedding gives; or `"block"`, what BERT and its
            like make of that before the first layer (word, position and type, normalized).
        target: The class, by index or label (a token or its id for language models), or a list with one for each
            text; by default what the model predicts.
        special_tokens: `"keep"` or `"drop"` those that the tokenizer added from the result.
        output_position: Where a model that speaks of each position is asked, as for `blank_out`.
        truncation: Cut texts that are longer than the model can read.

    Returns:
        An `Importance`; for a list, or an encoding of more than one row, a list of them.

    Raises:
        OptionError: captum is not installed, or the sum over dimensions is nothing but rounding.
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    settings = GradientSettings("input_gradient", norm, "drop", output, special_tokens, embeddings)
    return importances(attributor, inputs, target, output_position, truncation, settings)


@overload
def gradient_x_input(
    attributor: Attributor, inputs: Text | Mapping[str, Any], **options: Unpack[_ProductOptions]
) -> Importance: ...
@overload
def gradient_x_input(
    attributor: Attributor, inputs: list[Text], **options: Unpack[_ProductOptions]
) -> list[Importance]: ...
def gradient_x_input(
    attributor: Attributor,
    inputs: Inputs,
    *,
    norm: str = "sum",
    signs: str = "keep",
    output: str = "logit",
    embeddings: str = "word",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "keep",
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> Importance | list[Importance]:
    """Return the product of each input embedding and the explained output's gradient with respect to it.

    With `g` the gradient and `e` the embedding: the sum over dimensions of `g * e` (their inner product; with
    `signs="drop"` its absolute value, as in the code of Abnar & Zuidema 2020), or the L2 norm of `g * e`.

    Args:
        attributor: The model with its tokenizer.
        inputs: As for `input_gradient`.
        norm: `"sum"` or `"l2"`.
        signs: `"keep"`: positive where the token speaks for the class; `"drop"`: absolute values.
        output: `"logit"` or `"probability"` of the class.
        embeddings: As for `input_gradient`.
        target: As for `input_gradient`.
        special_tokens: As for `input_gradient`.
        output_position: As for `input_gradient`.
        truncation: As for `input_gradient`.

    Returns:
        An `Importance`; for a list, or an encoding of more than one row, a list of them.

    Raises:
        OptionError: captum is not installed.
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    settings = GradientSettings("gradient_x_input", norm, signs, output, special_tokens, embeddings)
    return importances(attributor, inputs, target, output_position, truncation, settings)


@overload
def integrated_gradients(
    attributor: Attributor, inputs: Text | Mapping[str, Any], **options: Unpack[_PathOptions]
) -> Importance: ...
@overload
def integrated_gradients(
    attributor: Attributor, inputs: list[Text], **options: Unpack[_PathOptions]
) -> list[Importance]: ...
def integrated_gradients(
    attributor: Attributor,
    inputs: Inputs,
    *,
    baseline: str = "pad",
    n_steps: int = 50,
    norm: str = "sum",
    signs: str = "keep",
    output: str = "logit",
    embeddings: str = "word",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "drop",
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> Importance | list[Importance]:
    """Return integrated gradients of the explained output over the input embeddings.

    The gradient is averaged on the straight line from a baseline `b` to the embedding `e`, at `n_steps` points of
    Gauss-Legendre quadrature, and multiplied by `e - b` (Sundararajan et al. 2017, equation 1). Summed over all tokens
    they give the change of the output from the baseline to the text; by how much they miss it, `gap` tells. It costs
    `n_steps` forward and backward passes.

    Args:
        attributor: The model with its tokenizer.
        inputs: As for `input_gradient`.
        baseline: The embedding of `"pad"`, `"mask"` or `"unk"` in each token's place, or `"zero"`.
        n_steps: The points.
        norm: `"sum"` over dimensions, or their L2 norm.
        signs: `"keep"` or `"drop"`, as for `gradient_x_input`.
        output: `"logit"` or `"probability"` of the class.
        embeddings: As for `input_gradient`.
        target: As for `input_gradient`.
        special_tokens: `"drop"`: those that the tokenizer added are themselves in the baseline, and not in the result.
            `"keep"`: they are tokens like all others.
        output_position: As for `input_gradient`; the mask of a masked language model is itself in the baseline.
        truncation: As for `input_gradient`.

    Returns:
        An `Importance`; for a list, or an encoding of more than one row, a list of them.

    Raises:
        OptionError: captum is not installed.
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    settings = GradientSettings(
        "integrated_gradients", norm, signs, output, special_tokens, embeddings, baseline, n_steps
    )
    return importances(attributor, inputs, target, output_position, truncation, settings)
