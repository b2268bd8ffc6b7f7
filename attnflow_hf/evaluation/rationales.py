"""`Rationale`: which words of a text a human marked as the reason for a label; readers of two data sets of them."""

from __future__ import annotations

import ast
import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attnflow_hf.errors import ArrayError, BoolArray, DatasetError, FileFormatError, OptionError, check_choice

_FAIR_COLUMNS = ("text_id", "sentence", "original_label", "label", "rationale_binary", "sst2_split")
_ERASER_KEYS = ("annotation_id", "classification", "evidences")
_SPAN_KEYS = ("docid", "start_token", "end_token")
MAJORITY = "majority"
FORMATS = ("eraser_movies", "fair_rationales")


@dataclass(frozen=True, eq=False)
class Rationale:
    """Which words of a text a human marked as the reason for a label.

    Attributes:
        id: Of the text: rationales of several annotators share it.
        text: The text as it was annotated.
        words: What stands between its white space, `[word]`.
        mask: bool `[word]`: which were marked; read-only. None may be: such a rationale is empty, and metrics count it
            as missing.
        label: The label that the annotator gave, as the data set spells it.
        annotator: Who; `"majority"` for what most marked; empty where the data set does not tell.
        original_label: The label that the text came with.
        split: The part of another data set that the text lies in, so that texts a model was trained on can be left
            out; empty where it lies in none.

    Raises:
        ArrayError: The mask is not one true or false for each word.
        OptionError: The words are not those of the text.
    """

    id: str
    text: str
    words: tuple[str, ...]
    mask: BoolArray
    label: str
    annotator: str = ""
    original_label: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        """Check that the mask fits the words; copy and freeze it."""
        mask = np.array(self.mask)
        if mask.dtype != np.bool_ or mask.shape != (len(self.words),):
            raise ArrayError(
                f"the mask of {len(self.words)} words must be as many true or false, got {mask.dtype} of shape "
                f"{mask.shape}"
            )
        if self.words != tuple(self.text.split()):
            raise OptionError(f"the words of {self.id!r} are not what stands between the white space of its text")
        mask.setflags(write=False)
        object.__setattr__(self, "mask", mask)

    @property
    def is_empty(self) -> bool:
        """Whether no word was marked."""
        return not self.mask.any()

    def __repr__(self) -> str:
        """Return the id, the annotator and the words that were marked."""
        marked = " ".join(word for word, is_marked in zip(self.words, self.mask, strict=True) if is_marked)
        return f"Rationale({self.id!r}, {self.label!r}, annotator {self.annotator!r}: {marked!r})"


def read_fair_rationales(path: str | os.PathLike[str]) -> list[Rationale]:
    """Return the rationales of SST sentences of Thorn Jakobsen et al. (2023), "Being Right for Whose Right Reasons?".

    The file has a row for each sentence and annotator, about six of them, without names: they are numbered from 0 in
    each sentence, so that number 0 of two sentences may be two people. `split` is `"train"`, `"validation"`, `"test"`
    or empty: where SST-2 has the sentence. A classifier trained on SST-2 has seen those of `"train"`.

    Args:
        path: The CSV file, with the columns `text_id`, `sentence`, `label`, `original_label`, `sst2_split` and
            `rationale_binary`, a list of 0 and 1 for what stands between white space.

    Raises:
        DatasetError: There is no such file.
        FileFormatError: It is not what it should be; the message names the line.
    """
    seen: Counter[str] = Counter()
    found = []
    try:
        with _existing(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_keys(f"{os.fspath(path)!r}", "columns", reader.fieldnames or (), _FAIR_COLUMNS)
            for row in reader:
                where = f"{os.fspath(path)!r}, line {reader.line_num}"
                found.append(_fair_rationale(row, str(seen[row["text_id"]]), where))
                seen[row["text_id"]] += 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{os.fspath(path)!r} is not a CSV file in UTF-8: {error}") from error
    return _not_none(found, path)


def read_eraser_movies(path: str | os.PathLike[str], docs: str | os.PathLike[str] | None = None) -> list[Rationale]:
    """Return the movie reviews of ERASER (DeYoung et al. 2020) with the words that lie in any span of evidence.

    Args:
        path: A file of JSON lines, such as `test.jsonl`: `annotation_id`, `classification` and `evidences`, lists of
            spans with `docid`, `start_token` and the `end_token` behind the last, counted in words.
        docs: The folder of the reviews, a file named `docid` each; by default `docs` beside the file.

    Raises:
        DatasetError: A file is not there.
        FileFormatError: It is not what it should be; the message names the line.
    """
    file = _existing(path)
    folder = file.parent / "docs" if docs is None else Path(docs)
    found = []
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            found.append(_eraser_rationale(line, folder, f"{os.fspath(path)!r}, line {number}"))
    return _not_none(found, path)


def read_rationales(
    path: str | os.PathLike[str],
    *,
    format: Literal["fair_rationales", "eraser_movies"],
    docs: str | os.PathLike[str] | None = None,
) -> list[Rationale]:
    """Return the rationales of a file by the name of its format.

    Args:
        path: The file.
        format: `"fair_rationales"`, as `read_fair_rationales` reads it, or `"eraser_movies"`, as `read_eraser_movies`.
        docs: As for `read_eraser_movies`; the other format has none.

    Raises:
        OptionError: An unknown format, or `docs` for one that has none.
        DatasetError: A file is not there.
        FileFormatError: It is not what it should be; the message names the line.
    """
    check_choice("format", format, FORMATS)
    if format == "eraser_movies":
        return read_eraser_movies(path, docs)
    if docs is not None:
        raise OptionError(f"format {format!r} is a file alone; leave docs out, got {os.fspath(docs)!r}")
    return read_fair_rationales(path)


def majority(rationales: Sequence[Rationale]) -> list[Rationale]:
    """Return one rationale for each text: the words that more than half of its annotators marked.

    All annotators of the text count, whatever label they gave; the label is that of most of them, or empty where two
    are given as often. A majority can be empty though no annotator's rationale is.

    Raises:
        OptionError: Rationales of one id have different texts.
    """
    by_id: dict[str, list[Rationale]] = {}
    for each in rationales:
        by_id.setdefault(each.id, []).append(each)
    return [_majority(group) for group in by_id.values()]


def _majority(group: Sequence[Rationale]) -> Rationale:
    first = group[0]
    if any(each.text != first.text for each in group):
        raise OptionError(f"rationales of id {first.id!r} have different texts; each text needs an id of its own")
    mask = 2 * np.sum([each.mask for each in group], axis=0) > len(group)
    ranked = Counter(each.label for each in group).most_common(2)
    label = "" if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]
    return Rationale(first.id, first.text, first.words, mask, label, MAJORITY, first.original_label, first.split)


