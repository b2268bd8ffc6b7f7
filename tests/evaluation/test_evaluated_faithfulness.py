"""Faithfulness over a data set against the library's functions on each text; what is missing, compared, timed."""

import inspect
import re
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_of_words import bag_of_words
from datasets import Dataset
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor, Options, attributing, register_edge_weights
from attnflow_hf.edge_weights import EDGE_WEIGHTS
from attnflow_hf.errors import OptionError, PositionError
from attnflow_hf.evaluation import (
    Bootstrap,
    ResultTable,
    blank_out,
    evaluate_faithfulness,
    gradient_x_input,
    integrated_gradients,
    measure_faithfulness,
)
from attnflow_hf.evaluation.faithfulness_result import METRICS
from attnflow_hf.evaluation.faithfulness_rows import FaithfulnessSettings
from attnflow_hf.evaluation.scorings import scores_of, scorings_of

WORDS = "the key to the old cabinets is on a table and the cat sat near the mat".split()
TEXTS = [" ".join(WORDS[row % 5 : row % 5 + 3 + row % 7]) for row in range(9)]


KEYWORDS = inspect.signature(evaluate_faithfulness).parameters
FAITHFUL = {each.name: KEYWORDS[each.name].default for each in fields(FaithfulnessSettings)} | {"options": Options()}


def given_options(scoring):
    """Return the options of a scoring as keywords."""
    return {each.name: getattr(scoring.options, each.name) for each in fields(Options)}


@pytest.fixture
def attributor():
    return Attributor(bert(), tokenizer(), batch_size=8)


def evaluate(attributor, output, texts=TEXTS, **options):
    dataset = Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})
    given = {"shard_size": 4, "cost_rows": 0, "scorer": ["random", "rollout"], **options}
    return evaluate_faithfulness(given.pop("dataset", dataset), attributor, output, **given)


def shards(folder):
    return pq.read_table(sorted(folder.glob("*.parquet"))).to_pydict()


def test_values_are_those_of_measure_faithfulness_on_each_text(attributor, tmp_path):
    pytest.importorskip("captum")
    scorers = ["rollout", "blank_out", "gradient_x_input", "raw"]
    options = Options(residual_weight=0.8)
    report = evaluate(attributor, tmp_path / "out", scorer=scorers, layer=[0, -1], options=options, n_points=4)
    assert (report.run.n_rows, report.run.n_shards, report.run.errors) == (9, 3, ())
    found = shards(tmp_path / "out")
    asked = {
        "rollout_layer_0": lambda text: attributor(text, method="rollout", layer=0, residual_weight=0.8),
        "rollout_layer_2": lambda text: attributor(text, method="rollout", residual_weight=0.8),
        "raw_layer_0": lambda text: attributor(text, method="raw", layer=0),
        "raw_layer_2": lambda text: attributor(text, method="raw"),
        "blank_out": lambda _: "leave_one_out",
        "gradient_x_input": lambda text: gradient_x_input(attributor, text),
    }
    for label, score in asked.items():
        wanted = [measure_faithfulness(attributor, text, score(text), n_points=4)[0] for text in TEXTS]
        for metric in METRICS:
            of_bins = not metric.endswith("_area")
            numbers = [getattr(each, f"{metric}_of_bins" if of_bins else metric) for each in wanted]
            np.testing.assert_allclose(found[f"{metric}_{label}"], numbers, rtol=0, atol=1e-6)
            method, _, layer = label.partition("_layer_")
            own = {"method": method, "layer": int(layer) if layer else None, "metric": metric}
            row = report.table.where(**own, bin=None).rows[0]
            means = [getattr(each, metric) for each in wanted]
            np.testing.assert_allclose([row["value"], row["std"]], [np.mean(means), np.std(means)], rtol=0, atol=1e-6)
            assert (row["n"], row["n_missing"], row["difference"]) == (9, 0, None)  # nothing is compared
            if of_bins:
                of_bin = report.table.where(**own, bin=0.2).rows[0]["value"]
                np.testing.assert_allclose(of_bin, np.mean([each[3] for each in numbers]), rtol=0, atol=1e-6)
    assert found["prediction_label"] == [each.target.label for each in wanted]
    np.testing.assert_allclose(found["output_value"], [each.output_value for each in wanted], rtol=0, atol=1e-6)
    assert found["n_tokens"] == [each.n_tokens for each in wanted]


