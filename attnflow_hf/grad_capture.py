"""Attention times its gradient, out of one forward and one backward pass; heads reduced, one matrix a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attnflow_hf.attentions import HeadReduction, check_head_reduction
from attnflow_hf.capture import Capture, Store, report_on, runner_of, with_additive_mask
from attnflow_hf.capture_report import CaptureReport
from attnflow_hf.edge_weights import RELU
from attnflow_hf.errors import CaptureError, OptionError, check_choice
from attnflow_hf.forward_pass import call, capturing
from attnflow_hf.grad_attention import FLOAT16_SCALE, BaselineRecorder, GradRecorder
from attnflow_hf.targets import Target, check_logits

FindTargets = Callable[[torch.Tensor], Sequence[Target]]
"""From logits `[batch, label]` or `[batch, token, label]` to the class of each sample."""


def capture_gradients(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    find_targets: FindTargets,
    *,
    head_reduction: HeadReduction = "sum",
    relu: str = "after",
    baseline: Mapping[str, torch.Tensor] | None = None,
) -> Capture:
    """Return the attentions of one forward pass, each times its gradient, with their heads reduced.

    With `A` the attention weights and `dA` the gradient of the explained class's logit with respect to them, the matrix
    of a layer is `relu(reduce over heads of A * dA)`, or `reduce over heads of relu(A * dA)` (Chefer et al. 2021,
    equation 5, has the mean of the latter). The sum over heads of `A * dA` at `[i, j]` is the inner product of the
    gradient at position `i`, where the attention's output is added to the residual, with what the attention carries
    there from `j`: value vectors and output projection are in it.

    One backward pass serves all samples of the batch, each with the logit of its own class. What streams by the
    attention interface is computed anew, block by block, when its gradient comes: of no layer are `A` and `dA` ever
    there as a whole. By hooks, and of plain eager attention, autograd keeps `A` of all layers, and `dA` of one.

    With a baseline, the gradient of an attention's output is the mean of that at the inputs and of that at the
    baseline, for the same class: the two ends of the straight way that integrated gradients go (Sundararajan et al.
    2017), by the trapezoidal rule. What is multiplied by it, weights and what they carry, is that of the inputs. It
    takes one more forward and backward pass, and the attention interface.

    No parameter gets a gradient, and all that `capture` says of models and threads holds; also where the caller has
    switched gradients off.

    Args:
        model: Any Transformers model with a head. Without `decoder_input_ids` among the inputs, only the encoder of an
            encoder-decoder model would run, which has none.
        inputs: What its `forward` takes.
        find_targets: Called with the logits, for the class of each sample.
        head_reduction: `"sum"`, `"mean"`, `"max"`, `"min"`, the index of a head, or a list of heads (their mean).
        relu: Whether negative numbers become zero `"after"` the heads have become one, or `"before"`.
        baseline: What `forward` takes for the baseline, of the same shapes.

    Raises:
        CaptureError: The model cannot be captured, or no gradients can be taken of it.
        OptionError: The model has no head, or an option is unknown.
        PositionError: There is no such head.
    """
    check_head_reduction(head_reduction)
    check_choice("relu", relu, RELU)
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise CaptureError(
            f"the weights of {type(model).__name__} were made inside of torch.inference_mode(), so that no gradients "
            "can pass them; load it outside"
        )
    with torch.inference_mode(False):
        inputs = with_additive_mask(outside_inference(inputs), model)
    report = report_on(model, with_decoder="decoder_input_ids" in inputs, like=inputs)
    if model.config.is_encoder_decoder and not report.has_decoder:
        raise OptionError(
            f"grad_attention needs a target, which the encoder of {type(model).__name__} alone does not have: give the "
            "decoder something to read, by text_target or decoder_input_ids"
        )
    grads = GradCapture(model, report, Store(report, inputs), head_reduction=head_reduction, relu=relu)
    with grads.capturing():
        logits = call(runner_of(model, report.has_decoder), inputs).get("logits")
        return grads.finish(logits, find_targets, None if baseline is None else outside_inference(baseline))


def outside_inference(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return inputs that gradients can be taken of, copies of those that were made in `torch.inference_mode()`."""
    with torch.inference_mode(False):
        return {name: value.clone() if value.is_inference() else value for name, value in inputs.items()}


