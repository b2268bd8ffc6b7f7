import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value, load_dataset
from tiny_models import bert, gpt2, tokenizer

from attnflow_hf import Attributor, LayerGraph, Options, explained_rows, flow
from attnflow_hf.errors import DatasetError, FileFormatError, OptionError, PositionError, TextError, TokenizerError
from attnflow_hf.run_files import load_rows
from attnflow_hf.runs import run_dataset
from attnflow_hf.windows import Windows, attribute_windows

WORDS = "the key to the old cabinets is on a table and the cat sat near the mat".split()
TEXTS = [" ".join(WORDS[: 2 + row % 7]) for row in range(14)]
SIZE = 4  # shards of 4, 4, 4 and 2 rows
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_runs
test_runs.run_and_be_killed(sys.argv[2])
"""


@pytest.fixture
def attributor():
    return new_attributor()


def new_attributor():
    return Attributor(bert(), tokenizer(), batch_size=3)


def rows(texts=TEXTS):
    return [{"id": number, "text": text} for number, text in enumerate(texts)]


def as_dataset(texts=TEXTS):
    return Dataset.from_list(rows(texts))


def run(dataset, attributor, output, **options):
    return run_dataset(dataset, attributor, output, **{"shard_size": SIZE, **options})


def read(folder):
    files = sorted(map(str, Path(folder).glob("*.parquet")))
    cache = str(Path(folder).parent / "cache")
    return load_dataset("parquet", data_files=files, split="train", cache_dir=cache)


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def without_forward_passes(attributor):
    def refuse(*_):
        raise AssertionError("the model was run")

    attributor.model.register_forward_pre_hook(refuse)
    return attributor


def break_replace(monkeypatch, at, error):
    """Let the `at`-th file, counted from 0, fail when it gets its name."""
    calls, replace = [], os.replace

    def failing(source, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)


def test_rows_are_the_attributors_own(attributor, tmp_path):
    report = run(as_dataset(), attributor, tmp_path / "out")
    assert (report.n_rows, report.n_computed, report.n_skipped, report.n_shards) == (14, 14, 0, 4)
    assert sorted(content(tmp_path / "out")) == [
        "manifest.json",
        *[f"shard-0000{number}.parquet" for number in range(4)],
    ]
    found = read(tmp_path / "out")
    assert found["text"] == TEXTS
    assert found["id"] == list(range(14))
    for row, text in zip(found, TEXTS, strict=True):
        wanted = attributor(text)
        np.testing.assert_allclose(row["scores_flow"], wanted.scores, rtol=0, atol=1e-6)
        assert row["tokens"] == list(wanted.tokens)
        assert row["offsets"] == wanted.offsets.tolist()
        assert row["special_tokens_mask"] == wanted.special_tokens_mask.tolist()
        assert row["prediction_label"] == wanted.prediction.label
        assert row["prediction_probability"] == pytest.approx(wanted.prediction.probability, abs=1e-6)
        assert row["output_position"] == wanted.output_position
        assert row["notes"] == list(wanted.notes)
        assert row["error"] is None


def test_several_methods_options_and_words(attributor, tmp_path):
    options = Options(layer=1, output_position=1, normalize="max", special_tokens="drop")
    run(as_dataset(), attributor, tmp_path / "out", method=["raw", "flow"], options=options, words=True, columns=["id"])
    found = read(tmp_path / "out")
    assert "text" not in found.column_names
    assert found.features["word_scores_raw"].feature.dtype == "float32"
    for row, text in zip(found, TEXTS, strict=True):
        for method, wanted in attributor.compare(text, methods=["raw", "flow"], options=options).items():
            np.testing.assert_allclose(row[f"scores_{method}"], wanted.scores, rtol=0, atol=1e-5)
            np.testing.assert_allclose(row[f"word_scores_{method}"], wanted.to_words().scores, rtol=0, atol=1e-5)
            assert row["words"] == list(wanted.to_words().words)


def test_estimates_say_so_in_their_notes_and_have_standard_errors(attributor, tmp_path):
    options, text = Options(n_permutations=2), " ".join(["the key to the old cabinets"] * 3)
    rows = [{"text": text}, {"text": "the key"}]
    run(rows, attributor, tmp_path / "out", method=["rollout", "flow_shapley"], options=options)
    found, wanted = read(tmp_path / "out"), attributor(text, method="flow_shapley", n_permutations=2)
    row = found[0]
    np.testing.assert_allclose(row["scores_flow_shapley"], wanted.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(row["standard_errors_flow_shapley"], wanted.standard_errors, rtol=0, atol=1e-6)
    assert max(row["standard_errors_flow_shapley"]) > 0
    assert found[1]["standard_errors_flow_shapley"] is None  # exact
    assert found.features["standard_errors_flow_shapley"].feature.dtype == "float32"
    assert row["notes"][-1].startswith("estimated from 2 random orders (seed 0): standard errors are up to 0.")


def test_all_methods_are_made_from_one_forward_pass(attributor, tmp_path):
    attributor.capture_report()  # its probe runs the model too
    calls = []
    attributor.model.register_forward_hook(lambda *_: calls.append(1))
    run(as_dataset(), attributor, tmp_path / "out", method=["raw", "rollout", "flow"])
    assert len(calls) == 1 + 2 + 2 + 2 + 1  # the check of the options, then 4, 4, 4 and 2 rows by 3


LONG = [*TEXTS[:5], " ".join(WORDS * 5), *TEXTS[5:9], " ".join(WORDS * 7)]


def test_long_texts_are_read_in_windows(attributor, tmp_path):
    options = Options(special_tokens="drop")
    run(
        as_dataset(LONG), attributor, tmp_path / "out", window=16, stride=4, method=["rollout", "flow"], options=options
    )
    cut = [Windows(16, 4).of(attributor.model, attributor.tokenizer, text) for text in LONG]
    wanted = dict(attribute_windows(attributor.wrapped, cut, ["rollout", "flow"], options))
    for index, row in enumerate(read(tmp_path / "out")):
        for method, each in wanted[index].items():
            np.testing.assert_allclose(row[f"scores_{method}"], each.scores, rtol=0, atol=1e-6)
            assert row["tokens"] == LONG[index].split()
            assert row["prediction_label"] == each.prediction.label
            assert [LONG[index][start:stop] for start, stop in row["offsets"]] == row["tokens"]


def test_a_text_that_no_window_can_have_is_an_error_of_its_row(attributor, tmp_path):
    report = run(as_dataset([*LONG, ""]), attributor, tmp_path / "out", window=16, stride=4, on_error="record")
    assert report.errors == (
        (11, "TextError: the text is empty: it has no token but special ones, so there is nothing to attribute to"),
    )


def test_layer_graphs_are_kept_where_they_are_asked_for(attributor, tmp_path):
    poisoned = [*TEXTS[:5], "", *TEXTS[6:]]
    options = Options(residual_weight=0.25)
    run(as_dataset(poisoned), attributor, tmp_path / "out", save_layer_graphs=True, options=options, on_error="record")
    empty = run(as_dataset().select([]), attributor, tmp_path / "empty", save_layer_graphs=True)
    assert (empty.n_rows, empty.n_shards) == (0, 1)
    found = read(tmp_path / "out")
    assert found.features["layer_graph"].feature.feature.feature.dtype == "float32"
    for row, text in zip(found, poisoned, strict=True):
        if not text:
            assert row["layer_graph"] is None
            continue
        n = len(row["tokens"])
        graph = LayerGraph(np.array(row["layer_graph"], dtype=np.float64))
        assert (graph.n_layers, graph.n_tokens) == (3, n)
        np.testing.assert_allclose(graph.weights.sum(axis=-1), 1.0, rtol=0, atol=1e-6)
        values = flow(graph, output_positions=0)
        np.testing.assert_allclose(values[0] / values.sum(), row["scores_flow"], rtol=0, atol=1e-6)


def test_a_column_of_that_name_in_the_data_set_is_the_users(attributor, tmp_path):
    own = as_dataset().add_column("layer_graph", [f"graph {row}" for row in range(14)])
    run(own, attributor, tmp_path / "out", method="raw")
    assert read(tmp_path / "out")["layer_graph"] == own["layer_graph"]
    with pytest.raises(OptionError, match=r"the run adds columns named \['layer_graph'\]; rename the data set's"):
        run(own, attributor, tmp_path / "other", save_layer_graphs=True)


def test_more_layer_graphs_than_a_column_can_hold_are_told(attributor, tmp_path, monkeypatch):
    monkeypatch.setattr("attnflow_hf.shards._MOST_VALUES", 500)
    with pytest.raises(OptionError, match=r"of a shard have 783 numbers, more than .* a shard_size of at most 2"):
        run(as_dataset(), attributor, tmp_path / "out", save_layer_graphs=True)


def test_pairs(attributor, tmp_path):
    pairs = [{"premise": text, "hypothesis": "a longer hypothesis"} for text in TEXTS]
    columns = {"text_column": "premise", "text_pair_column": "hypothesis"}
    run(Dataset.from_list(pairs), attributor, tmp_path / "out", **columns)
    for row, text in zip(read(tmp_path / "out"), TEXTS, strict=True):
        wanted = attributor((text, "a longer hypothesis"))
        np.testing.assert_allclose(row["scores_flow"], wanted.scores, rtol=0, atol=1e-6)
        assert row["tokens"] == list(wanted.tokens)


def test_models_without_head_and_the_mean_have_nulls(tmp_path):
    attributor = Attributor(bert("BertModel"), tokenizer())
    run(as_dataset(), attributor, tmp_path / "out", options=Options(output_position="mean"))
    row = read(tmp_path / "out")[0]
    assert [row[name] for name in ("prediction_label", "prediction_probability", "output_position")] == [None] * 3
    np.testing.assert_allclose(row["scores_flow"], attributor(TEXTS[0], output_position="mean").scores, atol=1e-6)


TYPES = Features({"id": Value("int64"), "text": Value("string")})
STREAMS = {
    "list": rows,
    "generator": lambda: (row for row in rows()),
    "iterable": lambda: as_dataset().to_iterable_dataset(num_shards=3),
    "iterable without types": lambda: IterableDataset.from_generator(lambda: iter(rows())),
    "mapped iterable": lambda: as_dataset().to_iterable_dataset().map(lambda row: row, features=TYPES),
    "shuffled back": lambda: as_dataset().select(range(13, -1, -1)).select(range(13, -1, -1)),
    "torch format": lambda: as_dataset().with_format("torch"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_data_set_gives_the_same_shards_and_resumes(attributor, tmp_path, kind, monkeypatch):
    run(as_dataset(), attributor, tmp_path / "wanted")
    wanted = content(tmp_path / "wanted")
    run(STREAMS[kind](), attributor, tmp_path / "out")
    found = content(tmp_path / "out")
    assert {name: data for name, data in found.items() if name != "manifest.json"} == {
        name: data for name, data in wanted.items() if name != "manifest.json"
    }
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    (tmp_path / "out" / "shard-00003.parquet").write_bytes(b"damaged")
    calls, original = [], explained_rows.attribute_each
    monkeypatch.setattr(
        explained_rows, "attribute_each", lambda *given: calls.append(len(given[1].samples)) or original(*given)
    )
    report = run(STREAMS[kind](), attributor, tmp_path / "out")
    assert calls == [1, 4, 2]  # the check of the options, shard 1, shard 3
    assert (report.n_rows, report.n_computed, report.n_skipped) == (14, 6, 8)
    assert content(tmp_path / "out") == found


def test_memory_holds_one_shard_of_a_stream(attributor, tmp_path):
    shards_before = []

    def stream():
        for row in rows():
            shards_before.append(len(list((tmp_path / "out").glob("shard-*"))))
            yield row

    run(stream(), attributor, tmp_path / "out")
    assert shards_before == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2


def test_types_and_names_of_labels_are_kept(attributor, tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 7}, features=features)
    run(dataset, attributor, tmp_path / "out")
    assert read(tmp_path / "out").features["label"] == features["label"]


def test_nulls_of_a_stream_with_types_keep_their_type(attributor, tmp_path):
    late = [{"id": row if row >= 6 else None, "text": text} for row, text in enumerate(TEXTS)]
    stream = IterableDataset.from_generator(lambda: iter(late), features=TYPES)
    run(stream, attributor, tmp_path / "out")
    assert read(tmp_path / "out")["id"] == [None] * 6 + list(range(6, 14))


def test_a_stream_whose_types_change_is_told(attributor, tmp_path):
    mixed = [{"text": text, "value": row if row < SIZE else f"v{row}"} for row, text in enumerate(TEXTS)]
    with pytest.raises(OptionError, match="rows 4 to 7 of the data set do not have the types of those before"):
        run(mixed, attributor, tmp_path / "out")
    with pytest.raises(OptionError, match=r"make no table: .*; give a Dataset"):
        run(mixed, attributor, tmp_path / "other", shard_size=10)
    with pytest.raises(OptionError, match=r"has columns \['more'\] which the first has not: \['id', 'text'\]"):
        run([*rows(), {"text": "the key", "more": 1}], attributor, tmp_path / "more")


@pytest.mark.parametrize("n_rows", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("kind", [as_dataset, rows])
def test_ends_at_the_end_of_a_shard(attributor, tmp_path, n_rows, kind):
    report = run(kind(TEXTS[:n_rows]), attributor, tmp_path / "out")
    assert (report.n_rows, report.n_shards) == (n_rows, n_rows // SIZE)
    assert len(read(tmp_path / "out")) == n_rows
    assert run(kind(TEXTS[:n_rows]), without_forward_passes(attributor), tmp_path / "out").n_computed == 0


@pytest.mark.parametrize("empty", [Dataset.from_dict({"text": []}, Features({"text": Value("string")})), []])
def test_an_empty_data_set_gives_one_shard_without_rows(attributor, tmp_path, empty):
    report = run(empty, attributor, tmp_path / "out")
    assert (report.n_rows, report.n_shards) == (0, 1)
    table = pq.read_table(tmp_path / "out" / "shard-00000.parquet")
    assert (table.num_rows, "scores_flow" in table.column_names) == (0, True)
    files = str(tmp_path / "out" / "*.parquet")
    assert not list(load_dataset("parquet", data_files=files, split="train", streaming=True))
    assert run(empty, without_forward_passes(attributor), tmp_path / "out").n_computed == 0


def test_a_second_run_computes_nothing(attributor, tmp_path):
    run(as_dataset(), attributor, tmp_path / "out")
    before = content(tmp_path / "out"), [path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()]
    report = run(as_dataset(), without_forward_passes(attributor), tmp_path / "out")
    assert (report.n_rows, report.n_computed, report.n_skipped, report.n_shards) == (14, 0, 14, 4)
    assert (content(tmp_path / "out"), [path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()]) == before
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.parquet"))
    assert report.n_bytes == size
    assert str(report).splitlines() == [
        f"{tmp_path / 'out'}: 14 rows in 4 shards, {size / 14:,.0f} bytes a row",
        "computed now: 0; finished before: 14; errors: 0",
    ]


def run_until_killed_ten_times(folder):
    """Run in processes of their own, each killed at a random moment; when one ends before, begin another folder."""
    draw, n_killed, number = random.Random(0), 0, 0
    while n_killed < 10:
        if (child := os.fork()) == 0:
            attributor = new_attributor()
            attributor.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
            run(as_dataset(), attributor, Path(folder) / str(number), shard_size=1)
            os._exit(0)
        time.sleep(draw.uniform(0.0, 0.8))
        os.kill(child, signal.SIGKILL)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        n_killed, number = n_killed + was_killed, number + (not was_killed)


def run_and_be_killed(folder):
    """Run once for each moment, in a process of its own that ends in SIGKILL there."""
    for moment in json.loads(os.environ["MOMENTS"]):
        if (child := os.fork()) == 0:
            kill_at(*moment)
            run(as_dataset(), new_attributor(), Path(folder) / "-".join(map(str, moment)))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill_at(where, count):
    """Kill this process at a call, counted from 0: before or after a file gets its name, or before the model runs."""
    owner, name = (explained_rows, "attribute_each") if where == "compute" else (os, "replace")
    calls, original = [], getattr(owner, name)

    def killing(*args):
        calls.append(args)
        is_now = len(calls) == count + 1
        if is_now and where != "after":
            if where == "half":
                os.truncate(args[0], os.path.getsize(args[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killing)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
def test_a_killed_run_is_resumed_to_the_same_bytes(attributor, tmp_path):
    # files get their names in this order: manifest, shard 0, manifest, shard 1, manifest, ..., manifest (complete)
    n_whole = {("half", 0): 0, ("half", 1): 0, ("after", 1): 0, ("after", 2): 4, ("half", 3): 4}
    n_whole |= {("before", 4): 4, ("after", 8): 14, ("compute", 3): 8}
    script = [sys.executable, "-W", "ignore", "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(
        script, env={**os.environ, "MOMENTS": json.dumps(list(n_whole))}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run(as_dataset(), attributor, tmp_path / "wanted")
    for moment, n_rows in n_whole.items():
        folder = tmp_path / "-".join(map(str, moment))
        n_leftovers = len(list(folder.glob(".*.tmp")))
        assert n_leftovers == (moment[0] in ("half", "before")), moment
        report = run(as_dataset(), attributor, folder)
        assert (report.n_computed, report.n_skipped) == (14 - n_rows, n_rows), moment
        assert content(folder) == content(tmp_path / "wanted"), moment


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
def test_a_run_killed_at_random_moments_is_resumed_to_the_same_bytes(attributor, tmp_path):
    code = KILLED.replace("run_and_be_killed", "run_until_killed_ten_times")
    script = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run(as_dataset(), attributor, tmp_path / "wanted", shard_size=1)
    folders = [path for path in tmp_path.iterdir() if path.name != "wanted"]
    assert folders
    for folder in folders:
        run(as_dataset(), attributor, folder, shard_size=1)
        assert content(folder) == content(tmp_path / "wanted")


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_full_disk_leaves_no_half_file(attributor, tmp_path, monkeypatch, at):
    run(as_dataset(), attributor, tmp_path / "wanted")
    with monkeypatch.context() as patch:
        break_replace(patch, at, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left on device"):
            run(as_dataset(), attributor, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))
    for name, data in content(tmp_path / "out").items():
        assert name == "manifest.json" or data == content(tmp_path / "wanted")[name]
    run(as_dataset(), attributor, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_an_interrupt_keeps_the_finished_shards(attributor, tmp_path, monkeypatch):
    run(as_dataset(), attributor, tmp_path / "wanted")
    calls, original = [], explained_rows.attribute_each

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 3:  # the check of the options, shard 0, shard 1
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(explained_rows, "attribute_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(as_dataset(), attributor, tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]
    assert run(as_dataset(), attributor, tmp_path / "out").n_skipped == SIZE
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def other_weights():
    attributor = new_attributor()
    with torch.no_grad():
        attributor.model.classifier.bias[0] += 1
    return attributor


def other_tokenizer():
    return Attributor(bert(), tokenizer(template="[CLS] $A [SEP] [SEP]"), batch_size=3)


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({"method": ["raw"]}, ['settings.method: ["flow"] there, ["raw"] asked']),
        (
            {"options": Options(layer=1, residual_weight=0.7)},
            ["settings.options.layer: -1 there, 1 asked", 'settings.options.residual_weight: "auto" there, 0.7 asked'],
        ),
        (
            {"shard_size": 5, "words": True},
            ["settings.shard_size: 4 there, 5 asked", "settings.words: false there, tr"],
        ),
        ({"columns": ["id"]}, ['settings.columns: null there, ["id"] asked']),
        ({"truncation": True}, ["settings.truncation: false there, true asked"]),
        ({"attributor": other_weights}, ["model.sha256: "]),
        ({"attributor": lambda: Attributor(bert(layer_norm_eps=1e-3), tokenizer(), batch_size=3)}, ["model.sha256: "]),
        (
            {"attributor": lambda: Attributor(gpt2(), tokenizer(), batch_size=3)},
            ['model.class: "BertForSequenceClassification" there'],
        ),
        ({"attributor": lambda: Attributor(bert(), tokenizer(), batch_size=4)}, ["batch_size: 3 there, 4 asked"]),
        ({"attributor": other_tokenizer}, ["tokenizer.sha256: "]),
        ({"dataset": lambda: as_dataset(TEXTS[:-1])}, ["dataset.fingerprint: ", "dataset.n_rows: 14 there, 13 asked"]),
        ({"dataset": rows}, ['dataset.kind: "Dataset" there, "rows" asked', "dataset.first_row: (nothing) there"]),
    ],
)
def test_a_folder_made_otherwise_is_refused(attributor, tmp_path, changed, lines):
    run(as_dataset(), attributor, tmp_path / "out")
    before = content(tmp_path / "out")
    made = {"dataset": as_dataset, "attributor": new_attributor, **changed}
    with pytest.raises(OptionError, match="the output folder holds a run made otherwise; ask for the same") as caught:
        run(made.pop("dataset")(), made.pop("attributor")(), tmp_path / "out", **made)
    differences = str(caught.value).splitlines()[1:]
    n_hidden = {"model.class: ": 1, "dataset.kind: ": 2}  # other keys that must differ with these
    assert len(differences) >= len(lines)
    assert len(differences) <= len(lines) + sum(n for key, n in n_hidden.items() if lines[0].startswith(key))
    for line in lines:
        assert any(difference.startswith(f"  {line}") for difference in differences), str(caught.value)
    assert content(tmp_path / "out") == before


def test_another_version_is_refused(attributor, tmp_path, monkeypatch):
    run(as_dataset(), attributor, tmp_path / "out")
    monkeypatch.setattr("attnflow_hf.__version__", "9.9.9")
    with pytest.raises(OptionError, match=r'versions\.attnflow_hf: "0\.1.*" there, "9\.9\.9" asked'):
        run(as_dataset(), attributor, tmp_path / "out")


def test_another_first_row_is_refused(attributor, tmp_path):
    run(rows(), attributor, tmp_path / "out")
    with pytest.raises(OptionError, match=r"dataset\.first_row: "):
        run(rows(TEXTS[1:]), attributor, tmp_path / "out")


def test_using_a_model_and_its_tokenizer_does_not_make_others_of_them(attributor, tmp_path):
    run(as_dataset(), attributor, tmp_path / "out")
    attributor.tokenizer(TEXTS, padding=True, truncation=True, max_length=4)
    attributor.model.set_attn_implementation("eager")
    assert run(as_dataset(), attributor, tmp_path / "out").n_computed == 0


@pytest.mark.skipif(os.name != "posix", reason="locks are of POSIX systems")
def test_two_runs_at_once_are_refused(attributor, tmp_path):
    def stream():
        with pytest.raises(OptionError, match=r"another run is writing to '.*out'; wait for it"):
            run(as_dataset(), attributor, tmp_path / "out")
        yield from rows()[1:]

    run(chain(rows()[:1], stream()), attributor, tmp_path / "out")
    assert len(read(tmp_path / "out")) == 14


def test_folders_of_something_else_are_left_alone(attributor, tmp_path):
    (tmp_path / "shard-00000.parquet").write_bytes(b"not ours")
    with pytest.raises(OptionError, match=r"has shards but no manifest\.json; choose another folder"):
        run(as_dataset(), attributor, tmp_path)
    for text in ("{", "{}", "[]", '{"format": "attnflow_hf.Run", "version": 99}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(FileFormatError, match=r"is no manifest of attnflow_hf\.Run version 1"):
            run(as_dataset(), attributor, tmp_path)
    assert (tmp_path / "shard-00000.parquet").read_bytes() == b"not ours"


POISONED = [*TEXTS[:5], "", *TEXTS[6:9], " ".join(WORDS * 6), *TEXTS[10:]]
MESSAGES = {5: "TextError: the text is empty", 9: "TextError: the text has 104 tokens, but the model reads 64 at most"}


def test_on_error_raise_names_the_row_and_keeps_the_finished_shards(attributor, tmp_path):
    with pytest.raises(TextError, match=r"^row 5 of the data set: the text is empty.*on_error='skip' or 'record'"):
        run(as_dataset(POISONED), attributor, tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]
    report = run(as_dataset(POISONED), attributor, tmp_path / "out", on_error="record")
    assert (report.n_skipped, report.n_computed, len(report.errors)) == (4, 10, 2)
    run(as_dataset(POISONED), attributor, tmp_path / "wanted", on_error="record")
    assert content(tmp_path / "out") == content(tmp_path / "wanted")
    with pytest.raises(OptionError, match=r'settings\.on_error: "record" there, "skip" asked'):
        run(as_dataset(POISONED), attributor, tmp_path / "out", on_error="skip")


@pytest.mark.parametrize("on_error", ["skip", "record"])
def test_rows_with_errors_are_listed(attributor, tmp_path, on_error):
    report = run(as_dataset(POISONED), attributor, tmp_path / "out", on_error=on_error)
    assert (report.n_rows, report.n_computed) == (14, 14)
    assert [row for row, _ in report.errors] == [5, 9]
    for row, message in report.errors:
        assert message.startswith(MESSAGES[row])
    for line, (row, message) in zip(str(report).splitlines()[2:], MESSAGES.items(), strict=True):
        assert line.startswith(f"  row {row}: {message}")
    found = {row["id"]: row for row in read(tmp_path / "out")}
    assert set(found) == set(range(14)) - ({5, 9} if on_error == "skip" else set())
    for row, text in enumerate(POISONED):
        if row not in MESSAGES:
            np.testing.assert_allclose(found[row]["scores_flow"], attributor(text).scores, rtol=0, atol=1e-6)
            assert found[row]["error"] is None
        elif on_error == "record":
            assert found[row]["error"].startswith(MESSAGES[row])
            assert found[row]["text"] == text
            assert found[row]["tokens"] is found[row]["scores_flow"] is found[row]["output_position"] is None
    assert run(as_dataset(POISONED), attributor, tmp_path / "out", on_error=on_error).errors == report.errors


def test_a_report_lists_the_first_ten_errors(attributor, tmp_path):
    report = run(as_dataset([""] * 13), attributor, tmp_path / "out", on_error="skip")
    lines = str(report).splitlines()
    assert [line.split(":")[0] for line in lines[2:12]] == [f"  row {row}" for row in range(10)]
    assert lines[12:] == ["  ... and 3 more; manifest.json lists all"]


def test_a_shard_of_nothing_but_errors_can_be_read(attributor, tmp_path):
    run(as_dataset(["", ""] * 2 + TEXTS[:2]), attributor, tmp_path / "out", on_error="skip")
    assert read(tmp_path / "out")["id"] == [4, 5]


def test_values_that_are_no_text_are_errors_of_their_rows(attributor, tmp_path):
    report = run(as_dataset(["the key", None, "the cat"]), attributor, tmp_path / "out", on_error="record")
    assert [row for row, _ in report.errors] == [1]
    assert "must be a string or a pair" in report.errors[0][1]
    short = run(as_dataset(), attributor, tmp_path / "short", options=Options(output_position=4), on_error="skip")
    assert [row for row, _ in short.errors] == [0, 7]


@pytest.mark.parametrize("fault", [RuntimeError, torch.OutOfMemoryError])
def test_faults_of_the_machine_are_none_of_a_row(attributor, tmp_path, fault):
    def fail(_, args, inputs):
        if len(inputs["input_ids"]) > 1:  # the check of the options reads one text
            raise fault("the GPU is lost")

    attributor.capture_report()
    attributor.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="the GPU is lost"):
        run(as_dataset(), attributor, tmp_path / "out", on_error="record")
    assert sorted(content(tmp_path / "out")) == ["manifest.json"]


@pytest.mark.gpu
def test_a_run_on_a_gpu_gives_the_scores_of_the_cpu(tmp_path):
    attributor = new_attributor()
    run(as_dataset(LONG), attributor, tmp_path / "cpu", method=["raw", "rollout", "flow"], window=16, stride=4)
    attributor.model.cuda()
    run(as_dataset(LONG), attributor, tmp_path / "gpu", method=["raw", "rollout", "flow"], window=16, stride=4)
    for on_cpu, on_gpu in zip(read(tmp_path / "cpu"), read(tmp_path / "gpu"), strict=True):
        assert on_gpu["tokens"] == on_cpu["tokens"]
        for method in ("raw", "rollout", "flow"):
            np.testing.assert_allclose(on_gpu[f"scores_{method}"], on_cpu[f"scores_{method}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"options": Options(layer=3)}, PositionError, "layer 3 is out of range"),
        ({"options": Options(head_reduction=4)}, PositionError, "4 is out of range"),
        ({"options": Options(backend="cuda")}, OptionError, "unknown backend of flow 'cuda'"),
        ({"options": Options(layer="all")}, OptionError, "choose one output_position and one layer instead of 'all'"),
        ({"options": Options(output_position="all")}, OptionError, "choose one output_position and one layer"),
        ({"method": []}, OptionError, r"method must be a method or a list of them, got \[\]"),
        (
            {"method": "flows"},
            OptionError,
            "unknown method 'flows'; choose one of 'flow', 'flow_shapley', 'raw', 'rollout'",
        ),
        (
            {"method": ["flows"]},
            OptionError,
            "unknown method 'flows'; choose one of 'flow', 'flow_shapley', 'raw', 'rollout'",
        ),
        ({"method": ["flow", "flow"]}, OptionError, "methods must differ from each other"),
        ({"columns": "id"}, OptionError, "columns must be a list of names or None, got 'id'"),
        ({"window": 0}, OptionError, "window must be an integer of at least 1, got 0"),
        ({"window": 65}, OptionError, "a window of 65 tokens is more than the 64 which the model reads at most"),
        ({"window": 16, "truncation": True}, OptionError, "it has no truncation, and no text_pair_column"),
        ({"window": 16, "text_pair_column": "id"}, OptionError, "it has no truncation, and no text_pair_column"),
        ({"window": 16, "options": Options(output_position=0)}, OptionError, "must be 'auto' or 'mean', got 0"),
        ({"window": 16, "save_layer_graphs": True}, OptionError, "save_layer_graphs keeps the graph of a whole text"),
        (
            {"save_layer_graphs": True, "method": "rollout", "options": Options(keep="rollout")},
            OptionError,
            "save_layer_graphs keeps the graph of a whole text",
        ),
        ({"shard_size": 0}, OptionError, "shard_size must be a positive integer, got 0"),
        ({"on_error": "ignore"}, OptionError, "unknown on_error 'ignore'; choose one of 'raise', 'record', 'skip'"),
        (
            {"text_column": "txt"},
            OptionError,
            r"text_column 'txt' is no column of the data set; it has \['id', 'text'\]",
        ),
        ({"text_pair_column": "b"}, OptionError, "text_pair_column 'b' is no column"),
        ({"columns": ["x"]}, OptionError, "columns 'x' is no column"),
    ],
)
def test_bad_options_stop_before_the_first_row(attributor, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(as_dataset(), attributor, tmp_path / "out", **{"on_error": "record", **options})
    assert not list(tmp_path.glob("out/shard*"))


def written(path, texts=TEXTS):
    as_dataset(texts).to_csv(path)
    return path


@pytest.mark.parametrize("kind", [str, Path, lambda path: [path], lambda path: str(path).replace("a.csv", "?.csv")])
def test_files_are_loaded(attributor, tmp_path, kind):
    path = written(tmp_path / "a.csv")
    assert run(kind(path), attributor, tmp_path / "out", split="train[2:12]").n_rows == 10
    assert read(tmp_path / "out")["text"] == TEXTS[2:12]
    again = run(kind(path), without_forward_passes(attributor), tmp_path / "out", split="train[2:12]")
    assert (again.n_computed, again.n_skipped) == (0, 10)
    with pytest.raises(OptionError, match=r"dataset\.fingerprint: .*\n.*dataset\.n_rows: 10 there, 14 asked"):
        run(kind(path), attributor, tmp_path / "out")
    written(path, [*TEXTS[:3], "the changed", *TEXTS[4:]])
    with pytest.raises(OptionError, match=r"made otherwise.*\n  dataset\.fingerprint: "):
        run(kind(path), attributor, tmp_path / "out", split="train[2:12]")


def test_one_split_of_several(attributor, tmp_path):
    splits = DatasetDict(train=as_dataset(TEXTS[:3]), test=as_dataset(TEXTS[3:5]))
    assert run(splits, attributor, tmp_path / "out", split="test").n_rows == 2
    assert read(tmp_path / "out")["text"] == TEXTS[3:5]
    assert run(DatasetDict(test=splits["test"]), attributor, tmp_path / "one").n_rows == 2
    with pytest.raises(OptionError, match="has the splits train, test: choose one by split="):
        run(splits, attributor, tmp_path / "out")
    with pytest.raises(OptionError, match="split 'test' is for files, hub names and a DatasetDict; got Dataset"):
        run(as_dataset(), attributor, tmp_path / "out", split="test")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_of_a_damaged_file_is_told(attributor, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "the key"}\n{"text": "the')
    with pytest.raises(DatasetError, match=r"the data set cannot be read on: .*JSON parse error"):
        run(load_rows(path, streaming=True), attributor, tmp_path / "out")
    as_dataset().to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"nonsense")
    stream = load_rows(tmp_path / "*.parquet", streaming=True)
    assert stream.features is not None
    with pytest.raises(DatasetError, match=r"the data set cannot be read on: .*Parquet"):
        run(stream, attributor, tmp_path / "out")


def test_bad_data_sets(attributor, tmp_path):
    for bad in (3, {"text": TEXTS}):
        with pytest.raises(OptionError, match=f"or the names of files or of a hub data set; got {type(bad).__name__}"):
            run(bad, attributor, tmp_path)
    with pytest.raises(DatasetError, match="there is no file 'the key'"):
        run(TEXTS, attributor, tmp_path)
    with pytest.raises(OptionError, match="each row of the data set must be a dict of its columns, got int"):
        run([1, 2], attributor, tmp_path)
    with pytest.raises(OptionError, match=r"the run adds columns named \['tokens'\]; rename the data set's, or leave"):
        run([{"text": "the key", "tokens": 2}], attributor, tmp_path)
    with pytest.raises(TokenizerError, match="a run over texts needs a tokenizer"):
        run(as_dataset(), Attributor(bert()), tmp_path)


def test_the_bar_is_for_terminals(attributor, tmp_path, capsys, monkeypatch):
    run(as_dataset(), attributor, tmp_path / "out")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(as_dataset(), attributor, tmp_path / "bar")
    shown = capsys.readouterr().err
    assert "14/14" in shown
    assert "shard 3" in shown
    run(as_dataset(), attributor, tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
