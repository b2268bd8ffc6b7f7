"""Every script is written in a font that has it; what none has is spelled out, with one warning."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextPath
from tokenizer_makers import byte_bpe

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import FontWarning
from attnflow_hf.plot import fonts, plot_matrix, plot_tokens
from attnflow_hf.plot.labels import text_width
from attnflow_hf.tokens import Tokens

SCRIPTS = {
    "Latin": "na\u00efve",
    "Greek": "\u03bb\u03cc\u03b3\u03bf\u03c2",
    "Hebrew": "\u05e9\u05dc\u05d5\u05dd",
    "Arabic": "\u0645\u0631\u062d\u0628\u0627",
    "Chinese": "\u4f60\u597d",
    "Japanese": "\u3053\u3093\u306b\u3061\u306f",
    "Korean": "\ud55c\uad6d\uc5b4",
    "Hindi": "\u0939\u093f\u0928\u094d\u0926\u0940",
    "emoji": "\U0001f642",
}


@pytest.fixture
def _no_fonts_but_the_users(monkeypatch):
    monkeypatch.setattr(fonts, "_entries", list)
    monkeypatch.setattr(fonts, "_add_new_system_fonts", lambda: None)


def labels_of(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_written_or_spelled_out_with_one_warning(script):
    text = SCRIPTS[script]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ax = plot_matrix(np.eye(2), ["the", text])
        ax.figure.canvas.draw()
    assert [warning.category for warning in caught] in ([], [FontWarning])  # none of matplotlib's
    is_spelled = labels_of(ax)[1] != text
    assert is_spelled == bool(caught)
    assert not (is_spelled and script in ("Latin", "Greek", "Hebrew", "Arabic"))  # matplotlib's own font has them


@pytest.mark.usefixtures("_no_fonts_but_the_users")
def test_missing_characters_are_named_once_with_a_font_to_install():
    with pytest.warns(FontWarning) as caught:
        ax = plot_tokens([1, 2, 3], ["a", "\u4f60\u597d", "x\U0001f642"])
    assert labels_of(ax) == ["a", "U+4F60U+597D", "x:slightly smilin\u2026"]
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "\u4f60 (U+4F60), \u597d (U+597D), \U0001f642 (U+1F642)" in message
    assert "install Noto Emoji (or Symbola" in message
    assert "Noto Sans CJK" in message


@pytest.mark.usefixtures("_no_fonts_but_the_users")
def test_many_missing_characters_are_counted():
    with pytest.warns(FontWarning, match=r"and 18 more: .* install Noto Sans Devanagari"):
        fonts.legible(["".join(map(chr, range(0x905, 0x905 + 30)))], ["DejaVu Sans"])


def make_font(path, family, characters):
    """Write a font in which each of the characters is a square."""
    pen = TTGlyphPen(None)
    for index, point in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if index else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(c): "square" for c in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)


def test_an_installed_font_is_found_that_matplotlib_does_not_know_yet(tmp_path, monkeypatch):
    character = "\U00010900"  # Phoenician, of which few machines have a font
    make_font(tmp_path / "squares.ttf", "Squares of a Test", character)
    monkeypatch.setattr(fontManager, "ttflist", [f for f in fontManager.ttflist if "Phoenician" not in f.name])
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(tmp_path / "squares.ttf")])
    fonts._add_new_system_fonts.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot_tokens([1, 2], ["a", character])
        ax.figure.canvas.draw()
    fonts._add_new_system_fonts.cache_clear()
    assert labels_of(ax) == ["a", character]
    assert "Squares of a Test" in ax.get_xticklabels()[1].get_fontfamily()


def test_the_users_font_comes_first():
    assert fonts.font_families(["abc"])[0] == "sans-serif"


def test_han_is_written_as_the_texts_language_does():
    names = ["Noto Serif CJK SC", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans CJK JP", "DejaVu Sans"]
    for text, first in ((SCRIPTS["Japanese"], "JP"), (SCRIPTS["Korean"], "KR"), (SCRIPTS["Chinese"], "SC")):
        ranked = sorted(names, key=lambda name, text=text: fonts._rank(name, [text, "\u8a9e"]))
        assert ranked[0] == f"Noto Sans CJK {first}"
        assert ranked[-1] == "Noto Serif CJK SC"


def path_of(text):
    return TextPath((0, 0), text, size=100, prop=FontProperties(family="DejaVu Sans"))


def test_hebrew_runs_from_right_to_left():
    first, both = path_of("\u05d1"), path_of("\u05d0\u05d1")  # bet; alef, bet
    np.testing.assert_allclose(both.vertices[: len(first.vertices)], first.vertices, atol=1e-6)


def test_arabic_letters_are_joined():
    word = SCRIPTS["Arabic"]
    assert text_width(word, ("DejaVu Sans",)) < 0.9 * sum(text_width(letter, ("DejaVu Sans",)) for letter in word)


def test_byte_tokens_are_written_as_the_text_they_stand_for():
    text = "caf\u00e9 \u05e9\u05dc\u05d5\u05dd"
    encoding = byte_bpe()(text)._encodings[0]
    tokens = Tokens.from_encoding(encoding, np.ones(len(encoding.ids), dtype=bool), texts=(text,))
    assert any("\u0120" in token or "\u00d7" in token for token in tokens.tokens)  # as the tokenizer spells bytes
    scores = np.arange(len(tokens)) + 1.0
    attribution = Attribution(tokens, scores, method="raw", backend="numpy", output_position=0, layer=0)
    ax = plot_tokens(attribution)
    letters = "".join(label.get_text().strip() for label in ax.get_xticklabels())
    assert set(letters) <= {*text, "\u0120"}  # alone, the sign stands for a space
    assert set(letters) >= set("\u05e9\u05dc\u05d5\u05dd")
    assert [bar.get_height() for bar in ax.patches] == scores.tolist()