class GradCapture:
    """Captures attention times gradient of one forward pass, whoever calls the model.

    Args:
        model: The model; it is given back as it came.
        report: How it is captured.
        store: Keeps the matrices.
        head_reduction: As of `capture_gradients`.
        relu: As of `capture_gradients`.
    """

    def __init__(
        self, model: PreTrainedModel, report: CaptureReport, store: Store, *, head_reduction: HeadReduction, relu: str
    ) -> None:
        """Take note of what is wanted."""
        self.model, self.report, self.store = model, report, store
        self.recorder = GradRecorder(
            store.check,
            store.put,
            head_reduction,
            relu=relu,
            block_size=report.block_size,
            has_sinks=report.has_sinks,
            scale=FLOAT16_SCALE if model.dtype == torch.float16 else 1.0,
        )

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Let the forward pass of this thread be one that `finish` can go back through."""
        with capturing(self.model, self.report, self.recorder, gradients=True), ExitStack() as stack:
            if self.report.step != "interface":
                stack.enter_context(_embeddings_lead_to(self.recorder.leaf, self.model, self.recorder))
            yield

    def finish(
        self, logits: Any, find_targets: FindTargets, baseline: Mapping[str, torch.Tensor] | None = None
    ) -> Capture:
        """Go back through the forward pass from the logits of the targets, and return what was captured.

        Args:
            logits: What the pass gave.
            find_targets: As of `capture_gradients`.
            baseline: As of `capture_gradients`.

        Raises:
            OptionError: The model has no head.
            CaptureError: No gradients can be taken; or of a baseline, without the attention interface.
        """
        name = type(self.model).__name__
        try:
            check_logits(self.model, logits)
        except OptionError as error:
            raise OptionError(f"grad_attention needs a target: {error}") from error
        targets = tuple(find_targets(logits))
        if baseline is not None:
            self.recorder.of_baseline = self._of_baseline(baseline, targets)
        self.recorder.run_backward(_target_logits(logits, targets), name)
        unreached = self.recorder.fill_unreached()
        is_half = self.model.dtype.itemsize < 4
        return Capture(
            self.store.finished(), logits.detach(), self.report, is_half, targets, unreached, are_attention=False
        )

    def _of_baseline(self, inputs: Mapping[str, torch.Tensor], targets: Sequence[Target]) -> dict[int, torch.Tensor]:
        """Return the gradients of the outputs of attentions, by index, where the model reads other inputs."""
        name = type(self.model).__name__
        if self.report.step != "interface":
            raise CaptureError(
                f"a baseline needs the gradients of the attentions' outputs, which {name}, captured by "
                f"{self.report.step}, does not show: leave baseline out"
            )
        recorder = BaselineRecorder(self.recorder)
        with capturing(self.model, self.report, recorder, gradients=True):
            logits = call(runner_of(self.model, self.report.has_decoder), inputs)["logits"]
            recorder.run_backward(_target_logits(logits, targets), name)
        return recorder.of_outputs


class _Through(torch.autograd.Function):
    """Gives a tensor as it is, and leads a way back from it to a leaf."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, torch.zeros(())


@contextmanager
def _embeddings_lead_to(leaf: torch.Tensor, model: PreTrainedModel, recorder: GradRecorder) -> Iterator[None]:
    """Let gradients go down to what embeddings give, in the recorded pass alone, whether or not they are trained."""

    def lead(module: Any, args: Any, output: Any) -> Any:
        if not recorder.is_active() or not isinstance(output, torch.Tensor):
            return None
        return _Through.apply(output, leaf)  # type: ignore[no-untyped-call]

    modules = {model.get_input_embeddings(), *(each for each in model.modules() if isinstance(each, nn.Embedding))}
    handles = [module.register_forward_hook(lead, prepend=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _target_logits(logits: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Return the logit of each sample's target, `[sample]`."""
    rows = torch.arange(len(logits), device=logits.device)
    classes = torch.tensor([target.index for target in targets], device=logits.device)
    if logits.ndim == 2:
        return logits[rows, classes]
    positions = torch.tensor([target.position for target in targets], device=logits.device)
    return logits[rows, positions, classes]