def test_scorers_with_options_of_their_own_in_one_run(attributor, tmp_path):
    pytest.importorskip("captum")
    grad = {"edge_weights": "grad_attention"}
    chefer = {**grad, "head_reduction": "mean", "relu": "before"}
    scorers = [
        {"method": "random", "name": "chance"},
        "rollout",
        {"method": "rollout", "residual_weight": 0.8, "layer": [0, 2]},
        {"method": ["raw", "flow"], **grad},
        {"method": "flow", "relu": "before", "head_reduction": "mean", **grad},
        {"method": "integrated_gradients", "baseline": "mask", "n_steps": 3},
        {"method": "blank_out", "name": "leave-one-out", "replacement": "mask"},
        {"method": "rollout", "normalize_rows": True, "name": "rollout/5"},  # differs in nothing
    ]
    texts, how = TEXTS[:4], {"scorer": scorers, "compared_with": "flow (grad_attention)"}
    report = evaluate(attributor, tmp_path / "out", texts, **how, cost_rows=2)
    found = shards(tmp_path / "out")
    asked = {
        ("rollout", 2, "rollout_layer_2"): lambda text: attributor(text, method="rollout"),
        ("rollout (residual_weight 0.8)", 0, "rollout_residual_weight_0_8_layer_0"): lambda text: attributor(
            text, method="rollout", residual_weight=0.8, layer=0
        ),
        ("rollout (residual_weight 0.8)", 2, "rollout_residual_weight_0_8_layer_2"): lambda text: attributor(
            text, method="rollout", residual_weight=0.8
        ),
        ("raw (grad_attention)", 2, "raw_grad_attention_layer_2"): lambda text: attributor(text, method="raw", **grad),
        ("flow (grad_attention)", 2, "flow_grad_attention_layer_2"): lambda text: attributor(text, **grad),
        (
            "flow (grad_attention, head_reduction mean, relu before)",
            2,
            "flow_grad_attention_head_reduction_mean_relu_before_layer_2",
        ): lambda text: attributor(text, **chefer),
        (
            "integrated_gradients (baseline mask, n_steps 3)",
            None,
            "integrated_gradients_baseline_mask_n_steps_3",
        ): lambda text: integrated_gradients(attributor, text, baseline="mask", n_steps=3),
        ("leave-one-out", None, "leave_one_out"): lambda text: blank_out(attributor, text, replacement="mask"),
        ("rollout/5", 2, "rollout_5_layer_2"): lambda text: attributor(text, method="rollout"),
    }
    for index, ((name, layer, label), score) in enumerate(asked.items(), start=1):
        wanted = [measure_faithfulness(attributor, text, score(text))[0].deletion_area for text in texts]
        areas = np.array(found[f"deletion_area_{label}"], float)
        untied = [of_text[index] == 0 for of_text in found["n_tied"]]  # ties go in an order drawn by the text
        assert any(untied)
        np.testing.assert_allclose(areas[untied], np.array(wanted)[untied], rtol=0, atol=1e-6)
        row = report.table.where(method=name, layer=layer, metric="deletion_area").rows[0]
        np.testing.assert_allclose(row["value"], np.nanmean(areas), rtol=0, atol=1e-12)
        assert row["milliseconds"] > 0
        base = np.array(found["deletion_area_flow_grad_attention_layer_2"], float)
        if name != "flow (grad_attention)":
            np.testing.assert_allclose(row["difference"], np.nanmean(areas - base), rtol=0, atol=1e-12)
            assert row["compared_with"] == "flow (grad_attention) of layer 2"
    names = [method for method, _, _ in asked]
    assert [*dict.fromkeys(row["method"] for row in report.table.rows)] == ["chance", *dict.fromkeys(names)]
    assert "### less flow (grad_attention) of layer 2, text by text" in report.to_markdown()
    assert evaluate(attributor, tmp_path / "out", texts, **how).run.n_skipped == 4
    plain = ResultTable.load(tmp_path / "out" / "results.json").config["scorer"]
    assert plain[1] == "rollout"
    assert plain[3] == {"method": "raw", "name": "raw (grad_attention)", **grad}
    scorers[2]["residual_weight"] = 0.7
    with pytest.raises(OptionError, match=r"settings\.scorer"):
        evaluate(attributor, tmp_path / "out", texts, **how)


