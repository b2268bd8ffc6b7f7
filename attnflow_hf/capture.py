"""Read attentions out of a model, heads reduced, one matrix a layer; and give the model back as it came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from attnflow_hf.attention_function import Recorder
from attnflow_hf.attentions import HeadReduction, check_head_reduction
from attnflow_hf.borrowing import own_implementation
from attnflow_hf.capture_report import DECODER, ENCODER, CaptureReport
from attnflow_hf.errors import CaptureError
from attnflow_hf.forward_pass import run
from attnflow_hf.probe import probe
from attnflow_hf.targets import Target

_reports: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], CaptureReport]] = WeakKeyDictionary()
_reports_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Capture:
    """What one forward pass gave.

    Attributes:
        matrices: One float32 tensor for each attention, `[batch, query, key]` on the CPU, in the order of the report's
            sites: heads reduced, rows as they came. Where the model has attention sinks, column 0 is the sink.
            Empty where they were given to `receive`.
        logits: The output of the model's head, or `None` where it has none.
        report: How it was captured.
        is_half: Whether the model computes in float16 or bfloat16.
        targets: Of each sample the class whose gradients the matrices hold; empty where they hold attention weights.
        unreached: The sites whose attentions no gradient reached, as what is explained does not depend on them.
        residuals: What residual connections add to the weight of each position's own token, float32 `[batch, query]` on
            the CPU for each matrix; empty where that was not measured.
        are_attention: Whether the matrices hold attention weights.
    """

    matrices: tuple[torch.Tensor, ...]
    logits: torch.Tensor | None
    report: CaptureReport
    is_half: bool = False
    targets: tuple[Target, ...] = ()
    unreached: tuple[int, ...] = ()
    residuals: tuple[torch.Tensor, ...] = ()
    are_attention: bool = True


def capture(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    *,
    head_reduction: HeadReduction = "mean",
    receive: Callable[[int, torch.Tensor], None] | None = None,
) -> Capture:
    """Return the attentions of one forward pass with their heads reduced, whatever implementation the model has.

    The heads of a layer are reduced in float32 while the model runs, most models' in blocks of queries, so that
    `[head, query, key]` is never there as a whole; `report_on` tells how. The first capture of a model tries that out.

    The model runs in eval state, without gradients, and is given back as it came, also after an exception. Several
    threads may capture from one model, or use it otherwise meanwhile: nothing that they can see is changed, but for a
    model in train state, which is in eval state meanwhile.

    Args:
        model: Any Transformers model. Without `decoder_input_ids` among the inputs, only the encoder of an
            encoder-decoder model runs.
        inputs: What its `forward` takes: `input_ids` and `attention_mask` `[batch, token]`, `pixel_values`, ...
        head_reduction: `"mean"`, `"sum"`, `"max"`, `"min"`, the index of a head, or a list of heads (their mean).
        receive: Called with the index of each site and its matrix, on the model's device, instead of keeping them:
            for what folds as it goes.

    Raises:
        CaptureError: The model cannot be captured, or fails on these inputs.
        OptionError: An unknown head reduction.
        PositionError: There is no such head.
    """
    check_head_reduction(head_reduction)
    inputs = with_additive_mask(inputs, model)
    report = report_on(model, with_decoder="decoder_input_ids" in inputs, like=inputs)
    runner = runner_of(model, report.has_decoder)
    store = Store(report, inputs, receive)
    recorder = Recorder(store.receive, head_reduction, block_size=report.block_size, has_sinks=report.has_sinks)
    outputs = run(runner, inputs, report, recorder)
    return Capture(store.finished(), outputs.get("logits"), report, model.dtype.itemsize < 4)


def report_on(
    model: PreTrainedModel, *, with_decoder: bool = False, like: Mapping[str, torch.Tensor] | None = None
) -> CaptureReport:
    """Return how `model` is captured; the first call for a model runs a few short forward passes.

    Args:
        model: Any Transformers model.
        with_decoder: Capture the encoder and the decoder of an encoder-decoder model together.
        like: Inputs of the size that is meant, for images and sound; by default the config tells it.

    Raises:
        CaptureError: It cannot be captured; the message says why.
    """
    key = (with_decoder, model.dtype, model.device, own_implementation(model))
    with _reports_lock:
        known = _reports.setdefault(model, {}).get(key)
    if known is None:
        known = _report_anew(model, with_decoder, like)
        with _reports_lock:
            _reports[model][key] = known
    return known


def _report_anew(model: PreTrainedModel, with_decoder: bool, like: Mapping[str, torch.Tensor] | None) -> CaptureReport:
    name = type(model).__name__
    if not with_decoder or not name.endswith("ForSequenceClassification"):
        return probe(runner_of(model, with_decoder), with_decoder=with_decoder, like=like)
    # such a head reads the decoder where the input ends: without it, the two can be tried on texts of their own
    report = probe(cast(PreTrainedModel, runner_of(model, with_decoder).base_model), with_decoder=True, like=like)
    named = [replace(site, module=f"{model.base_model_prefix}.{site.module}") for site in report.sites]
    return replace(report, model=name, sites=tuple(named) if report.step == "hooks" else report.sites)


def runner_of(model: PreTrainedModel, with_decoder: bool) -> PreTrainedModel:
    """Return what runs: the model, or the encoder of one whose decoder has nothing to read.

    Raises:
        CaptureError: It has no decoder, but there is something for one to read.
    """
    if with_decoder and not model.config.is_encoder_decoder:
        raise CaptureError(f"{type(model).__name__} has no decoder beside an encoder, so it takes no decoder_input_ids")
    return model if with_decoder or not model.config.is_encoder_decoder else model.get_encoder()


def with_additive_mask(inputs: Mapping[str, torch.Tensor], model: PreTrainedModel) -> Mapping[str, torch.Tensor]:
    """Return the inputs with a mask of pairs, `[batch, head, query, key]`, as eager attention adds it to scores."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 4 or mask.is_floating_point():
        return inputs
    if mask.dtype != torch.bool:
        raise CaptureError(
            f"an attention_mask [batch, head, query, key] must be boolean, or of the model's type {model.dtype} and "
            f"added to the scores; got {mask.dtype}"
        )
    added = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device)
    return {**inputs, "attention_mask": added.masked_fill(~mask, torch.finfo(model.dtype).min)}


