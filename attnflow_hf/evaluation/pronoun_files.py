"""`read_pronouns`: sentences with a masked pronoun from a file, by the name of its format."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Literal

from attnflow_hf.errors import DatasetError, FileFormatError, OptionError, TextError, check_choice
from attnflow_hf.evaluation.pronouns import PronounSentence
from attnflow_hf.evaluation.winogender import read_winogender

FORMATS = ("csv", "winogender")


def read_pronouns(
    path: str | os.PathLike[str],
    *,
    format: Literal["csv", "winogender"] = "csv",
    statistics: str | os.PathLike[str] | None = None,
    share: Literal["bls", "bergsma"] = "bls",
    definite: float = 0.7,
) -> list[PronounSentence]:
    """Return the sentences of a file.

    Args:
        path: The file.
        format: `"csv"`: a row for each sentence, with the columns of `PronounSentence.to_row`, an empty cell for what
            is not known; or `"winogender"`, as `read_winogender` reads it.
        statistics: As for `read_winogender`, as are `share` and `definite`; the other format has none of them.
        share: `"bls"` or `"bergsma"`.
        definite: A share above 0.5, up to 1.

    Raises:
        OptionError: An unknown format.
        DatasetError: A file is not there.
        FileFormatError: It is not what it should be; the message names the line.
    """
    check_choice("format", format, FORMATS)
    if format == "winogender":
        return read_winogender(path, statistics, share=share, definite=definite)
    if not Path(path).is_file():
        raise DatasetError(f"there is no file {os.fspath(path)!r}; give the path of the sentences on your disk")
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            found = [_sentence(row, f"{os.fspath(path)!r}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{os.fspath(path)!r} is not a CSV file in UTF-8: {error}") from error
    if not found:
        raise FileFormatError(f"{os.fspath(path)!r} holds no sentence")
    return found


def _sentence(row: dict[str, str | None], where: str) -> PronounSentence:
    try:
        return PronounSentence.from_row({name: cell or None for name, cell in row.items()})
    except (OptionError, TextError) as error:
        raise FileFormatError(f"{where}: {error}") from error
