"""Several processes that do one run together, started for real by torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from test_runs import TEXTS, as_dataset, content, new_attributor, rows, run

from attnflow_hf import explained_rows
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import evaluate_agreement, evaluate_faithfulness
from attnflow_hf.manifest import Manifest
from attnflow_hf.nodes import this_node

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed with gloo"
)
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_nodes
test_nodes.{task}(*sys.argv[2:])
"""


def launch(tmp_path, task, *arguments, n_processes=2):
    script = tmp_path / f"{task}.py"
    script.write_text(SCRIPT.format(task=task))
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*launcher, str(n_processes), str(script), str(Path(__file__).parent), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def run_each_kind(folder):
    """Run over a data set and over a stream without types; print what process 1 is told."""
    report = run(as_dataset(), new_attributor(), Path(folder) / "dataset")
    streamed = run((row for row in rows()), new_attributor(), Path(folder) / "stream")
    again = run(as_dataset(), new_attributor(), Path(folder) / "dataset")
    if os.environ["RANK"] == "1":
        print(report.n_rows, report.n_computed, report.n_shards, streamed.n_rows, again.n_computed)


def run_evaluation(folder):
    """Evaluate; each process is told the same, from the shards of both, and what one of them timed."""
    options, rank = {"shard_size": 4, "cost_rows": 0}, os.environ.get("RANK", "alone")
    folder, attributor, methods = Path(folder), new_attributor(), ["raw", "rollout"]
    agreement = {**options, "special_tokens": "drop", "method": methods}
    report = evaluate_agreement(as_dataset(), attributor, folder / "out", **agreement)
    faithful = {**options, "scorer": ["random", *methods], "layer": [0, 1]}
    other = evaluate_faithfulness(as_dataset(), attributor, folder / "faithful", **faithful)
    (folder / f"rows-{rank}").write_text(json.dumps([report.table.rows, other.table.rows]))
    timed = evaluate_faithfulness(as_dataset(), attributor, folder / "faithful", **{**faithful, "cost_rows": 2})
    (folder / f"timed-{rank}").write_text(json.dumps(timed.table.rows))


def run_and_die(folder):
    """Run; process 1 is killed when it begins its second shard, and process 0 waits until its own are there."""
    if os.environ["RANK"] == "1":
        calls, original = [], explained_rows.attribute_each

        def killing(*args):
            calls.append(args)
            if len(calls) == 3:  # the check of the options, shard 1, shard 3
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        explained_rows.attribute_each = killing
    run(as_dataset(), new_attributor(), folder)


def run_again(folder):
    report = run(as_dataset(), new_attributor(), folder)
    if os.environ["RANK"] == "0":
        print(report.n_skipped, report.n_computed)


def run_wrongly(folder):
    """Ask for another run than the folder's; in each process the error must be the same."""
    try:
        run(as_dataset(TEXTS[:-1]), new_attributor(), folder)
    except OptionError as error:
        (Path(folder).parent / f"error-{os.environ['RANK']}").write_text(str(error))


def shards_of(folder):
    return {name: data for name, data in content(folder).items() if name.startswith("shard")}


def test_processes_of_a_launcher_make_the_folder_of_a_single_one(tmp_path):
    done = launch(tmp_path, "run_each_kind", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["14", "14", "4", "14", "0"]
    run(as_dataset(), new_attributor(), tmp_path / "wanted")
    assert content(tmp_path / "dataset") == content(tmp_path / "wanted")
    assert shards_of(tmp_path / "stream") == shards_of(tmp_path / "wanted")


def test_a_killed_process_ends_all_and_others_go_on_where_they_were(tmp_path):
    done = launch(tmp_path, "run_and_die", tmp_path / "out")
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    kept = Manifest.load(tmp_path / "out" / "manifest.1.json")
    assert [shard.file for shard in kept.shards] == ["shard-00001.parquet"]
    shutil.copytree(tmp_path / "out", tmp_path / "alone")
    done = launch(tmp_path, "run_again", tmp_path / "out", n_processes=3)
    assert done.returncode == 0, done.stderr
    n_skipped, n_computed = map(int, done.stdout.split())
    assert n_skipped >= 4
    assert n_skipped + n_computed == 14
    assert run(as_dataset(), new_attributor(), tmp_path / "alone").n_skipped == n_skipped
    run(as_dataset(), new_attributor(), tmp_path / "wanted")
    assert content(tmp_path / "out") == content(tmp_path / "alone") == content(tmp_path / "wanted")


def test_an_evaluation_is_shared_too(tmp_path):
    done = launch(tmp_path, "run_evaluation", tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "alone").mkdir()
    run_evaluation(tmp_path / "alone")
    assert content(tmp_path / "out") == content(tmp_path / "alone" / "out")
    assert len(shards_of(tmp_path / "faithful")) == 4
    assert shards_of(tmp_path / "faithful") == shards_of(tmp_path / "alone" / "faithful")
    wanted = (tmp_path / "alone" / "rows-alone").read_text()
    assert [(tmp_path / f"rows-{rank}").read_text() for rank in range(2)] == [wanted] * 2
    timed = [(tmp_path / f"timed-{rank}").read_text() for rank in range(2)]
    assert timed[0] == timed[1]
    assert '"milliseconds": ' in timed[0]


def test_an_error_of_the_folder_is_one_of_all_processes(tmp_path):
    run(as_dataset(), new_attributor(), tmp_path / "out")
    done = launch(tmp_path, "run_wrongly", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    messages = [(tmp_path / f"error-{rank}").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "dataset.n_rows: 14 there, 13 asked" in messages[0]


def test_a_process_alone_is_the_only_node(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with this_node() as node:
        assert (node.rank, node.size) == (0, 1)
        assert node.agree(lambda: "said") == "said"
        assert node.gather("own") == ["own"]
    assert not dist.is_initialized()