def test_chance_of_any_name_is_what_others_are_compared_with(attributor, tmp_path):
    scorers = ["rollout", {"method": "random", "name": "chance"}]
    report = evaluate(attributor, tmp_path / "out", scorer=scorers)
    assert {row["method"]: row["compared_with"] for row in report.table.rows} == {"rollout": "chance", "chance": None}


def test_edge_weights_made_alike_share_one_forward_pass(attributor, tmp_path, monkeypatch):
    texts, asked = [], []

    def read(wrapped, inputs, options):
        texts.append(len(inputs.samples))
        asked.append(options.edge_weights)
        return original(wrapped, inputs, options)

    original = attributing._read
    monkeypatch.setattr(attributing, "_read", read)
    scorers = [
        "rollout",
        {"method": ["rollout", "flow"], "residual_weight": 0.8, "layer": "all"},
        {"method": "flow", "backend": "networkx", "name": "slow"},
        {"method": "raw", "head_reduction": "mean", "name": "by name"},
        "column_sum",
        {"method": ["raw", "rollout", "column_sum"], "edge_weights": "grad_attention"},
        {"method": ["raw", "rollout", "flow", "column_sum"], "edge_weights": "alti"},
    ]
    settings = FaithfulnessSettings(**{**FAITHFUL, "scorer": scorers, "layer": [0, 1]})
    scorings = scorings_of(attributor, settings)
    found = scores_of(attributor, TEXTS, scorings, settings)
    assert (texts, asked) == ([9, 9, 9], ["attention", "grad_attention", "alti"])
    assert set(found) == set(scorings)
    for each in scorings:
        if each.method != "column_sum":
            wanted = attributor(TEXTS, method=each.method, **given_options(each))
            for one, other in zip(found[each], wanted, strict=True):
                np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "normalize_rows"),
    [
        ({}, True),
        ({"edge_weights": "alti"}, True),
        ({"edge_weights": "grad_attention"}, False),
        ({"edge_weights": "grad_attention", "head_reduction": "mean", "relu": "before"}, False),
    ],
)
def test_column_sums_are_those_of_raw_edge_weights(attributor, options, normalize_rows):
    scorer = {"method": "column_sum", "layer": [1, 2], **options}
    usual = Options() if options else Options(keep="rollout")  # which keeps no edge weights of rollout
    settings = FaithfulnessSettings(**{**FAITHFUL, "scorer": [scorer], "options": usual})
    one, top = scorings_of(attributor, settings)
    found = scores_of(attributor, TEXTS, (one, top), settings)
    every = {"layer": "all", "output_position": "all", "normalize": "none", "residual_weight": 0.0}
    for row, text in enumerate(TEXTS):
        weights = attributor(text, method="raw", **every, **options).scores
        if normalize_rows:
            np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[top][row].scores, weights.sum(axis=(0, 1)), rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(found[one][row].scores, weights[:2].sum(axis=(0, 1)), rtol=2e-5, atol=1e-7)
        assert found[top][row].alignment.tokens == attributor(text, method="raw").tokens


