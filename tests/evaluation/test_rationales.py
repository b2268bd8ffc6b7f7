"""Rationales read from the files of two data sets; bad files are clear errors."""

import json

import numpy as np
import pytest
from tiny_models import shared_folder

from attnflow_hf.errors import ArrayError, DatasetError, FileFormatError, OptionError
from attnflow_hf.evaluation import Rationale, majority, read_eraser_movies, read_fair_rationales

HEADER = "text_id,sentence,original_label,label,label_index,rationale_binary,sst2_split\n"
ROW = '7,"A fine , warm film",positive,positive,1,"[0, 1, 0, 1, 0]",train\n'


def write(folder, text, name="rationales.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rationale(mask, text="a b c", label="positive", **more):
    words = tuple(text.split())
    return Rationale(more.pop("id", "1"), text, words, np.array(mask, dtype=bool), label, **more)


def movies(folder, evidences, text="a  fine film\nof love .\n", **more):
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "1.txt").write_text(text)
    line = {"annotation_id": "1.txt", "classification": "POS", "evidences": evidences, **more}
    return write(folder, json.dumps(line) + "\n\n", "test.jsonl")


def span(start, stop, **more):
    return {"docid": "1.txt", "start_token": start, "end_token": stop, **more}


def test_fair_rationales(tmp_path):
    more = ROW.replace("0, 1, 0, 1, 0", "0, 0, 0, 0, 0").replace("positive,positive", "positive,negative")
    other = '8,Bad,negative,negative,2,[1],""\n'
    first, empty, last = read_fair_rationales(write(tmp_path, HEADER + ROW + more + other))
    assert (first.id, first.text, first.words) == ("7", "A fine , warm film", ("A", "fine", ",", "warm", "film"))
    assert first.mask.tolist() == [False, True, False, True, False]
    assert (first.annotator, empty.annotator, last.annotator) == ("0", "1", "0")
    assert (first.label, empty.label, empty.original_label) == ("positive", "negative", "positive")
    assert (first.split, last.split) == ("train", "")
    assert empty.is_empty
    assert not first.is_empty
    assert repr(first) == "Rationale('7', 'positive', annotator '0': 'fine warm')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text_id,sentence\n1,a\n", "the columns original_label, .* are needed, got text_id, sentence"),
        ("", "the columns text_id, .* are needed, got "),
        (HEADER, "holds no rationale"),
        (HEADER + ROW.replace("1, 0]", "1]"), "line 2: rationale_binary has 4 marks, but the sentence 5 words"),
        (HEADER + ROW + ROW.replace("[0, 1", "[0, 2"), "line 3: rationale_binary must be a list of 0 and 1, got"),
        (HEADER + ROW.replace('"[0, 1, 0, 1, 0]"', "nothing"), "must be a list of 0 and 1, got 'nothing'"),
        (HEADER + '7,"A fine\n', "line 2: the row has fewer cells|unexpected end of data"),
        (HEADER + "7,a\n", "line 2: the row has fewer cells than the header"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
    ],
)
def test_bad_csv_files(tmp_path, text, message):
    with pytest.raises(FileFormatError, match=message):
        read_fair_rationales(write(tmp_path, text))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no file .*nowhere.csv"):
        read_fair_rationales(tmp_path / "nowhere.csv")
    with pytest.raises(DatasetError, match=r"there is no file .*test.jsonl"):
        read_eraser_movies(tmp_path / "test.jsonl")
    path = movies(tmp_path, [])
    (tmp_path / "docs" / "1.txt").unlink()
    with pytest.raises(DatasetError, match=r"there is no file .*1\.txt"):
        read_eraser_movies(path)


def test_movies(tmp_path):
    spans = [[span(1, 3, text="fine film"), span(2, 4)], [span(5, 5, text="")]]
    (found,) = read_eraser_movies(movies(tmp_path, spans))
    assert found.words == ("a", "fine", "film", "of", "love", ".")
    assert found.mask.tolist() == [False, True, True, True, False, False]
    assert (found.id, found.label, found.annotator) == ("1.txt", "POS", "")
    assert found.text == "a  fine film\nof love .\n"


