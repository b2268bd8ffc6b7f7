"""HTML: nothing of the text gets out of its place, and what is shown is right and legible."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnflow_hf import html

VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "</span></p></div></style>",
    "<!--",
    "]]>",
    "&amp; &lt;b&gt; &#60;",
    "javascript:alert(1)",
    "{color:red}",
]
UNSAFE = [*map(chr, (0, 7, 8, 11, 12, 13, 27, 31, 127, 0x80, 0x85, 0x9B, 0xD800, 0xDFFF))]
TURNING = [*map(chr, (0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069))]


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps tags, tokens and the texts outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.spans: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "span":
            self.spans.append(dict(attrs))
            assert set(self.spans[-1]) == {"class", "style", "title", "data-score"}
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_of(self, tag: str) -> str:
        return "".join(data for inside, data in self.texts if inside == tag)


def page_of(*pieces: str, heading: str = "", title: str = "a title") -> Page:
    scores = np.linspace(0.0, 1.0, len(pieces))
    return Page(html.render_page([html.render_tokens(pieces, scores, heading=heading)], title=title))


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text(text: str) -> None:
    page = page_of(text, heading=text, title=text)
    plain = ["html", "head", "meta", "meta", "meta", "title", "body", "div", "style", "p", "p", "span"]
    assert page.tags == plain
    assert page.text_of("span") == text
    assert page.text_of("title") == text
    assert page.text_of("p") == text
    assert page.spans[0]["title"] == f"{text}: 0"


@pytest.mark.parametrize("character", UNSAFE + TURNING)
def test_control_characters_become_a_sign(character: str) -> None:
    source = html.render_page([html.render_tokens([f"a{character}b"], np.ones(1), heading=character)], title=character)
    assert character not in source
    page = Page(source)
    assert page.text_of("span") == "a\ufffdb"
    assert page.text_of("title") == page.text_of("p").strip() == "\ufffd"
    source.encode("utf-8")


def test_other_text_is_shown_as_it_is() -> None:
    pieces = ["caf\u00e9", "\u65e5\u672c", "\u05e9\u05dc", "\U0001f468\u200d\U0001f469", "\u200e", "a\nb\tc", "e\u0301"]
    page = page_of(*pieces)
    assert [data for inside, data in page.texts if inside == "span"] == pieces


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=12))
def test_any_text_makes_a_page(text: str) -> None:
    page = page_of(text, heading=text, title=text)
    assert page.tags.count("span") == 1
    shown = "".join(
        "\ufffd" if c in UNSAFE + TURNING or 0x7F <= ord(c) < 0xA0 or "\ud800" <= c < "\ue000" else c for c in text
    )
    assert re.sub(r"[\x00-\x08\x0b-\x1f]", "\ufffd", shown) == page.text_of("span")


def test_scores_are_exact_in_data_and_relative_in_color() -> None:
    scores = np.array([0.1, 1 / 3, 5e-324, 0.0, 1e300])
    spans = Page(html.render_tokens(list("abcde"), scores)).spans
    assert [float(span["data-score"]) for span in spans] == scores.tolist()
    spans = Page(html.render_tokens(list("abc"), np.array([0.0, 0.05, 0.2]))).spans
    assert [span["style"] for span in spans] == ["--w:0.000", "--w:0.250", "--w:1.000"]
    assert [span["title"] for span in spans] == ["a: 0", "b: 0.05", "c: 0.2"]


@pytest.mark.parametrize("pieces", [[], ["a", "b"]])
def test_nothing_and_all_zero_make_no_color(pieces: list[str]) -> None:
    spans = Page(html.render_tokens(pieces, np.zeros(len(pieces)))).spans
    assert [span["style"] for span in spans] == ["--w:0.000"] * len(pieces)


def test_special_tokens_are_set_apart() -> None:
    part = html.render_tokens(["[CLS]", "a"], np.ones(2), special_tokens_mask=np.array([True, False]))
    assert [span["class"] for span in Page(part).spans] == ["token special", "token"]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        html.render_tokens(["a", "b"], np.ones(1))


def test_a_page_needs_no_network() -> None:
    source = html.render_page([html.render_tokens(["a"], np.ones(1))], title="t")
    assert source.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in source
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script", source)


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_is_legible_on_every_color(is_dark: bool) -> None:
    background, text, (fill, most) = _colors(is_dark)
    for share in np.linspace(0, 1, 101):
        mixed = (1 - share * most) * background + share * most * fill
        assert _contrast(text, mixed) >= 4.5, "WCAG AA"
    assert _contrast(background, (1 - most) * background + most * fill) > 3, "the largest score must stand out"


def _colors(is_dark: bool) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, float]]:
    """Return background, text and token color with its largest opacity, read out of the style."""
    light, dark = html._STYLE.split("@media")
    part = dark if is_dark else light
    background = re.search(r"\.attnflow\{[^}]*background:#(\w+)", part).group(1)
    token = re.search(r"\.attnflow \.token\{([^}]*)\}", part, re.DOTALL).group(1)
    text = re.search(r"(?<![-\w])color:#(\w+)", token).group(1)
    red, green, blue, most = re.search(
        r"background:rgba\((\d+),(\d+),(\d+),calc\(var\(--w\)\*([.\d]+)\)\)", token
    ).groups()
    return _rgb(background), _rgb(text), (np.array([red, green, blue], dtype=float), float(most))


def _rgb(code: str) -> np.ndarray:
    full = code if len(code) == 6 else "".join(digit * 2 for digit in code)
    return np.array([int(full[i : i + 2], 16) for i in (0, 2, 4)], dtype=float)


def _contrast(one: np.ndarray, two: np.ndarray) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted(_luminance(color) for color in (one, two))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: np.ndarray) -> float:
    share = color / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
