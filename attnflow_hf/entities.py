"""Where the entities of a token-classification pipeline come from: chunk, tokens, classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attnflow_hf.errors import FloatArray, OptionError
from attnflow_hf.prediction import label_name
from attnflow_hf.tokens import Tokens


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


def positions_of(entity: Mapping[str, Any], tokens: Tokens, attention_mask: Any) -> list[int]:
    """Return where the tokens of an entity stand in its chunk.

    Args:
        entity: What the pipeline says; its `index` counts padding, too.
        tokens: Those of the chunk, without padding.
        attention_mask: `[token]`, that of the chunk with its padding; or `None`.

    Raises:
        OptionError: The tokenizer does not tell where they are.
    """
    if "index" in entity:
        index = int(entity["index"])
        return [index if attention_mask is None else int(attention_mask[:index].sum())]
    offsets = tokens.offsets
    if entity.get("start") is None or offsets is None:
        raise OptionError(
            "entities of several tokens are found by their characters, which this tokenizer does not tell; use a fast "
            "tokenizer, or aggregation_strategy='none'"
        )
    inside = (offsets[:, 0] < entity["end"]) & (offsets[:, 1] > entity["start"])
    positions = np.flatnonzero(inside & ~tokens.special_tokens_mask)
    if not len(positions):
        raise OptionError(f"the entity {entity.get('word')!r} was not found among the tokens")
    return [int(position) for position in positions]


def classes_of(entity: Mapping[str, Any], model: Any, tag_of: Callable[[str], str], logits: FloatArray) -> list[int]:
    """Return the class that each token of an entity is explained as: that of the entity.

    The label of an entity of several tokens is a tag, which several classes have (`B-PER` and `I-PER`): of those it is
    the one that the model finds likeliest of the token.

    Args:
        entity: What the pipeline says.
        model: The model, for its labels.
        tag_of: From a label to its tag.
        logits: What the model's head says of the entity's tokens, `[token, label]`.

    Raises:
        OptionError: The entity's label is none of the model's.
    """
    names = [label_name(model, index) for index in range(logits.shape[-1])]
    wanted = entity["entity"] if "entity" in entity else entity["entity_group"]
    fits = np.array([wanted == (name if "entity" in entity else tag_of(name)) for name in names])
    if not fits.any():
        raise OptionError(
            f"the entity {entity.get('word')!r} has the label {wanted!r}, which is none of the model's: "
            f"{', '.join(map(repr, names))}; name the class to explain by target"
        )
    return [int(index) for index in np.where(fits, logits, -np.inf).argmax(axis=-1)]
