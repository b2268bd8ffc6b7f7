"""From a reading to an `Attribution`: the method's values, the readout, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import compute, select_layers
from attnflow_hf.errors import FloatArray, OptionError
from attnflow_hf.options import Options
from attnflow_hf.position_bias import correct_positions, uniform_causal_graph
from attnflow_hf.prediction import predict
from attnflow_hf.reader import Reading
from attnflow_hf.readout import read_out, resolve_position
from attnflow_hf.saturation import Saturation, measure_saturation
from attnflow_hf.tokens import Tokens


@dataclass(frozen=True)
class Wrapped:
    """A model with its tokenizer, as a user wrapped them; what it is called, and how many texts it reads at once."""

    model: Any
    tokenizer: Any
    name: str
    batch_size: int


def score(
    reading: Reading,
    wrapped: Wrapped,
    method: str,
    backend: str,
    options: Options,
    *,
    positions: Sequence[int] | None = None,
) -> list[Attribution]:
    """Return the attribution of one reading by one method; or several, one for each position, from one graph.

    Args:
        reading: What the model made of the input.
        wrapped: The model and its tokenizer.
        method: `"raw"`, `"rollout"` or `"flow"`.
        backend: The backend's name.
        options: How.
        positions: Output positions that are each explained by the tokens up to there; by default the one of `options`,
            by all tokens.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    explained = [position_of(reading, wrapped.tokenizer, options)] if positions is None else list(positions)
    layers = select_layers(options.layer, len(reading.layout.stages))
    wanted = list(range(reading.layout.n_outputs)) if isinstance(explained[0], str) else [int(p) for p in explained]
    found = _values(reading, method, backend, layers, wanted, options)
    results = []
    for index, position in enumerate(explained):
        rows = slice(None) if isinstance(position, str) else slice(index, index + 1)
        tokens, part = reading.tokens, found.of_rows(rows)
        if positions is not None:
            seen = np.arange(len(tokens)) <= len(tokens) - reading.layout.n_outputs + int(position)
            tokens, part = tokens.select(seen), replace(part, values=part.values[..., seen])
        results.append(_attribution(reading, wrapped, method, backend, options, layers, position, tokens, part))
    return results


@dataclass(frozen=True, eq=False)
class _Values:
    """A method's values of the tokens `[layer, position, token]`, of the sink `[layer, position]`, and their graph."""

    values: FloatArray
    sinks: FloatArray | None
    saturation: Callable[[slice], Saturation | None]

    def of_rows(self, rows: slice) -> _Values:
        """Return those of some positions."""
        sinks = None if self.sinks is None else self.sinks[:, rows]
        return _Values(self.values[:, rows], sinks, lambda _: self.saturation(rows))


def _attribution(
    reading: Reading,
    wrapped: Wrapped,
    method: str,
    backend: str,
    options: Options,
    layers: Sequence[int],
    position: int | Literal["mean", "all"],
    tokens: Tokens,
    found: _Values,
) -> Attribution:
    tokens, scores, sinks = read_out(tokens, found.values, found.sinks, position, options)
    saturation = found.saturation(slice(None))
    row = slice(None) if options.layer == "all" else 0
    return Attribution(
        alignment=tokens,
        scores=np.ascontiguousarray(scores[row]),
        method=method,
        backend=backend,
        output_position=position,
        layer="all" if options.layer == "all" else int(layers[0]),
        head_reduction=_plain_heads(options.head_reduction),
        residual_weight=0.0 if method == "raw" else options.residual_weight,
        normalize=options.normalize,
        special_tokens=options.special_tokens,
        first_token=options.first_token,
        position_correction=options.position_correction,
        sink_scores=None if sinks is None else sinks[row],
        prediction=_predict(reading, wrapped, position),
        model_name=wrapped.name,
        notes=(*reading.report.notes(), *_notes(reading.tokens, saturation)),
        saturation=saturation,
    )


def position_of(reading: Reading, tokenizer: Any, options: Options) -> int | Literal["mean", "all"]:
    """Return the output position that is explained, as an index or as `"mean"` or `"all"`."""
    if options.output_position == "auto" and reading.head_position is not None:
        return reading.head_position
    is_causal = reading.report.is_causal or reading.report.has_decoder
    cls_id = getattr(tokenizer, "cls_token_id", None) if reading.tokens.grid is None else None
    return resolve_position(options.output_position, reading.output_tokens, is_causal, cls_id)


def _values(
    reading: Reading, method: str, backend: str, layers: Sequence[int], wanted: Sequence[int], options: Options
) -> _Values:
    if reading.rollouts is not None:
        values = reading.rollouts[list(layers)]
        sinks = (1.0 - values.sum(axis=-1)).clip(min=0.0) if reading.report.has_sinks else None  # what rows lack
        return _Values(values, sinks, lambda _: None)
    residual_weight = 0.0 if method == "raw" else options.residual_weight
    graph = reading.graph(residual_weight)
    stages = [reading.layout.stages[layer] for layer in layers]
    nodes = [position + reading.layout.first_output for position in wanted]
    every = compute(method, backend, graph, stages, nodes)

    def saturation(rows: slice) -> Saturation | None:
        return measure_saturation(graph, stages, nodes[rows], every[:, rows]) if method == "flow" else None

    values = every[..., reading.layout.first_token :]
    if options.position_correction == "uniform":
        values = correct_positions(values, _uniform_values(reading, method, backend, stages, wanted, residual_weight))
    return _Values(values, every[..., 0] if reading.report.has_sinks else None, saturation)


def _uniform_values(
    reading: Reading, method: str, backend: str, stages: Sequence[int], wanted: Sequence[int], residual_weight: float
) -> FloatArray:
    """Return what the method gives on the uniform causal graph of the same size."""
    report = reading.report
    if not report.is_causal:
        raise OptionError(f"position_correction divides by the uniform causal graph, but {report.model} is not causal")
    graph = uniform_causal_graph(
        report.n_layers, len(reading.tokens), residual_weight=residual_weight, residual_layers=report.residual_layers
    )
    return compute(method, backend, graph, stages, list(wanted))


def _predict(reading: Reading, wrapped: Wrapped, position: int | str) -> Any:
    logits, ids = reading.logits_at(position), reading.output_tokens.input_ids
    if logits is None or logits.ndim == 1:
        return predict(wrapped.model, wrapped.tokenizer, logits, ids, position)
    return predict(wrapped.model, wrapped.tokenizer, logits, ids[int(position) : int(position) + 1], 0)


def _plain_heads(head_reduction: HeadReduction) -> str | int | tuple[int, ...]:
    if isinstance(head_reduction, str):
        return head_reduction
    return (
        int(head_reduction) if isinstance(head_reduction, (int, np.integer)) else tuple(int(h) for h in head_reduction)
    )


def _notes(tokens: Tokens, saturation: Saturation | None) -> tuple[str, ...]:
    notes = []
    if tokens.n_truncated:
        notes.append(f"the text was cut: {tokens.n_truncated} tokens beyond the model's length are not explained")
    is_text = tokens.grid is None and (tokens.input_ids >= 0).all()
    if tokens.offsets is None and is_text:
        notes.append(
            "there are no character offsets and word ids: this tokenizer, or this encoding, does not tell them"
        )
    if saturation is not None and saturation.is_saturated:
        notes.append(f"flow says little about this position: its {saturation.describe()}")
    return tuple(notes)
