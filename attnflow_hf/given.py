"""`Given`: what a user gave to attribute, checked: texts, an encoding, images or sound, with or without a decoder's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from attnflow_hf.decoder_inputs import decoder_tokens_of_encoding, decoder_tokens_of_text
from attnflow_hf.errors import OptionError, TextError
from attnflow_hf.inputs import Sample, check_vocabulary, is_encoding, samples_from_encoding, samples_from_texts
from attnflow_hf.model_facts import max_positions, n_embeddings
from attnflow_hf.signals import SIGNALS
from attnflow_hf.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Given:
    """What a user gave: texts, or an encoding of images or sound.

    Attributes:
        samples: The texts.
        signals: The encoding of images or sound; `None` for texts.
        decoders: What the decoder reads beside images or sound.
        positions: Of each text the position that its target stands at, where that is not for the options to say.
    """

    samples: Sequence[Sample]
    signals: Mapping[str, Any] | None = None
    decoders: Sequence[Tokens] = ()
    positions: Sequence[int] = ()


def given(
    model: PreTrainedModel, tokenizer: Any, inputs: Any, *, truncation: bool = False, text_target: Any = None
) -> Given:
    """Return what the user gave, checked.

    Args:
        model: The model that shall read it.
        tokenizer: Its tokenizer, or `None`.
        inputs: A text, a pair, a list of them, or an encoding.
        truncation: Cut texts that are longer than the model can read.
        text_target: For an encoder-decoder model a target text, or a list of them for a list of texts.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    if not isinstance(truncation, bool):
        raise OptionError(f"truncation must be True or False, got {truncation!r}")
    name = model.main_input_name
    if name in SIGNALS:
        if not isinstance(inputs, Mapping) or name not in inputs:
            raise OptionError(
                f"{type(model).__name__} reads {name}: give what its processor returns with return_tensors='pt', got "
                f"{type(inputs).__name__}"
            )
        if text_target is not None:
            raise OptionError(f"text_target goes with text; beside {name} give decoder_input_ids in the encoding")
        return Given([], inputs, _checked(model, decoder_tokens_of_encoding(inputs, tokenizer)))
    samples = _samples(model, tokenizer, inputs, truncation)
    decoders = decoder_tokens_of_encoding(inputs, tokenizer) if is_encoding(inputs) else []
    if text_target is not None:
        if decoders:
            raise OptionError("text_target and decoder_input_ids were both given; the decoder reads one of them")
        if isinstance(inputs, list) and not isinstance(text_target, list):
            raise OptionError(f"text_target must be a list of texts, one for each text, got {text_target!r}")
        takes_list = isinstance(inputs, list) or (is_encoding(inputs) and isinstance(text_target, list))
        targets = text_target if takes_list else [text_target]
        decoders = [decoder_tokens_of_text(model, tokenizer, target) for target in targets]
    if decoders and len(decoders) != len(samples):
        raise OptionError(f"there are {len(samples)} texts, but {len(decoders)} targets for the decoder")
    if not decoders:
        return Given(samples)
    pairs = zip(samples, _checked(model, decoders), strict=True)
    return Given([replace(sample, decoder=each) for sample, each in pairs])


def sample_of_any_length(model: PreTrainedModel, tokenizer: Any, text: str) -> Sample:
    """Return a text as one sample, longer than the model can read where it is.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    samples = samples_from_texts([text], tokenizer, max_length=None, truncation=False)
    check_vocabulary(samples, n_embeddings(model))
    return samples[0]


def check_window(model: PreTrainedModel, tokenizer: Any, size: int) -> None:
    """Raise `OptionError` if the model cannot read `size` tokens at once."""
    limit = _max_length(model, tokenizer)
    if limit is not None and size > limit:
        raise OptionError(f"a window of {size} tokens is more than the {limit} which the model reads at most")


def is_single(inputs: Any, n_results: int) -> bool:
    """Return whether the user gave one text, image or sound, and no list of them."""
    return n_results == 1 if isinstance(inputs, Mapping) else not isinstance(inputs, list)


def _checked(model: PreTrainedModel, decoders: list[Tokens]) -> list[Tokens]:
    """Return the decoder's tokens, if the model knows them all and can read so many."""
    limit = getattr(model.config, "max_target_positions", None) or max_positions(model)
    for row, tokens in enumerate(decoders):
        if limit is not None and len(tokens) > limit:
            raise TextError(
                f"row {row} has {len(tokens)} decoder_input_ids, but the model reads {limit} at most; cut them"
            )
    check_vocabulary([Sample(tokens, {}) for tokens in decoders], n_embeddings(model))
    return decoders


def _samples(model: PreTrainedModel, tokenizer: Any, inputs: Any, truncation: bool) -> list[Sample]:
    if is_encoding(inputs):
        samples = samples_from_encoding(inputs, tokenizer, max_length=max_positions(model))
    else:
        texts = inputs if isinstance(inputs, list) else [inputs]
        limit = _max_length(model, tokenizer)
        samples = samples_from_texts(texts, tokenizer, max_length=limit, truncation=truncation)
    check_vocabulary(samples, n_embeddings(model))
    return samples


def _max_length(model: PreTrainedModel, tokenizer: Any) -> int | None:
    limits = [max_positions(model), getattr(tokenizer, "model_max_length", None)]
    known = [limit for limit in limits if limit is not None and limit < 10**9]  # Transformers' sign for no limit
    return min(known, default=None)
