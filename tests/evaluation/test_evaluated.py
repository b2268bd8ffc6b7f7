import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from scipy.stats import kendalltau, spearmanr
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import ResultTable, blank_out, evaluate_agreement, input_gradient

WORDS = "the key to the old cabinets is on a table and the cat sat near the mat".split()
TEXTS = [" ".join(WORDS[row % 5 : row % 5 + 3 + row % 7]) for row in range(12)]


@pytest.fixture
def attributor():
    return Attributor(bert(), tokenizer(), batch_size=4)


def as_dataset(texts=TEXTS):
    return Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})


def evaluate(attributor, output, dataset=None, **options):
    given = {"special_tokens": "drop", "shard_size": 5, "cost_rows": 0, **options}
    return evaluate_agreement(as_dataset() if dataset is None else dataset, attributor, output, **given)


def shards(folder):
    return pq.read_table(sorted(folder.glob("*.parquet")))


@pytest.mark.parametrize(("statistic", "by_scipy"), [("spearman", spearmanr), ("kendall", kendalltau)])
def test_values_are_those_of_scipy_on_each_text(attributor, tmp_path, statistic, by_scipy):
    report = evaluate(attributor, tmp_path / "out", statistic=statistic, method=["raw", "rollout"], decimals=None)
    assert (report.run.n_rows, report.run.n_shards, report.run.errors) == (12, 3, ())
    found = shards(tmp_path / "out")
    for method in ("raw", "rollout"):
        wanted = []
        for text in TEXTS:
            importance = blank_out(attributor, text, signs="drop").scores[1:-1]
            every = attributor(text, method=method, layer="all", normalize="none").scores[:, 1:-1]
            wanted.append([by_scipy(layer, importance).statistic for layer in every])
        np.testing.assert_allclose(found[f"{statistic}_blank_out_{method}"].to_pylist(), wanted, rtol=0, atol=1e-9)
        for layer in range(3):
            row = report.table.where(method=method, layer=layer, metric=statistic).rows[0]
            values = np.array(wanted)[:, layer]
            np.testing.assert_allclose([row["value"], row["std"]], [values.mean(), values.std()], rtol=0, atol=1e-9)
            assert (row["n"], row["n_missing"]) == (12, 0)


def test_several_importances_and_options(attributor, tmp_path):
    pytest.importorskip("captum")
    options = Options(residual_weight=0.8)
    report = evaluate(
        attributor, tmp_path / "out", method="rollout", importance=["input_gradient", "blank_out"], options=options,
        special_tokens="keep", columns=["id"], replacement="mask", norm="l2",
    )  # fmt: skip
    found = shards(tmp_path / "out")
    assert "text" not in found.column_names
    every = attributor(TEXTS[3], method="rollout", layer="all", residual_weight=0.8).scores
    for kind, scores in (
        ("blank_out", blank_out(attributor, TEXTS[3], signs="drop", replacement="mask").scores),
        ("input_gradient", input_gradient(attributor, TEXTS[3]).scores),
    ):
        wanted = [spearmanr(layer, scores).statistic for layer in every]
        np.testing.assert_allclose(found[f"spearman_{kind}_rollout"][3].as_py(), wanted, rtol=0, atol=1e-6)
    assert {row["importance"] for row in report.table.rows} == {"blank_out", "input_gradient"}


def test_what_is_undefined_is_missing_and_counted_and_errors_are_recorded(attributor, tmp_path):
    texts = [*TEXTS[:3], "cat", "", "key"]
    report = evaluate(attributor, tmp_path / "out", as_dataset(texts), method="rollout")
    assert [row for row, _ in report.run.errors] == [4]
    found = shards(tmp_path / "out")["spearman_blank_out_rollout"].to_pylist()
    assert found[3] == found[5] == [None] * 3
    assert found[4] is None
    for row in report.table.rows:
        assert (row["n"], row["n_missing"], row["missing"]) == (3, 2, "fewer than two tokens: 2")


def test_results_are_written_beside_the_shards_and_the_run_resumes(attributor, tmp_path):
    first = evaluate(attributor, tmp_path / "out")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(kept) >= {"results.json", "results.md", "results.tex", "manifest.json"}
    assert json.loads(kept["results.json"])["config"]["special_tokens"] == "drop"
    assert ResultTable.load(tmp_path / "out" / "results.json").rows == first.table.rows
    assert first.to_markdown() + "\n" == kept["results.md"].decode()
    assert r"\toprule" in kept["results.tex"].decode()
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    again = evaluate(attributor, tmp_path / "out")
    assert (again.run.n_computed, again.run.n_skipped) == (5, 7)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    assert "### spearman with blank_out" in str(again)
    with pytest.raises(OptionError, match=r'settings\.special_tokens: "drop" there, "keep" asked'):
        evaluate(attributor, tmp_path / "out", special_tokens="keep")


def test_a_sample_is_drawn_by_its_seed(attributor, tmp_path):
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        report = evaluate(attributor, tmp_path / str(number), sample=6, seed=seed, method="raw")
        assert report.run.n_rows == 6
        drawn.append(shards(tmp_path / str(number))["id"].to_pylist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 6
    assert evaluate(attributor, tmp_path / "all", sample=99, method="raw").run.n_rows == 12
    as_dataset().to_csv(tmp_path / "rows.csv")
    of_file = evaluate(attributor, tmp_path / "file", str(tmp_path / "rows.csv"), sample=2, split="train", method="raw")
    assert of_file.run.n_rows == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "blankout"}, "unknown importance 'blankout'"),
        ({"importance": []}, "importance must be one, or a list of different ones"),
        ({"statistic": ["spearman", "spearman"]}, "statistic must be one, or a list of different ones"),
        ({"statistic": "pearson"}, "unknown statistic 'pearson'"),
        ({"special_tokens": "zero"}, "unknown special_tokens 'zero'"),
        ({"method": "flows"}, "unknown method 'flows'"),
        ({"replacement": "sep"}, "unknown replacement 'sep'"),
        ({"signs": "both"}, "unknown signs 'both'"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"embeddings": "all"}, "unknown embeddings 'all'"),
        ({"options": Options(layer=1)}, "agreement is of every layer"),
        ({"options": Options(output_position=1)}, "at the position that the model's head reads"),
        ({"options": Options(special_tokens="drop")}, "change no order of tokens: leave them out"),
        ({"sample": 0}, "sample must be a positive integer or None, got 0"),
        ({"sample": 2, "dataset": [{"text": "the key"}]}, "a sample is drawn from a Dataset or from files, got list"),
        ({"engine": "dask"}, "unknown engine 'dask'"),
        ({"text_column": "sentence"}, "text_column 'sentence' is no column of the data set"),
        ({"columns": ["label"]}, "columns 'label' is no column of the data set"),
    ],
)
def test_bad_options_stop_before_the_first_row(attributor, tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        evaluate(attributor, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/shard*"))


def test_texts_none_of_which_can_be_compared_give_an_empty_table(attributor, tmp_path):
    report = evaluate(attributor, tmp_path / "out", as_dataset(["", ""]), method="raw")
    assert [row for row, _ in report.run.errors] == [0, 1]
    assert report.table.rows == []
    assert report.to_markdown() == ""
    assert (tmp_path / "out" / "results.md").read_text() == "\n"
