"""The readout: which output position is explained, and what of a method's values becomes scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from attnflow_hf.errors import BoolArray, FloatArray, check_choice, check_index
from attnflow_hf.options import NORMALIZATIONS, Options, OutputPosition
from attnflow_hf.tokens import Tokens


def resolve_position(
    position: OutputPosition, tokens: Tokens, is_causal: bool, cls_id: int | None
) -> int | Literal["mean", "all"]:
    """Return the output position that is explained, as an index or as `"mean"` or `"all"`.

    `"auto"` is the last token of a causal model; the first classification token where there is one; token 0 where it is
    special and no classification token is known; else the mean.

    Args:
        position: What the user asked for.
        tokens: The text.
        is_causal: Whether the layer graph is causal.
        cls_id: The id of the tokenizer's classification token, or `None`.

    Raises:
        PositionError: The index is out of range.
    """
    if position != "auto":
        return position if isinstance(position, str) else check_index("output_position", position, len(tokens))
    if is_causal:
        return len(tokens) - 1
    if cls_id is not None and cls_id in tokens.input_ids:
        return int(np.argmax(tokens.input_ids == cls_id))
    return 0 if cls_id is None and tokens.special_tokens_mask[0] else "mean"


def read_out(
    tokens: Tokens,
    values: FloatArray,
    sinks: FloatArray | None,
    position: int | Literal["mean", "all"],
    options: Options,
) -> tuple[Tokens, FloatArray, FloatArray | None]:
    """Return the tokens that are kept, their scores, and those of the sink.

    Args:
        tokens: The text.
        values: A method's values `[layer, position, token]`: of one position, or of all for `"mean"` and `"all"`.
        sinks: The same for the attention sink, `[layer, position]`, or `None`; they are neither dropped nor normalized.
        position: The explained position.
        options: What becomes of special tokens and the first token, and how scores are normalized, in this order.

    Returns:
        The tokens; float64 `[layer, token]`, or `[layer, position, token]` for `"all"`; the sinks' without `token`.
    """
    zeroed, dropped = _chosen(tokens, options, "zero"), _chosen(tokens, options, "drop")
    if position == "all":
        rows = ~dropped[len(tokens) - values.shape[1] :]  # positions are all tokens, or the last ones
        scores, sinks = values[:, rows], None if sinks is None else sinks[:, rows]
    else:
        scores, sinks = values.mean(axis=1), None if sinks is None else sinks.mean(axis=1)
    scores = scores * ~zeroed if zeroed.any() else scores
    if dropped.any():
        tokens, scores = tokens.select(~dropped), scores[..., ~dropped]
    return tokens, normalize_scores(scores, options.normalize), sinks


def read_out_errors(
    tokens: Tokens,
    values: FloatArray,
    errors: FloatArray,
    position: int | Literal["mean", "all"],
    options: Options,
) -> FloatArray:
    """Return the standard errors of the scores that `read_out` gives, in their shape.

    Those of several positions are independent, so that the error of their mean is the root of the sum of squares
    divided by their number. What scores are divided by is taken as certain.

    Args:
        tokens: The text.
        values: As in `read_out`.
        errors: The standard errors of `values`, likewise.
        position: The explained position.
        options: As in `read_out`.
    """
    plain = replace(options, normalize="none")
    squares = errors**2 if position == "all" else errors**2 / values.shape[1]
    kept = np.sqrt(read_out(tokens, squares, None, position, plain)[1])
    return _divided(kept, read_out(tokens, values, None, position, plain)[1], options.normalize)


def normalize_scores(scores: FloatArray, normalize: str) -> FloatArray:
    """Return `scores` `[..., token]` with each row divided by its sum or its maximum, or as they are.

    A row of zeros stays one.

    Raises:
        OptionError: An unknown normalization.
    """
    check_choice("normalize", normalize, NORMALIZATIONS)
    return _divided(scores, scores, normalize)


def _divided(numbers: FloatArray, scores: FloatArray, normalize: str) -> FloatArray:
    """Return numbers divided by what normalizes the scores."""
    if normalize == "none":
        return numbers
    totals: FloatArray = getattr(scores, normalize)(axis=-1, keepdims=True)
    return np.divide(numbers, totals, out=np.zeros_like(numbers), where=totals > 0)


def _chosen(tokens: Tokens, options: Options, what: str) -> BoolArray:
    """Return which tokens are to be zeroed, or dropped, bool `[token]`."""
    first = np.arange(len(tokens)) == 0
    chosen = (tokens.special_tokens_mask & (options.special_tokens == what)) | (first & (options.first_token == what))
    return np.asarray(chosen)
