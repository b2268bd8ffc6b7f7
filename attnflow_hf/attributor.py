"""`Attributor`: text in, `Attribution` out; the only place where all steps meet."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import METHODS, backend_names, choose_backend, compute, select_layers
from attnflow_hf.capture import capture, max_positions, n_embeddings, reads_padding
from attnflow_hf.errors import ArrayError, CaptureError, FloatArray, OptionError, SaturationWarning
from attnflow_hf.inputs import (
    Sample,
    Text,
    batches,
    check_vocabulary,
    collate,
    is_encoding,
    samples_from_encoding,
    samples_from_texts,
)
from attnflow_hf.layer_graph import LayerGraph, mix_residual
from attnflow_hf.options import Options, OutputPosition
from attnflow_hf.prediction import predict
from attnflow_hf.readout import read_out, resolve_position
from attnflow_hf.saturation import Saturation, measure_saturation

EMBEDDED_MODEL = "verb_number"


class _CallOptions(TypedDict, total=False):
    """The options of `Attributor.__call__`, for type checkers."""

    method: str
    backend: str
    layer: int | Literal["all"]
    output_position: OutputPosition
    head_reduction: HeadReduction
    residual_weight: float
    normalize: str
    special_tokens: str
    truncation: bool


class Attributor:
    """Wraps a Transformers model and its tokenizer, and attributes its output to the input tokens.

    The model is borrowed: each call gives it back as it came. It stays where it is (CPU or GPU). Several threads may
    call attributors of one model, which wait for each other; but nothing else may use the model during a call.

    Args:
        model: Any Transformers encoder or decoder; of an encoder-decoder model the encoder is explained.
        tokenizer: Its tokenizer; `None` if you give encodings of your own.
        batch_size: How many texts go through the model at once.

    Example:
        >>> attributor = Attributor.from_pretrained()
        >>> attribution = attributor("the key to the cabinets", method="flow")
        >>> attribution.prediction.label
        'singular'
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any = None, *, batch_size: int = 16) -> None:
        """Wrap a model that the user already has."""
        if not isinstance(model, PreTrainedModel):
            raise OptionError(
                f"model must be a Transformers model (PreTrainedModel), got {type(model).__name__}; of a wrapped or "
                "compiled model pass the inner one (.module, ._orig_mod, .get_base_model())"
            )
        if tokenizer is not None and not callable(tokenizer):
            raise OptionError(f"tokenizer must be a Transformers tokenizer or None, got {tokenizer!r}")
        if model.main_input_name != "input_ids":
            raise OptionError(f"{type(model).__name__} reads {model.main_input_name}, but only text is supported")
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise OptionError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._has_warned = False

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        revision: str = "main",
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 16,
    ) -> Attributor:
        """Return an attributor for a model of the hub, of a local folder, or for the embedded one.

        The model is loaded with the head it was saved with (classifier, language model, ...), or without one where
        its config names none, and with eager attention.

        Args:
            name_or_path: A name on the hub or a folder; `None` for the embedded verb-number model, which needs no
                network.
            revision: Branch, tag or commit of a hub model.
            dtype: The type of the weights; by default that of the checkpoint.
            device: Where the model goes; by default it stays on the CPU.
            trust_remote_code: Run code that comes with the model.
            batch_size: How many texts go through the model at once.

        Raises:
            OSError: Transformers does not find the model or its tokenizer.
        """
        source = str(files("attnflow_hf") / EMBEDDED_MODEL) if name_or_path is None else _check_source(name_or_path)
        shared = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(source, **shared)
        loader = getattr(transformers, (config.architectures or [""])[0], AutoModel)
        types = {} if dtype is None else {"dtype": dtype}
        model = loader.from_pretrained(source, attn_implementation="eager", **shared, **types)
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        return cls(model if device is None else model.to(device), tokenizer, batch_size=batch_size)

    @overload
    def __call__(self, inputs: Text | Mapping[str, Any], **options: Unpack[_CallOptions]) -> Attribution: ...
    @overload
    def __call__(self, inputs: list[Text], **options: Unpack[_CallOptions]) -> list[Attribution]: ...
    def __call__(
        self,
        inputs: Text | list[Text] | Mapping[str, Any],
        *,
        method: str = "flow",
        backend: str = "auto",
        layer: int | Literal["all"] = -1,
        output_position: OutputPosition = "auto",
        head_reduction: HeadReduction = "mean",
        residual_weight: float = 0.5,
        normalize: str = "sum",
        special_tokens: str = "keep",
        truncation: bool = False,
    ) -> Attribution | list[Attribution]:
        """Return what an output position of the model drew on, one score for each input token.

        Args:
            inputs: A text; a pair of texts (tuple); a list of texts or pairs; or what the tokenizer returned for
                them.
            method: `"raw"`: the attention weights of the explained layer alone. `"rollout"`: the product of all
                layers below, residual included. `"flow"`: the maximum flow through them; where it says
                little of the position, a `SaturationWarning` is given once, and each result's `notes` say so.
            backend: Changes the speed and not the numbers; `"auto"` chooses by size.
            layer: The explained layer, 0 is the lowest, -1 the last; `"all"` gives every layer (for flow, as many
                times the work).
            output_position: The row that is explained, an index into the text's tokens (negative from the end).
                `"auto"`: the last token for causal models, `[CLS]` where the tokenizer has one, else the mean.
                `"mean"`: the mean over all positions; `"all"`: a matrix (both n times the work of one position for
                flow).
            head_reduction: `"mean"` (the paper's), `"max"` or `"min"` over heads, one head's index, or a list of
                heads whose mean is taken; rows are normalized to 1 afterwards.
            residual_weight: The share of the residual connection in each edge, 0 (none) to 1; the paper's 0.5.
                More of it keeps scores nearer to the position itself. Raw attention has none.
            normalize: `"sum"`: scores sum to 1, as in the paper's code. `"max"`: the largest is 1. `"none"`: the
                values as they are, as in the paper's text: flow values have a meaning of their own.
            special_tokens: `"keep"` them, set their scores to `"zero"`, or `"drop"` them from the result; before
                normalizing.
            truncation: Cut texts that are longer than the model can read; otherwise they are an error.

        Returns:
            An `Attribution`; for a list, or an encoding of more than one row, a list of them in the same order.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        options = Options(backend, layer, output_position, head_reduction, residual_weight, normalize, special_tokens)
        results = [by_method[method] for by_method in self._attribute(inputs, [method], options, truncation)]
        self._warn_of_saturation(results)
        return results[0] if _is_single(inputs, len(results)) else results

    def compare(
        self,
        inputs: Text | Mapping[str, Any],
        *,
        methods: Sequence[str] = METHODS,
        options: Options | None = None,
        truncation: bool = False,
    ) -> dict[str, Attribution]:
        """Return one text's attributions by several methods, from one forward pass.

        Args:
            inputs: A text, a pair of texts, or what the tokenizer returned for one.
            methods: Which methods, in the order wanted.
            options: The options of `__call__`; the backend is that of the methods which have it.
            truncation: Cut a text that is longer than the model can read.

        Raises:
            AttnFlowError: As `__call__`; `OptionError` if `inputs` holds more than one text.
        """
        if isinstance(methods, str) or isinstance(inputs, list):
            raise OptionError("compare takes one text and a list of methods; call it for each text")
        results = self._attribute(inputs, methods, options or Options(), truncation)
        if len(results) > 1:
            raise OptionError(f"compare takes one text, got an encoding of {len(results)}; call it for each")
        return results[0]

    def __repr__(self) -> str:
        """Return the model's class and name."""
        return f"Attributor({type(self.model).__name__}, {self.model_name!r})"

    @property
    def model_name(self) -> str:
        """The name the model was loaded by, or its class."""
        name = str(self.model.config.name_or_path or "")
        return (Path(name).name if Path(name).exists() else name) or type(self.model).__name__

    def _warn_of_saturation(self, results: Sequence[Attribution]) -> None:
        """Warn once, where the caller stands, that flow says little; each such attribution says so in its notes."""
        for result in results:
            if result.saturation is not None and result.saturation.is_saturated and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"flow says little about output position {result.position_name} of layer {result.layer}: "
                    f"its {result.saturation.describe()}. A lower layer, or method='rollout', tells more; the README "
                    "explains why. This is said once; see `notes` and `saturation` of each attribution",
                    SaturationWarning,
                    stacklevel=3,
                )

    def _attribute(
        self, inputs: Any, methods: Sequence[str], options: Options, truncation: bool
    ) -> list[dict[str, Attribution]]:
        if not isinstance(truncation, bool):
            raise OptionError(f"truncation must be True or False, got {truncation!r}")
        backends = _backend_of_each(methods, options.backend)
        samples = self._samples(inputs, truncation)
        work_per_layer = sum(_work_per_layer(len(sample), options) for sample in samples)
        results: dict[int, dict[str, Attribution]] = {}
        for index, reading in self._read(samples, options.head_reduction):
            work = work_per_layer * reading.graph.n_layers * (reading.graph.n_layers if options.layer == "all" else 1)
            results[index] = {
                method: self._explain(reading, method, choose_backend(method, backend, work), options)
                for method, backend in backends.items()
            }
        return [results[index] for index in range(len(samples))]

    def _samples(self, inputs: Any, truncation: bool) -> list[Sample]:
        if is_encoding(inputs):
            samples = samples_from_encoding(inputs, self.tokenizer, max_length=max_positions(self.model))
        else:
            texts = inputs if isinstance(inputs, list) else [inputs]
            samples = samples_from_texts(texts, self.tokenizer, max_length=self._max_length(), truncation=truncation)
        check_vocabulary(samples, n_embeddings(self.model))
        return samples

    def _max_length(self) -> int | None:
        limits = [max_positions(self.model), getattr(self.tokenizer, "model_max_length", None)]
        known = [limit for limit in limits if limit is not None and limit < 10**9]  # Transformers' sign for no limit
        return min(known, default=None)

    def _read(self, samples: Sequence[Sample], head_reduction: HeadReduction) -> Iterator[tuple[int, _Reading]]:
        """Yield each sample's index and what the model made of it, in the order of the forward passes."""
        pad_id = self.model.config.get_text_config().pad_token_id
        splits = pad_id is None and "ForSequenceClassification" in type(self.model).__name__  # it refuses batches
        size = 1 if splits else self.batch_size
        for indices in batches(samples, size, equal_lengths=reads_padding(self.model)):
            yield from zip(
                indices, self._read_batch([samples[index] for index in indices], head_reduction), strict=True
            )

    def _read_batch(self, samples: Sequence[Sample], head_reduction: HeadReduction) -> list[_Reading]:
        """Return what the model made of the samples of one forward pass; its attentions are given up at the end."""
        inputs = collate(samples, self._padding_id())
        captured = capture(self.model, {name: value.to(self.model.device) for name, value in inputs.items()})
        readings = []
        for row, sample in enumerate(samples):
            graph = self._graph(captured.attentions, inputs["attention_mask"], head_reduction, row)
            logits = None if captured.logits is None else captured.logits[row].float().cpu().numpy()
            readings.append(_Reading(sample, graph, logits))
        return readings

    def _padding_id(self) -> int:
        """Return the id to pad with; any id with an embedding will do, but some models look for their own."""
        own = self.model.config.get_text_config().pad_token_id, getattr(self.tokenizer, "pad_token_id", None)
        limit = n_embeddings(self.model)
        valid = [each for each in own if each is not None and each >= 0 and (limit is None or each < limit)]
        return valid[0] if valid else 0

    def _graph(self, attentions: Any, mask: torch.Tensor, head_reduction: HeadReduction, row: int) -> LayerGraph:
        try:
            return LayerGraph.from_attentions(
                attentions, attention_mask=mask, head_reduction=head_reduction, residual_weight=0.0, batch_index=row
            )
        except ArrayError as error:
            raise CaptureError(f"{type(self.model).__name__} cannot be explained: {error}") from error

    def _explain(self, reading: _Reading, method: str, backend: str, options: Options) -> Attribution:
        residual_weight = 0.0 if method == "raw" else options.residual_weight
        graph = reading.graph if method == "raw" else LayerGraph(mix_residual(reading.graph.weights, residual_weight))
        cls_id = getattr(self.tokenizer, "cls_token_id", None)
        position = resolve_position(options.output_position, reading.sample.tokens, graph.is_causal, cls_id)
        layers = select_layers(options.layer, graph.n_layers)
        wanted = range(graph.n_tokens) if isinstance(position, str) else [position]
        values = compute(method, backend, graph, layers, list(wanted))
        saturation = measure_saturation(graph, layers, list(wanted), values) if method == "flow" else None
        tokens, scores = read_out(reading.sample.tokens, values, position, options)
        return Attribution(
            alignment=tokens,
            scores=np.ascontiguousarray(scores if options.layer == "all" else scores[0]),
            method=method,
            backend=backend,
            output_position=position,
            layer="all" if options.layer == "all" else layers[0],
            head_reduction=_plain_heads(options.head_reduction),
            residual_weight=residual_weight,
            normalize=options.normalize,
            special_tokens=options.special_tokens,
            prediction=predict(self.model, self.tokenizer, reading.logits, reading.sample.tokens.input_ids, position),
            model_name=self.model_name,
            notes=_notes(reading.sample, saturation),
            saturation=saturation,
        )


