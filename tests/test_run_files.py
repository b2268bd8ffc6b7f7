"""Rows by name: each kind of file, folders, splits, options of the readers, and what each fault says."""

from __future__ import annotations

import bz2
import glob
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from attnflow_hf.errors import DatasetError, OptionError
from attnflow_hf.run_files import choose_split, load_rows

TEXTS = ["the key", "the cat, the mat", "the old cabinet"]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for files, in which the test runs."""
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path / "files"


def csv(separator: str = ",", rows: list[dict[str, Any]] = ROWS) -> str:
    lines = [f'{row["id"]}{separator}"{row["text"]}"' for row in rows]
    return "\n".join([f"id{separator}text", *lines, ""])


def jsonl() -> str:
    return "".join(f"{json.dumps(row)}\n" for row in ROWS)


def write_arrow(path: str) -> None:
    Dataset.from_list(ROWS).save_to_disk("saved_arrow")
    Path("saved_arrow/data-00000-of-00001.arrow").rename(path)


WRITERS: dict[str, Callable[[str], object]] = {
    "a.csv": lambda path: Path(path).write_text(csv()),
    "a.tsv": lambda path: Path(path).write_text(csv("\t")),
    "a.json": lambda path: Path(path).write_text(json.dumps(ROWS)),
    "a.jsonl": lambda path: Path(path).write_text(jsonl()),
    "a.ndjson": lambda path: Path(path).write_text(jsonl()),
    "a.parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
    "a.arrow": write_arrow,
    "a.csv.gz": lambda path: Path(path).write_bytes(gzip.compress(csv().encode())),
    "a.jsonl.xz": lambda path: Path(path).write_bytes(lzma.compress(jsonl().encode())),
    "a.tsv.bz2": lambda path: Path(path).write_bytes(bz2.compress(csv("\t").encode())),
    "with space [1] *.csv": lambda path: Path(path).write_text(csv()),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_is_read(name: str, streaming: bool) -> None:
    WRITERS[name](name)
    found = load_rows(name, streaming=streaming)
    assert isinstance(found, IterableDataset if streaming else Dataset)
    assert list(found) == ROWS


def test_a_line_of_a_text_file_is_a_row() -> None:
    Path("a.txt").write_text("\n".join(TEXTS))
    assert list(load_rows(Path("a.txt"))) == [{"text": text} for text in TEXTS]


def test_lists_and_patterns_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = glob.glob
    monkeypatch.setattr(glob, "glob", lambda *given, **options: sorted(original(*given, **options), reverse=True))
    for name, row in zip(("b.csv", "a.csv", "c.csv"), ROWS, strict=True):
        Path(name).write_text(csv(rows=[row]))
    assert load_rows(["b.csv", Path("a.csv")])["id"][:] == [0, 1]
    assert load_rows("?.csv")["id"][:] == [1, 0, 2]
    assert load_rows(["c.csv", "[ab].csv"])["id"][:] == [2, 1, 0]


def test_folders() -> None:
    Dataset.from_list(ROWS).save_to_disk("saved")
    DatasetDict(train=Dataset.from_list(ROWS[:1]), test=Dataset.from_list(ROWS[1:])).save_to_disk("splits")
    Path("text").mkdir()  # also the name of a reader
    for number in range(2):
        Dataset.from_list(ROWS[number : number + 1]).to_parquet(f"text/shard-0000{number}.parquet")
    assert list(load_rows("saved")) == ROWS
    stream = load_rows(Path("saved"), streaming=True)
    assert isinstance(stream, IterableDataset)
    assert list(stream) == ROWS
    assert list(load_rows("splits", split="test")) == ROWS[1:]
    assert list(load_rows("text")) == ROWS[:2]
    with pytest.raises(OptionError, match=r"has the splits train, test: choose one by split="):
        load_rows("splits")
    with pytest.raises(OptionError, match=r"unknown split 'tset'; choose one of 'test', 'train' \(did you mean 'test'"):
        load_rows("splits", split="tset")
    with pytest.raises(OptionError, match=r"'saved' has no use for reader, got \{'sep': ';'\}; leave it out"):
        load_rows("saved", reader={"sep": ";"})


def test_splits_of_a_folder_of_files() -> None:
    Path("data").mkdir()
    for split, row in zip(("train", "test"), ROWS, strict=False):
        Path(f"data/{split}.csv").write_text(csv(rows=[row]))
    assert list(load_rows("data", split="test")) == ROWS[1:2]
    for streaming in (False, True):
        with pytest.raises(OptionError, match="has the splits train, test: choose one"):
            load_rows("data", streaming=streaming)
    with pytest.raises(DatasetError, match=r"cannot load the data set 'data': Unknown split \"dev\".*'test'"):
        load_rows("data", split="dev")


def test_part_of_a_split() -> None:
    Path("a.csv").write_text(csv())
    assert load_rows("a.csv", split="train[1:]")["id"][:] == [1, 2]


def test_options_of_the_reader_reach_it() -> None:
    Path("a.csv").write_text(csv(";"))
    assert list(load_rows("a.csv", reader={"delimiter": ";"})) == ROWS
    found = load_rows("a.csv", reader={"sep": ";", "column_names": ["number", "words"], "skiprows": 1})
    assert found.column_names == ["number", "words"]
    Path("a.tsv").write_text(csv(";"))
    assert list(load_rows("a.tsv", reader={"delimiter": ";"})) == ROWS


FINGERPRINTS = """
import sys
import datasets
from attnflow_hf.run_files import load_rows
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
print(*(load_rows("a.csv", split=split)._fingerprint for split in (None, "train", "train[:2]")))
"""


def test_a_file_is_known_again_by_other_processes_and_a_changed_one_is_another(tmp_path: Path) -> None:
    def fingerprints(cache: str) -> list[str]:
        command = [sys.executable, "-W", "ignore", "-c", FINGERPRINTS, str(tmp_path / cache)]
        environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    Path("a.csv").write_text(csv())
    first = fingerprints("one")
    assert first[0] == first[1] != first[2]
    assert fingerprints("two") == first
    Path("a.csv").write_text(csv().replace("cat", "dog"))
    assert not set(fingerprints("one")) & set(first)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("no.csv", {}, r"^there is no file 'no\.csv' \(sought from '.*files'\)$"),
        (Path("stanfordnlp/sst2"), {}, r"^there is no file 'stanfordnlp/sst2'"),
        ("./no", {}, r"^there is no file '\./no'"),
        (["a.csv", "no.csv"], {}, r"^there is no file 'no\.csv'"),
        (["the key", "the cat"], {}, r"^there is no file 'the key'"),
        ("no*.csv", {}, r"^no file matches the pattern 'no\*\.csv'"),
        ([], {}, "^no file is given"),
        ("a.xlsx", {}, r"^'a\.xlsx' is of no known kind; files end in \.csv, \.tsv, .*\.txt \(or these and \.gz\)$"),
        (["a.csv", "a.jsonl"], {}, r"^'a\.csv' and 'a\.jsonl' are of two kinds; give files of one$"),
        (["a.csv", "a.tsv"], {}, r"^'a\.csv' and 'a\.tsv' are of two kinds"),
        (["a.csv", "empty"], {}, r"^'empty' is a folder; give it alone, or its files by a pattern$"),
        ("empty", {}, r"^cannot load the data set 'empty': .*doesn't contain any data files"),
        ("bad.parquet", {}, r"^cannot load the data set 'bad\.parquet': .*magic bytes"),
        ("bad.jsonl", {}, r"^cannot load the data set 'bad\.jsonl': .*JSON parse error"),
        ("a.csv", {"split": "test"}, r"^cannot load the data set 'a\.csv': Unknown split \"test\".*\['train'\]"),
        ("a.csv", {"reader": {"delimiter": 3}}, r"^cannot load the data set 'a\.csv': object of type 'int' has no len"),
        ("someone/some_set", {}, r"^cannot load the data set 'someone/some_set': .*; there is no file or folder of"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves a file open that it cannot parse
def test_what_cannot_be_loaded_is_named(
    path: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        WRITERS[name](name)
    Path("a.xlsx").write_text("")
    Path("empty").mkdir()
    for name in ("bad.parquet", "bad.jsonl"):
        Path(name).write_text("nonsense")
    with pytest.raises(DatasetError, match=message):
        load_rows(path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "plain_text"}, r"'a\.csv' has no use for name, got 'plain_text'; leave it out"),
        (
            {"reader": {"delimeter": ";"}},
            r"unknown reader option 'delimeter'; choose one of .*\(did you mean 'delimiter'\?\)",
        ),
        ({"reader": {"split": "train"}}, "unknown reader option 'split'"),
        ({"reader": {"data_files": "b.csv"}}, "unknown reader option 'data_files'"),
    ],
)
def test_options_that_a_file_has_not(options: dict[str, Any], message: str) -> None:
    Path("a.csv").write_text(csv())
    with pytest.raises(OptionError, match=message):
        load_rows("a.csv", **options)


def test_one_of_loaded_splits() -> None:
    loaded = DatasetDict(train=Dataset.from_list(ROWS[:1]), test=Dataset.from_list(ROWS[1:]))
    assert list(choose_split(loaded, "test")) == ROWS[1:]
    assert list(choose_split(DatasetDict(validation=loaded["test"]), None)) == ROWS[1:]
    assert list(choose_split(loaded["train"], None)) == ROWS[:1]
