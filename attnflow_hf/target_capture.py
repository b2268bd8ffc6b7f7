"""How forward passes are captured with other edge weights than attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from attnflow_hf.baselines import Baseline, find_baseline
from attnflow_hf.capture import Capture
from attnflow_hf.errors import OptionError
from attnflow_hf.given import Given
from attnflow_hf.grad_capture import capture_gradients
from attnflow_hf.layer_capture import capture_layers
from attnflow_hf.model_facts import declares_causal
from attnflow_hf.options import Options
from attnflow_hf.reader import Take
from attnflow_hf.targets import Target, one_for_each, position_of_head, target_of
from attnflow_hf.tokens import Tokens


def take_of(model: PreTrainedModel, tokenizer: Any, inputs: Given, options: Options) -> Take | None:
    """Return what makes the forward passes of inputs; `None` where attention weights are wanted.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or `None`.
        inputs: All inputs, by whose indices batches are asked for.
        options: How.

    Raises:
        OptionError: There are more targets than inputs, or fewer.
    """
    if options.kind.needs_target:
        return TargetCapture(model, tokenizer, inputs, options)
    if options.kind.are_attention:
        return None
    return lambda batch, _: capture_layers(model, batch, options.edge_weights)


class TargetCapture:
    """Captures batches of a user's inputs, each with its own target.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or `None`.
        inputs: All inputs, by whose indices batches are asked for.
        options: How; the target is one for all inputs, or a list with one for each. So is the output position, where
            the inputs do not tell.

    Raises:
        OptionError: There are more targets than inputs, or fewer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, inputs: Given, options: Options) -> None:
        """Take note of the target of each input."""
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.read: list[Tokens] | None = None
        n_inputs = len(inputs.samples)
        if inputs.signals is None:
            self.read = [sample.decoder or sample.tokens for sample in inputs.samples]
        else:
            n_inputs = len(inputs.signals[model.main_input_name])
            self.read = list(inputs.decoders) or None
        self.has_decoder = bool(inputs.decoders) or any(sample.decoder is not None for sample in inputs.samples)
        self.asked = one_for_each(options.target, n_inputs)
        self.baseline, self.samples = _baseline_of(model, tokenizer, inputs, options), inputs.samples
        self.positions: Sequence[Any] = inputs.positions or [options.output_position] * n_inputs

    def __call__(self, inputs: Mapping[str, torch.Tensor], indices: Sequence[int]) -> Capture:
        """Return what one forward and one backward pass gave of the inputs of these indices."""

        def find(logits: torch.Tensor) -> list[Target]:
            return [self._target(logits[row], index) for row, index in enumerate(indices)]

        baseline, options = None, self.options
        if self.baseline is not None:
            baseline = self.baseline.inputs_of(inputs, [self.samples[index].tokens for index in indices])
        return capture_gradients(
            self.model, inputs, find, head_reduction=options.heads, relu=options.relu, baseline=baseline
        )

    def _target(self, logits: torch.Tensor, index: int) -> Target:
        position = None
        if logits.ndim == 2:
            if self.read is None:
                raise OptionError(
                    f"{type(self.model).__name__} says something of each position of an image or a sound; "
                    "grad_attention explains what a model says of the whole"
                )
            is_causal = self.has_decoder or declares_causal(self.model)
            asked = self.positions[index]
            position = position_of_head(self.model, self.tokenizer, self.read[index], asked, is_causal)
        of_class = logits if position is None else logits[position]
        return target_of(self.model, self.tokenizer, of_class.detach(), self.asked[index], position)


def _baseline_of(model: PreTrainedModel, tokenizer: Any, inputs: Given, options: Options) -> Baseline | None:
    """Return what the inputs are compared with; `None` where nothing was asked for."""
    if options.baseline is None:
        return None
    are_texts = inputs.signals is None and all(sample.decoder is None for sample in inputs.samples)
    return find_baseline(model, tokenizer, options.baseline, are_texts=are_texts)
