"""Texts by name: those of runs as they are, those of rationales by their format, and what does not go together."""

import json

import pytest

from attnflow_hf.errors import DatasetError, OptionError
from attnflow_hf.evaluation.text_files import load_texts


def movies(folder, names=("b.txt", "a.txt")):
    """Write reviews as ERASER has them, and return their file."""
    (folder / "docs").mkdir()
    for name in names:
        (folder / "docs" / name).write_text(f"the review\n{name} .\n", encoding="utf-8")
    lines = [json.dumps({"annotation_id": name, "classification": "NEG", "evidences": []}) for name in names]
    (folder / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "test.jsonl"


def test_reviews_are_rows_in_the_order_of_the_file(tmp_path):
    rows = load_texts(str(movies(tmp_path)), format="eraser_movies")
    assert rows.column_names == ["text", "id", "original_label", "split"]
    assert rows["id"][:] == ["b.txt", "a.txt"]
    assert rows["text"][:] == ["the review\nb.txt .\n", "the review\na.txt .\n"]
    assert rows["original_label"][:] == ["NEG", "NEG"]
    (tmp_path / "docs").rename(tmp_path / "reviews")
    again = load_texts(tmp_path / "test.jsonl", format="eraser_movies", docs=tmp_path / "reviews")
    assert again[:] == rows[:]
    with pytest.raises(DatasetError, match=r"there is no file .*b\.txt"):
        load_texts(tmp_path / "test.jsonl", format="eraser_movies")


def test_a_text_of_several_annotators_is_one_row(tmp_path):
    header = "text_id,sentence,original_label,label,rationale_binary,sst2_split"
    rows = [f'7,the keys,positive,{label},"[0, 1]",train' for label in ("positive", "negative")]
    (tmp_path / "own.csv").write_text("\n".join([header, *rows, ""]))
    found = load_texts(tmp_path / "own.csv", format="fair_rationales")
    assert found[:] == {"text": ["the keys"], "id": ["7"], "original_label": ["positive"], "split": ["train"]}
    plain = load_texts(str(tmp_path / "own.csv"), split="train[:1]")
    assert plain["sentence"][:] == ["the keys"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"docs": "docs"}, r"docs go with format='eraser_movies', got 'docs'; leave them out"),
        ({"format": "eraser_movies", "split": "test"}, "format 'eraser_movies' has no use for split, got 'test'"),
        ({"format": "eraser_movies", "streaming": True}, "has no use for streaming, got True"),
        ({"format": "eraser_movies", "path": ["a.jsonl"]}, r"is read by itself, got \['a.jsonl'\]"),
        ({"format": "eraser"}, "unknown format 'eraser'; choose one of 'eraser_movies', 'fair_rationales'"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(OptionError, match=message):
        load_texts(**{"path": "a.jsonl", **options})
