"""`measure_pronouns`: what a masked language model and its attention say of masked pronouns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attnflow_hf.attributing import attribute_reading
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import methods_of
from attnflow_hf.errors import CaptureError, OptionError, TokenizerError
from attnflow_hf.evaluation.pronouns import PronounScores, PronounSentence
from attnflow_hf.given import given
from attnflow_hf.options import Options
from attnflow_hf.reader import Reading, read_samples
from attnflow_hf.scoring import Wrapped
from attnflow_hf.target_capture import take_of
from attnflow_hf.tokens import Tokens


def measure_pronouns(
    attributor: Attributor,
    sentences: Sequence[PronounSentence],
    *,
    method: str | Sequence[str] = ("raw", "rollout", "flow"),
    options: Options | None = None,
) -> list[PronounScores]:
    """Return what a masked language model and its attention say of the masked pronoun of each sentence.

    As in Abnar & Zuidema (2020, figure 4): the probabilities of the two pronouns in the mask's place, and of every
    layer how much of the attributions from the mask goes to each candidate.

    Args:
        attributor: A wrapped masked language model, such as `bert-base-uncased`.
        sentences: The sentences.
        method: One method, or a list of them, from one forward pass.
        options: `backend`, `head_reduction`, `residual_weight`, `n_permutations`, `seed` of the attributions.

    Raises:
        OptionError: The model is of another kind; a pronoun is not one token; an option has no meaning here.
        TextError: A sentence is longer than the model can read, or a candidate was not found in it.
        TokenizerError: The tokenizer knows no mask, or gives no character offsets.
    """
    wrapped, methods = attributor.wrapped, methods_of(method)
    mask = check_masked_model(wrapped)
    asked = given(wrapped.model, wrapped.tokenizer, [each.with_word(mask) for each in sentences])
    chosen = check_options(options or Options())
    readings = read_samples(
        wrapped.model,
        wrapped.tokenizer,
        asked.samples,
        batch_size=wrapped.batch_size,
        head_reduction=chosen.heads,
        take=take_of(wrapped.model, wrapped.tokenizer, asked, chosen),
    )
    found = {index: _measured(wrapped, reading, sentences[index], methods, options) for index, reading in readings}
    return [found[index] for index in range(len(sentences))]


def check_masked_model(wrapped: Wrapped) -> str:
    """Return the mask of a masked language model.

    Raises:
        OptionError: It is a model of another kind.
        TokenizerError: Its tokenizer knows no mask.
    """
    name = type(wrapped.model).__name__
    if not name.endswith("ForMaskedLM"):
        raise OptionError(
            f"pronouns are asked of a masked language model, got {name}; load one, such as 'bert-base-uncased', by "
            "AutoModelForMaskedLM"
        )
    mask = getattr(wrapped.tokenizer, "mask_token", None)
    if mask is None:
        raise TokenizerError("a tokenizer with a mask token is needed: use Attributor(model, tokenizer)")
    return str(mask)


def check_options(options: Options) -> Options:
    """Return the options for every layer, unless some have no meaning there.

    Raises:
        OptionError: Another layer or output position, or special treatment of tokens or scores, is asked for.
    """
    if options.kind.needs_target:
        raise OptionError(
            f"pronouns are explained by attention; of one of them, call the attributor with target and "
            f"edge_weights={options.edge_weights!r}"
        )
    plain = Options()
    for name in ("output_position", "layer", "normalize", "special_tokens", "first_token", "keep"):
        if getattr(options, name) != getattr(plain, name):
            raise OptionError(
                f"pronouns are explained at the mask, by every layer's values as they are; leave {name} out"
            )
    return replace(options, layer="all", normalize="none")


def _measured(
    wrapped: Wrapped, reading: Reading, sentence: PronounSentence, methods: Sequence[str], options: Options | None
) -> PronounScores:
    tokens, mask = reading.tokens, str(wrapped.tokenizer.mask_token)
    position = int(np.flatnonzero(tokens.input_ids == wrapped.tokenizer.mask_token_id)[0])
    at_mask = replace(check_options(options or Options()), output_position=position)
    owned = [_tokens_of(tokens, span, sentence) for span in sentence.spans(mask)]
    scores = {}
    for method in methods:
        of_tokens = attribute_reading(wrapped, reading, method, at_mask).scores
        scores[method] = np.stack([of_tokens[:, each].sum(axis=1) for each in owned], axis=1)
    p_male, p_female = _probabilities(wrapped, reading, sentence, position)
    named, reason = sentence.named(p_male=p_male, p_female=p_female)
    return PronounScores(sentence, p_male, p_female, position, scores, named, reason)


def _tokens_of(tokens: Tokens, span: tuple[int, int], sentence: PronounSentence) -> list[int]:
    """Return the tokens that spell the characters from the first to the one before the last of `span`."""
    if tokens.offsets is None:
        raise TokenizerError("candidates are found by character offsets; use a fast tokenizer")
    start, stop = span
    inside = (tokens.offsets[:, 0] < stop) & (tokens.offsets[:, 1] > start) & ~tokens.special_tokens_mask
    if not inside.any():
        raise TokenizerError(f"no token stands for {sentence.text[start:stop]!r} in {sentence.text!r}")
    return [int(index) for index in np.flatnonzero(inside)]


def _probabilities(wrapped: Wrapped, reading: Reading, sentence: PronounSentence, position: int) -> tuple[float, float]:
    logits = reading.logits_at(position)
    if logits is None:
        raise CaptureError(f"{reading.report.model} gave no logits at the mask")
    exact = logits[0].astype(np.float64)
    shares = np.exp(exact - exact.max())
    male, female = (
        _token_id(wrapped.tokenizer, reading.tokens, sentence, each, position) for each in sentence.pronouns
    )
    return float(shares[male] / shares.sum()), float(shares[female] / shares.sum())


def _token_id(tokenizer: Any, tokens: Tokens, sentence: PronounSentence, pronoun: str, position: int) -> int:
    """Return the id of the token that the pronoun is in this place; pieces of words differ from words in some."""
    ids = tokenizer(sentence.with_word(pronoun))["input_ids"]
    others = np.arange(len(tokens)) != position
    if (
        len(ids) != len(tokens)
        or (np.array(ids) != tokens.input_ids)[others].any()
        or (ids[position] == tokenizer.unk_token_id)
    ):
        raise OptionError(f"the pronoun {pronoun!r} is not one token of this tokenizer in {sentence.text!r}")
    return int(ids[position])
