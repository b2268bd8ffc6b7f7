"""`Sheet`: one text on a page, its attributions and its layer graph; to plain values for the page's script."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from attnflow_hf.errors import ArrayError, FloatArray, OptionError, TokenizerError
from attnflow_hf.html import displayed, render_heading, render_note, render_tokens
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.packing import pack
from attnflow_hf.storage import to_plain
from attnflow_hf.tokens import Tokens

FORMAT, VERSION = "attnflow_hf.Page", 1

_N_STATIC = 20
_SETTINGS = (
    "edge_weights",
    "target",
    "head_reduction",
    "residual_weight",
    "normalize_rows",
    "relu",
    "baseline",
    "normalize",
    "special_tokens",
    "first_token",
    "position_correction",
)
_MARKS = {
    "edge_weights": "on",
    "head_reduction": "heads",
    "residual_weight": "residual",
    "normalize_rows": "normalized",
}


class Explained(Protocol):
    """What a sheet reads of an `Attribution`, whose module stands above this one."""

    @property
    def alignment(self) -> Tokens:
        """The tokens."""

    @property
    def scores(self) -> FloatArray:
        """The scores."""

    @property
    def method(self) -> str:
        """The method."""

    @property
    def layer(self) -> Any:
        """The explained layer, or `"all"`."""

    @property
    def output_position(self) -> Any:
        """The explained position, `"mean"` or `"all"`."""

    @property
    def model_name(self) -> str:
        """The model's name."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""

    def to_values(self, convert: Callable[[Any], Any]) -> dict[str, Any]:
        """Return each field as `convert` makes it."""

    def summary(self) -> str:
        """Return one line that says what was explained."""


@dataclass(frozen=True, eq=False)
class SheetGraph:
    """A layer graph and where a text's tokens stand in it.

    Attributes:
        graph: Finite edge weights.
        nodes: The node of each token of the sheet.
        first_output: The node of output position 0.
        stages: The layer of the graph on top of which each layer of the model ends.

    Raises:
        ArrayError: The graph has fewer nodes than there are tokens, or an unlimited edge.
    """

    graph: LayerGraph
    nodes: tuple[int, ...]
    first_output: int
    stages: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the tokens are among the nodes."""
        if self.nodes and max(self.nodes) >= self.graph.n_tokens:
            raise ArrayError(
                f"a graph of {self.graph.n_tokens} tokens does not fit a text with a token at {max(self.nodes)}"
            )
        if np.isinf(self.graph.weights).any():
            raise ArrayError("a page shows graphs of finite edge weights; this one has unlimited edges")

    def to_plain(self) -> dict[str, Any]:
        """Return the graph for JSON, its weights in float32."""
        weights = pack(self.graph.weights.astype(np.float32))
        return {"weights": weights, "size": list(self.graph.weights.shape), **self.places()}

    def places(self) -> dict[str, Any]:
        """Return where the tokens stand."""
        return {"nodes": list(self.nodes), "first_output": self.first_output, "stages": list(self.stages)}


@dataclass(frozen=True, eq=False)
class Sheet:
    """One text on a page.

    Attributes:
        attributions: Those of one text; each has the tokens of the longest, or the first of them (as attributions of
            generated tokens have).
        graph: The layer graph, if the page is to find flows in it; else `None`.
        flows: Flows that were found beforehand, as `page_flows.chosen_flows` returns them.
        start: The output position that is shown first, and the layer; `None` for the last there is.
        heading: A line above the text.
        columns: What more is known of the text, by name.
        prediction: What the model's head says, label and probability, where the attributions do not tell it.
        error: Why there are no attributions.

    Raises:
        OptionError: The attributions are of several texts.
    """

    attributions: tuple[Explained, ...]
    graph: SheetGraph | None = None
    flows: Mapping[str, Any] | None = None
    start: tuple[int | None, int | None] = (None, None)
    heading: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    prediction: tuple[str, float | None] | None = None
    error: str = ""

    def __post_init__(self) -> None:
        """Check that all are of one text."""
        for each in self.attributions:
            n = len(each.alignment)
            same = self.tokens.tokens[:n] == each.alignment.tokens
            if not (same and np.array_equal(self.tokens.positions[:n], each.alignment.positions)):
                raise OptionError(
                    f"the attributions of a page must be of one text and its same tokens, got {self.tokens.tokens[:6]} "
                    f"and {each.alignment.tokens[:6]} ...; make a page of each"
                )

    @property
    def tokens(self) -> Tokens:
        """The tokens of the longest attribution."""
        return max((each.alignment for each in self.attributions), key=len)

    def to_plain(self) -> dict[str, Any]:
        """Return everything for JSON: what was given, and how it is shown."""
        given = {
            "attributions": [each.to_values(_packed) for each in self.attributions],
            "graph": None if self.graph is None else self.graph.to_plain(),
            "flows": self.flows,
            "start": list(self.start),
            "heading": self.heading,
            "columns": dict(self.columns),
            "prediction": None if self.prediction is None else list(self.prediction),
            "error": self.error,
        }
        return {**given, "shown": _shown(self.tokens, self.attributions)} if self.attributions else given


def page_values(
    sheets: Sequence[Sheet], *, title: str = "", lead: str = "", shows_words: bool = False
) -> dict[str, Any]:
    """Return what the page's script reads, for JSON."""
    plain = [sheet.to_plain() for sheet in sheets]
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "lead": lead,
        "shows_words": shows_words,
        "sheets": plain,
    }


