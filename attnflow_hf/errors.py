"""Every exception of the package, and the checks of options, indices and arrays used at its boundaries."""

import difflib
import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class AttnFlowError(Exception):
    """Root of all errors that this package raises on purpose."""


class OptionError(AttnFlowError, ValueError):
    """An option has a value that it cannot have."""


class PositionError(AttnFlowError, IndexError):
    """A layer, head or position lies outside of what is there."""


class ArrayError(AttnFlowError, ValueError):
    """An array has the wrong shape, or entries that it must not have."""


class TextError(AttnFlowError, ValueError):
    """A text is empty, or longer than the model can read."""


class TokenizerError(AttnFlowError, ValueError):
    """A tokenizer is missing, does not belong to the model, or cannot tell what is asked of it."""


class CaptureError(AttnFlowError, RuntimeError):
    """A model gives no attentions, or some that cannot be made into a layer graph."""


class FlowError(AttnFlowError, RuntimeError):
    """A maximum flow was not finished, or a certificate does not hold."""


class TooLargeError(AttnFlowError, MemoryError):
    """What is asked for needs more memory than the machine has."""


class FileFormatError(AttnFlowError, ValueError):
    """A file is not what it should be."""


class DatasetError(AttnFlowError, OSError):
    """A data set is not there, or cannot be read."""


class SaturationWarning(UserWarning):
    """Nearly all flow values are set by cuts at the two ends, so that they say little about the output position."""


class FontWarning(UserWarning):
    """No installed font has a character of a picture's labels."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `OptionError` unless `value` is one of `choices`.

    Args:
        name: What the option is called, for the message.
        value: What the user gave.
        choices: The valid values.

    Raises:
        OptionError: It names the value and lists the valid ones.
    """
    valid = sorted(choices)
    if not isinstance(value, str) or value not in valid:
        listed = ", ".join(repr(choice) for choice in valid)
        raise OptionError(f"unknown {name} {value!r}; choose one of {listed}{guess(value, valid)}")


def guess(value: object, choices: Iterable[str]) -> str:
    """Return a question after the choice that is spelled like `value`, for the end of a message; empty if none is."""
    close = difflib.get_close_matches(value, list(choices), n=1) if isinstance(value, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_index(name: str, value: object, size: int) -> int:
    """Return `value` as a nonnegative index below `size`; negative values count from the end.

    Args:
        name: What the index is called, for the message.
        value: What the user gave.
        size: How many there are.

    Raises:
        OptionError: `value` is no integer.
        PositionError: `value` lies outside `-size .. size - 1`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise OptionError(f"{name} must be an integer, got {value!r}")
    if not -size <= value < size:
        raise PositionError(f"{name} {value} is out of range: there are {size}, so use {-size} to {size - 1}")
    return int(value) % size


def check_memory(what: str, n_bytes: int) -> None:
    """Raise `TooLargeError` if `n_bytes` are more than the machine's memory, before any of it is taken.

    Args:
        what: What needs the memory, for the message.
        n_bytes: How much.

    Raises:
        TooLargeError: It names both sizes.
    """
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        return  # the system does not tell; NumPy's MemoryError names the size
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > available > 0:
        raise TooLargeError(
            f"{what} would need {n_bytes / 1e9:,.1f} GB of memory; this machine has {available / 1e9:,.1f} GB"
        )


def check_finite(name: str, array: npt.NDArray[np.floating]) -> None:
    """Raise `ArrayError` if `array` has an entry that is NaN or infinite.

    Args:
        name: What the array is called, for the message.
        array: Any shape.

    Raises:
        ArrayError: It names the first such entry and its index.
    """
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ArrayError(f"{name} must be finite, got {array[index]} at index {index}")
