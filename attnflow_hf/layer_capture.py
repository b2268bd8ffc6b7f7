"""Edge weights that a function makes of each layer, out of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from attnflow_hf.capture import Capture, Store, report_on, runner_of, with_additive_mask
from attnflow_hf.capture_report import DECODER, ENCODER, CaptureReport
from attnflow_hf.edge_weights import edge_weights_of
from attnflow_hf.errors import CaptureError
from attnflow_hf.forward_pass import call, capturing
from attnflow_hf.layer_recorder import LayerRecorder


def capture_layers(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], edge_weights: str) -> Capture:
    """Return the edge weights of one forward pass that a function makes of each layer and text.

    The function is called when a layer is done, once for each text of the batch, without its padding. Of one layer all
    heads are there as a whole, of all others what the function has made. All that `capture` says of models and threads
    holds.

    Args:
        model: Any Transformers model.
        inputs: What its `forward` takes.
        edge_weights: Their name: `"alti"`, `"norms"`, or a registered one.

    Raises:
        CaptureError: The model cannot be captured, or its blocks are not such as the function needs; or the function
            fails, or gives no weights.
        OptionError: There are no such edge weights, or no function makes them.
    """
    inputs = with_additive_mask(inputs, model)
    report = report_on(model, with_decoder="decoder_input_ids" in inputs, like=inputs)
    capture = LayerCapture(model, report, Store(report, inputs), inputs, edge_weights)
    with capture.capturing():
        outputs = call(runner_of(model, report.has_decoder), inputs)
    return capture.finish(outputs.get("logits"))


class LayerCapture:
    """Captures what a function makes of each layer of one forward pass, whoever calls the model.

    Args:
        model: The model; it is given back as it came.
        report: How it is captured.
        store: Keeps the matrices.
        inputs: What the model reads, of which masks `[batch, token]` tell the padding of encoder and decoder. One of
            pairs hides no token as a whole.
        edge_weights: The name of the function.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        report: CaptureReport,
        store: Store,
        inputs: Mapping[str, torch.Tensor],
        edge_weights: str,
    ) -> None:
        """Take note of what is wanted."""
        self.model, self.report, self.store = model, report, store
        self.residuals: dict[int, torch.Tensor] = {}
        self.function = edge_weights_of(edge_weights).resolve()
        masks = {ENCODER: inputs.get("attention_mask"), DECODER: inputs.get("decoder_attention_mask")}
        real = {part: mask.bool() for part, mask in masks.items() if mask is not None and mask.ndim == 2}
        runner = runner_of(model, report.has_decoder)
        self.recorder = LayerRecorder(
            runner, report, edge_weights, self.function, real, store.put, self.residuals.__setitem__
        )

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Let the forward pass of this thread be one that is captured."""
        with capturing(runner_of(self.model, self.report.has_decoder), self.report, self.recorder):
            yield

    def finish(self, logits: Any) -> Capture:
        """Return what was captured, with the logits that the pass gave.

        Raises:
            CaptureError: The function tells the residual's part of some layers alone.
        """
        matrices = self.store.finished()
        if self.residuals and len(self.residuals) != len(matrices):
            raise CaptureError("edge weights must tell the residual's part of every layer, or of none")
        residuals = tuple(self.residuals[index].cpu() for index in sorted(self.residuals))
        is_half = self.model.dtype.itemsize < 4
        return Capture(matrices, logits, self.report, is_half, residuals=residuals, are_attention=False)
