"""A model for the command: loaded by name, without noise, with a message that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import first_line


def load_attributor(model: str | None, options: Mapping[str, Any] | None = None) -> Attributor:
    """Return an attributor for a model.

    Args:
        model: A hub name or a folder, `None` for the embedded model.
        options: The other arguments of `Attributor.from_pretrained`.

    Raises:
        OSError: The model cannot be loaded; the message names it.
    """
    _quiet_transformers()
    try:
        return Attributor.from_pretrained(model, **(options or {}))
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        name = "embedded model" if model is None else f"model {model!r}"
        raise OSError(f"cannot load the {name}: {first_line(error)}") from error


def _quiet_transformers() -> None:
    """Keep loading bars and advice off the output: what matters comes as an error."""
    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
