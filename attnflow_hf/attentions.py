"""The attentions of one layer: to `[head, query, key]`, checks, padding, head reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import ArrayError, BoolArray, OptionError, check_choice, check_index

HEAD_REDUCTIONS = ("max", "mean", "min", "sum")
HeadReduction = str | int | Sequence[int]

ROW_SUM_TOLERANCE = 1e-3
"""How far a row of attentions may be from 1 in float32 or float64."""
HALF_ROW_SUM_TOLERANCE = 2e-2
"""The same in float16 and bfloat16, whose 8 to 11 bits round each of the many entries of a row."""


def read_heads(attention: Any, layer: int, batch_index: int | None) -> tuple[npt.NDArray[np.floating], float]:
    """Return one sample's attentions of a layer as `[head, query, key]`, and the tolerance that fits their type."""
    given: Any = attention.detach() if hasattr(attention, "detach") else np.asarray(attention)
    if given.ndim == 4:
        given = given[_sample_index(given.shape[0], batch_index)]
    size = given.element_size() if hasattr(given, "detach") else given.dtype.itemsize
    full = _full_precision(given)
    heads = full.cpu().numpy() if hasattr(full, "detach") else full
    if heads.ndim != 3 or 0 in heads.shape:
        raise ArrayError(f"the attentions of layer {layer} must be [head, query, key], got {tuple(given.shape)}")
    check_same_size([heads])
    return heads, HALF_ROW_SUM_TOLERANCE if size < 4 else ROW_SUM_TOLERANCE


def mask_of_sample(attention_mask: Any, batch_index: int | None) -> BoolArray | None:
    """Return which tokens of one sample are real, bool `[token]`, or `None` for all of them."""
    if attention_mask is None:
        return None
    mask = np.asarray(attention_mask.detach().cpu() if hasattr(attention_mask, "detach") else attention_mask)
    if mask.ndim == 2:
        mask = mask[_sample_index(mask.shape[0], batch_index)]
    if mask.ndim != 1:
        raise ArrayError(f"attention_mask must be [token] or [batch, token], got {mask.shape}")
    return mask.astype(bool)


def crop_padding(heads: npt.NDArray[np.floating], mask: BoolArray | None, layer: int) -> npt.NDArray[np.floating]:
    """Return `heads` `[head, query, key]` without the rows and columns of padding."""
    if mask is None:
        return heads
    if mask.shape[0] != heads.shape[-1]:
        raise ArrayError(
            f"attention_mask has {mask.shape[0]} tokens, the attentions of layer {layer} {heads.shape[-1]}"
        )
    if not mask.any():
        raise ArrayError("attention_mask marks every token as padding: there is nothing to explain")
    return heads[:, mask][:, :, mask]


def check_probabilities(heads: npt.NDArray[np.floating], layer: int, tolerance: float) -> None:
    """Raise `ArrayError` unless the attentions of one layer are probabilities.

    Args:
        heads: `[head, query, key]`.
        layer: For the message.
        tolerance: How far a row's sum may be from 1.

    Raises:
        ArrayError: An entry is NaN, infinite or negative, or a row does not sum to 1 within the tolerance.
    """
    if not np.isfinite(heads).all():
        raise ArrayError(f"the attentions of layer {layer} have NaN or infinite entries: they are not probabilities")
    if heads.min() < 0:
        raise ArrayError(
            f"the attentions of layer {layer} have negative entries (lowest {heads.min():.4g}): they are not "
            "probabilities, perhaps scores from before the softmax"
        )
    errors = np.abs(heads.sum(axis=-1, dtype=np.float64) - 1)
    if errors.max() > tolerance:
        head, row = (int(i) for i in np.unravel_index(int(errors.argmax()), errors.shape))
        total = heads[head, row].sum(dtype=np.float64)
        raise ArrayError(
            f"the attentions of layer {layer}, row {row} (head {head}) sum to {total:.6g}, not to 1; check the "
            "attention mask and that the model is in eval() state; LayerGraph.from_attentions(..., renormalize=True) "
            "divides such rows by their sums"
        )


