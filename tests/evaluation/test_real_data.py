"""The configs of evaluations on a few rows of real data, by a real classifier."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_models import shared_folder

from attnflow_hf import Attributor
from attnflow_hf.config import EVALUATIONS, load_evaluation
from attnflow_hf.evaluation import measure_faithfulness, summarize_faithfulness

CONFIGS = Path(__file__).parents[2] / "configs"


def evaluate(name, output, **overrides):
    """Return the report on a config, on the shared classifier, and the attributor."""
    model = {"model.name": str(shared_folder("models") / "minilm-sst2"), "output": str(output), "cost_rows": 2}
    config = load_evaluation(CONFIGS / f"{name}.yaml", {**model, "sample": 6, **overrides})
    attributor = Attributor.from_pretrained(**config.model)
    rows = EVALUATIONS[config.evaluation].load(**config.dataset)
    return EVALUATIONS[config.evaluation].function(rows, attributor, config.output, **config.run), attributor


@pytest.mark.shared
def test_faithfulness_on_sst2(tmp_path):
    lines = (shared_folder("data") / "sst2_sent" / "stsa.binary.dev").read_text(encoding="utf-8").splitlines()[:6]
    with (tmp_path / "dev.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "sentence"], *(line.split(" ", 1) for line in lines)])
    report, attributor = evaluate(
        "faithfulness_sst2", tmp_path / "out", scorer=["random", "flow", "raw", "blank_out"],
        dataset=str(tmp_path / "dev.csv"), columns=["label", "sentence"],
    )  # fmt: skip
    texts = [line.split(" ", 1)[1] for line in lines]
    every = {
        ("raw", 5): attributor(texts, method="raw"),
        ("flow", 2): attributor(texts, method="flow", layer=2),
        ("blank_out", None): "leave_one_out",
    }
    for (method, layer), scores in every.items():
        wanted = summarize_faithfulness(measure_faithfulness(attributor, texts, scores)).means
        found = {row["metric"]: row["value"] for row in report.table.where(method=method, layer=layer, bin=None).rows}
        np.testing.assert_allclose([found[name] for name in wanted], list(wanted.values()), rtol=0, atol=2e-3)  # ties
    costs = {row["method"]: row["milliseconds"] for row in report.table.rows}
    assert costs["blank_out"] > costs["raw"] > 0


@pytest.mark.shared
def test_plausibility_on_sst(tmp_path):
    path = shared_folder("data") / "fair_rationales_sst" / "SST_rationales.csv"
    scorers = ["random", "raw", "blank_out"]
    report, _ = evaluate("plausibility_sst", tmp_path / "out", scorer=scorers, **{"dataset.path": str(path)})
    auprc = {(row["method"], row["layer"]): row for row in report.table.where(metric="auprc").rows}
    assert auprc[("random", None)]["n_rationales"] > 6
    for scorer in (("raw", 5), ("blank_out", None)):
        assert auprc[scorer]["value"] > auprc[("random", None)]["value"]
        assert auprc[scorer]["milliseconds"] > 0


@pytest.mark.shared
def test_plausibility_on_long_reviews(tmp_path):
    path = shared_folder("data") / "eraser_movies" / "test.jsonl"
    overrides = {"dataset.path": str(path), "dataset.format": "eraser_movies", "sample": 2, "columns": ["id"]}
    overrides |= {"scorer": ["random", "raw"], "layer": -1, "metric": "auprc", "cost_rows": 0}
    cut, _ = evaluate("plausibility_sst", tmp_path / "cut", **overrides)
    whole, _ = evaluate("plausibility_sst", tmp_path / "whole", **overrides, truncation=False, window=512, stride=128)
    assert (cut.run.errors, whole.run.errors) == ((), ())
    assert cut.table.rows[0]["n_dropped_words"] > 100
    assert whole.table.rows[0]["n_dropped_words"] == 0


@pytest.mark.shared
def test_faithfulness_on_long_reviews(tmp_path):
    path = str(shared_folder("data") / "eraser_movies" / "test.jsonl")
    overrides = {"dataset": {"path": path, "format": "eraser_movies"}, "model": None, "text_column": "text"}
    overrides |= {"columns": ["id", "original_label"], "sample": 3, "cost_rows": 0, "compared_with": "random"}
    scorers = ["random", {"method": ["raw", "flow"], "edge_weights": "grad_attention"}]
    cut, attributor = evaluate("edge_weights_sst2", tmp_path / "cut", **overrides, scorer=scorers)
    assert cut.run.errors == ()
    found = pq.read_table(sorted((tmp_path / "cut").glob("*.parquet"))).to_pydict()
    assert found["n_tokens"] == [attributor.model.config.max_position_embeddings - 1] * 3  # all but [CLS]
    assert set(found["original_label"]) <= {"NEG", "POS"}
    assert {row["n"] for row in cut.table.rows} == {3}
    whole, _ = evaluate("edge_weights_sst2", tmp_path / "whole", **overrides, scorer=scorers, truncation=False)
    assert len(whole.run.errors) == 3
    assert "truncation" in whole.run.errors[0][1]


@pytest.mark.shared
def test_right_and_wrong_verb_numbers(tmp_path):
    path = shared_folder("data") / "linzen_agreement" / "att3.tsv"
    reader = {"column_names": ["label", "prefix"], "quoting": csv.QUOTE_NONE}
    overrides = {"dataset": {"path": str(path), "reader": reader}, "model": None, "text_column": "prefix"}
    overrides |= {"columns": ["label", "prefix"], "sample": 60, "cost_rows": 0, "label_column": "label"}
    scorers = {"scorer": ["random", "rollout"], "compared_with": "random"}
    report, attributor = evaluate("edge_weights_sst2", tmp_path / "out", **overrides, **scorers)
    found = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pydict()
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [f"{label}\t{prefix}" for label, prefix in zip(found["label"], found["prefix"], strict=True)]
    assert set(pairs) <= set(lines)
    indices = [each.prediction.index for each in attributor(found["prefix"])]
    assert found["is_right"] == [label == index for label, index in zip(found["label"], indices, strict=True)]
    counts = {row["prediction"]: row["n_texts"] for row in report.table.rows}
    assert counts == {"all": 60, "right": sum(found["is_right"]), "wrong": 60 - sum(found["is_right"])}
    assert 0.8 < counts["right"] / 60 < 1  # the model card says 92 %
