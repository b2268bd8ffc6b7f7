"""Plausibility over rationales against the library's functions; long texts, chance, annotators, what is missing."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import OptionError, TokenizerError
from attnflow_hf.evaluation import (
    PlausibilityOptions,
    Rationale,
    ResultTable,
    blank_out,
    chance_plausibility,
    evaluate_plausibility,
    measure_plausibility,
)
from attnflow_hf.evaluation.plausibility_metrics import METRICS

WORDS = "the key to the old cabinets is on a table and the cat sat near the mat".split()
TEXTS = [" ".join(WORDS[row % 5 : row % 5 + 3 + row % 7]) for row in range(7)]


def marked(name, text, *places, **more):
    words = tuple(text.split())
    mask = np.isin(np.arange(len(words)), places)
    return Rationale(name, text, words, mask, more.pop("label", "1"), **more)


RATIONALES = [
    *(marked(str(row), text, row % 3, annotator="0", split="train") for row, text in enumerate(TEXTS)),
    *(marked(str(row), text, 1, 2, annotator="1", label="0", split="train") for row, text in enumerate(TEXTS)),
    marked("none", "the old cat"),
]


@pytest.fixture
def attributor():
    return Attributor(bert(), tokenizer(), batch_size=8)


def evaluate(attributor, output, rationales=RATIONALES, **options):
    given = {"shard_size": 3, "cost_rows": 0, "scorer": ["random", "rollout"], **options}
    return evaluate_plausibility(rationales, attributor, output, **given)


def shards(folder):
    return pq.read_table(sorted(folder.glob("*.parquet"))).to_pydict()


@pytest.mark.parametrize("annotators", ["each", "majority"])
def test_values_are_those_of_measure_plausibility(attributor, tmp_path, annotators):
    scorers, how = ["random", "raw", "rollout", "blank_out"], {"annotators": annotators, "word_reduction": "max"}
    report = evaluate(attributor, tmp_path / "out", scorer=scorers, layer=[0, -1], share=0.5, **how)
    assert (report.run.n_rows, report.run.n_shards, report.run.errors) == (8, 3, ())
    texts = {each.id: each.text for each in RATIONALES}
    asked = {
        ("raw", 0): lambda text: attributor(text, method="raw", layer=0),
        ("raw", 2): lambda text: attributor(text, method="raw"),
        ("rollout", 0): lambda text: attributor(text, method="rollout", layer=0),
        ("rollout", 2): lambda text: attributor(text, method="rollout"),
        ("blank_out", None): lambda text: blank_out(attributor, text, replacement="drop", special_tokens="drop"),
    }
    options = PlausibilityOptions(metrics=METRICS, share=0.5, **how)
    floor = chance_plausibility(RATIONALES, options)
    wanted = {("random", None): floor}
    for key, score in asked.items():
        scored = {name: score(text) for name, text in texts.items()}
        wanted[key] = measure_plausibility(scored, RATIONALES, options)
    for (method, layer), found in wanted.items():
        for metric, summary in found.summaries.items():
            row = report.table.where(method=method, layer=layer, metric=metric).rows[0]
            shown = [row[name] for name in ("value", "std", "low", "high")]
            numbers = [summary.mean, summary.std, summary.low, summary.high]
            np.testing.assert_allclose(shown, numbers, rtol=0, atol=1e-12)
            assert (row["n"], row["missing"]) == (summary.n, row["missing"])
            assert (row["n_rationales"], row["n_empty"]) == (found.n_rationales, found.n_empty)
            assert row["annotators"] == annotators
            if method != "random":
                difference = summary.mean - floor.summaries[metric].mean
                np.testing.assert_allclose(row["difference"], difference, rtol=0, atol=1e-12)
    assert report.table.rows[0]["missing"] == f"empty rationale: {report.table.rows[0]['n_missing']}"
    assert report.table.rows[0]["n_missing"] >= 1


def test_scorers_have_options_of_their_own(attributor, tmp_path):
    grad = {"edge_weights": "grad_attention"}
    scorers = ["rollout", {"method": ["rollout", "column_sum"], **grad}, {"method": "blank_out", "replacement": "mask"}]
    report = evaluate(attributor, tmp_path / "out", scorer=scorers, metric="auprc", compared_with="rollout")
    texts = {each.id: each.text for each in RATIONALES}
    options = PlausibilityOptions(metrics=("auprc",))
    for method, score in {
        "rollout": lambda text: attributor(text, method="rollout"),
        "rollout (grad_attention)": lambda text: attributor(text, method="rollout", **grad),
        "blank_out (replacement mask)": lambda text: blank_out(
            attributor, text, replacement="mask", special_tokens="drop"
        ),
    }.items():
        wanted = measure_plausibility({name: score(text) for name, text in texts.items()}, RATIONALES, options)
        row = report.table.where(method=method).rows[0]
        np.testing.assert_allclose(row["value"], wanted.summaries["auprc"].mean, rtol=0, atol=1e-12)
    assert "auprc_blank_out_replacement_mask" in shards(tmp_path / "out")
    sums = report.table.where(method="column_sum (grad_attention)").rows[0]
    assert sums["difference"] is not None
    windows = {"scorer": ["raw", {"method": "rollout", "residual_weight": 0.8}], "window": 8, "stride": 2}
    cut = evaluate(attributor, tmp_path / "cut", **windows, metric="auprc", compared_with="raw")
    assert [row["method"] for row in cut.table.rows] == ["raw", "rollout (residual_weight 0.8)"]
    assert cut.table.rows[1]["difference"] != 0


def test_shards_keep_what_was_marked_and_the_run_goes_on(attributor, tmp_path):
    first = evaluate(attributor, tmp_path / "out", metric="iou_f1")
    found = shards(tmp_path / "out")
    assert found["id"] == [*map(str, range(7)), "none"]
    assert found["masks"][1] == [each.mask.tolist() for each in RATIONALES if each.id == "1"]
    assert (found["annotators"][0], found["labels"][0], found["split"][0]) == (["0", "1"], ["1", "0"], "train")
    assert found["n_words"] == [len(text.split()) for text in [*TEXTS, "the old cat"]]
    assert (found["n_rationales"][-1], found["n_empty"][-1], found["share_marked"][-1]) == (1, 1, None)
    assert found["iou_f1_random"][-1] is None
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    assert evaluate(attributor, tmp_path / "out", metric="iou_f1").run.n_computed == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    assert ResultTable.load(tmp_path / "out" / "results.json").rows == first.table.rows
    drawn = evaluate(attributor, tmp_path / "drawn", sample=3, columns=["id"], metric="auprc")
    assert drawn.run.n_rows == 3
    assert "masks" not in shards(tmp_path / "drawn")
    with pytest.raises(OptionError, match=r"dataset\.n_rows: 8 there, 7 asked"):
        evaluate(attributor, tmp_path / "out", RATIONALES[:-1], metric="iou_f1")


def test_long_texts_are_cut_or_read_in_windows(attributor, tmp_path):
    long = " ".join(WORDS * 4)  # more than the 64 positions of the model
    rationales = [marked("long", long, 1, 65), marked("short", TEXTS[3], 1)]
    plain = evaluate(attributor, tmp_path / "plain", rationales)
    assert [row for row, _ in plain.run.errors] == [0]
    cut = evaluate(attributor, tmp_path / "cut", rationales, truncation=True)
    found = shards(tmp_path / "cut")
    assert (found["n_words"], found["n_dropped_words"]) == ([68, len(TEXTS[3].split())], [6, 0])
    assert found["share_marked"][0] == pytest.approx(1 / 62)
    scored = {"long": attributor(long, method="rollout", truncation=True)}
    options = PlausibilityOptions(beyond="drop")
    for label, wanted in (
        ("rollout_layer_2", measure_plausibility(scored, rationales[:1], options)),
        ("random", chance_plausibility(rationales[:1], options, scored=scored)),
    ):
        assert found[f"auprc_{label}"][0] == pytest.approx(wanted.summaries["auprc"].mean, abs=1e-9)
    assert cut.table.rows[0]["n_dropped_words"] == 6
    windowed = evaluate(attributor, tmp_path / "windows", rationales, window=32, stride=8, cost_rows=2)
    assert windowed.run.errors == ()
    assert shards(tmp_path / "windows")["share_marked"][0] == pytest.approx(2 / 68)
    assert windowed.table.where(method="rollout").rows[0]["milliseconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1"}, "unknown metric 'f1'"),
        ({"metric": []}, "metric must be one, or a list of different ones"),
        ({"annotators": "all"}, "unknown annotators 'all'"),
        ({"word_reduction": "median"}, "unknown word_reduction 'median'"),
        ({"share": 0}, "share must lie above 0 and up to 1"),
        ({"window": 16, "truncation": True}, "a window goes over one long text: it has no truncation"),
        (
            {"window": 16, "scorer": ["raw", "blank_out"]},
            "these need a text which the model reads whole: blank_out;",
        ),
        ({"window": 16, "scorer": ["raw", "column_sum"]}, "which the model reads whole: column_sum;"),
        ({"window": 16, "stride": 16}, "stride must be less than the window"),
        ({"options": Options(special_tokens="drop")}, "leave them out"),
        ({"rationales": []}, "there are no rationales to compare with"),
        ({"rationales": [marked("1", "a b", 0), marked("1", "a c", 0)]}, "rationales of id '1' have different texts"),
        ({"columns": ["text", "words"]}, "columns 'words' is no column of the data set"),
    ],
)
def test_bad_options_stop_before_the_first_row(attributor, tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        evaluate(attributor, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/shard*"))


@pytest.mark.parametrize("window", [None, 16])
def test_a_model_without_a_tokenizer_is_told(tmp_path, window):
    with pytest.raises(TokenizerError, match="tokenizer"):
        evaluate(Attributor(bert(), None), tmp_path / "out", window=window)
