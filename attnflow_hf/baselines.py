"""`Baseline`: what a text is compared with, the same text with all of its words replaced by one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnflow_hf.edge_weights import BASELINES
from attnflow_hf.errors import BoolArray, OptionError, TokenizerError
from attnflow_hf.model_facts import counts_by_padding, declares_causal, n_embeddings
from attnflow_hf.tokens import Tokens


@dataclass(frozen=True)
class Baseline:
    """One token that stands for all words of a text.

    Special tokens that the tokenizer added stay, and so do the masks that a masked language model is asked of.

    Attributes:
        token_id: Its id.
        mask_id: The id of the tokenizer's mask, which stays; `None` where it has none.
    """

    token_id: int
    mask_id: int | None

    def inputs_of(self, inputs: Mapping[str, torch.Tensor], tokens: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        """Return a batch's inputs with all words replaced.

        Args:
            inputs: What `forward` takes, with `input_ids` `[batch, token]`.
            tokens: Of each row, without its padding.
        """
        ids = inputs["input_ids"].clone()
        real = inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones_like(ids, dtype=torch.bool)
        for row, of_row in enumerate(tokens):
            places = real[row].nonzero()[:, 0] if real.ndim == 2 else torch.arange(len(of_row), device=ids.device)
            ids[row, places[torch.from_numpy(self._replaced(of_row)).to(ids.device)]] = self.token_id
        return {**inputs, "input_ids": ids}

    def _replaced(self, tokens: Tokens) -> BoolArray:
        chosen: BoolArray = ~tokens.special_tokens_mask
        return chosen if self.mask_id is None else chosen & np.asarray(tokens.input_ids != self.mask_id)


def find_baseline(model: Any, tokenizer: Any, name: str, *, are_texts: bool = True) -> Baseline:
    """Return the baseline of that name.

    Args:
        model: The model, which must know the token.
        tokenizer: Has the token.
        name: `"mask"`, `"pad"` or `"unk"`.
        are_texts: Whether the inputs are texts that one stack of layers reads.

    Raises:
        TokenizerError: The tokenizer has no such token, or the model does not know it.
        OptionError: The inputs are others; or the model counts positions by this token, or its head finds by it where a
            text ends.
    """
    if not are_texts:
        raise OptionError("a baseline replaces the words of a text that one stack of layers reads: leave it out here")
    token_id = token_for(model, tokenizer, name, "baseline", ())
    reads_last = type(model).__name__.endswith("ForSequenceClassification") and declares_causal(model)
    is_padding = token_id == model.config.get_text_config().pad_token_id
    if is_padding and (reads_last or counts_by_padding(model)):
        raise OptionError(
            f"baseline {name!r} has the id {token_id} of the padding, by which {type(model).__name__} finds where a "
            "text ends or counts positions: it would read another text. Use another baseline"
        )
    mask_id = getattr(tokenizer, "mask_token_id", None)
    return Baseline(token_id, None if mask_id is None else int(mask_id))


def token_for(model: Any, tokenizer: Any, name: str, what: str, others: Sequence[str]) -> int:
    """Return the id of the token that stands for others.

    Args:
        model: The model, which must know it.
        tokenizer: Has it; or `None`.
        name: `"mask"`, `"pad"` or `"unk"`.
        what: The option that names it, for errors.
        others: What the option may be instead.

    Raises:
        TokenizerError: The tokenizer has no such token, or the model does not know it.
    """
    ids = {each: getattr(tokenizer, f"{each}_token_id", None) for each in BASELINES}
    token_id = ids[name]
    known = ", ".join(repr(each) for each in (*(each for each, value in ids.items() if value is not None), *others))
    if token_id is None:
        raise TokenizerError(
            f"{what} {name!r} needs a tokenizer that has a token for it; here use {known or 'another model'}"
        )
    limit = n_embeddings(model)
    if limit is not None and token_id >= limit:
        raise TokenizerError(
            f"the {name} token has id {token_id}, but the model knows only {limit} ids; use another {what}"
        )
    return int(token_id)