class Store:
    """Keeps what a recorder hands on, on the CPU, by site; copies from a GPU run beside the next layer's work."""

    def __init__(
        self,
        report: CaptureReport,
        inputs: Mapping[str, torch.Tensor],
        receive: Callable[[int, torch.Tensor], None] | None = None,
    ) -> None:
        """Take note of what the shapes must be, and of who gets the matrices instead."""
        self.report = report
        self.n_tokens = int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else None
        self.n_decoder = int(inputs["decoder_input_ids"].shape[1]) if report.has_decoder else None
        self.given_away = receive
        self.matrices: dict[int, torch.Tensor] = {}
        self.n_received = 0
        self.streams: dict[torch.device, torch.cuda.Stream] = {}

    def receive(self, matrix: torch.Tensor) -> None:
        """Take the next site's matrix `[batch, query, key]`."""
        self.put(self.n_received, matrix)

    def put(self, index: int, matrix: torch.Tensor) -> None:
        """Take the matrix of a site, in any order."""
        self.n_received += 1
        self.check(index, matrix.shape)
        if self.given_away is not None and index < len(self.report.sites):
            self.given_away(index, matrix)
        elif matrix.is_cuda:
            self.matrices[index] = self._copied_beside(matrix)
        else:
            self.matrices[index] = matrix.cpu()

    def check(self, index: int, shape: torch.Size) -> None:
        """Raise `CaptureError` for what was square in a short text but is not in this one (Reformer's chunks)."""
        self.n_tokens = self.n_tokens or shape[1]
        part = self.report.sites[index].part if index < len(self.report.sites) else ENCODER
        queries = self.n_tokens if part == ENCODER else self.n_decoder
        keys = self.n_decoder if part == DECODER else self.n_tokens
        if shape[1:] != (queries, (keys or 0) + self.report.has_sinks):
            raise CaptureError(
                f"{self.report.model} gave attentions {list(shape)} where {queries} queries x {keys} keys are "
                "needed; its attention is local or pooled for inputs of this length"
            )

    def finished(self) -> tuple[torch.Tensor, ...]:
        """Return all matrices, one for each site.

        Raises:
            CaptureError: There were more or fewer attentions than the report tells of.
        """
        if self.n_received != len(self.report.sites):
            raise CaptureError(
                f"{self.report.model} computed {self.n_received} attentions where {len(self.report.sites)} were "
                "expected; was it changed after its first capture, or is it used by a hook of its own?"
            )
        for stream in self.streams.values():
            stream.synchronize()
        return tuple(self.matrices[index] for index in sorted(self.matrices))

    def _copied_beside(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a copy in host memory that is there once its stream is done."""
        stream = self.streams.setdefault(matrix.device, torch.cuda.Stream(matrix.device))
        stream.wait_stream(torch.cuda.current_stream(matrix.device))
        copy = torch.empty(matrix.shape, dtype=matrix.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            copy.copy_(matrix, non_blocking=True)
        matrix.record_stream(stream)
        return copy
