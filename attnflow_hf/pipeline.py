"""`attach`: attributions beside a pipeline's own output, from the same forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.text_generation import TextGenerationPipeline
from transformers.pipelines.token_classification import TokenClassificationPipeline
from transformers.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

from attnflow_hf.attention_function import Recorder
from attnflow_hf.attributing import attribute_generated, attribute_reading
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import METHODS
from attnflow_hf.capture import Capture, Store, report_on
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.forward_pass import capturing
from attnflow_hf.generation import continued
from attnflow_hf.inputs import Sample
from attnflow_hf.options import Options, check_generation_options
from attnflow_hf.pipeline_tokens import texts_of, tokens_of
from attnflow_hf.reader import Reading, is_head_mean, reading_of
from attnflow_hf.signals import signal_tokens
from attnflow_hf.tokens import Tokens

_ATTENTIONS = ("attentions", "cross_attentions")
"""What a model returns only because it was asked to; a pipeline would part it by texts."""
_KEY = "attnflow_hf"
"""Under which what belongs to attributions travels through a pipeline."""


def attach(pipe: Any, *, method: str = "flow", options: Options | None = None) -> Any:
    """Return a pipeline that behaves as `pipe`, and whose results carry `attributions`.

    Attributions come from the pipeline's own forward pass, for which the model reads eager attention: its output is
    the same to the last bit where attention is eager, and within 1e-5 otherwise. `pipe` and its model stay as they
    are and can be used beside it. Where flow says little, `notes` of the attribution say so; no warning is given.

    What a result carries, by task:

    - text-classification, image-classification: one `Attribution`, of `[CLS]` where the model has one, of the last
      token of a causal model, else of the mean of all positions.
    - fill-mask: that of the mask; token-classification: that of the entity's token, for an entity of several tokens
      the mean of theirs.
    - zero-shot-classification: a list, one for each label, in the order of `labels`.
    - text-generation: a list, one for each generated token.

    Args:
        pipe: A pipeline of one of these tasks.
        method: `"raw"`, `"rollout"` or `"flow"`.
        options: The options of `Attributor.__call__`; the output position is the one told above unless it is given.

    Raises:
        OptionError: This is no such pipeline; the message says what to call instead.
        CaptureError: The model cannot be captured.
    """
    check_choice("method", method, METHODS)
    chosen = options or Options()
    if chosen.keep != "layers":
        raise OptionError("a pipeline keeps the layers: keep='rollout' is for Attributor")
    kind = next((mixin for known, mixin in _KINDS.items() if isinstance(pipe, known)), None)
    if kind is None:
        task = getattr(pipe, "task", type(pipe).__name__)
        raise OptionError(
            f"attributions cannot be attached to {task!r}: its results have no room for them, or it runs no such "
            f"model; call Attributor(pipe.model, pipe.tokenizer) beside it. Tasks: {_TASKS}"
        )
    if pipe.model.config.is_encoder_decoder:
        raise OptionError(
            f"{type(pipe.model).__name__} is an encoder-decoder model; call Attributor(pipe.model, pipe.tokenizer) "
            "beside the pipeline"
        )
    report_on(pipe.model)
    if kind is _Generation:
        check_generation_options(chosen)
    own_class = _own_class(pipe)
    attached_class: Any = type(own_class.__name__, (kind, own_class), {"__doc__": own_class.__doc__})
    attached = object.__new__(attached_class)
    attached.__dict__.update(pipe.__dict__)
    attached.attnflow = _Attached(Attributor(pipe.model, pipe.tokenizer), method, chosen)
    return attached


def _own_class(pipe: Any) -> type:
    """Return the class of a pipeline without what was attached."""
    return next(each for each in type(pipe).__mro__ if not issubclass(each, _Attaching))


@dataclass(frozen=True, eq=False)
class _Attached:
    """What an attached pipeline knows beside its own."""

    attributor: Attributor
    method: str
    options: Options

    def read(
        self, forward: Any, inputs: Mapping[str, Any], tokens: Sequence[Tokens | None]
    ) -> tuple[Any, list[Reading]]:
        """Return what the pipeline's own forward pass gives, and the reading of each row."""
        model, heads = self.attributor.model, self.options.head_reduction
        report = report_on(model, like=inputs)
        store = Store(report, inputs)
        recorder = Recorder(store.receive, heads, block_size=report.block_size, has_sinks=report.has_sinks)
        with capturing(model, report, recorder):
            outputs = forward()
        captured = Capture(store.finished(), outputs.get("logits"), report, model.dtype.itemsize < 4)
        mask = inputs.get("attention_mask")
        real = None if mask is None else mask.bool().cpu().numpy()
        readings = []
        for row, known in enumerate(tokens):
            own = known or signal_tokens(model.config, inputs, int(captured.matrices[0].shape[1]))
            chosen = None if real is None else real[row]
            sample = Sample(own, {})
            readings.append(reading_of(captured, row, sample, real=chosen, is_head_mean=is_head_mean(heads)))
        return outputs, readings

    def explain(self, reading: Reading, position: int | None = None) -> Attribution:
        """Return the attribution of a reading; of `position`, unless the options name another."""
        options = self.options
        if position is not None and options.output_position == "auto":
            options = replace(options, output_position=position)
        return attribute_reading(self.attributor.wrapped, reading, self.method, options)

    def explain_tokens(self, reading: Reading, positions: Sequence[int]) -> Attribution:
        """Return the mean attribution of several positions; it names the first."""
        if self.options.output_position != "auto":
            return self.explain(reading)
        found = [self.explain(reading, position) for position in positions]
        if len(found) == 1:
            return found[0]
        scores = np.mean([each.scores for each in found], axis=0)
        listed = ", ".join(map(str, positions))
        return replace(found[0], scores=scores, notes=(*found[0].notes, f"the mean of output positions {listed}"))


