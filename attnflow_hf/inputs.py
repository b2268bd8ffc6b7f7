"""`Sample`: one text as the model reads it, out of the user's texts or encodings; and batches of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from attnflow_hf.errors import ArrayError, BoolArray, OptionError, TextError, TokenizerError
from attnflow_hf.tokens import Tokens

Text = str | tuple[str, str]
NO_FEATURES = ("attention_mask", "labels", "length", "offset_mapping", "special_tokens_mask")
"""What an encoding may hold of each token that no model reads as a feature."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One text, without padding.

    Attributes:
        tokens: How the tokenizer sees it.
        features: The model's inputs by name, each `[token]`, `input_ids` among them.
        decoder: What the decoder of an encoder-decoder model reads; `None` to explain the encoder alone.
    """

    tokens: Tokens
    features: dict[str, torch.Tensor]
    decoder: Tokens | None = None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    def select(self, kept: BoolArray) -> Sample:
        """Return the sample of some of its tokens, bool `[token]`; what the decoder reads stays."""
        features = {name: values[kept.nonzero()[0]] for name, values in self.features.items()}
        return Sample(self.tokens.select(kept), features, self.decoder)


def is_encoding(inputs: Any) -> bool:
    """Return whether `inputs` is what a tokenizer returned, rather than text."""
    return isinstance(inputs, Mapping) and "input_ids" in inputs


def samples_from_texts(
    texts: Sequence[Text], tokenizer: Any, *, max_length: int | None, truncation: bool
) -> list[Sample]:
    """Return one sample for each text or pair of texts.

    Args:
        texts: Strings, or pairs of strings.
        tokenizer: Any Transformers tokenizer.
        max_length: How many tokens the model can read, or `None` for no end.
        truncation: Cut longer texts, which the sample's `n_truncated` tells; otherwise they are an error.

    Raises:
        TokenizerError: There is no tokenizer.
        TextError: A text is empty or too long; the message says which.
        OptionError: Something is neither a string nor a pair of strings.
    """
    if tokenizer is None:
        raise TokenizerError("text needs a tokenizer: use Attributor(model, tokenizer), or give an encoding instead")
    names = _row_names(len(texts))
    return [
        _sample_from_text(_check_text(text, name), name, tokenizer, max_length, truncation)
        for text, name in zip(texts, names, strict=True)
    ]


def samples_from_encoding(encoding: Mapping[str, Any], tokenizer: Any, *, max_length: int | None) -> list[Sample]:
    """Return one sample for each row of an encoding that the user made, its padding taken off.

    Args:
        encoding: What a tokenizer returned, tensors or lists, padded on either side or not at all. What is not a
            number for each token (labels, texts, ...) is left out.
        tokenizer: Names the tokens where the encoding cannot; or `None`.
        max_length: How many tokens the model can read, or `None` for no end.

    Raises:
        TextError: A row is empty, or longer than the model can read.
        ArrayError: `input_ids` or `attention_mask` are not what they should be.
    """
    ids_of_rows = _rows(encoding["input_ids"])
    given_mask = encoding.get("attention_mask")
    masks = None if given_mask is None else _rows(given_mask)
    columns = _columns(encoding, ids_of_rows)
    fast = getattr(encoding, "encodings", None)
    samples = []
    names = _row_names(len(ids_of_rows))
    for row, ids in enumerate(ids_of_rows):
        real = _check_row(names[row], ids, masks, row)
        known = fast[row] if fast and len(fast) > row and fast[row].ids == ids.tolist() else None
        fitting = {name: values[row][real] for name, values in columns.items()}
        features = {name: value for name, value in fitting.items() if name not in NO_FEATURES}
        features["input_ids"] = features["input_ids"].long()
        special = fitting.get("special_tokens_mask")
        tokens = _tokens(features["input_ids"], known, real.numpy(), special, tokenizer)
        _check_length(tokens, names[row], max_length, "cut it to that length when you encode it")
        samples.append(Sample(tokens, features))
    return samples


def check_vocabulary(samples: Iterable[Sample], n_embeddings: int | None) -> None:
    """Raise `TokenizerError` if a token id has no embedding in the model; `None` stands for a number not known."""
    for sample in samples if n_embeddings is not None else ():
        highest = int(sample.tokens.input_ids.argmax())
        token_id = int(sample.tokens.input_ids[highest])
        if n_embeddings is not None and token_id >= n_embeddings:
            raise TokenizerError(
                f"token {sample.tokens.tokens[highest]!r} has id {token_id}, but the model knows only {n_embeddings} "
                "ids: this tokenizer does not belong to this model"
            )


def batches(samples: Sequence[Sample], batch_size: int, *, equal_lengths: bool = False) -> Iterator[list[int]]:
    """Yield the indices of all samples in batches of about the same length, or of just the same, the longest first."""
    order = sorted(range(len(samples)), key=lambda index: -len(samples[index]))
    key = (lambda index: len(samples[index])) if equal_lengths else None
    for _, group in groupby(order, key) if key else [(None, iter(order))]:
        run = list(group)
        for start in range(0, len(run), batch_size):
            yield run[start : start + batch_size]


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """Return the features of several samples as `[batch, token]`, padded on the right, and their attention mask."""

    def stack(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    names = samples[0].features
    batch = {name: stack([s.features[name] for s in samples], pad_id if name == "input_ids" else 0) for name in names}
    batch["attention_mask"] = stack([torch.ones(len(s), dtype=torch.long) for s in samples], 0)
    decoders = [torch.tensor(sample.decoder.input_ids) for sample in samples if sample.decoder is not None]
    if decoders:
        batch["decoder_input_ids"] = stack(decoders, pad_id)
        batch["decoder_attention_mask"] = stack([torch.ones_like(ids) for ids in decoders], 0)
    return batch


def _row_names(n_rows: int) -> list[str]:
    """Return what to call each row in an error."""
    return ["the text"] if n_rows == 1 else [f"text {row}" for row in range(n_rows)]


def _check_text(text: Any, name: str) -> Text:
    is_pair = isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
    if not is_pair and not isinstance(text, str):
        raise OptionError(f"{name} must be a string or a pair (tuple) of strings, got {text!r}")
    for part in text if is_pair else (text,):
        broken = next((c for c in part if 0xD800 <= ord(c) < 0xE000), None)
        if broken is not None:
            raise TextError(f"{name} is not valid Unicode: it has a lone surrogate {broken!r}; decode it anew as UTF-8")
    return (text[0], text[1]) if is_pair else text


def _sample_from_text(text: Text, name: str, tokenizer: Any, max_length: int | None, truncation: bool) -> Sample:
    texts = (text,) if isinstance(text, str) else text
    encoding = tokenizer(*texts, return_special_tokens_mask=True, verbose=False)  # of the length we speak ourselves
    n_truncated = 0
    if truncation and max_length is not None and len(encoding["input_ids"]) > max_length:
        n_full = len(encoding["input_ids"])
        encoding = tokenizer(*texts, truncation=True, max_length=max_length, return_special_tokens_mask=True)
        n_truncated = n_full - len(encoding["input_ids"])
    ids = torch.tensor(encoding["input_ids"], dtype=torch.long)
    fast = encoding.encodings[0] if encoding.encodings else None
    real = np.ones(len(ids), dtype=bool)
    special = torch.tensor(encoding["special_tokens_mask"])
    tokens = _tokens(ids, fast, real, special, tokenizer, texts=texts, n_truncated=n_truncated)
    _check_length(tokens, name, max_length, "pass truncation=True to cut it")
    names = [name for name in encoding if name not in NO_FEATURES and len(encoding[name]) == len(ids)]
    return Sample(tokens, {name: torch.tensor(encoding[name], dtype=torch.long) for name in names})


def _tokens(
    ids: torch.Tensor, fast: Any, real: BoolArray, special: torch.Tensor | None, tokenizer: Any, **known: Any
) -> Tokens:
    if fast is not None:
        return Tokens.from_encoding(fast, real, **known)
    if special is not None:
        known["special_tokens_mask"] = special.numpy().astype(bool)
    return Tokens.from_ids(ids.tolist(), tokenizer, **known)


def _check_length(tokens: Tokens, name: str, max_length: int | None, remedy: str) -> None:
    if tokens.special_tokens_mask.all():
        raise TextError(f"{name} is empty: it has no token but special ones, so there is nothing to attribute to")
    if max_length is not None and len(tokens) > max_length:
        raise TextError(f"{name} has {len(tokens)} tokens, but the model reads {max_length} at most; {remedy}")


def _check_row(name: str, ids: torch.Tensor, masks: list[torch.Tensor] | None, row: int) -> torch.Tensor:
    """Return which tokens of a row are real, bool `[token]`."""
    if ids.ndim != 1 or (ids.is_floating_point() and len(ids)):
        got = f", got {ids.dtype} {list(ids.shape)}" if ids.ndim else ""
        raise ArrayError(f"input_ids must be integers [token] or [batch, token]{got}")
    mask = torch.ones_like(ids) if masks is None else masks[row] if row < len(masks) else ids[:0]
    if mask.shape != ids.shape:
        raise ArrayError(f"{name} has {len(ids)} input_ids, but its attention_mask has shape {list(mask.shape)}")
    real = mask.bool()
    first, last = (int(i) for i in real.nonzero().flatten()[[0, -1]]) if real.any() else (0, -1)
    if not real[first : last + 1].all():
        raise ArrayError(f"the attention_mask of {name} has holes; only padding in front or behind can be taken off")
    if (ids[real] < 0).any():
        raise ArrayError(f"input_ids of {name} must not be negative, got {int(ids[real].min())}")
    return real


def _rows(values: Any) -> list[torch.Tensor]:
    """Return the rows of `[batch, token]` or `[token]`, tensors or (ragged) lists, as tensors on the CPU.

    What is not a number has the shape of no token.
    """
    try:
        if isinstance(values, torch.Tensor) or (isinstance(values, np.ndarray) and values.dtype != object):
            whole = torch.as_tensor(values).cpu()
            return list(whole if whole.ndim > 1 else whole[None])
        return [torch.as_tensor(row).cpu() for row in (values if _is_nested(values) else [values])]
    except (TypeError, ValueError):
        return [torch.tensor(torch.nan)]


def _columns(encoding: Mapping[str, Any], ids: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Return the columns that hold one number for each token of each row; a column of one value a text does not."""
    nested = _is_nested(encoding["input_ids"])
    columns = {}
    for name in encoding:
        rows = _rows(encoding[name]) if encoding[name] is not None and _is_nested(encoding[name]) == nested else []
        if name == "position_ids" and len(rows) == 1:
            rows = rows * len(ids)
        if [row.shape for row in rows] == [row.shape for row in ids]:
            columns[name] = rows
    return columns


def _is_nested(values: Any) -> bool:
    if isinstance(values, torch.Tensor) or (isinstance(values, np.ndarray) and values.dtype.kind != "O"):
        return bool(values.ndim > 1)
    is_row = isinstance(values, (list, tuple, np.ndarray)) and len(values) > 0
    return is_row and isinstance(values[0], (list, tuple, torch.Tensor, np.ndarray))