def test_differences_are_paired(attributor, tmp_path):
    found = evaluate(attributor, tmp_path / "out", layer="all").table.where(metric="sufficiency", bin=None)
    values = shards(tmp_path / "out")
    floor = np.mean(values["sufficiency_random"], axis=1)
    assert [row["layer"] for row in found.rows] == [None, 0, 1, 2]
    assert found.rows[0]["difference"] is None
    for row in found.rows[1:]:
        difference = np.mean(values[f"sufficiency_rollout_layer_{row['layer']}"], axis=1) - floor
        wanted = [difference.mean(), *Bootstrap().interval(difference)]
        shown = [row["difference"], row["difference_low"], row["difference_high"]]
        np.testing.assert_allclose(shown, wanted, rtol=0, atol=1e-12)
        assert (row["compared_with"], row["n_pairs"]) == ("random", 9)
    scorers = ["raw", "blank_out", "rollout"]
    others = evaluate(attributor, tmp_path / "raw", scorer=scorers, layer=[0, 1], compared_with="raw").table
    bases = {(row["method"], row["layer"]): row["compared_with"] for row in others.rows}
    assert bases[("rollout", 1)] == "raw_layer_1"
    assert bases[("blank_out", None)] is None  # raw has no one layer to compare it with
    assert bases[("raw", 0)] is None


def test_chance_is_of_the_text_alone(attributor, tmp_path):
    names = [f"{metric}_random" for metric in METRICS]
    first = evaluate(attributor, tmp_path / "a", scorer="random")
    evaluate(attributor, tmp_path / "b", TEXTS[::-1], scorer="random", shard_size=2)
    evaluate(attributor, tmp_path / "c", scorer="random", seed=1)
    a, b, c = (shards(tmp_path / name) for name in "abc")
    for name in names:
        np.testing.assert_allclose(a[name], b[name][::-1], rtol=0, atol=1e-6)
    assert not np.allclose(a["comprehensiveness_random"], c["comprehensiveness_random"], atol=1e-6)
    assert "### faithfulness" in first.to_markdown()
    assert "less random" not in first.to_markdown()


def test_right_and_wrong_predictions_apart(attributor, tmp_path):
    predicted = [each.prediction.index for each in attributor(TEXTS)]
    names = [attributor.model.config.id2label[index] for index in range(2)]
    labels = [index if row % 3 else 1 - index for row, index in enumerate(predicted)]  # 3 of 9 are wrong
    for name, column in (("indices", labels), ("names", [names[index] for index in labels])):
        dataset = Dataset.from_dict({"text": TEXTS, "gold": column})
        report = evaluate(attributor, tmp_path / name, dataset=dataset, label_column="gold")
        found = shards(tmp_path / name)
        assert found["is_right"] == [bool(row % 3) for row in range(9)]
        assert found["gold"] == column
    values = {each: np.mean(found[f"sufficiency_{each}"], axis=1) for each in ("random", "rollout_layer_2")}
    right = np.array(found["is_right"])
    for group, chosen in {"all": right | True, "right": right, "wrong": ~right}.items():
        of_group = report.table.where(prediction=group, metric="sufficiency", bin=None)
        row = of_group.where(method="rollout").rows[0]
        own, floor = values["rollout_layer_2"][chosen], values["random"][chosen]
        wanted = [own.mean(), *Bootstrap().interval(own), (own - floor).mean(), *Bootstrap().interval(own - floor)]
        keys = ("value", "low", "high", "difference", "difference_low", "difference_high")
        np.testing.assert_allclose([row[key] for key in keys], wanted, rtol=0, atol=1e-12)
        assert (row["n"], row["n_pairs"], row["n_texts"]) == (chosen.sum(),) * 3
    titles = [line for line in report.to_markdown().splitlines() if line.startswith("###")]
    of_groups = ["all: n = 9", "right: n = 6", "wrong: n = 3"]
    assert titles == [
        *(f"### faithfulness, prediction {each}" for each in of_groups),
        *(f"### faithfulness, prediction {each}; less random, text by text" for each in of_groups),
    ]
    again = evaluate(attributor, tmp_path / "names", dataset=dataset, label_column="gold", cost_rows=2)
    assert again.run.n_computed == 0
    assert all(row["milliseconds"] > 0 for row in again.table.where(method="rollout").rows)


