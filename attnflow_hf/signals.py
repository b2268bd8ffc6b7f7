"""Images and sound as a model reads them: rows of an encoding, and tokens that name patches and frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attnflow_hf.errors import ArrayError
from attnflow_hf.tokens import Tokens

SIGNALS = {"pixel_values": "image", "input_values": "sound", "input_features": "sound"}
"""The model inputs that are no text."""
_MAX_PREFIX = 32


def signal_rows(encoding: Mapping[str, Any], name: str, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    """Return the inputs of each image or sound, as batches of one, without the padding of a sound.

    Args:
        encoding: What an image processor or feature extractor returned, with `return_tensors="pt"`.
        name: The model's main input, `pixel_values`, `input_values` or `input_features`.
        dtype: The type of the model's weights.

    Raises:
        ArrayError: It holds no such input, or none of numbers.
    """
    values = encoding.get(name)
    try:
        batch = torch.as_tensor(np.stack(values) if isinstance(values, list) else values).to(dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArrayError(
            f"this model reads {name}: give what its processor returns with return_tensors='pt', got "
            f"{type(values).__name__}"
        ) from error
    mask = None if encoding.get("attention_mask") is None else torch.as_tensor(encoding["attention_mask"]).bool()
    if mask is not None and len(mask) != len(batch):
        raise ArrayError(f"there are {len(batch)} rows of {name}, but attention_mask has {len(mask)}")
    rows = []
    for index, row in enumerate(batch):
        real = None if mask is None else mask[index]
        fits = real is not None and SIGNALS[name] == "sound" and real.shape == row.shape[:1]
        if real is not None and not real.any():
            raise ArrayError(f"the attention_mask of {SIGNALS[name]} {index} marks all of it as padding")
        rows.append({name: (row[real] if fits else row)[None]})
    if not rows or batch.numel() == 0:
        raise ArrayError(f"{name} is empty: {list(batch.shape)}")
    return rows


def signal_tokens(config: Any, inputs: Mapping[str, torch.Tensor], n_tokens: int) -> Tokens:
    """Return the tokens of an image or a sound: patches by row and column, or frames by number.

    Args:
        config: The model's config; tells the size of a patch.
        inputs: The inputs of one image or sound.
        n_tokens: How many positions the model made of it.
    """
    pixels = inputs.get("pixel_values")
    grid = None if pixels is None else _grid(config, pixels, n_tokens)
    if grid is None:
        kind = "position" if pixels is not None or hasattr(config, "patch_size") else "frame"
        return Tokens.from_names([f"{kind} {index}" for index in range(n_tokens)])
    rows, columns = grid
    n_suffix = int(getattr(config, "num_detection_tokens", 0))
    n_prefix = n_tokens - n_suffix - rows * columns
    prefix = ["[CLS]", *(f"[prefix {index}]" for index in range(1, n_prefix))][:n_prefix]
    patches = [f"{row},{column}" for row in range(rows) for column in range(columns)]
    names = [*prefix, *patches, *(f"[detection {index}]" for index in range(n_suffix))]
    return Tokens.from_names(names, [name.startswith("[") for name in names], grid=grid)


def _grid(config: Any, pixels: torch.Tensor, n_tokens: int) -> tuple[int, int] | None:
    """Return the rows and columns of patches, or `None` where they do not explain the number of tokens."""
    size = getattr(config, "patch_size", None)
    if not isinstance(size, (int, list, tuple)) or pixels.ndim != 4:
        return None
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
    n_others = n_tokens - int(getattr(config, "num_detection_tokens", 0)) - rows * columns
    return (rows, columns) if 0 <= n_others <= _MAX_PREFIX and rows * columns else None
