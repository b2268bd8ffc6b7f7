"""Plain tokens and scores to one self-contained HTML string."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from attnflow_hf.errors import FloatArray

_STYLE = """
.attnflow{font:16px/2.1 system-ui,sans-serif;color:#1a1a1a;background:#fff;padding:.6em 1em;border-radius:6px;
max-width:60em}
.attnflow .head{font-size:.8em;line-height:1.6;color:#555;margin:.4em 0 0}
.attnflow .note{font-size:.8em;line-height:1.6;font-style:italic;color:#555;margin:-.4em 0 .8em}
.attnflow .text{margin:.1em 0 .6em;overflow-wrap:anywhere}
.attnflow .token{padding:.2em .25em;margin:0 .08em;border-radius:.25em;white-space:pre-wrap;unicode-bidi:isolate;
-webkit-box-decoration-break:clone;box-decoration-break:clone;color:#000;background:rgba(0,114,178,calc(var(--w)*.9));
border-bottom:.16em solid rgba(0,114,178,var(--w))}
.attnflow .special{font-size:.8em;font-style:italic}
@media (prefers-color-scheme:dark){.attnflow{color:#eee;background:#16181c}.attnflow .head,.attnflow .note{color:#aaa}
.attnflow .token{color:#fff;background:rgba(0,140,220,calc(var(--w)*.8));border-color:rgba(86,180,233,var(--w))}}
"""


def render_tokens(
    pieces: Sequence[str], scores: FloatArray, *, heading: str = "", special_tokens_mask: Sequence[bool] = ()
) -> str:
    """Return one text as a line of tokens whose color is their score, as an HTML fragment.

    The color runs from none (0) to full (the largest score of the text) and leaves the text legible; the value is in
    each token's tooltip and in its `data-score`. All text is escaped, control characters are replaced.

    Args:
        pieces: What to show for each token, in reading order.
        scores: Nonnegative `[token]`.
        heading: A line above the text.
        special_tokens_mask: Which tokens are set apart as special.
    """
    largest = float(np.max(scores, initial=0.0))
    shares = scores / largest if largest > 0 else np.zeros(len(scores))
    special = special_tokens_mask if len(special_tokens_mask) else [False] * len(pieces)
    spans = [
        _span(piece, float(score), float(share), bool(flag))
        for piece, score, share, flag in zip(pieces, scores, shares, special, strict=True)
    ]
    return render_heading(heading) + f'<p class="text">{" ".join(spans)}</p>'


def render_heading(text: str) -> str:
    """Return a line of small print, as an HTML fragment."""
    return f'<p class="head">{_escape(text)}</p>'


def render_note(text: str) -> str:
    """Return a line of small print that stands below a text, as an HTML fragment."""
    return f'<p class="note">{_escape(text)}</p>'


def render_fragment(parts: Sequence[str]) -> str:
    """Return fragments of `render_tokens` with the style that they need, to be set into a page or a notebook."""
    return f'<div class="attnflow"><style>{_STYLE}</style>{"".join(parts)}</div>'


def render_page(parts: Sequence[str], *, title: str) -> str:
    """Return a complete page: one file that needs no network."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{_escape(title)}</title></head><body>{render_fragment(parts)}</body></html>\n'
    )


def _span(piece: str, score: float, share: float, is_special: bool) -> str:
    classes = "token" + (" special" if is_special else "")
    text = _escape(piece)
    data = f'style="--w:{share:.3f}" title="{text}: {score:.6g}" data-score="{score!r}"'
    return f'<span class="{classes}" {data}>{text}</span>'


def _escape(text: str) -> str:
    """Return `text` safe inside HTML text and attributes.

    Control characters, lone surrogates and the marks that turn the direction of what follows become a sign.
    """
    safe = "".join("\ufffd" if _is_unsafe(character) else character for character in text)
    return escape(safe, quote=True)


def _is_unsafe(character: str) -> bool:
    code = ord(character)
    turns = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return turns or (code < 32 and character not in "\t\n") or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000
