"""Rows by name: files, folders and data sets of the hub, as `datasets` loads them."""

from __future__ import annotations

import glob
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from attnflow_hf.errors import DatasetError, OptionError, check_choice, first_line

Splits = DatasetDict | IterableDatasetDict
Names = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_KINDS: dict[str, dict[str, str]] = {
    ".csv": {"path": "csv"},
    ".tsv": {"path": "csv", "sep": "\t"},
    ".json": {"path": "json"},
    ".jsonl": {"path": "json"},
    ".ndjson": {"path": "json"},
    ".parquet": {"path": "parquet"},
    ".arrow": {"path": "arrow"},
    ".txt": {"path": "text"},
}
_PACKED = (".bz2", ".gz", ".xz", ".zst")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_OF_SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves
_NO_READER_OPTIONS = {"path", "name", "split", "streaming", "config_kwargs"}


def load_rows(
    path: Names,
    *,
    name: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    reader: Mapping[str, Any] | None = None,
) -> Dataset | IterableDataset:
    """Return the rows of files, of a folder, or of a data set of the hub.

    Files are told by their names: `.csv`, `.tsv`, `.json`, `.jsonl`, `.ndjson`, `.parquet`, `.arrow`, and `.txt` (a
    row a line, column `text`); each also packed (`.gz`, `.bz2`, `.xz`, `.zst`). What is there as a file or folder comes
    before the hub.

    Args:
        path: A file, a pattern such as `"part-*.csv"`, a list of files of one kind, a folder (of such files, or one
            that `save_to_disk` wrote), a URL of a file, or a name on the hub.
        name: Which configuration of a hub data set, where it has several.
        split: Which split, also `"train[:100]"`; may be left out where there is only one.
        streaming: Read while the rows are used, and keep no copy on the disk; faults inside a file show only then.
        reader: More options of `datasets.load_dataset`, those of the reader of the kind among them, such as
            `delimiter` and `column_names` of CSV.

    Raises:
        DatasetError: The data set is not there, is of no known kind, or cannot be read.
        OptionError: A split or an option is not one of its.

    Example:
        >>> rows = load_rows("sentences.csv", split="train[:100]", reader={"delimiter": ";"})  # doctest: +SKIP
    """
    paths = [os.fspath(each) for each in ([path] if isinstance(path, (str, os.PathLike)) else path)]
    if len(paths) == 1 and any((Path(paths[0]) / file).is_file() for file in _OF_SAVED):
        _check_unused(paths[0], name=name, reader=reader)
        saved = choose_split(_load(paths[0], datasets.load_from_disk, paths[0]), split)
        return saved.to_iterable_dataset() if streaming else saved
    request = _request(paths, is_file=isinstance(path, os.PathLike))
    if "data_files" in request:
        _check_unused(paths[0], name=name)
    if reader:
        _check_reader({**request, "name": name}, reader)
    asked = {**request, **(reader or {}), "name": name, "split": split, "streaming": streaming}
    loaded = _load(", ".join(paths), datasets.load_dataset, **asked)
    return choose_split(loaded, None) if isinstance(loaded, Splits) else loaded


def choose_split(loaded: Any, split: str | None) -> Any:
    """Return one split of a loaded data set; without `split` its only one.

    Raises:
        OptionError: There are several and none was chosen, or there is none of this name.
    """
    names = [str(name) for name in loaded] if isinstance(loaded, Splits) else [str(loaded.split or "train")]
    if split is None and len(names) > 1:
        raise OptionError(f"the data set has the splits {', '.join(names)}: choose one by split=")
    if split is not None:
        check_choice("split", split, names)
    return loaded[split or names[0]] if isinstance(loaded, Splits) else loaded


def _check_unused(path: str, **options: object) -> None:
    for option, value in options.items():
        if value:
            raise OptionError(f"{path!r} has no use for {option}, got {value!r}; leave it out")


def _request(paths: list[str], *, is_file: bool) -> dict[str, Any]:
    """Return what `load_dataset` is to load: a folder, a hub name, or files with their reader."""
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return {"path": os.path.abspath(paths[0])}  # never the reader of this name
    if len(paths) == 1 and not is_file and _is_hub_name(paths[0]):
        return {"path": paths[0]}
    files = [file for path in paths for file in _files(path)]
    kinds = {file: _kind(file) for file in files}
    if not files:
        raise DatasetError("no file is given; a data set needs one at least")
    for file, kind in kinds.items():
        if kind is None:
            raise DatasetError(f"{file!r} is of no known kind; files end in {', '.join(_KINDS)} (or these and .gz)")
        if kind != kinds[files[0]]:
            raise DatasetError(f"{files[0]!r} and {file!r} are of two kinds; give files of one")
    return {**(kinds[files[0]] or {}), "data_files": [_literal(file) for file in files]}


def _is_hub_name(path: str) -> bool:
    return _HUB_NAME.fullmatch(path) is not None and not Path(path).exists() and _kind(path) is None


def _files(path: str) -> list[str]:
    if "://" in path or Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        raise DatasetError(f"{path!r} is a folder; give it alone, or its files by a pattern")
    found = sorted(file for file in glob.glob(path, recursive=True) if Path(file).is_file())
    if not found:
        kind = "no file matches the pattern" if glob.has_magic(path) else "there is no file"
        raise DatasetError(f"{kind} {path!r} (sought from {os.getcwd()!r})")
    return found


def _kind(file: str) -> dict[str, str] | None:
    path = Path(file)
    return _KINDS.get((path.with_suffix("") if path.suffix in _PACKED else path).suffix)


def _literal(file: str) -> str:
    """Return a file's name as a pattern of this file alone."""
    return file if "://" in file else glob.escape(file)


def _check_reader(request: dict[str, Any], reader: Mapping[str, Any]) -> None:
    """Raise `OptionError` unless `load_dataset` or the data set's reader has these options."""
    builder = _load(request["path"], datasets.load_dataset_builder, **request)
    valid = {field.name for field in fields(builder.config)}.union(inspect.signature(datasets.load_dataset).parameters)
    for option in reader:
        check_choice("reader option", option, valid - _NO_READER_OPTIONS - (request.keys() & {"data_files"}))


def _load(what: str, load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function of `datasets` loads; whatever it raises becomes an error that names the data set."""
    try:
        return load(*arguments, **options)
    except Exception as error:
        is_wrapper = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = (error.__cause__ if is_wrapper else None) or error
        hint = (
            "; there is no file or folder of this name" if load is datasets.load_dataset and _is_hub_name(what) else ""
        )
        raise DatasetError(f"cannot load the data set {what!r}: {first_line(reason)}{hint}") from error
