"""`Attached`: what an attached pipeline knows beside its own, and what it makes of the pipeline's own forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from attnflow_hf.attention_function import Recorder
from attnflow_hf.attributing import attribute_all, attribute_reading
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.baselines import find_baseline
from attnflow_hf.capture import Capture, Store, report_on
from attnflow_hf.capture_report import CaptureReport
from attnflow_hf.errors import CaptureError
from attnflow_hf.forward_pass import capturing
from attnflow_hf.given import Given
from attnflow_hf.grad_capture import GradCapture, outside_inference
from attnflow_hf.inputs import NO_FEATURES, Sample
from attnflow_hf.layer_capture import LayerCapture
from attnflow_hf.options import Options
from attnflow_hf.pooling import decoder_tokens, decoder_watched
from attnflow_hf.reader import Reading, is_head_mean, reading_of
from attnflow_hf.signals import signal_tokens
from attnflow_hf.targets import Target, one_for_each, target_of
from attnflow_hf.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Attached:
    """What an attached pipeline knows beside its own."""

    attributor: Attributor
    method: str
    options: Options

    def read(
        self, forward: Any, inputs: Mapping[str, Any], tokens: Sequence[Tokens | None]
    ) -> tuple[Any, list[Reading]]:
        """Return what the pipeline's own forward pass gives, and the reading of each row.

        Args:
            forward: The pass, of a dictionary of tensors.
            inputs: What it reads, tensors by name.
            tokens: Each row's, without padding; `None` for images.

        Raises:
            CaptureError: What the model computed cannot be explained.
        """
        model = self.attributor.model
        with_decoder = model.config.is_encoder_decoder
        report = report_on(model, with_decoder=with_decoder, like=inputs)
        sizes = {**inputs, "decoder_input_ids": inputs["input_ids"]} if with_decoder else inputs  # it reads as many
        store = Store(report, sizes)
        if self.options.kind.needs_target:
            return self._read_target(forward, inputs, tokens, report, store)
        if not self.options.kind.are_attention:
            layers = LayerCapture(model, report, store, inputs, self.options.edge_weights)
            with layers.capturing(), ExitStack() as stack:
                decoder_ids = stack.enter_context(decoder_watched(model, layers.recorder)) if with_decoder else []
                outputs = forward(inputs)
            captured = layers.finish(outputs.get("logits"))
            return outputs, [
                self._reading(captured, row, inputs, known, decoder_ids) for row, known in enumerate(tokens)
            ]
        heads = self.options.heads
        recorder = Recorder(store.receive, heads, block_size=report.block_size, has_sinks=report.has_sinks)
        with capturing(model, report, recorder), ExitStack() as stack:
            decoder_ids = stack.enter_context(decoder_watched(model, recorder)) if with_decoder else []
            outputs = forward(inputs)
        captured = Capture(store.finished(), outputs.get("logits"), report, model.dtype.itemsize < 4)
        rows = enumerate(tokens)
        return outputs, [self._reading(captured, row, inputs, known, decoder_ids) for row, known in rows]

    def _read_target(
        self,
        forward: Any,
        inputs: Mapping[str, Any],
        tokens: Sequence[Tokens | None],
        report: CaptureReport,
        store: Store,
    ) -> tuple[Any, list[Reading]]:
        """Return the same with weights of the target of each row; what the pipeline gets asks for no gradients."""
        model, tokenizer, options = self.attributor.model, self.attributor.tokenizer, self.options
        asked = one_for_each(options.target, len(tokens))
        grads = GradCapture(model, report, store, head_reduction=options.heads, relu=options.relu)

        def find(logits: torch.Tensor) -> list[Target]:
            pairs = zip(logits.detach(), asked, strict=True)
            return [target_of(model, tokenizer, of_classes, each, None) for of_classes, each in pairs]

        with grads.capturing(), ExitStack() as stack:
            decoder_ids = stack.enter_context(decoder_watched(model, grads.recorder)) if report.has_decoder else []
            plain = outside_inference(inputs)
            outputs = forward(plain)
            captured = grads.finish(outputs.get("logits"), find, self._baseline(plain, tokens))
        for name, value in outputs.items():
            outputs[name] = value.detach() if isinstance(value, torch.Tensor) else value
        rows = enumerate(tokens)
        return outputs, [self._reading(captured, row, inputs, known, decoder_ids) for row, known in rows]

    def _baseline(
        self, inputs: Mapping[str, torch.Tensor], tokens: Sequence[Tokens | None]
    ) -> dict[str, torch.Tensor] | None:
        """Return the inputs of the baseline that is asked for."""
        model, name = self.attributor.model, self.options.baseline
        if name is None:
            return None
        known = [each for each in tokens if each is not None]
        are_texts = len(known) == len(tokens) and not model.config.is_encoder_decoder
        return find_baseline(model, self.attributor.tokenizer, name, are_texts=are_texts).inputs_of(inputs, known)

    def _reading(
        self,
        captured: Capture,
        row: int,
        inputs: Mapping[str, Any],
        known: Tokens | None,
        decoder_ids: Sequence[torch.Tensor | None],
    ) -> Reading:
        model, tokenizer = self.attributor.model, self.attributor.tokenizer
        tokens = known or signal_tokens(model.config, inputs, int(captured.matrices[0].shape[1]))
        decoder, position = None, None
        if captured.report.has_decoder:
            if len(decoder_ids) != 1 or decoder_ids[0] is None:
                raise CaptureError(
                    f"the decoder of {captured.report.model} must read input ids, once; it read {len(decoder_ids)} "
                    "times, or embeddings. Call Attributor(pipe.model, pipe.tokenizer) with decoder_input_ids instead"
                )
            ids = inputs["input_ids"][row], decoder_ids[0][row]
            decoder, position = decoder_tokens(model, tokenizer, tokens, *ids)
        mask = inputs.get("attention_mask")
        found = reading_of(
            captured,
            row,
            Sample(tokens, {}, decoder),
            real=None if mask is None else mask[row].bool().cpu().numpy(),
            is_head_mean=is_head_mean(self.options.heads),
        )
        return replace(found, head_position=position)

    def explain(self, reading: Reading, position: int | None = None) -> Attribution:
        """Return the attribution of a reading; of `position`, unless the options name another."""
        options = self.options
        if position is not None and options.output_position == "auto":
            options = replace(options, output_position=position)
        return attribute_reading(self.attributor.wrapped, reading, self.method, options)

    def explain_each(
        self, read: Reading | Sample, positions: Sequence[int], classes: Sequence[int]
    ) -> list[Attribution]:
        """Return the attribution of each of some positions, unless the options name another.

        Args:
            read: What the model made of the text; where edge weights need a target, the text, to be read once more for
                each position.
            positions: Where results of the pipeline stand.
            classes: The class of each, which is its target, unless the options name one.
        """
        if isinstance(read, Reading):
            return [self.explain(read, position) for position in positions]
        options = self.options if self.options.target is not None else replace(self.options, target=list(classes))
        asked = Given([read] * len(positions), positions=positions)
        return [found[self.method] for found in attribute_all(self.attributor.wrapped, asked, [self.method], options)]

    def mean(self, found: Sequence[Attribution], positions: Sequence[int]) -> Attribution:
        """Return the mean of the attributions of several positions; it names the first."""
        if len(found) == 1:
            return found[0]
        scores = np.mean([each.scores for each in found], axis=0)
        known = [each.standard_errors for each in found if each.standard_errors is not None]
        errors = np.sum(known, axis=0) / len(found) if known else None  # not too small, however they relate
        listed = ", ".join(map(str, positions))
        return replace(
            found[0],
            scores=scores,
            notes=(*found[0].notes, f"the mean of output positions {listed}"),
            standard_errors=errors,
        )


def samples_of(inputs: Mapping[str, torch.Tensor], tokens: Sequence[Tokens]) -> list[Sample]:
    """Return the rows of a pipeline's batch, without their padding.

    Args:
        inputs: What the model reads, tensors by name.
        tokens: Each row's, without padding.
    """
    shape = inputs["input_ids"].shape
    fitting = {name: each for name, each in inputs.items() if each.shape == shape and name not in NO_FEATURES}
    real = inputs.get("attention_mask", torch.ones(shape)).bool()
    return [
        Sample(known, {name: each[row][real[row]].cpu() for name, each in fitting.items()})
        for row, known in enumerate(tokens)
    ]
