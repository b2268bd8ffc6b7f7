"""The steps of pipelines of each kind, with what attributions need carried beside their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.text_generation import TextGenerationPipeline
from transformers.pipelines.token_classification import TokenClassificationPipeline
from transformers.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

from attnflow_hf.attached import Attached, samples_of
from attnflow_hf.attributing import attribute_generated
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.capture import report_on
from attnflow_hf.entities import chunk_of, classes_of, positions_of
from attnflow_hf.errors import FloatArray, OptionError
from attnflow_hf.generation import continued
from attnflow_hf.inputs import Sample
from attnflow_hf.options import Options, check_generation_options
from attnflow_hf.pipeline_tokens import texts_of, tokens_of
from attnflow_hf.pooling import check_pooling
from attnflow_hf.reader import Reading
from attnflow_hf.tokens import Tokens

_ATTENTIONS = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
"""What a model returns only because it was asked to; a pipeline would part it by texts."""
_KEY = "attnflow_hf"
"""Under which what belongs to attributions travels through a pipeline."""


def attached_pipeline(pipe: Any, method: str, options: Options) -> Any:
    """Return a pipeline with the steps of its kind; the one given stays as it is.

    Args:
        pipe: A pipeline of a kind that `kind_of` knows.
        method: The method.
        options: How.
    """
    own_class, kind = _own_class(pipe), kind_of(pipe)
    assert kind is not None
    attached_class: Any = type(own_class.__name__, (kind, own_class), {"__doc__": own_class.__doc__})
    attached = object.__new__(attached_class)
    attached.__dict__.update(pipe.__dict__)
    attached.attnflow = Attached(Attributor(pipe.model, pipe.tokenizer), method, options)
    return attached


def kind_of(pipe: Any) -> type[Attaching] | None:
    """Return the steps of a pipeline's kind; `None` where its results have no room for attributions."""
    return next((kind for known, kind in _KINDS.items() if isinstance(pipe, known)), None)


def _own_class(pipe: Any) -> type:
    """Return the class of a pipeline without what was attached."""
    return next(each for each in type(pipe).__mro__ if not issubclass(each, Attaching))