def are_probabilities(weights: npt.NDArray[np.floating], tolerance: float) -> bool:
    """Return whether `weights` `[layer, query, key]` pass `check_probabilities`; sooner, but without saying why not."""
    sums = weights.sum(axis=-1, dtype=np.float64)
    return bool(weights.min() >= 0 and sums.max() < np.inf and np.abs(sums - 1).max() <= tolerance)


def check_same_size(layers: Sequence[npt.NDArray[np.floating]]) -> None:
    """Raise `ArrayError` unless all layers are square and of one size."""
    for layer, weights in enumerate(layers):
        queries, keys = weights.shape[-2:]
        if queries != keys:
            raise ArrayError(
                f"the attentions of layer {layer} are not square: {queries} queries x {keys} keys; local or pooled "
                "attention (Longformer, Funnel, ...) does not make a layer graph"
            )
        if queries != layers[0].shape[-2]:
            raise ArrayError(f"layer 0 has {layers[0].shape[-2]} tokens, but layer {layer} has {queries}")


def check_head_reduction(head_reduction: HeadReduction) -> None:
    """Raise `OptionError` unless `head_reduction` is a known name, an index or a list of indices."""
    if isinstance(head_reduction, str):
        check_choice("head_reduction", head_reduction, HEAD_REDUCTIONS)
        return
    heads: Any = [head_reduction] if isinstance(head_reduction, (int, np.integer)) else head_reduction
    is_list = isinstance(heads, (list, tuple, range, np.ndarray)) and len(heads) > 0
    if not is_list or any(isinstance(h, bool) or not isinstance(h, (int, np.integer)) for h in heads):
        raise OptionError(
            f"head_reduction must be one of {', '.join(map(repr, HEAD_REDUCTIONS))}, the index of a head or a "
            f"list of indices, got {head_reduction!r}"
        )


def plain_heads(head_reduction: HeadReduction) -> str | int | tuple[int, ...]:
    """Return a head reduction as an attribution records it."""
    if isinstance(head_reduction, str):
        return head_reduction
    return (
        int(head_reduction) if isinstance(head_reduction, (int, np.integer)) else tuple(int(h) for h in head_reduction)
    )


def reduce_heads(
    heads: npt.NDArray[np.floating], head_reduction: HeadReduction, layer: int
) -> npt.NDArray[np.floating]:
    """Return the attentions of one layer with their heads as one.

    Args:
        heads: `[head, query, key]`, float32 or float64.
        head_reduction: `"mean"`, `"sum"`, `"max"`, `"min"`, an index, or a list of indices whose mean is taken.
        layer: For the message of an error.

    Returns:
        `[query, key]`, of the same type.

    Raises:
        OptionError: An unknown head reduction.
        PositionError: There is no such head.
    """
    check_head_reduction(head_reduction)
    if isinstance(head_reduction, str):
        reduced: npt.NDArray[np.floating] = getattr(heads, head_reduction)(axis=0)
        return reduced
    wanted = [head_reduction] if isinstance(head_reduction, (int, np.integer)) else head_reduction
    indices = [check_index(f"head (of layer {layer})", head, len(heads)) for head in wanted]
    return np.asarray(heads[indices].mean(axis=0))


def _full_precision(weights: Any) -> Any:
    """Return `weights` in float32 if they are in a half type, else as they are."""
    if hasattr(weights, "detach"):
        return weights.float() if weights.element_size() < 4 else weights
    return weights.astype(np.float32) if weights.dtype.itemsize < 4 else weights


def _sample_index(batch_size: int, batch_index: int | None) -> int:
    if batch_index is None and batch_size != 1:
        raise ArrayError(f"the attentions hold a batch of {batch_size} samples; choose one with batch_index=")
    return check_index("batch_index", 0 if batch_index is None else batch_index, batch_size)
