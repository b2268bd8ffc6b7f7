"""The errors' family, and the checks at the boundaries."""

from __future__ import annotations

import builtins
import inspect
import os

import numpy as np
import pytest

from attnflow_hf import errors
from attnflow_hf.errors import (
    ArrayError,
    AttnFlowError,
    OptionError,
    PositionError,
    TooLargeError,
    check_choice,
    check_finite,
    check_index,
    check_memory,
    first_line,
)

CHILDREN = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, AttnFlowError) and kind is not AttnFlowError
]


@pytest.mark.parametrize("kind", CHILDREN)
def test_each_error_is_of_the_root_and_of_a_built_in_kind(kind: type[Exception]) -> None:
    assert len(CHILDREN) >= 7
    built_in = [base for base in kind.__bases__ if base.__module__ == builtins.__name__]
    assert len(built_in) == 1
    assert built_in[0] is not Exception
    assert kind.__doc__


@pytest.mark.parametrize("value", ["Sum", "", None, 3, ["mean"], True])
def test_check_choice_quotes_the_value_and_lists_the_valid_ones(value: object) -> None:
    with pytest.raises(OptionError, match=r"unknown way .*; choose one of 'max', 'mean'$") as caught:
        check_choice("way", value, ["mean", "max"])
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("value", "nearest"), [("Mean", "mean"), ("maxx", "max")])
def test_check_choice_names_the_nearest(value: str, nearest: str) -> None:
    with pytest.raises(OptionError, match=rf"choose one of 'max', 'mean' \(did you mean '{nearest}'\?\)$"):
        check_choice("way", value, ["max", "mean"])


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError(" one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_check_choice_passes_a_valid_value() -> None:
    check_choice("way", "mean", iter(["mean", "max"]))


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (2, 2), (-1, 2), (-3, 0), (np.int64(1), 1), (np.int8(-1), 2)])
def test_check_index_counts_from_either_end(value: int, expected: int) -> None:
    index = check_index("layer", value, 3)
    assert index == expected
    assert type(index) is int


@pytest.mark.parametrize("value", [3, -4, 10**30, np.int64(3)])
def test_check_index_refuses_what_is_not_there(value: int) -> None:
    with pytest.raises(PositionError, match=rf"^layer {value} is out of range: there are 3, so use -3 to 2$"):
        check_index("layer", value, 3)
    with pytest.raises(IndexError, match="out of range"):
        check_index("layer", value, 3)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, [1]])
def test_check_index_refuses_what_is_no_integer(value: object) -> None:
    with pytest.raises(OptionError, match=r"^layer must be an integer, got "):
        check_index("layer", value, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_first_bad_entry(bad: float) -> None:
    array = np.ones((2, 3))
    array[1, 0] = array[1, 2] = bad
    with pytest.raises(ArrayError, match=rf"^scores must be finite, got {bad} at index \(1, 0\)$"):
        check_finite("scores", array)


def test_check_finite_passes_numbers_and_nothing() -> None:
    check_finite("scores", np.ones((2, 3)))
    check_finite("scores", np.zeros((0, 3)))


def _set_memory(monkeypatch: pytest.MonkeyPatch, page_size: int, n_pages: int) -> None:
    sizes = {"SC_PAGE_SIZE": page_size, "SC_PHYS_PAGES": n_pages}
    monkeypatch.setattr(os, "sysconf_names", dict.fromkeys(sizes, 0), raising=False)
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)


def test_check_memory_names_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_memory(monkeypatch, 4096, 1_000_000)
    check_memory("the table", 4_096_000_000)
    message = r"^the table would need 12,345\.7 GB of memory; this machine has 4\.1 GB$"
    with pytest.raises(TooLargeError, match=message):
        check_memory("the table", 12_345_678_900_000)
    with pytest.raises(MemoryError, match=r"need 4\.1 GB"):
        check_memory("the table", 4_096_000_001)


@pytest.mark.parametrize("n_pages", [-1, 0])
def test_check_memory_passes_where_the_system_knows_no_size(monkeypatch: pytest.MonkeyPatch, n_pages: int) -> None:
    _set_memory(monkeypatch, 4096, n_pages)
    check_memory("the table", 10**18)


@pytest.mark.parametrize("missing", ["SC_PAGE_SIZE", "SC_PHYS_PAGES"])
def test_check_memory_passes_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    _set_memory(monkeypatch, 1, 1)
    monkeypatch.delitem(os.sysconf_names, missing)
    check_memory("the table", 10**18)
    monkeypatch.delattr(os, "sysconf_names")
    check_memory("the table", 10**18)