def test_movies_with_their_documents_elsewhere(tmp_path):
    path = movies(tmp_path, [])
    (tmp_path / "docs").rename(tmp_path / "reviews")
    assert read_eraser_movies(path, docs=tmp_path / "reviews")[0].is_empty


@pytest.mark.parametrize(
    ("evidences", "message"),
    [
        ([[span(4, 9)]], "line 1: the span 4 to 9 is not in '1.txt', of 6 words"),
        ([[span(True, 2)]], "the span True to 2 is not in"),
        ([[span(1, 3, text="fine day")]], "words 1 to 3 of '1.txt' are 'fine film', but the span says 'fine day'"),
        ([[{**span(1, 3), "docid": "2.txt"}]], "evidence of another document, '2.txt'; only '1.txt' is read"),
        ([[{"docid": "1.txt"}]], "the keys of a span start_token, end_token are needed, got docid"),
        ([["a span"]], "a span of evidence must be a JSON object, got 'a span'"),
        ([span(1, 3)], "evidences must be a list of lists of spans"),
    ],
)
def test_bad_evidence(tmp_path, evidences, message):
    with pytest.raises(FileFormatError, match=message):
        read_eraser_movies(movies(tmp_path, evidences))


def test_bad_json_lines(tmp_path):
    for text, message in (
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: a JSON object is needed, got list"),
        ('{"annotation_id": "1.txt"}', "the keys classification, evidences are needed, got annotation_id"),
        ("\n", "holds no rationale"),
        (b"\xff", "is not text in UTF-8"),
    ):
        with pytest.raises(FileFormatError, match=message):
            read_eraser_movies(write(tmp_path, text, "test.jsonl"))
    with pytest.raises(FileFormatError, match=r"annotation_id must be the name of a file in .*, got '../1.txt'"):
        read_eraser_movies(movies(tmp_path, [], annotation_id="../1.txt"))


def test_majority_is_more_than_half():
    masks = [[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    labels = ["good", "bad", "good", "good"]
    group = [rationale(mask, label=label, split="test") for mask, label in zip(masks, labels, strict=True)]
    first, other = majority([*group, rationale([0, 0, 0], id="2"), rationale([1, 1, 1], id="2", label="bad")])
    assert first.mask.tolist() == [True, False, False]  # 3, 2 and 1 of 4
    assert (first.label, first.annotator, first.split) == ("good", "majority", "test")
    assert other.is_empty  # 1 of 2
    assert other.label == ""


def test_majority_of_different_texts():
    with pytest.raises(OptionError, match="rationales of id '1' have different texts"):
        majority([rationale([1, 0, 0]), rationale([1, 0], text="a b")])


def test_rationales_check_themselves():
    with pytest.raises(ArrayError, match=r"mask of 3 words must be as many true or false, got bool of shape \(2,\)"):
        rationale([True, False])
    with pytest.raises(ArrayError, match="got int64"):
        Rationale("1", "a", ("a",), np.array([1]), "good")
    with pytest.raises(OptionError, match="the words of '1' are not what stands between the white space"):
        Rationale("1", "a b", ("a",), np.array([True]), "good")
    mask = np.array([True, False])
    found = Rationale("1", "a b", ("a", "b"), mask, "good")
    mask[0] = False
    assert found.mask.tolist() == [True, False]
    with pytest.raises(ValueError, match="read-only"):
        found.mask[0] = False


@pytest.mark.shared
def test_the_real_files():
    found = read_fair_rationales(shared_folder("data") / "fair_rationales_sst" / "SST_rationales.csv")
    assert len(found) == 1578
    assert {each.annotator for each in found} == set("012345")
    assert len(majority(found)) == 263
    reviews = read_eraser_movies(shared_folder("data") / "eraser_movies" / "test.jsonl")
    assert [sum(each.label == label for each in reviews) for label in ("POS", "NEG")] == [99, 100]
    assert not any(each.is_empty for each in reviews)
