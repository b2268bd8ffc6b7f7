"""`Attribution`: scores aligned with the tokens of a text; to words, to dict, save, load, show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attnflow_hf import html, terminal
from attnflow_hf.errors import (
    ArrayError,
    FileFormatError,
    FloatArray,
    IntArray,
    OptionError,
    check_choice,
    check_finite,
)
from attnflow_hf.page_sheet import Sheet, page_values, render_static
from attnflow_hf.prediction import Prediction
from attnflow_hf.saturation import Saturation
from attnflow_hf.storage import field_values, read_token_field, to_plain, write_text
from attnflow_hf.tokens import Tokens
from attnflow_hf.word_attribution import WordAttribution

_FORMAT, _VERSION = "attnflow_hf.Attribution", 1
_LATER = frozenset({"baseline", "edge_weights", "normalize_rows", "relu", "target"})
"""Fields that older files do not have."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each input token gave to an output position, by one method.

    Attributes:
        alignment: The tokens; their fields are here too (`tokens`, `input_ids`, `offsets`, ...).
        scores: float64 `[token]`; with `output_position="all"` `[position, token]`; with `layer="all"` one more axis
            in front. Aligned with `tokens`, read-only. Positions are the decoder's where both halves of an
            encoder-decoder model are explained together.
        method: `"raw"`, `"rollout"`, `"flow"` or `"flow_shapley"`.
        backend: Which backend computed it.
        output_position: The explained position, as an index of the tokenizer's output without padding; or `"mean"`
            or `"all"`.
        layer: The explained layer, 0 is the lowest; or `"all"`.
        head_reduction: How the heads became one; `"own"` where the edge weights' function did it.
        residual_weight: The share of the residual connection; 0 for raw weights; `"unlimited"` where residual edges
            had no limit; `"measured"` where edge weights have the residual's share in them.
        normalize: `"sum"`, `"max"` or `"none"`.
        special_tokens: `"keep"`, `"zero"` or `"drop"`.
        first_token: The same for the first token.
        position_correction: `"none"`, or `"uniform"` where scores were divided by those of the uniform causal graph.
        sink_scores: float64 `[...]`, the axes of `scores` without the last: the method's value for the attention
            sink, as it came; `None` where the model has none.
        prediction: What the model's head says (about the output position, for one that speaks of each position), or
            `None` where it says nothing.
        model_name: The model's name or class.
        notes: What a reader must know: that the text was truncated, that there are no offsets, that flow is saturated.
        saturation: Which cuts set the flow values; `None` for other methods.
        edge_weights: `"attention"`, `"grad_attention"`, `"alti"`, `"norms"`, or the name of registered ones.
        normalize_rows: Whether the rows of edge weights were divided by their sums.
        relu: Of `grad_attention`, whether negative numbers were set to zero `"after"` the heads became one or
            `"before"`; else `None`.
        baseline: Of `grad_attention`, the token that stood for all words where a second gradient was taken; or `None`.
        target: The explained class with what the model says of it; `None` where edge weights are the same for all.
        standard_errors: float64, as `scores`: how uncertain scores of `flow_shapley` are that were estimated from
            random orders; `None` where they are exact.

    Raises:
        ArrayError: The scores do not fit the tokens, are not finite or negative.
    """

    alignment: Tokens
    scores: FloatArray
    method: str
    backend: str
    output_position: int | Literal["mean", "all"]
    layer: int | Literal["all"]
    head_reduction: str | int | tuple[int, ...] = "mean"
    residual_weight: float | Literal["measured", "unlimited"] = 0.5
    normalize: str = "sum"
    special_tokens: str = "keep"
    first_token: str = "keep"
    position_correction: str = "none"
    sink_scores: FloatArray | None = None
    prediction: Prediction | None = None
    model_name: str = ""
    notes: tuple[str, ...] = ()
    saturation: Saturation | None = None
    standard_errors: FloatArray | None = None
    edge_weights: str = "attention"
    normalize_rows: bool = True
    relu: str | None = None
    baseline: str | None = None
    target: Prediction | None = None

    def __post_init__(self) -> None:
        """Check that the scores fit the tokens; copy and freeze them."""
        self._check_names()
        object.__setattr__(self, "scores", np.array(self.scores, dtype=np.float64, order="C"))
        n = len(self.alignment)
        axes = 1 + (self.output_position == "all") + (self.layer == "all")
        square = self.output_position == "all" and not self.alignment.parts
        if self.scores.ndim != axes or self.scores.shape[-1] != n or (square and self.scores.shape[-2] != n):
            raise ArrayError(f"scores of shape {self.scores.shape} do not fit {n} tokens with {axes} axes")
        check_finite("scores", self.scores)
        if (self.scores < 0).any():
            raise ArrayError(f"scores must not be negative, lowest is {self.scores.min()}")
        self.scores.setflags(write=False)
        self._freeze_beside("sink_scores", self.scores.shape[:-1])
        self._freeze_beside("standard_errors", self.scores.shape)

    def _freeze_beside(self, name: str, shape: tuple[int, ...]) -> None:
        """Copy, check and freeze an array that stands beside the scores, if it is there."""
        if getattr(self, name) is None:
            return
        values = np.array(getattr(self, name), dtype=np.float64)
        if values.shape != shape or not (np.isfinite(values) & (values >= 0)).all():
            raise ArrayError(f"{name} {values} do not fit scores of shape {self.scores.shape}")
        values.setflags(write=False)
        object.__setattr__(self, name, values)

    def _check_names(self) -> None:
        for name in (
            "method",
            "backend",
            "normalize",
            "special_tokens",
            "first_token",
            "position_correction",
            "model_name",
            "edge_weights",
        ):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"{name} must be a string, got {getattr(self, name)!r}")
        for name, words in (("output_position", ("mean", "all")), ("layer", ("all",))):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) and value not in words:
                raise OptionError(f"{name} must be an index or one of {', '.join(words)}, got {value!r}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokenizer's strings, `[token]`."""
        return self.alignment.tokens

    @property
    def input_ids(self) -> IntArray:
        """The token ids, int64 `[token]`."""
        return self.alignment.input_ids

    @property
    def offsets(self) -> IntArray | None:
        """Character offsets, int64 `[token, 2]`, or `None` where the tokenizer cannot tell."""
        return self.alignment.offsets

    @property
    def word_ids(self) -> tuple[int | None, ...] | None:
        """The tokenizer's word of each token, or `None` where it cannot tell."""
        return self.alignment.word_ids

    @property
    def sequence_ids(self) -> tuple[int | None, ...] | None:
        """Which text of a pair each token comes from, or `None` where the tokenizer cannot tell."""
        return self.alignment.sequence_ids

    @property
    def special_tokens_mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tokens the tokenizer added, bool `[token]`."""
        return self.alignment.special_tokens_mask

    @property
    def positions(self) -> IntArray:
        """Where each token stood in the tokenizer's output, int64 `[token]`: gaps where tokens were dropped."""
        return self.alignment.positions

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or the two of a pair; empty where it is not known."""
        return self.alignment.texts

    @property
    def grid_scores(self) -> FloatArray:
        """The scores of an image's patches, float64 `[..., row, column]`.

        Raises:
            OptionError: This is no image, or a patch was dropped.
        """
        patches = self.scores[..., ~self.special_tokens_mask]
        if self.alignment.grid is None or patches.shape[-1] != self.alignment.grid[0] * self.alignment.grid[1]:
            raise OptionError("there is no grid of patches: this is no image, or first_token='drop' took one away")
        return patches.reshape(*patches.shape[:-1], *self.alignment.grid)

    def part(self, name: str) -> Attribution:
        """Return the scores of the encoder's or the decoder's tokens alone, as they are in the whole.

        Args:
            name: `"encoder"` or `"decoder"`.

        Raises:
            OptionError: The attribution is not one of an encoder and its decoder.
        """
        check_choice("part", name, sorted(set(self.alignment.parts)) or ["(none: this attribution has no parts)"])
        keep = np.array([part == name for part in self.alignment.parts])
        errors = None if self.standard_errors is None else self.standard_errors[..., keep]
        tokens = self.alignment.select(keep)
        return replace(self, alignment=tokens, scores=self.scores[..., keep], standard_errors=errors)

    def to_words(self, split: str = "auto") -> WordAttribution:
        """Return the scores summed over the tokens of each word; nothing is lost.

        Args:
            split: `"whitespace"`, `"tokenizer"` or `"auto"`; see `Tokens.words`.

        Raises:
            TokenizerError: The tokenizer tells neither offsets nor word ids.

        Example:
            >>> a.to_words().words  # doctest: +SKIP
            ('[CLS]', 'the', 'key', 'to', 'the', 'cabinets')
        """
        words = self.alignment.words(split)
        scores = [self.scores[..., list(word.token_indices)].sum(axis=-1) for word in words]
        return WordAttribution(words, np.stack(scores, axis=-1))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values, ready for JSON; `from_dict` gives the same object back."""
        return self.to_values(to_plain)

    def to_values(self, convert: Callable[[Any], Any]) -> dict[str, Any]:
        """Return what `to_dict` does, each field as `convert` makes it."""
        own = field_values(self, convert, without="alignment")
        return {"format": _FORMAT, "version": _VERSION, **own, **field_values(self.alignment, convert)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Attribution:
        """Return the attribution that `to_dict` made `values` of.

        Raises:
            FileFormatError: These are not the values of an attribution, or of a newer version.
        """
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise FileFormatError(f"this is no saved attribution: its format is not {_FORMAT!r}")
        if values.get("version") != _VERSION:
            raise FileFormatError(f"this attribution has version {values.get('version')!r}; only {_VERSION} is known")
        try:
            alignment = Tokens(**{field.name: read_token_field(field.name, values) for field in fields(Tokens)})
            own = {field.name: values[field.name] for field in fields(cls) if _is_due(field.name, values)}
            own["scores"] = np.array(own["scores"], dtype=np.float64)
            for name in ("sink_scores", "standard_errors"):
                own[name] = None if own[name] is None else np.array(own[name], dtype=np.float64)
            own["notes"] = tuple(own["notes"])
            for name in {"prediction", "target"} & own.keys():
                own[name] = None if own[name] is None else Prediction(**own[name])
            own["saturation"] = None if own["saturation"] is None else Saturation(**own["saturation"])
            if isinstance(own["head_reduction"], list):
                own["head_reduction"] = tuple(own["head_reduction"])
            return cls(alignment=alignment, **own)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileFormatError(f"this saved attribution is damaged: {error!r}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the attribution to a JSON file; the file appears whole or not at all.

        Args:
            path: The file; it is replaced if it is there.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        write_text(Path(path), text + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Return the attribution that `save` wrote, equal to the last bit.

        Raises:
            FileFormatError: The file is not one that `save` wrote.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)!r} is not a JSON file: {error}") from error
        return cls.from_dict(values)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each token stands for, for display, `[token]`: its characters in the text, no signs of a tokenizer."""
        return tuple(map(_label, self.alignment.pieces, self._parts))

    @property
    def says_little(self) -> bool:
        """Whether flow on attention says little of the output position; on a target's edges trivial cuts tell much."""
        return self.saturation is not None and self.saturation.is_saturated and self.target is None

    @property
    def position_name(self) -> str:
        """The output position with its token, for display."""
        if isinstance(self.output_position, str):
            return self.output_position
        found = np.flatnonzero((self.positions == self.output_position) & (np.array(self._parts) != "encoder"))
        return f"{self.output_position}" + (f" ({self.tokens[found[0]]})" if len(found) else "")

    @property
    def edges_name(self) -> str:
        """The edge weights in words: their name, and the baseline of a second gradient."""
        return self.edge_weights if self.baseline is None else f"{self.edge_weights} (baseline {self.baseline})"

    def summary(self) -> str:
        """Return one line that says what was explained, and how."""
        kind = "" if self.edge_weights == "attention" else f" on {self.edges_name}"
        what = f"{self.method}{kind}, layer {self.layer}, output position {self.position_name}"
        of_target = [f"target {self.target.label!r}"] if self.target else []
        return "; ".join([what, *of_target, *([self.prediction.describe()] if self.prediction else [])])

    def show(self, *, words: bool = False) -> None:
        """Print a table of tokens, scores and bars.

        Args:
            words: Sum the tokens of each word.

        Raises:
            OptionError: The scores have more than one row (`output_position="all"` or `layer="all"`).
        """
        labels, scores = self.rows(words=words)
        notes = "\n".join(self.notes)
        terminal.write(terminal.render_table(labels, {self.method: scores}, title=self.summary(), notes=notes))

    def rows(self, *, words: bool = False) -> tuple[tuple[str, ...], FloatArray]:
        """Return the labels and scores of a table: tokens, or words.

        Raises:
            OptionError: The scores have more than one row.
        """
        if self.scores.ndim > 1:
            raise OptionError("a table shows one output position and one layer; choose them instead of 'all'")
        if not words:
            return self.labels, self.scores
        summed = self.to_words()
        parts = [self._parts[word.token_indices[0]] for word in summed.parts]
        return tuple(map(_label, summed.words, parts)), summed.scores

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.alignment.parts or ("",) * len(self.alignment)

    def to_html(self) -> str:
        """Return a page of this attribution: one HTML file that needs no network.

        `Page` shows several of one text, methods, layers and output positions, and its layer graph; it also reads the
        page back.
        """
        sheets = [Sheet((self,))]
        return html.render_page(page_values(sheets), render_static(sheets), title=self.summary())

    def _repr_html_(self) -> str:
        sheets = [Sheet((self,))]
        return html.render_output(page_values(sheets), render_static(sheets))

    def __repr__(self) -> str:
        """Return a line with the tokens and their scores, or the shape of the scores."""
        shape = f"scores {list(self.scores.shape)}"
        if self.scores.ndim == 1:
            shape = " ".join(f"{token}:{score:.3f}" for token, score in zip(self.tokens, self.scores, strict=True))
        return f"Attribution({self.method}, {shape})"


def _is_due(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a saved attribution must have a field of this name; some came later."""
    return name != "alignment" and (name not in _LATER or name in values)


def _label(text: str, part: str) -> str:
    return f"{text} (decoder)" if part == "decoder" else text