def test_without_a_wrong_prediction_there_is_no_table_of_them(attributor, tmp_path):
    dataset = Dataset.from_dict({"text": TEXTS, "gold": [each.prediction.label for each in attributor(TEXTS)]})
    report = evaluate(attributor, tmp_path / "out", dataset=dataset, label_column="gold")
    assert {(row["prediction"], row["n_texts"]) for row in report.table.rows} == {("all", 9), ("right", 9)}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("both", r"label_column 'gold': the label 'both' is none of the model's classes: it has 0 \('LABEL_0'\), 1"),
        (2, r"label_column 'gold': the label 2 is outside of the model's classes"),
        (-1, r"label_column 'gold': the label -1 is outside of the model's classes"),
        (None, r"label_column 'gold': the label must be a class index or label, got None"),
    ],
)
def test_unknown_labels_are_errors_of_their_rows(attributor, tmp_path, label, message):
    good = "LABEL_0" if isinstance(label, str) else 0
    dataset = Dataset.from_dict({"text": TEXTS[:3], "gold": [good, label, good]})
    report = evaluate(attributor, tmp_path / "out", dataset=dataset, label_column="gold")
    assert [row for row, _ in report.run.errors] == [1]
    assert re.search(message, report.run.errors[0][1])
    assert report.table.where(prediction="all").rows[0]["n"] == 2
    with pytest.raises((OptionError, PositionError), match=message):
        evaluate(attributor, tmp_path / "raised", dataset=dataset, label_column="gold", on_error="raise")


def test_labels_need_a_model_that_chooses_one(tmp_path):
    model = Attributor(bert(num_labels=1), tokenizer())
    dataset = Dataset.from_dict({"text": TEXTS, "gold": [0] * 9})
    with pytest.raises(OptionError, match=r"does not choose one label of a text.*leave label_column out"):
        evaluate(model, tmp_path / "out", dataset=dataset, label_column="gold", measured_output="logit")


