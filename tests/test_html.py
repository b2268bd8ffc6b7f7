"""HTML: nothing of the text gets out of its place, and what is shown is right and legible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from contrast import contrast
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
            assert set(self.spans[-1]) == {"style", "title", "data-score"}
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def data(self) -> Any:
        """The values in the page, read as a browser reads them."""
        return json.loads(next(data for inside, data in self.texts if inside == "script"))

    def text_of(self, tag: str) -> str:
        return "".join(data for inside, data in self.texts if inside == tag)


def page_of(*pieces: str, heading: str = "", title: str = "a title") -> Page:
    scores = np.linspace(0.0, 1.0, len(pieces))
    fallback = html.render_tokens(pieces, scores, heading=heading)
    return Page(html.render_page({"text": [*pieces, heading, title]}, fallback, title=title))


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text(text: str) -> None:
    page = page_of(text, heading=text, title=text)
    plain = ["html", "head", "meta", "meta", "meta", "meta", "title", "body", "main", "div", "div", "p", "p", "span"]
    assert page.tags == [*plain, "script", "script"]
    assert page.text_of("span") == text
    assert page.text_of("title") == text
    assert page.text_of("p") == text
    assert page.spans[0]["title"] == f"{text}: 0"
    assert page.data == {"text": [text] * 3}


@pytest.mark.parametrize("character", UNSAFE + TURNING)
def test_control_characters_become_a_sign(character: str) -> None:
    fallback = html.render_tokens([f"a{character}b"], np.ones(1), heading=character)
    source = html.render_page({"text": character}, fallback, title=character)
    assert character not in source
    page = Page(source)
    assert page.text_of("span") == "a\ufffdb"
    assert page.text_of("title") == page.text_of("p").strip() == "\ufffd"
    assert page.data == {"text": character}
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
    np.testing.assert_array_equal(colors_of(spans), [[255, 255, 255], [210, 231, 245], [77, 158, 216]])
    assert [span["title"] for span in spans] == ["a: 0", "b: 0.05", "c: 0.2"]


def colors_of(spans: list[dict[str, str | None]]) -> list[list[int]]:
    codes = [re.search(r"background-color:#(\w{6})", span["style"] or "").group(1) for span in spans]
    return [list(bytes.fromhex(code)) for code in codes]


@pytest.mark.parametrize("pieces", [[], ["a", "b"]])
def test_nothing_and_all_zero_make_no_color(pieces: list[str]) -> None:
    spans = Page(html.render_tokens(pieces, np.zeros(len(pieces)))).spans
    assert colors_of(spans) == [[255, 255, 255]] * len(pieces)


def test_special_tokens_are_set_apart() -> None:
    part = html.render_tokens(["[CLS]", "a"], np.ones(2), special_tokens_mask=[True, False])
    assert ["italic" in (span["style"] or "") for span in Page(part).spans] == [True, False]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        html.render_tokens(["a", "b"], np.ones(1))


def test_a_page_needs_no_network_and_may_use_none() -> None:
    source = html.render_page({}, html.render_tokens(["a"], np.ones(1)), title="t")
    assert source.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in source
    assert not re.search(r"https?:(?!//www.w3.org/2000/svg)|src=|href=|url\(|@import", source)
    program = source.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in source
    assert len(source.encode()) < 300_000


def test_the_program_and_the_data_are_ascii() -> None:
    assert html.render_page({"text": "caf\u00e9 \u2028 </script><!--"}, "", title="t").isascii()


def test_a_notebooks_output_has_no_names_that_another_could_have() -> None:
    source = html.render_output({"a": 1}, "<p>b</p>")
    assert " id=" not in source
    assert "<style" not in source
    assert source.startswith('<div class="attnflow-page"><div class="attnflow-static"><p>b</p></div>')


@pytest.mark.parametrize("share", np.linspace(0, 1, 11).tolist())
def test_text_is_legible_on_every_color(share: float) -> None:
    span = Page(html.render_tokens(["a", "b"], np.array([share, 1.0]))).spans[0]
    ink = np.array(list(bytes.fromhex(re.search(r"^.*;color:#(\w{6})", span["style"] or "").group(1))), dtype=float)
    assert contrast(ink, np.array(colors_of([span])[0], dtype=float)) >= 4.5, "WCAG AA"
