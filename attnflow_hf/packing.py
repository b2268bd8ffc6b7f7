"""Arrays of numbers as JSON values and back, without loss: short ones as lists, long ones as base64 of their bytes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from attnflow_hf.errors import FloatArray

_MAX_LISTED = 512
_DTYPES = ("<f4", "<f8")


def pack(array: npt.NDArray[np.floating]) -> Any:
    """Return `array` as a JSON value: nested lists up to 512 numbers, else `{"dtype", "shape", "base64"}`.

    The bytes are little-endian, in C order; float32 (`"<f4"`) where that holds every number exactly, else float64.

    Args:
        array: Finite numbers of any shape.
    """
    if array.size <= _MAX_LISTED:
        return array.tolist()
    with np.errstate(over="ignore", under="ignore"):
        narrow = array.astype("<f4")
    kept = narrow if np.array_equal(narrow, array) else array.astype("<f8")
    return {"dtype": kept.dtype.str, "shape": list(kept.shape), "base64": base64.b64encode(kept.tobytes()).decode()}


def unpack(value: Any) -> FloatArray:
    """Return the float64 array that `pack` made `value` of.

    Raises:
        ValueError: `pack` makes no such value.
    """
    if not isinstance(value, dict):
        return np.array(value, dtype=np.float64)
    if value.get("dtype") not in _DTYPES:
        raise ValueError(f"numbers of type {value.get('dtype')!r}, known are {', '.join(_DTYPES)}")
    data = base64.b64decode(value["base64"], validate=True)
    return np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"]).astype(np.float64)
