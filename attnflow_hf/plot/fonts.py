"""Fonts that have the characters of the labels; one warning where none has."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager, get_data_path, rcParams
from matplotlib.font_manager import FontEntry, FontProperties, fontManager
from matplotlib.ft2font import FT2Font

from attnflow_hf.errors import FontWarning

_INVISIBLE = {"Cf", "Mn", "Me", "Cc", "Zs", "Zl", "Zp"}  # shaped with their neighbors, or not drawn
_MAX_NAMED = 12


def font_families(texts: Sequence[str]) -> list[str]:
    """Return the user's font families, and behind them installed ones with the characters that those lack.

    Args:
        texts: All that will be written.
    """
    chosen = [str(family) for family in rcParams["font.family"]]
    missing = _missing({c for text in texts for c in text}, chosen)
    for rescan in (False, True):
        if rescan and missing:
            _add_new_system_fonts()
        added, missing = _cover(missing, texts)
        chosen += added
    return chosen


def legible(texts: Sequence[str], families: Sequence[str]) -> list[str]:
    """Return `texts` with each character that no font has replaced by its name, and warn once about all of them.

    Args:
        texts: What will be written.
        families: Of `font_families`.
    """
    missing = _missing({c for text in texts for c in text}, families)
    if missing:
        warnings.warn(_warning(missing), FontWarning, stacklevel=2)
    return ["".join(_spelled(c) if c in missing else c for c in text) for text in texts]


def _spelled(character: str) -> str:
    name = unicodedata.name(character, "").lower()
    is_sign = unicodedata.category(character) == "So" and name
    return f":{name}:" if is_sign else f"U+{ord(character):04X}"


def _warning(missing: set[str]) -> str:
    characters = sorted(missing)
    shown = ", ".join(f"{c} (U+{ord(c):04X})" for c in characters[:_MAX_NAMED])
    rest = f" and {len(characters) - _MAX_NAMED} more" if len(characters) > _MAX_NAMED else ""
    fonts = ", ".join(sorted({_font_for(c) for c in characters}))
    return (
        f"no installed font has {shown}{rest}: they are spelled out in the picture; install {fonts}, "
        "or name a font that has them in matplotlib.rcParams['font.family']"
    )


def _font_for(character: str) -> str:
    script = unicodedata.name(character, "").partition(" ")[0]
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH"):
        return "Noto Sans CJK"
    if unicodedata.category(character) in ("So", "Sk"):
        return "Noto Emoji (or Symbola; fonts of colored bitmaps cannot be drawn)"
    return f"Noto Sans {script.title()}" if script else "a font that has them"


def _missing(characters: Iterable[str], families: Sequence[str]) -> set[str]:
    wanted = {c for c in characters if unicodedata.category(c) not in _INVISIBLE}
    for family in families:
        path = font_manager.findfont(FontProperties(family=[family]), fallback_to_default=True)
        wanted -= _covered(str(path), int(getattr(path, "face_index", 0)), frozenset(wanted))
    return wanted


@lru_cache(maxsize=4096)
def _covered(path: str, index: int, characters: frozenset[str]) -> frozenset[str]:
    if not characters:
        return frozenset()
    font = FT2Font(path, face_index=index)
    return frozenset(c for c in characters if font.get_char_index(ord(c)))


def _cover(missing: set[str], texts: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return families that have characters of `missing`, the best first, and what none of them has."""
    added: list[str] = []
    if not missing:
        return added, missing
    for entry in sorted(_entries(), key=lambda each: _rank(each.name, texts)):
        found = _covered(entry.fname, entry.index, frozenset(missing))
        if found:
            added.append(entry.name)
            missing = missing - found
        if not missing:
            break
    return added, missing


def _entries() -> list[FontEntry]:
    """Return the upright, regular fonts that are installed, without those that matplotlib keeps for formulas."""
    own = Path(get_data_path())
    return [
        entry
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        and own not in Path(entry.fname).parents
    ]


def _rank(name: str, texts: Sequence[str]) -> tuple[int, str]:
    """Return where a family stands in line: sans-serif before serif, Chinese characters in the form of the text."""
    words = name.split()
    if "CJK" in words:
        names = {unicodedata.name(c, "").partition(" ")[0] for text in texts for c in text}
        region = "JP" if names & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in names else "SC"
        return (0 if "Sans" in words and "Mono" not in words else 3) + (region not in words), name
    if "Mono" in words or "Serif" in words:
        return 4, name
    return (1 if name.startswith("Noto Sans") else 2 if "Sans" in words else 3), name


@lru_cache(maxsize=1)
def _add_new_system_fonts() -> None:
    """Tell matplotlib, whose list of fonts is kept on disk, of those installed since it was made."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                fontManager.addfont(path)
            except (NotImplementedError, OSError, RuntimeError):  # bitmaps in color, damaged files: no font for us
                continue
