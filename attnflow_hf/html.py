"""Plain tokens, scores and values to HTML: a line of colored tokens, one self-contained page, a notebook's output."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from attnflow_hf.errors import FloatArray

DATA_ID = "attnflow-data"
"""The `id` of the element of a page that holds its data."""

_SCRIPTS = ("numbers.js", "max_flow.js", "parts.js", "graph.js", "text.js", "page.js")
_EMPTY, _FULL = np.array([255, 255, 255]), np.array([77, 158, 216])  # the page's own colors in light mode
_TOKEN = "color:#14171a;padding:2px 4px;border-radius:3px;white-space:pre-wrap;unicode-bidi:isolate"


def render_tokens(
    pieces: Sequence[str],
    scores: FloatArray,
    *,
    heading: str = "",
    special_tokens_mask: Sequence[bool] = (),
    direction: str = "ltr",
) -> str:
    """Return one text as a line of tokens whose color is their score, as an HTML fragment without scripts.

    The color runs from none (0) to full (the largest score of the text) and leaves the text legible; the value is in
    each token's tooltip and in its `data-score`. All text is escaped, control characters are replaced; styles are
    in the elements, for viewers that take style sheets away.

    Args:
        pieces: What to show for each token, in reading order.
        scores: Nonnegative `[token]`.
        heading: A line above the text.
        special_tokens_mask: Which tokens are set apart as special.
        direction: `"ltr"` or `"rtl"`.
    """
    largest = float(np.max(scores, initial=0.0))
    shares = scores / largest if largest > 0 else np.zeros(len(scores))
    special = special_tokens_mask if len(special_tokens_mask) else [False] * len(pieces)
    spans = [
        _span(piece, float(score), float(share), bool(flag))
        for piece, score, share, flag in zip(pieces, scores, shares, special, strict=True)
    ]
    return (
        f'{render_heading(heading) if heading else ""}<p dir="{direction}" style="line-height:2">{" ".join(spans)}</p>'
    )


def render_heading(text: str) -> str:
    """Return a line of small print, as an HTML fragment."""
    return f'<p style="font-size:small">{_escape(text)}</p>'


def render_note(text: str) -> str:
    """Return a line of small print that stands below a text, as an HTML fragment."""
    return f'<p style="font-size:small"><em>{_escape(text)}</em></p>'


def render_output(values: Mapping[str, Any], fallback: str) -> str:
    """Return what a notebook shows: live where scripts run, the colored tokens of `fallback` elsewhere.

    The script puts all it draws behind a shadow root, so that no style of the notebook gets in and none gets out.

    Args:
        values: What the page's script reads, for JSON.
        fallback: HTML without scripts.
    """
    return _host(values, fallback, "") + f"<script>{_script()}</script>"


def render_page(values: Mapping[str, Any], fallback: str, *, title: str) -> str:
    """Return a complete page: one file that needs no network, and whose policy forbids it any.

    Args:
        values: What the page's script reads, for JSON; `page_data` takes it out again.
        fallback: HTML without scripts, for readers who have none.
        title: Of the window.
    """
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{_escape(title)}</title></head><body style="margin:0"><main>'
        f"{_host(values, fallback, DATA_ID)}</main><script>{_script()}</script></body></html>\n"
    )


def page_data(text: str) -> Any:
    """Return the values that `render_page` put into a page, or those of the JSON file that the page saves.

    Raises:
        ValueError: The text is neither.
    """
    mark = f'<script type="application/json" id="{DATA_ID}">'
    inside = text.partition(mark)[2].partition("</script>")[0] if mark in text else text
    return json.loads(inside)


def displayed(text: str) -> str:
    """Return `text` with a sign for control characters, lone surrogates and the marks that turn what follows."""
    return "".join("\ufffd" if _is_unsafe(character) else character for character in text)


def _host(values: Mapping[str, Any], fallback: str, data_id: str) -> str:
    data = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    attribute = f' id="{data_id}"' if data_id else ""
    return (
        f'<div class="attnflow-page"><div class="attnflow-static">{fallback}</div>'
        f'<script type="application/json"{attribute}>{data}</script></div>'
    )


@cache
def _script() -> str:
    """Return the page's program, with its style; the same for all pages."""
    folder = files("attnflow_hf") / "browser"
    parts = [(folder / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    style = json.dumps((folder / "page.css").read_text(encoding="utf-8"))
    return '(() => {\n"use strict";\n' + f"const STYLE = {style};\n" + "\n".join(parts) + "\n})();"


def _span(piece: str, score: float, share: float, is_special: bool) -> str:
    color = "#" + bytes(np.rint(_EMPTY + share * (_FULL - _EMPTY)).astype(np.uint8)).hex()
    text = _escape(piece)
    style = f"background-color:{color};{_TOKEN}" + (";font-style:italic" if is_special else "")
    return f'<span style="{style}" title="{text}: {score:.6g}" data-score="{score!r}">{text}</span>'


def _escape(text: str) -> str:
    """Return `text` safe inside HTML text and attributes."""
    return escape(displayed(text), quote=True)


def _is_unsafe(character: str) -> bool:
    code = ord(character)
    turns = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return turns or (code < 32 and character not in "\t\n") or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000
