"""The README's table of the paper's tables 1 and 2, computed anew."""

import random
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import shared_folder

from attnflow_hf import Attributor
from attnflow_hf.config import load_evaluation
from attnflow_hf.evaluation import blank_out, evaluate_agreement, input_gradient, layer_rows
from attnflow_hf.run_files import load_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CELL = r"\| (-?[\d.]+) ± ([\d.]+) \(-?[\d.]+\) "
ROWS = re.findall(rf"^\| (raw|rollout|flow)(, gradients)? {CELL * 3}\|$", README, flags=re.M)
LAYERS = (0, 2, 5)


@lru_cache
def sentences():
    folder = shared_folder("data") / "linzen_agreement"
    names = ["natural", *(f"att{n}" for n in range(1, 6))]
    rows = [line.split("\t", 1) for name in names for line in (folder / f"{name}.tsv").read_text("utf-8").splitlines()]
    return [text for _, text in random.Random(0).sample([(int(label), text) for label, text in rows], 2000)]


@lru_cache
def importance(kind):
    attributor = Attributor.from_pretrained(dtype=torch.float32, batch_size=64)
    if kind == "blank-out":
        return blank_out(attributor, sentences(), signs="drop", truncation=True)
    pytest.importorskip("captum")
    return input_gradient(attributor, sentences(), norm="l2", truncation=True)


def test_the_table_is_there():
    assert [row[:2] for row in ROWS] == [(m, kind) for kind in ("", ", gradients") for m in ("raw", "rollout", "flow")]


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::attnflow_hf.errors.SaturationWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0] + row[1])
def test_the_papers_tables_are_as_the_readme_says(row):
    method, kind, *shown = row
    attributor = Attributor.from_pretrained(dtype=torch.float32, batch_size=64)
    found = attributor(sentences(), method=method, layer="all", normalize="none", truncation=True)
    how = {"special_tokens": "drop", "statistics": ["spearman"], "decimals": 9}
    rows = layer_rows(found, importance(kind or "blank-out"), **how)
    computed = [number for layer in LAYERS for number in (rows[layer]["value"], rows[layer]["std"])]
    np.testing.assert_allclose(computed, [float(number) for number in shown], rtol=0, atol=0.01)


@pytest.mark.network
def test_table_3_on_the_papers_own_model(tmp_path):
    config = load_evaluation(ROOT / "configs" / "paper_table3.yaml", {"sample": 10})
    attributor = Attributor.from_pretrained(**config.model)
    report = evaluate_agreement(load_rows(**config.dataset), attributor, tmp_path / "table3", **config.run)
    assert report.run.n_rows == 10
    for method in ("raw", "rollout", "flow"):
        rows = report.table.where(importance="input_gradient", method=method, metric="spearman").rows
        assert [row["layer"] for row in rows] == list(range(6))
        assert all(-1 <= row["value"] <= 1 for row in rows)
