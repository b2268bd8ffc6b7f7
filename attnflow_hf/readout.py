"""The readout: which output position is explained, and what of a method's values becomes scores."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attnflow_hf.attribution import normalize_scores
from attnflow_hf.errors import FloatArray, check_index
from attnflow_hf.options import Options, OutputPosition
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
    tokens: Tokens, values: FloatArray, position: int | Literal["mean", "all"], options: Options
) -> tuple[Tokens, FloatArray]:
    """Return the tokens that are kept and their scores, float64 `[layer, token]`, or `[layer, position, token]`.

    Args:
        tokens: The text.
        values: A method's values `[layer, position, token]`: of one position, or of all for `"mean"` and `"all"`.
        position: The explained position.
        options: What becomes of special tokens, and how scores are normalized, in this order.
    """
    scores = values if position == "all" else values.mean(axis=1)
    keep = ~tokens.special_tokens_mask
    if options.special_tokens == "zero":
        scores = scores * keep
    if options.special_tokens == "drop":
        tokens, scores = tokens.select(keep), scores[..., keep]
        scores = scores[:, keep] if position == "all" else scores
    return tokens, normalize_scores(scores, options.normalize)
