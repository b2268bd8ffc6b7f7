"""What is to be drawn: an attribution, or plain tokens and scores, with the words that a picture needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, FloatArray, OptionError, check_finite

Scores = Attribution | npt.ArrayLike
_METHODS = {
    "raw": "raw attention",
    "rollout": "attention rollout",
    "flow": "attention flow",
    "flow_shapley": "Shapley value of attention flow",
}
_AXES = {
    ("token",): "one output position and one layer",
    ("layer", "token"): "layer='all' and one output position",
    ("position", "token"): "output_position='all' and one layer",
    ("layer", "position", "token"): "layer='all' and output_position='all'",
}


@dataclass(frozen=True)
class Subject:
    """Scores with what is said of them.

    Attributes:
        scores: float64, with the axes asked for.
        names: Of the input tokens, `[token]`.
        special: Which tokens are special, `[token]`.
        title: What the picture shows.
        subtitle: What else must be known.
        meaning: What a score is.
        method: The method's name in words; empty for plain scores.
        row_names: Of the output positions, where they are an axis; else empty.
    """

    scores: FloatArray
    names: tuple[str, ...]
    special: tuple[bool, ...]
    title: str = ""
    subtitle: str = ""
    meaning: str = "score"
    method: str = ""
    row_names: tuple[str, ...] = ()


def read_subject(
    scores: Scores,
    tokens: Sequence[str] | None,
    axes: tuple[str, ...],
    *,
    words: bool = False,
    title: str | None = None,
    meaning: str = "score",
) -> Subject:
    """Return what to draw.

    Args:
        scores: An `Attribution`, which knows its tokens, or an array with `axes`.
        tokens: The tokens of an array.
        axes: `("token",)`, `("layer", "token")`, `("position", "token")` or all three.
        words: Sum the tokens of each word of an `Attribution`.
        title: Instead of the picture's own; empty for none, and then no subtitle either.
        meaning: What a plain score is.

    Raises:
        ArrayError: The scores are negative or not finite, have other axes, or do not fit the tokens.
        OptionError: An `Attribution` with other axes, or with `tokens`; an array without.
    """
    if isinstance(scores, Attribution):
        found = _of_attribution(scores, tokens, axes, words)
    else:
        found = replace(_of_array(scores, tokens, axes, words), meaning=meaning)
    return found if title is None else replace(found, title=title, subtitle="")


def read_scores(scores: npt.ArrayLike, axes: tuple[str, ...]) -> FloatArray:
    """Return a copy of plain scores, checked.

    Args:
        scores: Nonnegative, with `axes`.
        axes: Their names.

    Raises:
        ArrayError: The scores are negative or not finite, or have other axes.
    """
    array = np.array(scores, dtype=np.float64)
    if array.ndim != len(axes) or 0 in array.shape:
        raise ArrayError(f"this picture needs scores [{', '.join(axes)}], got shape {array.shape}")
    check_finite("scores", array)
    if (array < 0).any():
        raise ArrayError(f"scores must not be negative, lowest is {array.min()}")
    return array


def _of_attribution(
    attribution: Attribution, tokens: Sequence[str] | None, axes: tuple[str, ...], words: bool
) -> Subject:
    if tokens is not None:
        raise OptionError("an Attribution has tokens of its own; give tokens= with plain scores only")
    has = tuple(
        name
        for name, is_there in (
            ("layer", attribution.layer == "all"),
            ("position", attribution.output_position == "all"),
            ("token", True),
        )
        if is_there
    )
    if has != axes:
        raise OptionError(f"this picture needs an attribution of {_AXES[axes]}, got one of {_AXES[has]}")
    names, special, scores = attribution.labels, attribution.special_tokens_mask.tolist(), attribution.scores
    parts = attribution.alignment.parts
    rows = tuple(n for n, part in zip(names, parts, strict=True) if part == "decoder") if parts else names
    if words:
        summed = attribution.to_words()
        names, special, scores = summed.words, [part.is_special for part in summed.parts], summed.scores
    return Subject(
        scores=scores,
        names=names,
        special=tuple(special),
        title=title_of(attribution),
        subtitle=subtitle_of(attribution),
        meaning=meaning_of(attribution),
        method=name_of(attribution),
        row_names=rows if "position" in axes else (),
    )


def _of_array(scores: npt.ArrayLike, tokens: Sequence[str] | None, axes: tuple[str, ...], words: bool) -> Subject:
    if words:
        raise OptionError("words=True needs an Attribution: plain scores do not tell the words of their tokens")
    array = read_scores(scores, axes)
    if tokens is None:
        raise OptionError("plain scores need tokens=, the name of each input token")
    if isinstance(tokens, str) or len(tokens) != array.shape[-1]:
        raise ArrayError(f"there are scores of {array.shape[-1]} tokens, but tokens={tokens!r:.60}")
    names = tuple(map(str, tokens))
    rows = () if "position" not in axes else names if array.shape[-2] == len(names) else _numbers(array.shape[-2])
    return Subject(array, names, (False,) * len(names), row_names=rows)


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def name_of(attribution: Attribution) -> str:
    """Return a method's name in words, and other edge weights than attention."""
    if attribution.edge_weights != "attention":
        return f"{attribution.method} on {attribution.edges_name}"
    return _METHODS.get(attribution.method, attribution.method)


def title_of(attribution: Attribution) -> str:
    """Return the method, and the layer where there is one."""
    name = name_of(attribution)
    return name if attribution.layer == "all" else f"{name}, layer {attribution.layer}"


def subtitle_of(attribution: Attribution) -> str:
    """Return what was explained, and what the model says."""
    parts = [] if attribution.output_position == "all" else [f"output position {attribution.position_name}"]
    if attribution.target is not None:
        parts.append(f"target {attribution.target.label!r}")
    if attribution.prediction is not None:
        parts.append(attribution.prediction.describe())
    return "; ".join(parts)


def meaning_of(attribution: Attribution) -> str:
    """Return what a score is, for the axis that shows it; a baseline stands in the title."""
    name = name_of(attribution).removesuffix(f" (baseline {attribution.baseline})")
    if attribution.position_correction == "uniform":
        name += " over that of the uniform causal graph"
    return {"sum": f"share of {name}", "max": f"{name}, the largest = 1"}.get(attribution.normalize, name)
