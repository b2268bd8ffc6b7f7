"""Pages of runs: rows, their scores to the bit, what was left out, and what cannot be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models

from attnflow_hf import Attributor, Options, Page, run_dataset, run_page
from attnflow_hf.errors import FileFormatError, OptionError
from attnflow_hf.run_page import page_of_run

TEXTS = ["the key to cabinets", "old cat sat near the mat", "", "a table on the mat", "the cat is near"]


def run(folder: Path, texts: list[Any] = TEXTS, **options: Any) -> Path:
    attributor = Attributor(tiny_models.bert(), tiny_models.tokenizer())
    rows = [{"id": 10 + number, "text": text} for number, text in enumerate(texts)]
    run_dataset(rows, attributor, folder / "out", **{"shard_size": 2, "on_error": "record", **options}, progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text if text else None for text in TEXTS]
    return run(tmp_path_factory.mktemp("run"), texts, method=["raw", "flow"], words=True, save_layer_graphs=True)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_each_row_has_its_scores_and_columns(folder: Path, tmp_path: Path) -> None:
    page = page_of_run(folder)
    page.save(tmp_path / "page.html")
    for shown in (page, Page.load(tmp_path / "page.html")):
        assert (shown.title, shown.lead) == ("out: BertForSequenceClassification", "5 of 5 rows")
        for number, (sheet, row) in enumerate(zip(shown.sheets, rows_of(folder), strict=True)):
            assert (sheet.heading, sheet.columns) == (f"row {number}", {"id": str(10 + number)})
            if number == 2:
                assert sheet.attributions == ()
                assert sheet.error.startswith("OptionError: the text must be a string or a pair")
                continue
            assert [each.method for each in sheet.attributions] == ["raw", "flow"]
            assert sheet.prediction == (row["prediction_label"], row["prediction_probability"])
            for each in sheet.attributions:
                np.testing.assert_array_equal(each.scores, np.float32(row[f"scores_{each.method}"]))
                assert (each.tokens, each.texts) == (tuple(row["tokens"]), (row["text"],))
                assert (each.output_position, each.layer, each.notes) == (0, 2, tuple(row["notes"]))
            np.testing.assert_array_equal(sheet.graph.graph.weights, np.float32(row["layer_graph"]))


def test_rows_are_counted(folder: Path) -> None:
    page = page_of_run(folder, n_rows=3)
    assert (len(page.sheets), page.lead) == (3, "3 of 5 rows")
    with pytest.raises(OptionError, match="n_rows must be a positive integer, got 0"):
        page_of_run(folder, n_rows=0)


def test_graphs_that_make_a_page_too_large_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = page_of_run(folder).sheets[0].graph.graph.weights.size
    monkeypatch.setattr(run_page, "MAX_GRAPH_SIZE", first)
    page = page_of_run(folder)
    assert [sheet.graph is not None for sheet in page.sheets] == [True, False, False, False, False]
    assert page.lead == "5 of 5 rows; 3 of them without their layer graph, which would make the page too large"


def test_rows_that_were_left_out_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    texts = [text if text else None for text in TEXTS]
    page = page_of_run(run(tmp_path, texts, method="rollout", on_error="skip"))
    assert [sheet.heading for sheet in page.sheets] == ["row 0", "row 1", "row 3", "row 4"]
    assert page.lead == "4 of 4 rows"


def test_where_tokens_were_dropped_nobody_guesses_the_position(tmp_path: Path) -> None:
    options = Options(special_tokens="drop", layer=1)
    page = page_of_run(run(tmp_path, TEXTS[:2], method="raw", options=options, save_layer_graphs=True))
    attribution = page.sheets[0].attributions[0]
    assert (attribution.position_name, attribution.layer) == ("0", 1)
    assert page.sheets[0].graph is None


def test_means_and_pairs(tmp_path: Path) -> None:
    options = Options(output_position="mean")
    page = page_of_run(run(tmp_path, TEXTS[:2], method="raw", options=options, text_pair_column="text"))
    attribution = page.sheets[0].attributions[0]
    assert (attribution.output_position, attribution.texts) == ("mean", ())
    assert attribution.alignment.pieces == ("[CLS]", *TEXTS[0].split(), "[SEP]", *TEXTS[0].split(), "[SEP]")


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"shards": manifest["shards"][:1], "is_complete": False}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "shard-00000.parquet").write_bytes((folder / "shard-00000.parquet").read_bytes())
    assert page_of_run(tmp_path).lead == "2 of 2 rows so far; the run is not finished"


def test_other_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"has no manifest.json: a folder that attnflow run wrote is needed"):
        page_of_run(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"made_from": {"settings": {}}}))
    with pytest.raises(OptionError, match="holds no attributions: a folder that attnflow run wrote is needed"):
        page_of_run(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileFormatError, match=r"'.*shard-00000.parquet' cannot be read: "):
        page_of_run(tmp_path)
