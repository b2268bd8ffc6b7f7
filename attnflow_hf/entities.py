"""Where the entities of a token-classification pipeline come from: which chunk of a long text, which of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attnflow_hf.errors import OptionError
from attnflow_hf.reader import Reading


def chunk_of(entity: Mapping[str, Any], by_chunk: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    """Return the chunk that an entity comes from, where each chunk's entities are known.

    Of overlapping entities a pipeline keeps one as it is: the longest, of equally long ones that of the highest score,
    of equal ones the first. So the first chunk that has just this one is its own.

    Args:
        entity: What the pipeline says of the whole text.
        by_chunk: What it says of each chunk alone.

    Raises:
        OptionError: None of the chunks has it.
    """
    found = next((number for number, entities in enumerate(by_chunk) if entity in entities), None)
    if found is None:
        raise OptionError(
            f"the entity {entity.get('word')!r} was found in none of the {len(by_chunk)} chunks of the text by itself; "
            "a pipeline that joins entities of several chunks cannot be explained"
        )
    return found


def positions_of(entity: Mapping[str, Any], reading: Reading, attention_mask: Any) -> list[int]:
    """Return the tokens of an entity, as positions in the reading of its chunk.

    Args:
        entity: What the pipeline says; its `index` counts padding, too.
        reading: What the model made of the chunk, without padding.
        attention_mask: `[token]`, that of the chunk with its padding; or `None`.

    Raises:
        OptionError: The tokenizer does not tell where they are.
    """
    if "index" in entity:
        index = int(entity["index"])
        return [index if attention_mask is None else int(attention_mask[:index].sum())]
    offsets = reading.tokens.offsets
    if entity.get("start") is None or offsets is None:
        raise OptionError(
            "entities of several tokens are found by their characters, which this tokenizer does not tell; use a fast "
            "tokenizer, or aggregation_strategy='none'"
        )
    inside = (offsets[:, 0] < entity["end"]) & (offsets[:, 1] > entity["start"])
    positions = np.flatnonzero(inside & ~reading.tokens.special_tokens_mask)
    if not len(positions):
        raise OptionError(f"the entity {entity.get('word')!r} was not found among the tokens")
    return [int(position) for position in positions]
