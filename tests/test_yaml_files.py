"""YAML files: what is read, and what each fault says."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnflow_hf.errors import OptionError
from attnflow_hf.yaml_files import parse_assignment, read_yaml


def test_a_mapping_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# why\na: 1\nb: {c: [x, null, true]}\nd: caf\u00e9\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": {"c": ["x", None, True]}, "d": "caf\u00e9"}


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 3\n", r"^'.*a\.yaml', line 3, column 1: the key 'a' stands twice$"),
        (b"o:\n  x: 1\n  x: 1\n", r"line 3, column 3: the key 'x' stands twice$"),
        (b"a: [1\nb: 2\n", r"^'.*a\.yaml', line 2, column 2: expected ',' or '\]', but got ':'$"),
        (b"a: !!python/object:os.system x\n", r"line 1, column 4: could not determine a constructor"),
        (b"? [1]\n: 2\n", r"line 1, column 3: found unhashable key$"),
        (b"a: 2020-13-45\n", r"^'.*a\.yaml' is no YAML: month must be in 1\.\.12"),
        (b"a: \x00\n", r"^'.*a\.yaml' is no YAML: unacceptable character"),
        (b"a: \xff\n", r"^cannot read '.*a\.yaml': it is not UTF-8$"),
        (b"", r"^'.*a\.yaml' holds nothing; a mapping of keys to values is needed$"),
        (b"# a comment\n", "holds nothing"),
        (b"- a\n", r"^'.*a\.yaml' holds a list; a mapping of keys to values is needed$"),
        (b"flow\n", "holds a str; a mapping"),
    ],
)
def test_faults_are_told_with_their_place(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^cannot read '.*none\.yaml': No such file or directory$"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(OptionError, match=r"^cannot read '.*': Is a directory$"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("method=flow", ("method", "flow")),
        ("method=[raw, flow]", ("method", ["raw", "flow"])),
        ("options.layer=-2", ("options.layer", -2)),
        ("model=~", ("model", None)),
        ("model=", ("model", None)),
        ("words=true", ("words", True)),
        ('dataset.reader={sep: "="}', ("dataset.reader", {"sep": "="})),
        ("dataset=/data/a=b.csv", ("dataset", "/data/a=b.csv")),
    ],
)
def test_assignments(text: str, wanted: tuple[str, object]) -> None:
    assert parse_assignment(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method", r"^'method' sets nothing; needed: KEY=VALUE, such as options\.layer=2$"),
        ("=flow", "^'=flow' sets nothing"),
        ("method=[raw", r"^'method=\[raw', line 1, column 5: expected ',' or '\]'"),
    ],
)
def test_bad_assignments(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_assignment(text)
