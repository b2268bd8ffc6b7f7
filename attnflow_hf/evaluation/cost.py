"""`Cost`: wall time and peak memory of a call, and honestly what of the memory was seen."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from attnflow_hf.errors import OptionError

Result = TypeVar("Result")
RESET = "resident memory of the process, its peak reset before the call"
HIGH_WATER = "resident memory of the process above its earlier peak: a lower bound"
CUDA = "memory allocated by PyTorch on the GPU"
UNKNOWN = "not measured: this system does not tell"
_MB = 1e6


@dataclass(frozen=True)
class Cost:
    """What a call took.

    Attributes:
        milliseconds: Wall time per sentence.
        n_sentences: How many the call worked on.
        peak_memory_mb: The peak of memory during the call above what was there before, in 10^6 bytes; `None` where it
            cannot be seen.
        memory: What of the memory was seen. On Linux the resident memory of the whole process, its peak reset by the
            kernel before the call: it holds what Python, NumPy and torch take alike, other threads' memory too. What
            was freed before is given back to the system first, where glibc can; else what the call takes from that is
            missed. On other systems the peak of the process's whole life, so that a call which stays below an earlier
            peak seems to need none. On a GPU what PyTorch allocated there, and not the CPU's.
    """

    milliseconds: float
    n_sentences: int
    peak_memory_mb: float | None
    memory: str

    def to_row(self) -> dict[str, Any]:
        """Return the columns of a results table."""
        return {"milliseconds": self.milliseconds, "peak_memory_mb": self.peak_memory_mb, "memory": self.memory}


def measured_cost(
    function: Callable[[], Result], *, n_sentences: int, device: str | torch.device = "cpu"
) -> tuple[Result, Cost]:
    """Return what a call returns, and what it took.

    The call is made once: make another before it, so that what is compiled or loaded on first use is not measured.

    Args:
        function: What is called, without arguments.
        n_sentences: How many sentences it works on.
        device: Where the model is. On `"cuda"` the GPU is waited for before and after, the memory is the GPU's, and
            PyTorch's own record of its peak is reset.

    Raises:
        OptionError: There is no sentence, or no such GPU.

    Example:
        >>> result, cost = measured_cost(lambda: sum(range(1000)), n_sentences=1)
        >>> result, cost.n_sentences
        (499500, 1)
    """
    if isinstance(n_sentences, bool) or not isinstance(n_sentences, int) or n_sentences < 1:
        raise OptionError(f"n_sentences must be a positive integer, got {n_sentences!r}")
    place = torch.device(device)
    if place.type == "cuda":
        return _on_gpu(function, n_sentences, place)
    before, memory = _start()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    after = None if before is None else _peak(memory)
    peak = None if before is None or after is None else max(after - before, 0) / _MB
    return result, Cost(1000 * seconds / n_sentences, n_sentences, peak, memory)


def _on_gpu(function: Callable[[], Result], n_sentences: int, device: torch.device) -> tuple[Result, Cost]:
    if not torch.cuda.is_available():
        raise OptionError(f"device {str(device)!r} is not there: PyTorch sees no GPU")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, start = torch.cuda.memory_allocated(device), time.perf_counter()
    result = function()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated(device) - before) / _MB
    return result, Cost(1000 * seconds / n_sentences, n_sentences, peak, CUDA)


def _start() -> tuple[int | None, str]:
    """Return the bytes of memory that a peak is counted from, and how the peak is seen."""
    try:
        _give_back()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: the peak starts anew
        return _peak(RESET), RESET
    except OSError:
        pass  # no Linux, or not allowed: the peak of the whole life is left
    peak = _peak(HIGH_WATER)
    return (None, UNKNOWN) if peak is None else (peak, HIGH_WATER)


def _give_back() -> None:
    """Give the system the memory that was freed and is held on to, so that it counts when it is taken again.

    glibc can; where another library stands for it, what is taken from such memory is not seen.
    """
    if sys.platform == "linux":
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _peak(memory: str) -> int | None:
    """Return the peak of the process's resident memory, in bytes."""
    if memory == RESET:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
