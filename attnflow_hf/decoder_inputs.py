"""The decoder's tokens of an encoder-decoder model: out of a target text, or of what the user's encoding holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attnflow_hf.errors import ArrayError, OptionError, TextError, TokenizerError
from attnflow_hf.tokens import Tokens


def decoder_tokens_of_text(model: Any, tokenizer: Any, text_target: Any) -> Tokens:
    """Return what the decoder reads for a target text: its start token, then the text without its end.

    The last position is the one that predicts what follows the text.

    Args:
        model: An encoder-decoder model; it knows its start token.
        tokenizer: Its tokenizer.
        text_target: The target text.

    Raises:
        OptionError: `text_target` is no text, or the model has no decoder beside an encoder.
        TokenizerError: There is no tokenizer.
    """
    if not model.config.is_encoder_decoder:
        raise OptionError(f"text_target is for encoder-decoder models; {type(model).__name__} is none")
    if tokenizer is None:
        raise TokenizerError("text_target needs a tokenizer: use Attributor(model, tokenizer)")
    if not isinstance(text_target, str):
        raise OptionError(f"text_target must be a text for each input text, got {text_target!r}")
    encoding = tokenizer(text_target=text_target, return_special_tokens_mask=True)
    labels = list(encoding["input_ids"])
    ids = _shift(model, labels)
    fast = encoding.encodings[0] if encoding.encodings else None
    if fast is None:
        return Tokens.from_ids(ids, tokenizer)
    return shifted_tokens(Tokens.from_encoding(fast, np.ones(len(labels), bool), texts=(text_target,)), ids, tokenizer)


def shifted_tokens(tokens: Tokens, ids: list[int], tokenizer: Any) -> Tokens:
    """Return the tokens of a decoder that reads a text one place to the right, behind its start token.

    Args:
        tokens: The text's tokens.
        ids: What the decoder reads; all but the first are looked for at the beginning of the text.
        tokenizer: Names the tokens.
    """
    known = tokens.select(np.arange(len(tokens)) < len(ids) - 1)
    if tokens.offsets is None or ids[1:] != known.input_ids.tolist():
        return Tokens.from_ids(ids, tokenizer)
    return _with_start(known, ids[0], tokenizer)


def decoder_tokens_of_encoding(encoding: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    """Return the decoder's tokens of each row of an encoding; none if it holds no `decoder_input_ids`.

    Args:
        encoding: What a processor or tokenizer returned; `decoder_input_ids` `[batch, token]`, and a
            `decoder_attention_mask` where rows are padded on the right.
        tokenizer: Names the tokens; or `None`.

    Raises:
        ArrayError: They are not integers `[batch, token]`, or a row has none.
    """
    if encoding.get("decoder_input_ids") is None:
        return []
    try:
        ids = torch.as_tensor(encoding["decoder_input_ids"])
        mask = torch.as_tensor(encoding.get("decoder_attention_mask", torch.ones_like(ids))).bool()
    except (TypeError, ValueError) as error:
        raise ArrayError(f"decoder_input_ids must be integers [batch, token]: {error}") from error
    if ids.ndim == 1:
        ids, mask = ids[None], mask.reshape(1, -1)
    if ids.ndim != 2 or ids.is_floating_point() or mask.shape != ids.shape or not ids.numel():
        raise ArrayError(
            f"decoder_input_ids and decoder_attention_mask must be integers [batch, token], got {list(ids.shape)} and "
            f"{list(mask.shape)}"
        )
    if int(ids[mask].min() if mask.any() else 0) < 0:
        raise ArrayError(f"decoder_input_ids must not be negative, got {int(ids[mask].min())}")
    lengths = mask.sum(dim=1).tolist()
    if min(lengths) == 0 or any(not row[:n].all() for row, n in zip(mask, lengths, strict=True)):
        raise ArrayError("a row of decoder_input_ids must have tokens in front and padding behind")
    return [Tokens.from_ids(row[:n].tolist(), tokenizer) for row, n in zip(ids, lengths, strict=True)]


def _shift(model: Any, labels: list[int]) -> list[int]:
    """Return what the decoder reads in order to predict `labels`."""
    if not labels:
        raise TextError("text_target is empty: the tokenizer makes no token of it")
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: list[int] = model.prepare_decoder_input_ids_from_labels(labels=torch.tensor([labels]))[0].tolist()
        return shifted
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise OptionError(
            f"{type(model).__name__} names no decoder_start_token_id; give an encoding with decoder_input_ids instead"
        )
    return [int(start), *labels[:-1]]


def _with_start(tokens: Tokens, start: int, tokenizer: Any) -> Tokens:
    """Return `tokens` with the decoder's start token in front, a special one."""
    assert tokens.offsets is not None
    assert tokens.word_ids is not None
    assert tokens.sequence_ids is not None
    name = tokenizer.convert_ids_to_tokens(start)
    return Tokens(
        input_ids=np.array([start, *tokens.input_ids]),
        tokens=(str(start if name is None else name), *tokens.tokens),
        special_tokens_mask=np.array([True, *tokens.special_tokens_mask]),
        positions=np.arange(len(tokens) + 1),
        offsets=np.vstack([[(0, 0)], tokens.offsets]),
        word_ids=(None, *tokens.word_ids),
        sequence_ids=(None, *tokens.sequence_ids),
        texts=tokens.texts,
    )
