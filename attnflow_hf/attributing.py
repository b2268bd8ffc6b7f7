"""From what a user gave to attributions: the model reads it, a backend is chosen, the reading is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import METHODS, backend_names, choose_backend
from attnflow_hf.capture import report_on
from attnflow_hf.errors import CaptureError, OptionError
from attnflow_hf.generation import prefixes
from attnflow_hf.given import Given
from attnflow_hf.inputs import Sample
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.model_facts import input_device
from attnflow_hf.options import Options
from attnflow_hf.prediction import Prediction, predict_token
from attnflow_hf.reader import Reading, fold_samples, read_samples, read_signals
from attnflow_hf.readout import resolve_position
from attnflow_hf.scoring import Wrapped, score
from attnflow_hf.target_capture import take_of
from attnflow_hf.threads import map_ahead, n_cores

Result = TypeVar("Result")

_LONG = 96
"""From so many tokens on the time goes to what threads can share."""


def attribute_all(
    wrapped: Wrapped, inputs: Given, methods: Sequence[str], options: Options
) -> list[dict[str, Attribution]]:
    """Return the attributions of each input by each method, from one forward pass for each batch.

    Args:
        wrapped: The model and its tokenizer.
        inputs: What `given` made of texts or an encoding.
        methods: Which methods.
        options: How.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    results = dict(attribute_each(wrapped, inputs, methods, options, lambda _, found: found))
    return [results[index] for index in range(len(results))]


def attribute_each(
    wrapped: Wrapped,
    inputs: Given,
    methods: Sequence[str],
    options: Options,
    finish: Callable[[Reading, dict[str, Attribution]], Result],
) -> Iterator[tuple[int, Result]]:
    """Yield the index of each input, in the order of the forward passes, and what `finish` makes of it.

    Long texts are explained on all cores: while a GPU reads the next batch, so that two are in memory; or in turns with
    a model that needs the cores itself.

    Args:
        wrapped: The model and its tokenizer.
        inputs: What `given` made of texts or an encoding.
        methods: Which methods; all are made from one forward pass.
        options: How.
        finish: Called, in several threads, with what the model made of an input and its attributions.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    asked = [(methods, options)]
    yield from attribute_variously(wrapped, inputs, asked, options, lambda reading, found: finish(reading, found[0]))


def attribute_variously(
    wrapped: Wrapped,
    inputs: Given,
    asked: Sequence[tuple[Sequence[str], Options]],
    options: Options,
    finish: Callable[[Reading, list[dict[str, Attribution]]], Result],
) -> Iterator[tuple[int, Result]]:
    """Yield the index of each input, and what `finish` makes of it and of methods that have options of their own.

    Args:
        wrapped: The model and its tokenizer.
        inputs: What `given` made of texts or an encoding.
        asked: Methods, each group with its options; there may be none.
        options: Those of the forward pass, which all share. The others may differ from it in what comes after the
            pass: `layer`, `residual_weight`, `normalize_rows`, `backend`, `n_permutations` and `seed`.
        finish: As for `attribute_each`, with the attributions of each group.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    folds = options.keep == "rollout"
    plans = [(own, backends_of(methods, "auto" if folds else own.backend)) for methods, own in asked]
    for own, backends in plans:
        for method in backends:
            own.residual_of(method)
        if folds and list(backends) != ["rollout"]:
            methods = list(backends)
            raise OptionError(f"keep='rollout' keeps no layers, so it serves method='rollout' alone, got {methods}")
    work_of_texts = _work_of_layer([len(sample) for sample in inputs.samples], options)

    def explain(read: tuple[int, Reading]) -> tuple[int, Result]:
        index, reading = read
        of_layer = work_of_texts or _work_of_layer([len(reading.tokens)], options)
        found = []
        for own, backends in plans:
            work = _work(reading, of_layer, own)
            chosen = {name: "fold" if folds else choose_backend(name, each, work) for name, each in backends.items()}
            found.append({name: score(reading, wrapped, name, backend, own)[0] for name, backend in chosen.items()})
        return index, finish(reading, found)

    readings = _read(wrapped, inputs, options)
    n_threads = _n_threads([len(sample) for sample in inputs.samples])
    is_elsewhere = input_device(wrapped.model).type != "cpu"
    yield from map_ahead(explain, readings, n_threads=n_threads, n_waiting=wrapped.batch_size, is_ahead=is_elsewhere)


def _n_threads(lengths: Sequence[int]) -> int:
    """Return in how many threads, beside the model's, texts of these lengths are explained.

    Of short texts Python's own work is the most, which threads cannot share; they would only hold up the model's.
    """
    is_long = len(lengths) > 1 and sum(lengths) >= _LONG * len(lengths)
    return min(len(lengths), n_cores()) if is_long else 0