class _Attaching:
    """A pipeline's steps, with what attributions need carried beside their own."""

    attnflow: _Attached
    tokenizer: Any
    model: Any

    def __reduce__(self) -> Any:
        """Let workers have a copy: the pipeline, and how to attach to it."""
        own: Any = object.__new__(_own_class(self))
        own.__dict__.update({name: value for name, value in vars(self).items() if name != "attnflow"})
        return partial(attach, method=self.attnflow.method, options=self.attnflow.options), (own,)

    def preprocess(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """Take note of the tokens, before a batch is made of several texts."""
        found: Any = super().preprocess(inputs, *args, **options)  # type: ignore[misc]
        if isinstance(found, Iterator):  # of chunks
            return self._with_tokens(found, inputs, options)
        found[_KEY] = tokens_of(found, texts_of(inputs, options), self.tokenizer)
        return found

    def _with_tokens(self, chunks: Iterator[Any], inputs: Any, options: Mapping[str, Any]) -> Iterator[Any]:
        sentence = None
        for chunk in chunks:
            sentence = chunk.get("sentence") or sentence
            texts: tuple[str, ...] = (sentence,) if sentence else ()
            if "candidate_label" in chunk:
                template = options.get("hypothesis_template", "This example is {}.")
                texts = (chunk["sequence"], template.format(chunk["candidate_label"]))
            yield {**chunk, _KEY: tokens_of(chunk, texts, self.tokenizer)}

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Read the attentions of the pipeline's own forward pass."""
        tokens = _as_list(model_inputs.pop(_KEY))
        inputs = {name: value for name, value in model_inputs.items() if isinstance(value, torch.Tensor)}
        own_forward = super()._forward  # type: ignore[misc]
        outputs, readings = self.attnflow.read(lambda: own_forward(model_inputs, **options), inputs, tokens)
        kept = {name: value for name, value in outputs.items() if name not in _ATTENTIONS}
        return type(outputs)({**kept, _KEY: readings})

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        """Put attributions to the pipeline's own results."""
        chunks = model_outputs if isinstance(model_outputs, list) else [model_outputs]
        readings = [_as_list(chunk[_KEY])[0] for chunk in chunks]
        own = [type(chunk)({k: v for k, v in chunk.items() if k != _KEY}) for chunk in chunks]
        result = super().postprocess(own if isinstance(model_outputs, list) else own[0], *args, **options)  # type: ignore[misc]
        return self.put(result, readings, own)

    def put(self, result: Any, readings: list[Reading], outputs: list[Any]) -> Any:
        """Return the result with its attributions: here one for the whole text or image."""
        attribution = self.attnflow.explain(readings[0])
        for each in result if isinstance(result, list) else [result]:
            each["attributions"] = attribution
        return result


class _FillMask(_Attaching):
    def put(self, result: Any, readings: list[Reading], outputs: list[Any]) -> Any:
        ids = readings[0].tokens.input_ids
        masks = np.flatnonzero(ids == self.tokenizer.mask_token_id)
        rows = [result] if len(masks) == 1 else result
        for position, row in zip(masks, rows, strict=True):
            attribution = self.attnflow.explain(readings[0], int(position))
            for each in row:
                each["attributions"] = attribution
        return result


class _TokenClassification(_Attaching):
    def put(self, result: Any, readings: list[Reading], outputs: list[Any]) -> Any:
        for entity in result:
            reading, positions = _find_entity(entity, readings)
            entity["attributions"] = self.attnflow.explain_tokens(reading, positions)
        return result


class _ZeroShot(_Attaching):
    def put(self, result: Any, readings: list[Reading], outputs: list[Any]) -> Any:
        by_label = {output["candidate_label"]: reading for output, reading in zip(outputs, readings, strict=True)}
        result["attributions"] = [self.attnflow.explain(by_label[label]) for label in result["labels"]]
        return result


class _Generation(_Attaching):
    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        tokens = _as_list(model_inputs.pop(_KEY))
        config = options.get("generation_config") or self.model.generation_config
        ends = options.get("eos_token_id", config.eos_token_id)
        outputs = super(_Attaching, self)._forward(model_inputs, **options)  # type: ignore[misc]
        outputs[_KEY] = [(each, ends) for each in tokens]
        return outputs

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        prompt, ends = _as_list(model_outputs[_KEY])[0]
        own = {name: value for name, value in model_outputs.items() if name != _KEY}
        records = super(_Attaching, self).postprocess(own, *args, **options)  # type: ignore[misc]
        if own["input_ids"] is None:  # of an empty prompt the model reads the token that begins a text
            prompt = Tokens.from_ids(own["generated_sequence"][0, 0, :1].tolist(), self.tokenizer)
        n_read = 1 if own["input_ids"] is None else own["input_ids"].shape[-1]
        for record, sequence in zip(records, own["generated_sequence"][0].tolist(), strict=True):
            record["attributions"] = self._explain(prompt, _until_end(sequence[n_read:], ends))
        return records

    def _explain(self, prompt: Tokens, new_ids: list[int]) -> list[Attribution]:
        ids = [*prompt.input_ids.tolist(), *new_ids[:-1]]
        sample = continued(Sample(prompt, {}), ids, self.tokenizer)
        attached = self.attnflow
        return attribute_generated(attached.attributor.wrapped, sample, new_ids, attached.method, attached.options)


_KINDS: dict[type, type[_Attaching]] = {
    TextClassificationPipeline: _Attaching,
    ImageClassificationPipeline: _Attaching,
    FillMaskPipeline: _FillMask,
    TokenClassificationPipeline: _TokenClassification,
    ZeroShotClassificationPipeline: _ZeroShot,
    TextGenerationPipeline: _Generation,
}
_TASKS = "fill-mask, image-classification, text-classification, text-generation, token-classification, "
_TASKS += "zero-shot-classification"


def _as_list(value: Any) -> list[Any]:
    """Return what travelled as one, or as the list of a batch."""
    return value if isinstance(value, list) else [value]


def _find_entity(entity: Mapping[str, Any], readings: Sequence[Reading]) -> tuple[Reading, list[int]]:
    """Return the reading that an entity comes from, and its tokens."""
    if "index" in entity and len(readings) == 1:
        return readings[0], [int(entity["index"])]
    if entity.get("start") is None:
        raise OptionError(
            "entities of several tokens are found by their characters, which this tokenizer does not tell; use a fast "
            "tokenizer, or aggregation_strategy='none'"
        )
    for reading in readings:
        offsets = reading.tokens.offsets
        assert offsets is not None
        inside = (offsets[:, 0] < entity["end"]) & (offsets[:, 1] > entity["start"])
        positions = np.flatnonzero(inside & ~reading.tokens.special_tokens_mask)
        if len(positions) and offsets[positions[-1], 1] >= entity["end"]:
            return reading, [int(position) for position in positions]
    raise OptionError(f"the entity {entity.get('word')!r} was not found among the tokens")


def _until_end(ids: list[int], ends: Any) -> list[int]:
    """Return generated ids up to the first that ends a text, which is kept; what follows is padding."""
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    stop = next((index + 1 for index, token_id in enumerate(ids) if token_id in ends), len(ids))
    return ids[:stop]
