"""`attach`: attributions beside a pipeline's own output, from the same forward pass."""

from __future__ import annotations

from typing import Any

from attnflow_hf.backends import METHODS
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.options import Options
from attnflow_hf.pipeline_steps import attached_pipeline, kind_of

_TASKS = "fill-mask, image-classification, text-classification, text-generation, token-classification, "
_TASKS += "zero-shot-classification"


def attach(pipe: Any, *, method: str = "flow", options: Options | None = None) -> Any:
    """Return a pipeline that behaves as `pipe`, and whose results carry `attributions`.

    Attributions come from the pipeline's own forward pass, for which the model reads eager attention: its output is
    the same to the last bit where attention is eager, and within 1e-5 otherwise. `pipe` and its model stay as they
    are and can be used beside it. Where flow says little, `notes` of the attribution say so; no warning is given.

    What a result carries, by task:

    - text-classification, image-classification: one `Attribution`, of `[CLS]` where the model has one, of the last
      token of a causal model, else of the mean of all positions. Of an encoder-decoder classifier, it is that of the
      decoder position that its head reads, by what both halves read (`part("encoder")`, `part("decoder")`), padded
      on the right. T5Gemma's head reads another position of a text in a batch than alone, as its results say, too.
    - fill-mask: that of the mask; token-classification: that of the entity's token, for an entity of several tokens
      the mean of theirs, in the chunk of a long text that the entity comes from.
    - zero-shot-classification: a list, one for each label, in the order of `labels`.
    - text-generation: a list, one for each generated token.

    On `edge_weights="grad_attention"` a classifier's is that of the class it predicts, in zero-shot of entailment, or
    of `target`, from a backward pass beside the pipeline's own forward pass. Where results stand at positions, the text
    is read once more for each, forward and back, a batch at a time: a mask with its best candidate as target, each
    token of an entity with the entity's label (of `B-` and `I-` the likelier one), a generated token with itself;
    `target` replaces the first two.

    Args:
        pipe: A pipeline of one of these tasks.
        method: `"raw"`, `"rollout"`, `"flow"` or `"flow_shapley"`.
        options: The options of `Attributor.__call__`; the output position is the one told above unless it is given.

    Raises:
        OptionError: This is no such pipeline, or an encoder-decoder model in another task than text-classification
            and zero-shot-classification; the message says what to call instead.
        CaptureError: The model cannot be captured.
    """
    check_choice("method", method, METHODS)
    chosen = options or Options()
    if chosen.keep != "layers":
        raise OptionError("a pipeline keeps the layers: keep='rollout' is for Attributor")
    kind = kind_of(pipe)
    if kind is None:
        task = getattr(pipe, "task", type(pipe).__name__)
        raise OptionError(
            f"attributions cannot be attached to {task!r}: its results have no room for them, or it runs no such "
            f"model; call Attributor(pipe.model, pipe.tokenizer) beside it. Tasks: {_TASKS}"
        )
    kind.check(pipe.model, chosen)
    return attached_pipeline(pipe, method, chosen)