def graph_of(wrapped: Wrapped, inputs: Given, method: str, options: Options) -> LayerGraph:
    """Return the layer graph that a method reads of one input.

    Args:
        wrapped: The model and its tokenizer.
        inputs: What `given` made of one text or encoding.
        method: Which method; its residual weight is in the edges.
        options: How.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    choose_backend(method, "auto", 0)
    if options.keep != "layers":
        raise OptionError("a layer graph has all layers: keep='rollout' keeps none of them")
    readings = [reading for _, reading in _read(wrapped, inputs, options)]
    if len(readings) != 1:
        raise OptionError(f"a layer graph is that of one text, got {len(readings)}; call it for each")
    return readings[0].graph(options.residual_of(method), normalize_rows=options.divides_rows)


def attribute_reading(wrapped: Wrapped, reading: Reading, method: str, options: Options) -> Attribution:
    """Return the attribution of what the model has made of an input already, as a pipeline has it.

    Args:
        wrapped: The model and its tokenizer.
        reading: What the model made of it.
        method: The method.
        options: How.
    """
    work = _work(reading, _work_of_layer([len(reading.tokens)], options), options)
    backend = choose_backend(method, options.backend, work)
    return score(reading, wrapped, method, backend, options)[0]


def attribute_generated(
    wrapped: Wrapped, sample: Sample, new_ids: Sequence[int], method: str, options: Options
) -> list[Attribution]:
    """Return one attribution for each generated token, from one forward pass over all of them.

    Edge weights that need a target are read of each token's own prefix, a batch of prefixes at a time, as the gradients
    of its logit are another for each token.

    Args:
        wrapped: The model and its tokenizer.
        sample: The prompt and all generated tokens but the last; of an encoder-decoder model what both halves read.
        new_ids: The generated ids.
        method: The method.
        options: How; the output position is that of each token, and so is the target.
    """
    if options.kind.needs_target:
        own = replace(options, target=list(new_ids))
        found_of_each = attribute_all(wrapped, Given(prefixes(sample, len(new_ids))), [method], own)
        return [replace(each[method], prediction=each[method].target) for each in found_of_each]
    reading = next(reading for _, reading in _read(wrapped, Given([sample]), options))
    positions = list(range(reading.layout.n_outputs - len(new_ids), reading.layout.n_outputs))
    work = _work(reading, _work_of_layer([len(sample)], options), options) * len(positions)
    backend = choose_backend(method, options.backend, work)
    found = score(reading, wrapped, method, backend, options, positions=positions)
    return [
        replace(each, prediction=_generated(wrapped, reading, position, token_id))
        for each, position, token_id in zip(found, positions, new_ids, strict=True)
    ]


def _generated(wrapped: Wrapped, reading: Reading, position: int, token_id: int) -> Prediction:
    logits = reading.logits_at(position)
    if logits is None:
        raise CaptureError(f"{reading.report.model} gave no logits for the tokens that it generated")
    return predict_token(wrapped.tokenizer, logits[0], token_id)


def _read(wrapped: Wrapped, inputs: Given, options: Options) -> Iterator[tuple[int, Reading]]:
    """Yield each input's index and what the model made of it, in the order of the forward passes."""
    folds, heads = options.keep == "rollout", options.heads
    take = take_of(wrapped.model, wrapped.tokenizer, inputs, options)
    if folds and (inputs.signals is not None or any(sample.decoder is not None for sample in inputs.samples)):
        raise OptionError(
            "keep='rollout' is for text and one stack of layers, not for images, sound, or an encoder with its decoder"
        )
    if inputs.signals is not None:
        return read_signals(wrapped.model, inputs.signals, inputs.decoders, head_reduction=heads, take=take)
    if not folds:
        return read_samples(
            wrapped.model,
            wrapped.tokenizer,
            inputs.samples,
            batch_size=wrapped.batch_size,
            head_reduction=heads,
            take=take,
        )
    is_causal, cls_id = report_on(wrapped.model).is_causal, getattr(wrapped.tokenizer, "cls_token_id", None)
    positions = []
    for sample in inputs.samples:
        position = resolve_position(options.output_position, sample.tokens, is_causal, cls_id)
        positions.append(list(range(len(sample))) if isinstance(position, str) else [position])
    return fold_samples(
        wrapped.model,
        wrapped.tokenizer,
        inputs.samples,
        positions,
        batch_size=wrapped.batch_size,
        head_reduction=heads,
        residual_weight=float(options.residual_of("rollout")),
    )


def backends_of(methods: Sequence[str], backend: str) -> dict[str, str]:
    """Return the backend asked for of each method: the named one where the method has it, else `"auto"`.

    Raises:
        OptionError: An unknown method, or a backend that none of the methods has.
    """
    has = {method: method in METHODS and backend in backend_names(method) for method in methods}
    for method in methods:
        choose_backend(method, "auto" if any(has.values()) else backend, 0)
    return {method: backend if has[method] else "auto" for method in methods}


def _work(reading: Reading, work_of_layer: int, options: Options) -> int:
    """Return the pairs times edges of texts on graphs as deep as the reading's, from those of one layer."""
    n_layers = len(reading.layout.stages)
    return work_of_layer * n_layers * (n_layers if options.layer == "all" else 1)


def _work_of_layer(lengths: Sequence[int], options: Options) -> int:
    """Return the pairs times edges of texts of these lengths on graphs of one layer."""
    many = options.output_position in ("mean", "all")
    return sum(n**3 * (n if many else 1) for n in lengths)
