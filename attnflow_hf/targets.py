"""`Target`: which class is explained, and where the model says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnflow_hf.edge_weights import check_target
from attnflow_hf.errors import OptionError, PositionError, TokenizerError, check_index, guess
from attnflow_hf.model_facts import declares_causal
from attnflow_hf.prediction import label_name, token_name
from attnflow_hf.tokens import Tokens

Asked = int | str | None


@dataclass(frozen=True)
class Target:
    """The class that is explained.

    Attributes:
        index: The class index; the token id for language models.
        label: Its label, or the token.
        position: Where the model says it, an index of the text's tokens; `None` where it speaks of the whole text.
        is_causal: Whether what is said there is what all tokens up to there say together: where that token is
            dropped, the one before it says it.
    """

    index: int
    label: str
    position: int | None = None
    is_causal: bool = False


def one_for_each(asked: Asked | Sequence[Asked], n_texts: int) -> list[Asked]:
    """Return the class asked for of each text.

    Raises:
        OptionError: It is a list of another length.
    """
    if asked is None or isinstance(asked, (int, str, np.integer)):
        return [asked] * n_texts
    if not isinstance(asked, Sequence) or len(asked) != n_texts:
        raise OptionError(f"target must be one class, or a list of {n_texts}, one for each text; got {asked!r}")
    return list(asked)


def check_logits(model: Any, logits: Any) -> torch.Tensor:
    """Return what a model's head gave, `[batch, label]` or `[batch, token, label]`.

    Raises:
        OptionError: The model has no head of classes or tokens.
    """
    name = type(model).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim not in (2, 3) or name.endswith("ForPreTraining"):
        raise OptionError(
            f"{name} has no head that gives logits of classes or tokens, so there is no class to explain; load it "
            "as a classifier or a language model"
        )
    return logits


def position_of_head(model: Any, tokenizer: Any, tokens: Tokens, output_position: int | str, is_causal: bool) -> int:
    """Return where a model whose head speaks of each position is asked.

    Args:
        model: The model.
        tokenizer: Knows the mask; or `None`.
        tokens: What its head speaks of.
        output_position: What the user asked for; `"auto"`: the last token of a causal model, else the one mask.
        is_causal: Whether no position sees a later one.

    Raises:
        OptionError: There is no such position, or several.
        PositionError: It is outside of the text.
    """
    name = type(model).__name__
    if output_position in ("mean", "all"):
        raise OptionError(f"{name} speaks of each position; output_position must be one, got {output_position!r}")
    if output_position != "auto":
        return check_index("output_position", output_position, len(tokens))
    if name.endswith("ForTokenClassification"):
        raise OptionError(f"{name} speaks of each token; choose one by output_position")
    if is_causal:
        return len(tokens) - 1
    masks = np.flatnonzero(tokens.input_ids == getattr(tokenizer, "mask_token_id", None))
    if len(masks) != 1:
        raise OptionError(
            f"{name} speaks of each position, and this text has {len(masks)} masks: give it one mask, or choose a "
            "position by output_position"
        )
    return int(masks[0])


def target_of(model: Any, tokenizer: Any, logits: torch.Tensor, asked: Asked, position: int | None) -> Target:
    """Return the class asked for, or the one that the model predicts.

    Args:
        model: The model, for its labels.
        tokenizer: Knows the tokens of a language model; or `None`.
        logits: What the head says, `[label]`.
        asked: A class index or label, a token or its id for language models; `None` for what the model predicts.
        position: Where it says it; `None` where it speaks of the whole text.

    Raises:
        OptionError: The class is none of the model's.
        PositionError: Its index is outside of them.
    """
    speaks_tokens = position is not None and not type(model).__name__.endswith("ForTokenClassification")
    index = int(logits.argmax()) if asked is None else _index(model, tokenizer, asked, len(logits), speaks_tokens)
    label = token_name(tokenizer, index) if speaks_tokens else label_name(model, index)
    return Target(index, label, position, position is not None and declares_causal(model))


def index_of_class(model: Any, asked: object, n_labels: int, *, name: str = "target") -> int:
    """Return the index of a class that is told by its index or label.

    Args:
        model: The model, for its labels.
        asked: The index or label.
        n_labels: How many classes there are.
        name: What it is called, for the message.

    Raises:
        OptionError: It is neither, or none of the model's labels.
        PositionError: Its index is outside of them.
    """
    check_target(asked, name=name)
    labels = [label_name(model, index) for index in range(n_labels)]
    if isinstance(asked, str):
        if asked not in labels:
            known = _listed(model, n_labels)
            raise OptionError(f"{name} {asked!r} is none of the model's classes: it has {known}{guess(asked, labels)}")
        return labels.index(asked)
    index = int(asked)  # type: ignore[call-overload]
    if not 0 <= index < n_labels:
        raise PositionError(f"{name} {asked} is outside of the model's classes: it has {_listed(model, n_labels)}")
    return int(index)


def _index(model: Any, tokenizer: Any, asked: int | str, n_labels: int, speaks_tokens: bool) -> int:
    """Return the index of a class or token that was asked for by its index or label."""
    if not speaks_tokens:
        return index_of_class(model, asked, n_labels)
    check_target(asked)
    if isinstance(asked, str):
        return _index_of_token(tokenizer, asked)
    if not 0 <= asked < n_labels:
        raise PositionError(f"target {asked} is outside of the model's classes: it has {n_labels} token ids")
    return int(asked)


def _listed(model: Any, n_labels: int) -> str:
    shown = ", ".join(f"{index} ({label_name(model, index)!r})" for index in range(min(n_labels, 10)))
    return shown + (f", ... up to {n_labels - 1}" if n_labels > 10 else "")


def _index_of_token(tokenizer: Any, asked: str) -> int:
    if tokenizer is None:
        raise TokenizerError(f"target {asked!r} needs a tokenizer to be a token; give the token's id")
    vocabulary = tokenizer.get_vocab()
    if asked in vocabulary:
        return int(vocabulary[asked])
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise OptionError(f"target {asked!r} is not one token of this tokenizer; give a token or its id")
    return int(ids[0])
