"""Values for JSON and back, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all; devices, pipes and links are written through."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", os.fspath(path.parent))
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def to_plain(value: Any) -> Any:
    """Return `value` without arrays, tuples and dataclasses."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def field_values(value: Any, convert: Callable[[Any], Any] = to_plain, *, without: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass, all but one, each as `convert` makes it."""
    return {field.name: convert(getattr(value, field.name)) for field in fields(value) if field.name != without}


def read_token_field(name: str, values: dict[str, Any]) -> Any:
    """Return a field of `Tokens` from the plain values of `to_plain`."""
    value = values[name]
    if name == "special_tokens_mask":
        if not all(isinstance(flag, bool) for flag in value):
            raise TypeError(f"{name} must be true or false for each token")
        return np.array(value, dtype=bool)
    if name in ("input_ids", "positions", "offsets") and value is not None:
        if np.array(value).size and np.array(value).dtype.kind != "i":
            raise TypeError(f"{name} must be integers")
        return np.array(value, dtype=np.int64).reshape((-1, 2) if name == "offsets" else -1)
    if name in ("tokens", "texts", "parts") and not isinstance(value, list):
        raise TypeError(f"{name} must be a list")
    return tuple(value) if isinstance(value, list) else value
