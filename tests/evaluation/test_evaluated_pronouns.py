from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from pronoun_models import AUTHOR, MARY, known_model, model, wordpiece
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import ResultTable, evaluate_pronouns, measure_pronouns, summarize_pronouns

NOBODY = replace(MARY, genders=(None, None), id="nobody")
SENTENCES = [AUTHOR, MARY, NOBODY, replace(AUTHOR, referent="first"), MARY]


def evaluate(attributor, output, sentences=SENTENCES, **options):
    return evaluate_pronouns(sentences, attributor, output, **{"shard_size": 2, "cost_rows": 0, **options})


def shards(folder):
    return pq.read_table(sorted(folder.glob("*.parquet")))


def test_shards_and_table_are_what_is_measured(tmp_path):
    attributor = Attributor(model(), wordpiece(), batch_size=2)
    options = Options(residual_weight=0.8)
    report = evaluate(attributor, tmp_path / "out", options=options)
    assert (report.run.n_rows, report.run.n_shards, report.run.errors) == (5, 3, ())
    measured = measure_pronouns(attributor, SENTENCES, options=options)
    assert report.table.rows == summarize_pronouns(measured).rows
    found = shards(tmp_path / "out").to_pylist()
    for row, each in zip(found, measured, strict=True):
        assert row["named"] == {0: "first", 1: "second", None: None}[each.named]
        assert (row["not_named"], row["stands_for"]) == (each.reason or None, each.sentence.referent)
        assert (row["text"], row["mask_position"]) == (each.sentence.text, each.mask_position)
        np.testing.assert_allclose([row["p_male"], row["p_female"]], [each.p_male, each.p_female], rtol=1e-6)
        for method, scores in each.scores.items():
            np.testing.assert_allclose(row[f"scores_{method}"], scores, rtol=1e-6)


def test_results_lie_beside_the_shards_and_the_run_resumes(tmp_path):
    attributor = Attributor(known_model(0.2, 0.1), wordpiece())
    report = evaluate(attributor, tmp_path / "out", method="rollout", columns=["id"])
    assert "text" not in shards(tmp_path / "out").column_names
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert ResultTable.load(tmp_path / "out" / "results.json").rows == report.table.rows
    text = kept["results.md"].decode()
    assert "### prediction: n = 4 (missing: neither candidate has a gender: 1), by chance 0.5" in text
    assert "### referent: n = 4 (missing: it is not known who the pronoun stands for: 1)" in text
    # he names the author twice, who has one token and Sara two: 0; and John twice, who has as many as Mary: a half
    assert [row["value"] for row in report.table.where(metric="prediction").rows] == [0.25, 0.25]
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    again = evaluate(attributor, tmp_path / "out", method="rollout", columns=["id"])
    assert (again.run.n_computed, again.run.n_skipped) == (2, 3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept


def test_what_cannot_be_asked_is_recorded_and_counts_nowhere(tmp_path):
    attributor = Attributor(known_model(0.2, 0.1), wordpiece())
    wrong = replace(MARY, pronouns=("his", "theirs"))
    report = evaluate(attributor, tmp_path / "out", [MARY, wrong], method="raw")
    assert [row for row, _ in report.run.errors] == [1]
    assert "'theirs' is not one token" in report.run.errors[0][1]
    assert {row["n"] + row["n_missing"] for row in report.table.rows} == {1}
    assert evaluate(attributor, tmp_path / "none", [wrong], method="raw").table.rows == []


def test_costs_are_those_of_each_method(tmp_path):
    attributor = Attributor(model(), wordpiece())
    table = evaluate(attributor, tmp_path / "out", method=["raw", "rollout"], cost_rows=3).table
    assert all(row["milliseconds"] > 0 for row in table.rows)


def test_a_sample_is_drawn(tmp_path):
    attributor = Attributor(model(), wordpiece())
    report = evaluate(attributor, tmp_path / "out", sample=3, seed=1, method="raw")
    assert report.run.n_rows == 3


def test_faults_are_told_before_anything_is_computed(tmp_path):
    with pytest.raises(OptionError, match="there are no sentences"):
        evaluate(Attributor(model(), wordpiece()), tmp_path / "out", [])
    with pytest.raises(OptionError, match="pronouns are asked of a masked language model"):
        evaluate(Attributor(bert(), tokenizer()), tmp_path / "out")
    with pytest.raises(OptionError, match="decimals must be an integer or None, got True"):
        evaluate(Attributor(model(), wordpiece()), tmp_path / "out", decimals=True)
    with pytest.raises(OptionError, match="leave output_position out"):
        evaluate(Attributor(model(), wordpiece()), tmp_path / "out", options=Options(output_position=1))