def test_a_run_goes_on_and_results_are_those_of_the_whole(attributor, tmp_path):
    first = evaluate(attributor, tmp_path / "out")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    again = evaluate(attributor, tmp_path / "out")
    assert (again.run.n_computed, again.run.n_skipped) == (4, 5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    assert ResultTable.load(tmp_path / "out" / "results.json").rows == first.table.rows
    with pytest.raises(OptionError, match=r"settings\.n_points: 10 there, 5 asked"):
        evaluate(attributor, tmp_path / "out", n_points=5)


def test_what_tells_nothing_is_missing_and_errors_are_recorded(tmp_path):
    scorers = ["random", "blank_out"]
    texts = ["the key old cat", "key", "", "the the", "old mat"]  # "the" weighs nothing, so that scores are constant
    report = evaluate(bag_of_words(), tmp_path / "out", texts, scorer=scorers, measured_output="logit")
    assert [row for row, _ in report.run.errors] == [2]
    found = shards(tmp_path / "out")
    assert found["missing"] == [[None] * 2, ["one token"] * 2, None, [None, "constant scores"], [None] * 2]
    assert found["n_tied"] == [[0, 0], [0, 0], None, [0, 2], [0, 0]]
    assert found["comprehensiveness_blank_out"][3] == [None] * 5
    ceiling = report.table.where(method="blank_out", metric="comprehensiveness", bin=None).rows[0]
    assert (ceiling["n"], ceiling["missing"]) == (2, "constant scores: 1; one token: 1")
    assert ceiling["n_pairs"] == 2
    odds = report.table.where(method="random", metric="log_odds", bin=None).rows[0]
    assert (odds["value"], odds["missing"]) == (None, "no probability: 3; one token: 1")


def test_costs_stand_beside_each_scorer_and_not_in_the_shards(attributor, tmp_path):
    texts = ["", *TEXTS]
    stream = ({"text": text} for text in texts)  # can be gone through once
    report = evaluate(attributor, tmp_path / "out", dataset=stream, layer=[0, 1], cost_rows=3)
    assert report.run.n_rows == 10
    for row in report.table.rows:
        assert (row["milliseconds"] is None) == (row["method"] == "random")
        assert row["milliseconds"] is None or row["milliseconds"] > 0
    markdown, latex = report.to_markdown(), (tmp_path / "out" / "results.tex").read_text()
    assert "| insertion_area | milliseconds | peak_memory_mb |" in markdown
    assert "each by itself, on the first 3 texts; memory: " in markdown
    assert r"insertion\_area & milliseconds & peak\_memory\_mb \\" in latex
    assert "\n% milliseconds a text" in latex
    evaluate(attributor, tmp_path / "without", texts, layer=[0, 1])
    files = sorted(path.name for path in (tmp_path / "out").glob("shard-*"))
    evaluate(attributor, tmp_path / "again", dataset=({"text": text} for text in texts), layer=[0, 1], cost_rows=3)
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert "milliseconds" not in ResultTable.load(tmp_path / "without" / "results.json").data.column_names
    nothing = evaluate(attributor, tmp_path / "nothing", ["", ""], cost_rows=3)
    assert nothing.table.rows == []
    assert nothing.to_markdown() == ""
    only_wrong = evaluate(attributor, tmp_path / "wrong", ["", "the key"], cost_rows=1)
    assert "milliseconds" not in only_wrong.table.data.column_names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scorer": "flows"}, OptionError, "unknown scorer 'flows'"),
        ({"scorer": []}, OptionError, "scorer must be one, or a list of different ones"),
        ({"scorer": ["raw", "raw"]}, OptionError, "scorer must be one, or a list of different ones"),
        ({"scorer": [3]}, OptionError, "unknown scorer 3; choose one of"),
        ({"scorer": [{"name": "mine"}]}, OptionError, "a scorer's mapping needs its method, one or a list of them"),
        ({"scorer": [{"method": "rolout"}]}, OptionError, r"unknown scorer 'rolout'.*did you mean 'rollout'"),
        (
            {"scorer": [{"method": "rollout", "residul_weight": 1}]},
            OptionError,
            r"unknown setting of the scorer 'rollout' 'residul_weight'.*did you mean 'residual_weight'",
        ),
        (
            {"scorer": [{"method": "rollout", "residual_weight": 2}]},
            OptionError,
            "residual_weight must be a number from 0 to 1",
        ),
        ({"scorer": [{"method": "raw", "normalize": "max"}]}, OptionError, "unknown setting of the scorer 'raw'"),
        (
            {"scorer": [{"method": "raw", "baseline": "mask"}]},
            OptionError,
            "a baseline is for edge weights with a gradient",
        ),
        ({"scorer": [{"method": "blank_out", "signs": "drop"}]}, OptionError, "unknown setting of the scorer"),
        ({"scorer": [{"method": "column_sum", "residual_weight": 1}]}, OptionError, "unknown setting of the scorer"),
        ({"scorer": [{"method": "random", "seed": 1}]}, OptionError, "unknown setting of the scorer 'random'"),
        ({"scorer": [{"method": "raw", "edge_weights": "attn"}]}, OptionError, "unknown edge_weights 'attn'"),
        ({"scorer": [{"method": "raw", "layer": 3}]}, PositionError, "layer 3 is out of range: there are 3"),
        (
            {"scorer": [{"method": "flow_shapley", "edge_weights": "grad_attention"}]},
            OptionError,
            "method='flow_shapley' has no default with edge_weights='grad_attention'",
        ),
        (
            {"scorer": [{"method": "integrated_gradients", "baseline": "msk"}]},
            OptionError,
            "unknown baseline 'msk'",
        ),
        (
            {"scorer": [{"method": ["raw", "flow"], "name": "both"}]},
            OptionError,
            "a scorer's name must be a text, and that of one method",
        ),
        ({"scorer": [{"method": "raw", "name": "-"}]}, OptionError, "name needs a letter or a digit, got '-'"),
        (
            {"scorer": ["raw", {"method": "raw", "layer": 1}]},
            OptionError,
            r"two are called 'raw' and 'raw'; give one a name of its own, as in \{method: raw, name: mine\}",
        ),
        (
            {"scorer": ["random", {"method": "raw", "name": "a b"}, {"method": "raw", "name": "a-b"}]},
            OptionError,
            "two are called 'a b' and 'a-b'",
        ),
        (
            {"scorer": ["raw", {"method": "random", "name": "raw layer 2"}]},
            OptionError,
            "two scorers would have the columns of 'raw_layer_2'",
        ),
        ({"compared_with": "rollout (a)"}, OptionError, r"unknown compared_with 'rollout \(a\)'; choose one of"),
        ({"layer": "top"}, OptionError, "unknown layer 'top'"),
        ({"layer": []}, OptionError, "layer is an empty list"),
        ({"layer": [0, True]}, OptionError, r"layer must be an index, a list of them, or 'all', got \[0, True\]"),
        ({"layer": 3}, PositionError, "layer 3 is out of range: there are 3"),
        ({"layer": [2, -1]}, OptionError, r"layers must differ from each other, got \[2, -1\] of 3 layers"),
        ({"compared_with": "raw"}, OptionError, "unknown compared_with 'raw'; choose one of 'random', 'rollout'"),
        ({"measured_output": "log"}, OptionError, "unknown output 'log'"),
        ({"special_tokens": "zero"}, OptionError, "unknown special_tokens 'zero'"),
        ({"replacement": "sep"}, OptionError, "unknown replacement 'sep'"),
        ({"bins": []}, OptionError, "bins must be shares of the tokens above 0 and up to 1"),
        ({"bins": [0.1, 2]}, OptionError, "bins must be shares of the tokens above 0 and up to 1"),
        ({"n_points": 0}, OptionError, "n_points must be a positive integer"),
        ({"n_steps": 0}, OptionError, "n_steps must be a positive integer"),
        ({"baseline": "none"}, OptionError, "unknown baseline 'none'"),
        ({"seed": -1}, OptionError, "seed must be an integer from 0 on, got -1"),
        ({"options": Options(layer=1)}, OptionError, "say layer of the evaluation"),
        ({"options": Options(output_position=1)}, OptionError, "leave output_position out"),
        ({"options": Options(normalize="max")}, OptionError, "change no order of tokens: leave them out"),
        ({"cost_rows": -1}, OptionError, "cost_rows must be a number of rows, 0 or more, got -1"),
        ({"shard_size": 0}, OptionError, "shard_size must be a positive integer, got 0"),
        ({"on_error": "ignore"}, OptionError, "unknown on_error 'ignore'"),
        ({"label_column": "gold"}, OptionError, "label_column 'gold' is no column of the data set"),
        ({"columns": ["label"]}, OptionError, "columns 'label' is no column of the data set"),
    ],
)
def test_bad_options_stop_before_the_first_row(attributor, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(attributor, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/shard*"))


@pytest.mark.parametrize("is_in_options", [True, False])
def test_a_folder_of_other_defaults_of_ones_own_edge_weights_is_refused(
    attributor, tmp_path, monkeypatch, is_in_options
):
    monkeypatch.setitem(EDGE_WEIGHTS, "mine", EDGE_WEIGHTS["attention"])  # forgotten after the test
    for residual_weight in (0.5, 0.9):
        register_edge_weights("mine", residual_weight=residual_weight)(lambda layer: layer.attention.mean(0))
        asked = {"scorer": [{"method": "rollout", "edge_weights": "mine"}]}
        if is_in_options:
            asked = {"scorer": ["rollout"], "options": Options(edge_weights="mine")}
        if residual_weight == 0.5:
            evaluate(attributor, tmp_path, TEXTS[:2], **asked)
    with pytest.raises(OptionError, match="made otherwise"):
        evaluate(attributor, tmp_path, TEXTS[:2], **asked)
