"""One forward pass whose attentions go, layer by layer, to a recorder: by the interface, by hooks, or plainly eager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from transformers import PreTrainedModel

from attnflow_hf.attention_function import IMPLEMENTATION, Recorder
from attnflow_hf.borrowing import borrowed
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport, Site
from attnflow_hf.errors import AttnFlowError, CaptureError

_FIELDS = {"encoder_attentions": ENCODER, "attentions": "", "decoder_attentions": DECODER, "cross_attentions": CROSS}


def run(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], report: CaptureReport, recorder: Recorder) -> Any:
    """Return the model's output, and hand its attentions to `recorder` in the order of the report's sites.

    Args:
        model: The model, or the encoder of one; it is given back as it came.
        inputs: What its `forward` takes.
        report: Tells the step, and for hooks the sites.
        recorder: Takes the attentions.

    Raises:
        CaptureError: The model fails on these inputs.
    """
    with capturing(model, report, recorder):
        return call(model, inputs)


@contextmanager
def capturing(
    model: PreTrainedModel, report: CaptureReport, recorder: Recorder, *, gradients: bool = False
) -> Iterator[None]:
    """Let each forward pass of `model` in this thread hand its attentions to `recorder`, whoever calls it.

    Args:
        model: The model; it is given back as it came.
        report: Tells the step, and for hooks the sites.
        recorder: Takes the attentions.
        gradients: Let the pass be one that gradients can be taken of.
    """
    is_streamed = report.step == "interface"
    borrowing = borrowed(
        model,
        implementation=IMPLEMENTATION if is_streamed else "eager",
        exclusive=not is_streamed,
        keep_random_state=report.draws_random,
        gradients=gradients,
    )
    sites = report.sites if report.step == "hooks" else ()
    asking = _asking_for_attentions(model, report.step, recorder)
    with borrowing, reducing_hooks(model, sites, recorder), recorder.recording(), asking:
        yield


@contextmanager
def _asking_for_attentions(model: PreTrainedModel, step: str, recorder: Recorder) -> Iterator[None]:
    """Where the interface does not do it, let the model return its attentions, and take them if no hook has."""

    def ask(module: Any, args: Any, named: dict[str, Any]) -> Any:
        return (args, named | {"output_attentions": True}) if recorder.is_active() else None

    def take(module: Any, args: Any, outputs: Any) -> None:
        if recorder.is_active():
            for _, _, weights in reported_attentions(outputs):
                recorder.take(weights)

    handles = []
    if step != "interface":
        handles.append(model.register_forward_pre_hook(ask, with_kwargs=True))
    if step == "eager":
        handles.append(model.register_forward_hook(take))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], *, output_attentions: bool = False) -> Any:
    """Return the output of `forward`, of those of `inputs` that it takes.

    Raises:
        CaptureError: The model fails on them.
    """
    flags = {"return_dict": True} | ({"output_attentions": True} if output_attentions else {})
    accepted = signature(model.forward).parameters
    if "use_cache" in accepted:
        flags["use_cache"] = False
    named = model.main_input_name in accepted  # a wrapped forward may take anything
    arguments = {name: value for name, value in inputs.items() if name in accepted or not named}
    try:
        outputs = model(**arguments, **flags)
    except (AttnFlowError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CaptureError(f"{type(model).__name__} cannot read these inputs: {error}") from error
    if not isinstance(outputs, Mapping):
        raise CaptureError(
            f"{type(model).__name__} returned a {type(outputs).__name__} where named outputs are needed; let its "
            "forward take return_dict and return a ModelOutput"
        )
    return outputs


def reported_attentions(outputs: Any) -> list[tuple[str, int, Any]]:
    """Return what `output_attentions=True` gave: the part (`""` for a model of one stack), the layer, the weights."""
    return [
        (part, layer, weights)
        for field, part in _FIELDS.items()
        for layer, weights in enumerate(outputs.get(field) or ())
    ]


@contextmanager
def reducing_hooks(model: PreTrainedModel, sites: Sequence[Site], recorder: Recorder) -> Iterator[None]:
    """Let `recorder` take the weights out of the outputs of the sites' modules, in this thread alone."""
    indices = {site.module: site.output_index for site in sites}

    def hook_of(index: int) -> Any:
        def take(module: Any, args: Any, output: Any) -> Any:
            if not recorder.is_active():
                return None
            parts = list(output)
            recorder.take(parts[index])
            parts[index] = parts[index].new_zeros(1, 1, 1, 1)  # nobody needs them any more
            return type(output)(parts)

        return take

    handles = [
        model.get_submodule(name).register_forward_hook(hook_of(index), prepend=True) for name, index in indices.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
