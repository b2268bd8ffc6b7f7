"""Labeled prefixes: read from files, divided into training and validation, and cut out of longer prefixes."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnflow_hf.errors import OptionError

__all__ = ["LABELS", "Example", "cut_prefixes", "held_out", "inner_examples", "read_examples"]

LABELS = ("singular", "plural")

NUMBER_OF_VERB = {
    "is": 0, "was": 0, "has": 0, "does": 0, "VBZ": 0, "are": 1, "were": 1, "have": 1, "do": 1, "VBP": 1,
}  # fmt: skip

# After one of these within four words "have" and "do" are infinitives.
BEFORE_INFINITIVE = frozenset(
    "to will would may might can could shall should must do does did not n't 'd 'll let help make".split()
)

# A verb right after one of these may stand before its subject, or has none in the text.
BEFORE_INVERSION = frozenset(
    "what why how where when there here who which that as than and or but nor so if `` '' ( , : ; -- -".split()
)


@dataclass(frozen=True)
class Example:
    """A prefix of a sentence, up to the verb, and the number of that verb.

    Attributes:
        label: 0 for singular, 1 for plural, or the probability of plural.
        text: The words before the verb.
    """

    label: float
    text: str


def read_examples(path: Path) -> list[Example]:
    """Return the examples in a file of lines ``label<TAB>prefix``.

    Raises:
        OptionError: The file cannot be read, is empty, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OptionError(f"cannot read the examples {str(path)!r}: {error.strerror}") from error
    if not lines:
        raise OptionError(f"the examples {str(path)!r} are empty")
    return [_parse(line, number, path) for number, line in enumerate(lines, start=1)]


def _parse(line: str, number: int, path: Path) -> Example:
    label, tab, text = line.partition("\t")
    if label not in ("0", "1") or not tab or not text.strip():
        raise OptionError(f"line {number} of {str(path)!r} is {line!r}; 0 or 1, a tab and a prefix are needed")
    return Example(int(label), text)


def held_out(text: str, share: float) -> bool:
    """Return whether `text` belongs to the part of size `share` that is kept from training, by a hash of the text."""
    return zlib.crc32(text.encode()) % 10_000 < share * 10_000


def inner_examples(examples: Sequence[Example], *, exclude: Iterable[str]) -> list[Example]:
    """Return new examples cut out of longer prefixes at the verbs whose form shows their number.

    "the man who was here" gives "the man who", singular. A prefix that stands in `exclude` is left out, so that no
    sentence of an evaluation file comes back through a longer prefix of the same sentence.
    """
    seen = {*exclude, *(example.text for example in examples)}
    found: dict[str, float] = {}
    for example in examples:
        for inner in _cut_at_verbs(example.text.split()):
            if inner.text not in seen:
                found.setdefault(inner.text, inner.label)
    return [Example(label, text) for text, label in found.items()]


def cut_prefixes(examples: Sequence[Example], *, exclude: Iterable[str]) -> list[str]:
    """Return the shorter prefixes of the examples that end in a word which often stands right before a verb.

    Often means in one of ten places where it occurs. What stands in `exclude`, or is an example itself, is left out.
    """
    rows = [example.text.split() for example in examples]
    last = Counter(row[-1] for row in rows)
    everywhere = Counter(word for row in rows for word in row)
    usual = {word for word, count in last.items() if 10 * count >= everywhere[word]}
    seen = {*exclude, *(example.text for example in examples)}
    cuts = (" ".join(row[:end]) for row in rows for end in range(1, len(row)) if row[end - 1] in usual)
    return list(dict.fromkeys(cut for cut in cuts if cut not in seen))


def _cut_at_verbs(words: list[str]) -> Iterator[Example]:
    for position, word in enumerate(words):
        label = NUMBER_OF_VERB.get(word)
        before = words[:position]
        if label is None or not before or before[-1] in BEFORE_INVERSION:
            continue
        if word in ("have", "do", "VBP") and BEFORE_INFINITIVE.intersection(before[-4:]):
            continue
        yield Example(label, " ".join(before))
