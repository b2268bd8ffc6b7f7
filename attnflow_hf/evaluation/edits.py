"""Edited samples: some tokens of a text replaced by UNK, MASK or PAD, or dropped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from attnflow_hf.baselines import token_for
from attnflow_hf.errors import BoolArray, TextError, check_choice
from attnflow_hf.inputs import Sample
from attnflow_hf.scoring import Wrapped
from attnflow_hf.targets import Target

REPLACEMENTS = ("drop", "mask", "pad", "unk")
SPECIAL_TOKENS = ("drop", "keep")


@dataclass(frozen=True)
class Replacement:
    """What stands in the place of an edited token.

    Attributes:
        name: `"unk"`, `"mask"`, `"pad"`; or `"drop"`.
        token_id: Its id; `None` where tokens are dropped.
        token: Its string; empty where tokens are dropped.
    """

    name: str
    token_id: int | None = None
    token: str = ""


def find_replacement(wrapped: Wrapped, name: str) -> Replacement:
    """Return the replacement of that name.

    A PAD within a text is seen by the model, as it stands in no attention mask. Some models count positions or look for
    the last token by it (RoBERTa, GPT-2's classifiers): they take the text for a shorter one.

    Args:
        wrapped: The model and its tokenizer.
        name: One of `REPLACEMENTS`.

    Raises:
        OptionError: An unknown name.
        TokenizerError: The tokenizer has no such token, or the model does not know it.
    """
    check_choice("replacement", name, REPLACEMENTS)
    if name == "drop":
        return Replacement(name)
    token_id = token_for(wrapped.model, wrapped.tokenizer, name, "replacement", ("drop",))
    return Replacement(name, token_id, str(wrapped.tokenizer.convert_ids_to_tokens(token_id)))


def editable(
    wrapped: Wrapped, sample: Sample, target: Target, replacement: Replacement, special_tokens: str
) -> BoolArray:
    """Return which tokens may be edited, bool `[token]`.

    The mask that a masked language model is asked of stays, as without it there is no output; and so does any explained
    position that a model is not asked of through the tokens before it, where tokens are dropped.

    Args:
        wrapped: The model and its tokenizer.
        sample: The text.
        target: The target.
        replacement: What stands in the place of edited tokens.
        special_tokens: `"drop"`: those that the tokenizer added stay. `"keep"`: they are tokens like all others.
    """
    check_choice("special_tokens", special_tokens, SPECIAL_TOKENS)
    chosen = np.ones(len(sample), dtype=bool) if special_tokens == "keep" else ~sample.tokens.special_tokens_mask
    if target.position is None or target.is_causal:
        return chosen
    is_mask = sample.tokens.input_ids[target.position] == getattr(wrapped.tokenizer, "mask_token_id", None)
    if is_mask or replacement.token_id is None:
        chosen[target.position] = False
    return chosen


def edit(sample: Sample, target: Target, chosen: BoolArray, replacement: Replacement) -> tuple[Sample, Target]:
    """Return a sample without the chosen tokens, and the target where it then stands.

    Args:
        sample: The text.
        target: The target on it.
        chosen: Which tokens are replaced or dropped, bool `[token]`.
        replacement: What stands in their place.

    Raises:
        TextError: All tokens would be dropped, or all that the explained position sees.
    """
    if replacement.token_id is None:
        return _drop(sample, ~chosen), replace(target, position=_moved(target, ~chosen))
    ids = np.where(chosen, replacement.token_id, sample.tokens.input_ids)
    names = tuple(
        replacement.token if gone else token for gone, token in zip(chosen, sample.tokens.tokens, strict=True)
    )
    tokens = replace(sample.tokens, input_ids=ids, tokens=names)
    return replace(sample, tokens=tokens, features=sample.features | {"input_ids": torch.from_numpy(ids)}), target


def _drop(sample: Sample, kept: BoolArray) -> Sample:
    if not kept.any():
        raise TextError(
            "dropping all tokens of a text leaves nothing for the model to read; replace them by 'unk', 'mask' or 'pad'"
        )
    indices = torch.from_numpy(np.flatnonzero(kept))
    features = {name: values[indices] for name, values in sample.features.items()}
    if "position_ids" in features:  # those behind close up
        features["position_ids"] = sample.features["position_ids"][: len(indices)]
    return replace(sample, tokens=sample.tokens.select(kept), features=features)


def _moved(target: Target, kept: BoolArray) -> int | None:
    """Return where the target's position stands among the kept tokens: it, or the last kept one before it."""
    if target.position is None:
        return None
    before = int(kept[: target.position + 1].sum())
    if before == 0:
        raise TextError(
            f"dropping all tokens up to position {target.position} leaves nothing to predict from; replace them by "
            "'unk', 'mask' or 'pad'"
        )
    return before - 1
