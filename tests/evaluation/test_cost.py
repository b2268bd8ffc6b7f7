"""What a call took: its time, and what of its memory the system shows."""

import platform
import sys
import time

import numpy as np
import pytest
import torch

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import cost, measured_cost

MEGABYTES = 64


def fill():
    return float(np.ones(MEGABYTES * 1_000_000, dtype=np.uint8).max())


def test_time_is_per_sentence():
    result, found = measured_cost(lambda: time.sleep(0.2) or "done", n_sentences=4)
    assert (result, found.n_sentences) == ("done", 4)
    assert 50 <= found.milliseconds < 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_memory_of_numpy_is_seen_each_time():
    for _ in range(2):
        _, found = measured_cost(fill, n_sentences=1)
        if found.memory != cost.RESET:
            pytest.skip("this kernel does not let a process reset its peak")
        np.testing.assert_allclose(found.peak_memory_mb, MEGABYTES, rtol=0, atol=8)
    _, found = measured_cost(lambda: None, n_sentences=1)
    assert found.peak_memory_mb < 8


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives memory back")
def test_memory_that_was_freed_and_held_is_seen_too():
    blocks = 64_000  # of 1,000 bytes each, below what the system is asked for by itself

    def fill_blocks():
        return [bytes(1_000) for _ in range(blocks)]

    filled, above = fill_blocks(), bytes(1_000)  # which keeps the system from taking back what lies below it
    del filled
    _, found = measured_cost(fill_blocks, n_sentences=1)
    if found.memory != cost.RESET or platform.libc_ver()[0] != "glibc":
        pytest.skip("this system does not let a process reset its peak, or give memory back")
    np.testing.assert_allclose(found.peak_memory_mb, MEGABYTES, rtol=0, atol=16)
    assert len(above) == 1_000


def test_where_the_peak_cannot_be_reset_it_is_that_of_the_whole_life(monkeypatch):
    pytest.importorskip("resource")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(cost.Path, "write_text", refuse)
    fill()
    _, found = measured_cost(fill, n_sentences=1)
    assert found.memory == cost.HIGH_WATER
    assert 0 <= found.peak_memory_mb < 8  # the first call's peak hides that of the second: a lower bound, as is said


def test_where_nothing_is_told_nothing_is_said(monkeypatch):
    monkeypatch.setattr(cost, "_start", lambda: (None, cost.UNKNOWN))
    _, found = measured_cost(fill, n_sentences=1)
    assert (found.peak_memory_mb, found.memory) == (None, cost.UNKNOWN)
    assert found.to_row()["peak_memory_mb"] is None


def test_errors_of_the_call_come_through():
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        measured_cost(lambda: 1 / 0, n_sentences=1)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_bad_numbers_of_sentences(n):
    with pytest.raises(OptionError, match="n_sentences must be a positive integer"):
        measured_cost(fill, n_sentences=n)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(OptionError, match="device 'cuda' is not there"):
        measured_cost(fill, n_sentences=1, device="cuda")


@pytest.mark.gpu
def test_memory_of_the_gpu():
    size = 16_000_000  # numbers of 4 bytes, which a sum needs no copy of
    _, found = measured_cost(lambda: torch.ones(size, device="cuda").sum().item(), n_sentences=1)
    assert found.memory != cost.CUDA
    _, found = measured_cost(lambda: torch.ones(size, device="cuda").sum().item(), n_sentences=1, device="cuda")
    assert found.memory == cost.CUDA
    np.testing.assert_allclose(found.peak_memory_mb, 64, rtol=0, atol=8)