def _fair_rationale(row: Mapping[str, Any], annotator: str, where: str) -> Rationale:
    if any(row[name] is None for name in _FAIR_COLUMNS):
        raise FileFormatError(f"{where}: the row has fewer cells than the header")
    words = tuple(row["sentence"].split())
    try:
        marks = ast.literal_eval(row["rationale_binary"])
    except (SyntaxError, ValueError):
        marks = None
    if not isinstance(marks, list) or not all(mark in (0, 1) for mark in marks):
        raise FileFormatError(f"{where}: rationale_binary must be a list of 0 and 1, got {row['rationale_binary']!r}")
    if len(marks) != len(words):
        raise FileFormatError(f"{where}: rationale_binary has {len(marks)} marks, but the sentence {len(words)} words")
    return Rationale(
        id=row["text_id"],
        text=row["sentence"],
        words=words,
        mask=np.array(marks, dtype=np.bool_),
        label=row["label"],
        annotator=annotator,
        original_label=row["original_label"],
        split=row["sst2_split"],
    )


def _eraser_rationale(line: str, folder: Path, where: str) -> Rationale:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise FileFormatError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise FileFormatError(f"{where}: a JSON object is needed, got {type(values).__name__}")
    _check_keys(where, "keys", values, _ERASER_KEYS)
    name = str(values["annotation_id"])
    text = _read(_document(folder, name, where))
    words = tuple(text.split())
    mask = np.zeros(len(words), dtype=np.bool_)
    for start, stop in _spans(values["evidences"], name, words, where):
        mask[start:stop] = True
    label = str(values["classification"])
    return Rationale(name, text, words, mask, label, original_label=label)


def _spans(evidences: Any, name: str, words: tuple[str, ...], where: str) -> Iterator[tuple[int, int]]:
    """Yield first word and the one behind the last of each span, checked against the document; some have no words."""
    if not isinstance(evidences, list) or not all(isinstance(group, list) for group in evidences):
        raise FileFormatError(f"{where}: evidences must be a list of lists of spans")
    for span in (span for group in evidences for span in group):
        if not isinstance(span, dict):
            raise FileFormatError(f"{where}: a span of evidence must be a JSON object, got {span!r}")
        _check_keys(where, "keys of a span", span, _SPAN_KEYS)
        if span["docid"] != name:
            raise FileFormatError(f"{where}: evidence of another document, {span['docid']!r}; only {name!r} is read")
        start, stop = span["start_token"], span["end_token"]
        if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= len(words):
            raise FileFormatError(f"{where}: the span {start!r} to {stop!r} is not in {name!r}, of {len(words)} words")
        if "text" in span and tuple(str(span["text"]).split()) != words[start:stop]:
            raise FileFormatError(
                f"{where}: words {start} to {stop} of {name!r} are {' '.join(words[start:stop])!r}, but the span says "
                f"{span['text']!r}; the documents are not those that were annotated"
            )
        yield start, stop


def _document(folder: Path, name: str, where: str) -> Path:
    if Path(name).name != name:
        raise FileFormatError(f"{where}: annotation_id must be the name of a file in {str(folder)!r}, got {name!r}")
    return _existing(folder / name)


def _existing(path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_file():
        raise DatasetError(f"there is no file {os.fspath(path)!r}; give the path of the data set on your disk")
    return Path(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{os.fspath(path)!r} is not text in UTF-8: {error}") from error


def _check_keys(where: str, what: str, got: Any, needed: Sequence[str]) -> None:
    lacking = [name for name in needed if name not in got]
    if lacking:
        raise FileFormatError(f"{where}: the {what} {', '.join(lacking)} are needed, got {', '.join(map(str, got))}")


def _not_none(found: list[Rationale], path: str | os.PathLike[str]) -> list[Rationale]:
    if not found:
        raise FileFormatError(f"{os.fspath(path)!r} holds no rationale")
    return found