def render_static(sheets: Sequence[Sheet], *, lead: str = "") -> str:
    """Return what readers without scripts see, HTML: of the first sheets the tokens, colored by one method."""
    parts = [render_heading(lead)] if lead else []
    for sheet in sheets[:_N_STATIC]:
        parts += [_static(sheet)] if sheet.attributions else [render_heading(f"{sheet.heading} {sheet.error}")]
    if len(sheets) > _N_STATIC:
        parts.append(render_note(f"{len(sheets) - _N_STATIC} more are shown where scripts run"))
    return "".join(parts)


def _static(sheet: Sheet) -> str:
    first = sheet.attributions[0]
    tokens, (position, layer) = first.alignment, sheet.start
    scores = first.scores if first.layer != "all" else first.scores[-1 if layer is None else layer]
    if scores.ndim > 1:
        rows = np.flatnonzero(tokens.positions[-len(scores) :] == position)  # outputs are all tokens, or the last
        scores = scores[rows[0] if len(rows) else -1]
    text = render_tokens(
        tokens.pieces,
        scores,
        heading=f"{sheet.heading} {first.summary()}".strip(),
        special_tokens_mask=tokens.special_tokens_mask.tolist(),
        direction=_direction(tokens),
    )
    return text + "".join(map(render_note, first.notes))


def _shown(tokens: Tokens, attributions: Sequence[Explained]) -> dict[str, Any]:
    """Return how tokens are shown, and which attributions are one method of several layers or positions."""
    return {
        "pieces": [displayed(piece) for piece in tokens.pieces],
        "joined": _joined(tokens),
        "direction": _direction(tokens),
        "words": _words(tokens),
        "series": _series(attributions),
    }


def _packed(value: Any) -> Any:
    return pack(value) if isinstance(value, np.ndarray) and value.dtype == np.float64 else to_plain(value)


def _direction(tokens: Tokens) -> str:
    """Return the direction of the first character that has one."""
    text = "".join(tokens.texts) or "".join(np.array(tokens.tokens)[~tokens.special_tokens_mask])
    found = next((d for d in map(unicodedata.bidirectional, text) if d in ("L", "R", "AL")), "L")
    return "ltr" if found == "L" else "rtl"


def _joined(tokens: Tokens) -> list[int]:
    """Return which tokens go on with the word of the one before, without white space between."""
    if tokens.offsets is None or not tokens.texts:
        return []
    found = []
    for i in range(1, len(tokens)):
        sequence = (tokens.sequence_ids[i] if tokens.sequence_ids else 0) or 0
        same = tokens.sequence_ids is None or tokens.sequence_ids[i - 1] == tokens.sequence_ids[i]
        start, text = int(tokens.offsets[i, 0]), tokens.texts[sequence]
        touches = not tokens.special_tokens_mask[i - 1 : i + 1].any() and start <= tokens.offsets[i - 1, 1]
        found += [i] if same and touches and not text[start : start + 1].isspace() else []
    return found


def _words(tokens: Tokens) -> list[Any] | None:
    """Return each word and its tokens; `None` where each is one token, or words are not known."""
    try:
        words = tokens.words()
    except TokenizerError:
        return None
    return [[displayed(w.text), list(w.token_indices)] for w in words] if len(words) < len(tokens) else None


def _series(attributions: Sequence[Explained]) -> list[Any]:
    """Return a name and the indices of the attributions that differ in nothing but layer and output position.

    Where each explains what it predicts, as generated tokens do, their targets do not set them apart.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    are_own = all(getattr(each, "target", None) == getattr(each, "prediction", None) for each in attributions)
    for index, each in enumerate(attributions):
        settings = (None if name == "target" and are_own else _setting(each, name) for name in _SETTINGS)
        groups.setdefault((each.method, *settings), []).append(index)
    return [[_name(key, [other for other in groups if other[0] == key[0]]), groups[key]] for key in groups]


def _setting(attribution: Explained, name: str) -> Any:
    """Return a setting; of a target what it is called."""
    value = getattr(attribution, name)
    return getattr(value, "label", value)


def _name(key: tuple[Any, ...], same_method: Sequence[tuple[Any, ...]]) -> str:
    """Return the method, and of several with the same method the settings that tell them apart."""
    telling: list[int] = []
    for i in range(1, len(key)):
        apart = {tuple(other[j] for j in telling) for other in same_method}
        if len({tuple(other[j] for j in [*telling, i]) for other in same_method}) > len(apart):
            telling.append(i)
    told = [(_SETTINGS[i - 1], key[i]) for i in telling if key[i] is not None]
    return ", ".join([key[0], *(f"{_MARKS.get(name, name)} {value}" for name, value in told)])
