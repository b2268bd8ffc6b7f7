"""The texts and tokens of what a pipeline's preprocessing made, before a batch is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attnflow_hf.tokens import Tokens


def texts_of(inputs: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the text, or the two of a pair, where the input shows them."""
    named = inputs if isinstance(inputs, Mapping) else {"text": inputs, "text_pair": options.get("text_pair")}
    found = [named.get("text"), named.get("text_pair")]
    texts = tuple(text for text in found if isinstance(text, str))
    return (options.get("prefix", "") + texts[0], *texts[1:]) if texts else ()


def tokens_of(encoding: Any, texts: tuple[str, ...], tokenizer: Any) -> Tokens | None:
    """Return the tokens of one row as a pipeline's preprocessing has it, without padding; `None` of an image."""
    if "input_ids" not in encoding:
        return None
    ids = encoding["input_ids"][0]
    real = encoding["attention_mask"][0].bool().numpy() if "attention_mask" in encoding else np.ones(len(ids), bool)
    words = encoding.get("word_ids")
    fast = getattr(encoding, "encodings", None)
    if not fast and tokenizer.is_fast and texts and words is None:
        fast = tokenizer(*texts).encodings
        fast = fast if fast[0].ids == ids[torch.from_numpy(real)].tolist() else None
        real = real[real] if fast else real
    if fast:
        n_cut = len(fast[0].ids) - len(real)  # what a pipeline cut off on the left
        return Tokens.from_encoding(fast[0], np.append(np.zeros(n_cut, bool), real), texts=texts)
    known: dict[str, Any] = {}
    if encoding.get("offset_mapping") is not None and len(texts) == 1:
        offsets = encoding["offset_mapping"][0].numpy().copy()
        if words is not None:
            starts = [0 if word is None else encoding["word_to_chars_map"][word][0] for word in words]
            offsets += np.array(starts)[:, None]
            kept = [word for word, is_real in zip(words, real, strict=True) if is_real]
            known = {"word_ids": tuple(kept), "sequence_ids": tuple(None if word is None else 0 for word in kept)}
        known |= {"offsets": offsets[real], "texts": texts}
    if "special_tokens_mask" in encoding:
        known["special_tokens_mask"] = encoding["special_tokens_mask"][0].bool().numpy()[real]
    return Tokens.from_ids(ids[torch.from_numpy(real)].tolist(), tokenizer, **known)
