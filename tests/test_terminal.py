"""Tables: they fit, their bars are true, and no text steers the terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from attnflow_hf import terminal

EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"
WIDTHS = [20, 40, 60, 80, 120, 300]
LABELS = [
    "[CLS]",
    "the",
    "\u0120cabinets",
    "averylongtoken" * 5,
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8" * 3,
    "\u05e9\u05dc",
]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def columns_of(*names: str, n: int = len(LABELS)) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(i).random(n) for i, name in enumerate(names)}


def bar_lengths(table: str, column: int, n_columns: int, *, n_rows: int) -> list[float]:
    """Return the lengths of a column's bars in cells."""
    lines = table.splitlines()[1 : n_rows + 1]
    found = []
    for line in lines:
        cells = re.split(r"\d\.\d{4}", line)[1:]
        assert len(cells) == n_columns
        found.append(sum(EIGHTHS.index(character) / 8 for character in cells[column]))
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("names", [("flow",), ("raw", "rollout", "flow")])
def test_tables_fit_and_lose_nothing(width: int, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = columns_of(*names)
    table = terminal.render_table(LABELS, columns)
    assert max(cell_len(line) for line in table.splitlines()) <= min(width, 100)
    if width < 40:
        return
    for scores in columns.values():
        assert all(f"{score:.4f}" in table for score in scores)
    assert all(name in table.splitlines()[0] for name in names)
    stripped = re.sub(rf"[\s{EIGHTHS}]|\d\.\d{{4}}", "", table)
    assert all(label in stripped for label in LABELS)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_bars_are_proportional(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    scores = np.array([0.0, 0.1, 0.2, 0.4])
    table = terminal.render_table(list("abcd"), {"flow": scores})
    lengths = bar_lengths(table, 0, 1, n_rows=4)
    assert lengths[-1] >= 4
    assert lengths[-1] == int(lengths[-1])
    np.testing.assert_allclose(lengths, scores / 0.4 * lengths[-1], rtol=0, atol=1 / 8)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_each_column_has_its_own_scale_and_the_same_room(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = {"raw": np.array([1.0, 0.5]), "rollout": np.array([0.01, 0.02]), "flow": np.array([0.0, 0.0])}
    table = terminal.render_table(list("ab"), columns)
    raw, rollout, flow = (bar_lengths(table, i, 3, n_rows=2) for i in range(3))
    assert raw == rollout[::-1]
    np.testing.assert_allclose(raw[1], raw[0] / 2, rtol=0, atol=1 / 8)
    assert flow == [0, 0]


def test_a_narrow_terminal_leaves_all_bars_out_rather_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = terminal.render_table(LABELS, columns_of("raw", "rollout", "flow"))
    assert not set(table) & set(EIGHTHS[1:])
    assert "\u2588" in terminal.render_table(LABELS, columns_of("raw"))


ESCAPES = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\x08",
    "\x00",
    "\x7f",
    "\u202e",
    "\u2066",
    "\udcff",
]


@pytest.mark.parametrize("text", ESCAPES)
@pytest.mark.parametrize("place", ["label", "column", "title", "notes"])
def test_no_text_steers_the_terminal(text: str, place: str) -> None:
    label, column = (text if place == name else name for name in ("label", "column"))
    more = {name: text for name in ("title", "notes") if place == name}
    table = terminal.render_table([label], {column: np.ones(1)}, **more)
    assert all(character.isprintable() or character == "\n" for character in table)
    assert re.sub(r"\s", "", terminal.printable(text)) in re.sub(r"\s", "", table)
    table.encode("utf-8")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=20))
def test_printable_text_is_printable(text: str) -> None:
    shown = terminal.printable(text)
    assert all(character.isprintable() or character in "\n\u200c\u200d" for character in shown)
    if text.isprintable():
        assert shown == text


def test_printable_keeps_what_spells_words() -> None:
    for text in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "two\nlines",
    ):
        assert terminal.printable(text) == text


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", ":smile:", "[link=http://x]y"])
def test_markup_is_text(text: str) -> None:
    table = terminal.render_table([text], {text: np.ones(1)}, title=text, notes=text)
    assert table.count(text) == 4


def test_a_label_is_one_row() -> None:
    assert "a\\nb" in terminal.render_table(["a\nb"], {"flow": np.ones(1)})


def test_title_above_and_notes_below() -> None:
    lines = terminal.render_table(["a"], {"flow": np.ones(1)}, title="one\ntwo", notes="three").splitlines()
    assert lines[:2] == ["one", "two"]
    assert lines[-1] == "three"
    assert lines[2].split() == ["token", "flow"]
    assert len(terminal.render_table(["a"], {"flow": np.ones(1)}).splitlines()) == 2


LONG = "flow says little about this position: its values are limited by: source side 50%, sink column 50%"


@pytest.mark.parametrize("width", [30, 40, 80])
def test_lines_around_the_table_are_wrapped_between_words_on_terminals(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert terminal.render_table(["a"], {"flow": np.ones(1)}, title=LONG, notes=LONG).count(LONG) == 2
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.render_table(["a"], {"flow": np.ones(1)}, title=LONG, notes=LONG))
    assert max(map(len, shown.splitlines())) <= width
    assert re.sub(r"\s+", " ", shown).count(LONG) == 2


@pytest.mark.parametrize("width", [40, 80])
def test_text_from_right_to_left_turns_no_number_around(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    labels = ["the", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627 " * 5]
    lines = terminal.render_table(labels, columns_of("raw", "flow", n=3)).splitlines()[1:]
    assert "\u200e" not in lines[0]
    for line in (line for line in lines[1:] if "0." in line):
        turned = [place for place, character in enumerate(line) if unicodedata.bidirectional(character) in ("R", "AL")]
        assert line.index("\u200e") < turned[0]
        assert re.findall(r".(?=\d\.\d{4})", line) == ["\u200e", "\u200e"]
    first, second = (cell_len(line.partition("0.")[0]) for line in lines[:2])
    assert first == second


def test_files_and_pipes_get_no_colors() -> None:
    assert "\x1b" not in terminal.render_table(LABELS, columns_of("flow"), title="t", notes="n")


def test_terminals_get_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = terminal.render_table(LABELS, columns_of("flow"))
    assert re.search("\x1b\\[[0-9;]*38;", colored)
    assert "\x1b" not in terminal.render_table(LABELS, columns_of("flow"), title="t", notes="n", color=False)


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search("\x1b\\[[0-9;]*[349][0-9]", terminal.render_table(LABELS, columns_of("flow"), notes="n"))


def test_an_empty_table_is_a_header() -> None:
    assert terminal.render_table([], {"flow": np.zeros(0)}).split() == ["token", "flow"]