class Attaching:
    """A pipeline's steps, with what attributions need carried beside their own."""

    attnflow: Attached
    tokenizer: Any
    model: Any
    get_tag: Any

    @classmethod
    def check(cls, model: Any, options: Options) -> None:
        """Raise an `AttnFlowError` for a model or for options that results of this kind cannot be explained with."""
        with_decoder = model.config.is_encoder_decoder
        if options.kind.needs_target:
            cls.check_target(model, options)
        if with_decoder:
            cls.check_decoder(model)
        report_on(model, with_decoder=with_decoder)

    @classmethod
    def check_target(cls, model: Any, options: Options) -> None:
        """Raise `OptionError` unless one target can be explained by the pipeline's own forward pass."""
        if isinstance(options.target, (list, tuple)):
            raise OptionError(f"target must be one class for all texts of a pipeline, got {options.target!r}")

    @classmethod
    def check_decoder(cls, model: Any) -> None:
        """Raise `OptionError` for an encoder-decoder model; here unless it is known what its head reads."""
        check_pooling(model)

    def __reduce__(self) -> Any:
        """Let workers have a copy: the pipeline, and how to attach to it."""
        own: Any = object.__new__(_own_class(self))
        own.__dict__.update({name: value for name, value in vars(self).items() if name != "attnflow"})
        return partial(attached_pipeline, method=self.attnflow.method, options=self.attnflow.options), (own,)

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
        outputs, readings = self.read(
            lambda read: own_forward(type(model_inputs)({**model_inputs, **read}), **options), inputs, tokens
        )
        kept = {name: value for name, value in outputs.items() if name not in _ATTENTIONS}
        return type(outputs)({**kept, _KEY: readings})

    def read(self, forward: Any, inputs: Mapping[str, Any], tokens: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        """Return what the pipeline's own forward pass gives, and what `put` takes of each row: here its reading."""
        return self.attnflow.read(forward, inputs, tokens)

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        """Put attributions to the pipeline's own results."""
        chunks = model_outputs if isinstance(model_outputs, list) else [model_outputs]
        readings = [_as_list(chunk[_KEY])[0] for chunk in chunks]
        own = [type(chunk)({k: v for k, v in chunk.items() if k != _KEY}) for chunk in chunks]
        finish = partial(self._finish, args, options)
        result = finish(own if isinstance(model_outputs, list) else own[0])
        return self.put(result, readings, own, finish)

    def _finish(self, args: tuple[Any, ...], options: dict[str, Any], outputs: Any) -> Any:
        """Return what the pipeline's own last step makes of outputs."""
        return super().postprocess(outputs, *args, **options)  # type: ignore[misc]

    def put(self, result: Any, readings: list[Any], outputs: list[Any], finish: Callable[[Any], Any]) -> Any:
        """Return the result with its attributions: here one for the whole text or image.

        Args:
            result: The pipeline's own.
            readings: What `read` gave of each chunk; of most tasks there is one.
            outputs: Of each chunk what `finish` takes.
            finish: The pipeline's own last step.
        """
        attribution = self.attnflow.explain(readings[0])
        for each in result if isinstance(result, list) else [result]:
            each["attributions"] = attribution
        return result


class _EncoderAlone(Attaching):
    @classmethod
    def check_decoder(cls, model: Any) -> None:
        raise OptionError(
            f"{type(model).__name__} is an encoder-decoder model; of those, attributions can be attached to "
            "classifiers of texts alone. Call Attributor(pipe.model, pipe.tokenizer) beside the pipeline"
        )


class _OfPositions(_EncoderAlone):
    """Results that stand at positions, each of a class of its own, known when the pipeline is done."""

    @classmethod
    def check_target(cls, model: Any, options: Options) -> None:
        super().check_target(model, options)
        if options.output_position != "auto":
            raise OptionError(
                f"each result of this pipeline is explained where it stands, got output_position="
                f"{options.output_position!r}; call Attributor(pipe.model, pipe.tokenizer) for another position"
            )

    def read(self, forward: Any, inputs: Mapping[str, Any], tokens: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        if self.attnflow.options.kind.needs_target:
            return forward(inputs), samples_of(inputs, tokens)
        return super().read(forward, inputs, tokens)


class _FillMask(_OfPositions):
    def put(self, result: Any, readings: list[Any], outputs: list[Any], finish: Callable[[Any], Any]) -> Any:
        ids = readings[0].tokens.input_ids
        masks = np.flatnonzero(ids == self.tokenizer.mask_token_id).tolist()
        rows = [result] if len(masks) == 1 else result
        found = self.attnflow.explain_each(readings[0], masks, [row[0]["token"] for row in rows])
        for attribution, row in zip(found, rows, strict=True):
            for each in row:
                each["attributions"] = attribution
        return result


class _TokenClassification(_OfPositions):
    def _finish(self, args: tuple[Any, ...], options: dict[str, Any], outputs: Any) -> Any:
        own = [dict(chunk) for chunk in outputs]
        for chunk in own:
            if chunk["offset_mapping"] is not None:  # of words split beforehand the last step changes it
                chunk["offset_mapping"] = chunk["offset_mapping"].clone()
        return super()._finish(args, options, own)

    def put(self, result: Any, readings: list[Any], outputs: list[Any], finish: Callable[[Any], Any]) -> Any:
        sentence = outputs[0]["sentence"]  # the others have none
        several = len(outputs) > 1
        by_chunk = [finish([{**chunk, "sentence": sentence}]) for chunk in outputs] if several else []
        own: dict[int, list[Any]] = {}
        for entity in result:
            own.setdefault(chunk_of(entity, by_chunk) if several else 0, []).append(entity)
        for chunk, entities in own.items():
            self._explain(entities, readings[chunk], outputs[chunk])
        return result

    def _explain(self, entities: list[Any], read: Any, output: Mapping[str, Any]) -> None:
        """Put attributions to the entities of a chunk, all of whose tokens are explained together."""
        mask = output.get("attention_mask")
        places = [positions_of(entity, read.tokens, None if mask is None else mask[0]) for entity in entities]
        if self.attnflow.options.output_position != "auto":  # which is that of every entity
            places = [positions[:1] for positions in places]
        logits = output["logits"][0].float().numpy()
        logits = logits if mask is None else logits[mask[0].bool().numpy()]
        classes = [self._classes(*each, logits) for each in zip(entities, places, strict=True)]
        found = iter(self.attnflow.explain_each(read, list(chain(*places)), list(chain(*classes))))
        for entity, positions in zip(entities, places, strict=True):
            entity["attributions"] = self.attnflow.mean([next(found) for _ in positions], positions)

    def _classes(self, entity: Mapping[str, Any], positions: Sequence[int], logits: FloatArray) -> list[int]:
        """Return the target of each of an entity's tokens; none where none is needed, or the options name it."""
        options = self.attnflow.options
        if not options.kind.needs_target or options.target is not None:
            return []
        return classes_of(entity, self.model, lambda label: self.get_tag(label)[1], logits[positions])


class _ZeroShot(Attaching):
    entailment_id: int

    def read(self, forward: Any, inputs: Mapping[str, Any], tokens: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        """Explain entailment, which a label's score is made of, unless the options name another class."""
        attached, options = self.attnflow, self.attnflow.options
        if options.kind.needs_target and options.target is None:
            target = self.entailment_id % self.model.config.num_labels  # -1 where no class is called so
            attached = replace(attached, options=replace(options, target=target))
        return attached.read(forward, inputs, tokens)

    def put(self, result: Any, readings: list[Reading], outputs: list[Any], finish: Callable[[Any], Any]) -> Any:
        by_label = {output["candidate_label"]: reading for output, reading in zip(outputs, readings, strict=True)}
        result["attributions"] = [self.attnflow.explain(by_label[label]) for label in result["labels"]]
        return result


class _Generation(_EncoderAlone):
    @classmethod
    def check(cls, model: Any, options: Options) -> None:
        check_generation_options(options)
        super().check(model, options)

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        tokens = _as_list(model_inputs.pop(_KEY))
        config = options.get("generation_config") or self.model.generation_config
        ends = options.get("eos_token_id", config.eos_token_id)
        outputs = super(Attaching, self)._forward(model_inputs, **options)  # type: ignore[misc]
        outputs[_KEY] = [(each, ends) for each in tokens]
        return outputs

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        prompt, ends = _as_list(model_outputs[_KEY])[0]
        own = {name: value for name, value in model_outputs.items() if name != _KEY}
        records = super(Attaching, self).postprocess(own, *args, **options)  # type: ignore[misc]
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


_KINDS: dict[type, type[Attaching]] = {
    TextClassificationPipeline: Attaching,
    ImageClassificationPipeline: Attaching,
    FillMaskPipeline: _FillMask,
    TokenClassificationPipeline: _TokenClassification,
    ZeroShotClassificationPipeline: _ZeroShot,
    TextGenerationPipeline: _Generation,
}


def _as_list(value: Any) -> list[Any]:
    """Return what travelled as one, or as the list of a batch."""
    return value if isinstance(value, list) else [value]


def _until_end(ids: list[int], ends: Any) -> list[int]:
    """Return generated ids up to the first that ends a text, which is kept; what follows is padding."""
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    stop = next((index + 1 for index, token_id in enumerate(ids) if token_id in ends), len(ids))
    return ids[:stop]
