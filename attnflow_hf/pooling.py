"""What the decoder of an encoder-decoder classifier reads, and at which of its positions the head does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from attnflow_hf.attention_function import Recorder
from attnflow_hf.decoder_inputs import shifted_tokens
from attnflow_hf.errors import CaptureError, OptionError
from attnflow_hf.tokens import Tokens

_END = ("Bart", "BigBirdPegasus", "MBart", "MT5", "Mvp", "PLBart", "T5", "UMT5")
"""Whose head reads the decoder where the input has its last `eos_token_id`."""
_LAST = ("T5Gemma",)
"""Whose head reads the decoder where it reads the input's last token, or one place before where there is no room."""
_HEAD = "ForSequenceClassification"


def check_pooling(model: Any) -> None:
    """Raise `OptionError` unless it is known at which position the head of an encoder-decoder model reads."""
    name = type(model).__name__
    if name not in [f"{family}{_HEAD}" for family in _END + _LAST]:
        raise OptionError(
            f"{name} is an encoder-decoder model, and it is not known which position of its decoder the result comes "
            f"from; known are {', '.join(sorted(_END + _LAST))} with {_HEAD}. Call Attributor(pipe.model, "
            "pipe.tokenizer) beside the pipeline: on text alone, or with text_target or decoder_input_ids"
        )


@contextmanager
def decoder_watched(model: Any, recorder: Recorder) -> Iterator[list[torch.Tensor | None]]:
    """Give a list that gets the ids `[batch, token]` which the decoder reads, in this thread's recorded pass alone.

    Args:
        model: An encoder-decoder model; it is given back as it came.
        recorder: Tells which forward pass is recorded.
    """
    found: list[torch.Tensor | None] = []

    def look(module: Any, args: Any, named: dict[str, Any]) -> None:
        if recorder.is_active():
            found.append(named.get("input_ids", args[0] if args else None))

    handle = model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def head_position(model: Any, input_ids: torch.Tensor, decoder_ids: torch.Tensor) -> int:
    """Return the decoder position whose state the model's head reads.

    Args:
        model: A classifier that `check_pooling` knows.
        input_ids: What the encoder reads of one text, `[token]`, padding included.
        decoder_ids: What the decoder does, `[token]`.

    Example:
        BART repeats its input, one place to the right, and its head reads the decoder where the input ends:

        >>> from types import SimpleNamespace
        >>> bart = type("BartForSequenceClassification", (), {"config": SimpleNamespace(eos_token_id=2)})()
        >>> head_position(bart, torch.tensor([0, 7, 8, 2, 1, 1]), torch.tensor([2, 0, 7, 8, 2, 1]))
        3
    """
    name, config = type(model).__name__.removesuffix(_HEAD), model.config
    if name in _END:
        return int((input_ids == config.eos_token_id).nonzero()[-1])
    if config.pad_token_id is None:
        return len(decoder_ids) - 1
    return min(int((input_ids != config.pad_token_id).nonzero()[-1]) + 1, len(decoder_ids) - 1)


def decoder_tokens(
    model: Any, tokenizer: Any, tokens: Tokens, input_ids: torch.Tensor, decoder_ids: torch.Tensor
) -> tuple[Tokens, int]:
    """Return what the decoder reads of one text, without padding, and the position that the head reads.

    Args:
        model: A classifier that `check_pooling` knows.
        tokenizer: Its tokenizer.
        tokens: What the encoder reads.
        input_ids: The same `[token]`, padding included.
        decoder_ids: What the decoder reads, `[token]`, padding included.

    Raises:
        CaptureError: The head reads the decoder among padding, or behind padding.
    """
    name, n_tokens = type(model).__name__, len(tokens)
    position = head_position(model, input_ids, decoder_ids)
    if input_ids[:n_tokens].tolist() != tokens.input_ids.tolist():
        raise CaptureError(
            f"the text is padded on the left, and the decoder of {name} attends to that padding; set "
            "pipe.tokenizer.padding_side = 'right'"
        )
    if position > n_tokens or (position == n_tokens and name.removesuffix(_HEAD) in _END):
        raise CaptureError(
            f"the head of {name} reads its decoder at position {position}, behind the {n_tokens} tokens of the text: "
            "padding is taken for the text's end; give the tokenizer another pad_token, the model's own"
        )
    n_read = max(n_tokens, position + 1)
    return shifted_tokens(tokens, decoder_ids[:n_read].tolist(), tokenizer), position
