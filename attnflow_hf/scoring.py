"""From a reading to an `Attribution`: the method's values, the readout, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import numpy as np

from attnflow_hf.attentions import plain_heads
from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import compute, select_layers
from attnflow_hf.errors import BoolArray, FloatArray, OptionError
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.options import Options
from attnflow_hf.position_bias import correct_errors, correct_positions, uniform_causal_graph
from attnflow_hf.prediction import Prediction, predict, predict_label, predict_token
from attnflow_hf.reader import Reading
from attnflow_hf.readout import read_out, read_out_errors, resolve_position
from attnflow_hf.saturation import Saturation, measure_saturation
from attnflow_hf.shapley import compute_shapley
from attnflow_hf.tokens import Tokens
from attnflow_hf.unlimited import unlimited_flow


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
        method: One of `backends.METHODS`.
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
            tokens, part = tokens.select(seen), part.of_tokens(seen)
        results.append(_attribution(reading, wrapped, method, backend, options, layers, position, tokens, part))
    return results


@dataclass(frozen=True, eq=False)
class _Values:
    """A method's values of the tokens `[layer, position, token]`, of the sink `[layer, position]`, and their graph.

    Estimates have standard errors `[layer, position, token]`.
    """

    values: FloatArray
    sinks: FloatArray | None
    saturation: Callable[[slice], Saturation | None] = lambda _: None
    errors: FloatArray | None = None

    def of_rows(self, rows: slice) -> _Values:
        """Return those of some positions."""
        sinks, errors = (None if each is None else each[:, rows] for each in (self.sinks, self.errors))
        return _Values(self.values[:, rows], sinks, lambda _: self.saturation(rows), errors)

    def of_tokens(self, kept: BoolArray) -> _Values:
        """Return those of some tokens."""
        errors = None if self.errors is None else self.errors[..., kept]
        return replace(self, values=self.values[..., kept], errors=errors)


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
    errors = None
    if found.errors is not None and found.errors.any():
        errors = read_out_errors(tokens, found.values, found.errors, position, options)
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
        head_reduction=plain_heads(options.heads),
        residual_weight=options.recorded_residual(method),
        edge_weights=options.edge_weights,
        normalize_rows=options.divides_rows,
        relu=options.relu if options.kind.needs_target else None,
        baseline=options.baseline,
        target=_predict_target(reading, wrapped),
        normalize=options.normalize,
        special_tokens=options.special_tokens,
        first_token=options.first_token,
        position_correction=options.position_correction,
        sink_scores=None if sinks is None else sinks[row],
        prediction=_predict(reading, wrapped, position),
        model_name=wrapped.name,
        notes=(*reading.report.notes(), *_notes(reading, saturation), *sampling_notes(errors, options)),
        saturation=saturation,
        standard_errors=None if errors is None else errors[row],
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
        return _Values(values, sinks)
    residual = options.residual_of(method)
    graph = reading.graph(residual, normalize_rows=options.divides_rows)
    stages = [reading.layout.stages[layer] for layer in layers]
    nodes = [position + reading.layout.first_output for position in wanted]
    if residual == inf:
        edges = reading.graph(0.0, normalize_rows=options.divides_rows, pass_through=False)
        every, errors = unlimited_flow(edges, backend, stages, nodes), None
    else:
        every, errors = _compute(graph, method, backend, stages, nodes, options)

    def saturation(rows: slice) -> Saturation | None:
        return measure_saturation(graph, stages, nodes[rows], every[:, rows]) if method == "flow" else None

    sinks = every[..., 0] if reading.report.has_sinks else None
    found = _Values(every, sinks, saturation, errors).of_tokens(np.arange(graph.n_tokens) >= reading.layout.first_token)
    if options.position_correction == "uniform":
        uniform = _uniform_graph(reading, float(residual))  # of attention, so it is a number
        return _corrected(found, *_compute(uniform, method, backend, stages, list(wanted), options))
    return found


def _compute(
    graph: LayerGraph, method: str, backend: str, stages: Sequence[int], nodes: Sequence[int], options: Options
) -> tuple[FloatArray, FloatArray | None]:
    """Return a method's values `[layer, position, token]`, and the standard errors of estimates."""
    if method != "flow_shapley":
        return compute(method, backend, graph, stages, nodes), None
    found = compute_shapley(backend, graph, stages, nodes, int(options.n_permutations), int(options.seed))
    return found.values, found.standard_errors


def _corrected(found: _Values, uniform: FloatArray, errors: FloatArray | None) -> _Values:
    values = correct_positions(found.values, uniform)
    if found.errors is None or errors is None:
        return replace(found, values=values)
    return replace(found, values=values, errors=correct_errors(values, found.errors, uniform, errors))


def _uniform_graph(reading: Reading, residual_weight: float) -> LayerGraph:
    """Return the uniform causal graph of the same size."""
    report = reading.report
    if not report.is_causal:
        raise OptionError(f"position_correction divides by the uniform causal graph, but {report.model} is not causal")
    return uniform_causal_graph(
        report.n_layers, len(reading.tokens), residual_weight=residual_weight, residual_layers=report.residual_layers
    )


def _predict(reading: Reading, wrapped: Wrapped, position: int | str) -> Any:
    logits, ids = reading.logits_at(position), reading.output_tokens.input_ids
    if logits is None or logits.ndim == 1:
        return predict(wrapped.model, wrapped.tokenizer, logits, ids, position)
    return predict(wrapped.model, wrapped.tokenizer, logits, ids[int(position) : int(position) + 1], 0)


def _predict_target(reading: Reading, wrapped: Wrapped) -> Prediction | None:
    """Return what the model's head says of the explained class."""
    target = reading.target
    if target is None:
        return None
    logits = reading.logits_at("mean" if target.position is None else target.position)
    assert logits is not None
    if target.position is None or type(wrapped.model).__name__.endswith("ForTokenClassification"):
        return predict_label(wrapped.model, logits.reshape(-1), target.index)
    return predict_token(wrapped.tokenizer, logits[0], target.index)


def _notes(reading: Reading, saturation: Saturation | None) -> tuple[str, ...]:
    notes, tokens = [], reading.tokens
    if reading.unreached:
        listed = ", ".join(map(str, reading.unreached))
        notes.append(f"the target does not depend on attention of layer {listed}, whose edges are zero")
    if tokens.n_truncated:
        notes.append(f"the text was cut: {tokens.n_truncated} tokens beyond the model's length are not explained")
    is_text = tokens.grid is None and (tokens.input_ids >= 0).all()
    if tokens.offsets is None and is_text:
        notes.append(
            "there are no character offsets and word ids: this tokenizer, or this encoding, does not tell them"
        )
    if saturation is not None and saturation.is_saturated and reading.target is None:
        notes.append(f"flow says little about this position: its {saturation.describe()}")
    return tuple(notes)


def sampling_notes(errors: FloatArray | None, options: Options) -> tuple[str, ...]:
    """Return what a reader must know of scores that are estimates, with their standard errors; nothing of others."""
    if errors is None:
        return ()
    orders = f"{options.n_permutations} random orders (seed {options.seed})"
    return (f"estimated from {orders}: standard errors are up to {errors.max():.1g}",)