@dataclass(frozen=True, eq=False)
class _Reading:
    """What the model made of a sample: its layer graph without residual, and its head's output."""

    sample: Sample
    graph: LayerGraph
    logits: FloatArray | None


def _check_source(name_or_path: str | Path) -> str:
    """Return a hub name or an existing folder; the hub's own message about a missing folder speaks of names."""
    source = os.fspath(name_or_path)
    if (isinstance(name_or_path, Path) or source.startswith(("/", "."))) and not Path(source).is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", source)
    return source


def _is_single(inputs: Any, n_results: int) -> bool:
    return n_results == 1 if is_encoding(inputs) else not isinstance(inputs, list)


def _backend_of_each(methods: Sequence[str], backend: str) -> dict[str, str]:
    """Return the backend asked for of each method: the named one where the method has it, else `"auto"`.

    Raises:
        OptionError: An unknown method, or a backend that none of the methods has.
    """
    has = {method: method in METHODS and backend in backend_names(method) for method in methods}
    for method in methods:
        choose_backend(method, "auto" if any(has.values()) else backend, 0)
    return {method: backend if has[method] else "auto" for method in methods}


def _work_per_layer(n_tokens: int, options: Options) -> int:
    """Return the pairs times edges of one text, for each layer of the graph."""
    return n_tokens**3 * (n_tokens if options.output_position in ("mean", "all") else 1)


def _plain_heads(head_reduction: HeadReduction) -> str | int | tuple[int, ...]:
    if isinstance(head_reduction, str):
        return head_reduction
    return (
        int(head_reduction) if isinstance(head_reduction, (int, np.integer)) else tuple(int(h) for h in head_reduction)
    )


def _notes(sample: Sample, saturation: Saturation | None) -> tuple[str, ...]:
    notes = []
    if sample.tokens.n_truncated:
        notes.append(
            f"the text was cut: {sample.tokens.n_truncated} tokens beyond the model's length are not explained"
        )
    if sample.tokens.offsets is None:
        notes.append(
            "there are no character offsets and word ids: this tokenizer, or this encoding, does not tell them"
        )
    if saturation is not None and saturation.is_saturated:
        notes.append(f"flow says little about this position: its {saturation.describe()}")
    return tuple(notes)
