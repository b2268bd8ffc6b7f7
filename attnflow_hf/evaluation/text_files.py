"""Texts by name for evaluations: what a run can read, and the texts of rationales by their format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.plausibility_rows import rationale_rows
from attnflow_hf.evaluation.rationales import read_rationales
from attnflow_hf.run_files import Names, load_rows


def load_texts(
    path: Names,
    *,
    format: Literal["fair_rationales", "eraser_movies"] | None = None,
    docs: str | os.PathLike[str] | None = None,
    name: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    reader: Mapping[str, Any] | None = None,
) -> Dataset | IterableDataset:
    """Return rows as `load_rows` does, or those of the texts that a data set of rationales is about.

    Args:
        path: As for `load_rows`; of rationales one file.
        format: How a file of rationales is read, as `read_rationales` says. There is a row for each text, in the order
            of the file, with the columns `text`, `id`, `original_label` and `split`.
        docs: As for `read_eraser_movies`.
        name: As for `load_rows`, and so are `split`, `streaming` and `reader`; rationales have none of them.
        split: Which split.
        streaming: Read while the rows are used.
        reader: More options of `datasets.load_dataset`.

    Raises:
        DatasetError: The data set is not there, is of no known kind, or cannot be read.
        FileFormatError: A file of rationales is not what it should be.
        OptionError: An option is not one of its.

    Example:
        >>> rows = load_texts("movies/test.jsonl", format="eraser_movies")  # doctest: +SKIP
    """
    if format is None:
        if docs is not None:
            raise OptionError(f"docs go with format='eraser_movies', got {os.fspath(docs)!r}; leave them out")
        return load_rows(path, name=name, split=split, streaming=streaming, reader=reader)
    for option, value in {"name": name, "split": split, "streaming": streaming, "reader": reader}.items():
        if value:
            raise OptionError(f"a file of format {format!r} has no use for {option}, got {value!r}; leave it out")
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"a file of format {format!r} is read by itself, got {path!r}")
    rows = rationale_rows(read_rationales(path, format=format, docs=docs))
    return Dataset.from_list([{key: row[key] for key in ("text", "id", "original_label", "split")} for row in rows])
