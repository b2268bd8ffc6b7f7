"""Batches of token ids for training: words split into pieces, tokens hidden, sentences of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from attnflow_hf.verb_number.examples import Example
from attnflow_hf.verb_number.tokenizer import TAGS, split_word

__all__ = ["IGNORED", "Batch", "Encoded", "draw_batches", "encode", "find_splits", "hide_tokens", "pad"]

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """The token ids of one example and its label, which may be a probability."""

    ids: tuple[int, ...]
    label: float


@dataclass(frozen=True)
class Batch:
    """Padded token ids and attention mask `[sentence, token]`, and wanted probabilities `[sentence, label]`."""

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """Return the examples as token ids, cut at `max_length` from the left so that the words before the verb stay."""
    ids = tokenizer([example.text for example in examples])["input_ids"]
    return [
        Encoded((*row[:1], *row[1:][-(max_length - 1) :]), example.label)
        for row, example in zip(ids, examples, strict=True)
    ]


def find_splits(vocabulary: Mapping[str, int]) -> dict[int, list[int]]:
    """Return, for each whole word of at least four letters, the ids of the pieces it would have as an unknown word."""
    words = [word for word in vocabulary if len(word) >= 4 and word.isalpha() and word not in TAGS]
    splits = {vocabulary[word]: split_word(word, vocabulary) for word in words}
    return {index: pieces for index, pieces in splits.items() if pieces}


def draw_batches(
    encoded: Sequence[Encoded],
    rng: np.random.Generator,
    *,
    batch_size: int,
    splits: Mapping[int, list[int]],
    split_rate: float,
) -> Iterator[Batch]:
    """Yield all examples once, in random batches of sentences of about the same length."""
    rows = [Encoded(_split_some(row.ids, rng, splits, split_rate), row.label) for row in encoded]
    length = np.array([len(row.ids) for row in rows]) + rng.uniform(0, 2, len(rows))
    order = np.argsort(length)
    starts = np.arange(0, len(rows), batch_size)
    for start in rng.permutation(starts):
        yield pad([rows[index] for index in order[start : start + batch_size]])


def pad(rows: Sequence[Encoded]) -> Batch:
    """Return the rows as one batch, padded on the right with id 0."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        mask[index, : len(row.ids)] = 1
    plural = torch.tensor([float(row.label) for row in rows])
    return Batch(ids, mask, torch.stack([1 - plural, plural], dim=1))


def hide_tokens(
    batch: Batch, rate: float, generator: torch.Generator, *, mask_id: int, unknown_id: int
) -> tuple[Tensor, Tensor]:
    """Return input ids with some tokens hidden, and the hidden ids (`IGNORED` elsewhere), both `[sentence, token]`.

    Four of five hidden tokens become ``[MASK]``, the fifth ``[UNK]``, so that the model has learned to do without a
    word: blank-out replaces words by either. ``[CLS]`` and padding stay.
    """
    hidden = (torch.rand(batch.input_ids.shape, generator=generator) < rate) & (batch.attention_mask == 1)
    hidden[:, 0] = False
    unknown = torch.rand(batch.input_ids.shape, generator=generator) < 0.2
    filler = torch.where(unknown, unknown_id, mask_id)
    return torch.where(hidden, filler, batch.input_ids), torch.where(hidden, batch.input_ids, IGNORED)


def _split_some(
    ids: tuple[int, ...], rng: np.random.Generator, splits: Mapping[int, list[int]], rate: float
) -> tuple[int, ...]:
    """Return the ids with about a part `rate` of the words that can be split written as pieces."""
    chosen = rng.random(len(ids)) < rate
    if not chosen.any():
        return ids
    pieces = ([*splits.get(token, [token])] if split else [token] for token, split in zip(ids, chosen, strict=True))
    return tuple(piece for word in pieces for piece in word)
