"""A model and its tokenizer by name: of the hub, of a folder, or the embedded one."""

from __future__ import annotations

import errno
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from attnflow_hf.capture import report_on
from attnflow_hf.errors import CaptureError

EMBEDDED_MODEL = "verb_number"


def load_model(
    name_or_path: str | Path | None,
    *,
    revision: str = "main",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Return a model and its tokenizer, `None` for a model that reads no text; see `Attributor.from_pretrained`.

    Raises:
        OSError: Transformers does not find the model or its tokenizer.
    """
    source = str(files("attnflow_hf") / EMBEDDED_MODEL) if name_or_path is None else _check_source(name_or_path)
    tokenizer_options = {"revision": revision, "trust_remote_code": trust_remote_code}
    shared: dict[str, Any] = dict(tokenizer_options)
    config = AutoConfig.from_pretrained(source, **shared)
    loader = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    if dtype is not None:
        shared["dtype"] = dtype

    def load(implementation: str | None) -> PreTrainedModel:
        named = {} if implementation is None else {"attn_implementation": implementation}
        model: PreTrainedModel = loader.from_pretrained(source, **shared, **named)
        return model if device is None else model.to(device)  # type: ignore[arg-type]

    model = load(attn_implementation)
    if attn_implementation is None and model.config._attn_implementation != "eager" and not _can_be_captured(model):
        model = load("eager")
    reads_text = model.main_input_name == "input_ids"
    tokenizer = AutoTokenizer.from_pretrained(source, **tokenizer_options) if reads_text else None
    return model, tokenizer


def _check_source(name_or_path: str | Path) -> str:
    """Return a hub name or an existing folder; the hub's own message about a missing folder speaks of names."""
    source = os.fspath(name_or_path)
    if (isinstance(name_or_path, Path) or source.startswith(("/", "."))) and not Path(source).is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", source)
    return source


def _can_be_captured(model: PreTrainedModel) -> bool:
    try:
        report_on(model)
    except CaptureError:
        return False
    return True
