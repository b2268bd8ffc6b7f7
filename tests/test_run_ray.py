"""Runs on Ray Data, for real: two actors on this machine."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from test_runs import POISONED, TEXTS, as_dataset, content, new_attributor, rows, run

from attnflow_hf.errors import OptionError, TextError
from attnflow_hf.evaluation import evaluate_faithfulness
from attnflow_hf.run_ray import RayOptions

pytest.importorskip("ray.data", reason="needs the extra 'ray'")
WARNINGS = [
    "ignore::DeprecationWarning",  # of Ray and of what it brings
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
]
pytestmark = [pytest.mark.filterwarnings(each) for each in WARNINGS]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two cores for Ray; the actors import this folder's modules."""
    import ray

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as an actor has: on it the last digits depend
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    yield
    ray.shutdown()
    torch.set_num_threads(n_threads)


class KillsOnce:
    """A hook that kills the first actor whose model reads three texts, before it has read them."""

    def __init__(self, marker, parent):
        self.marker = marker
        self.parent = parent

    def __call__(self, _, args, inputs):
        is_actor = os.getpid() != self.parent
        if is_actor and len(inputs["input_ids"]) == 3 and not self.marker.exists():
            self.marker.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)


def test_the_folder_is_that_of_a_local_run(tmp_path):
    run(as_dataset(), new_attributor(), tmp_path / "wanted", method=["rollout", "flow"], words=True)
    options = {"engine": "ray", "concurrency": 2, "method": ["rollout", "flow"], "words": True}
    report = run(as_dataset(), new_attributor(), tmp_path / "out", **options)
    assert (report.n_rows, report.n_computed, report.n_shards) == (14, 14, 4)
    assert content(tmp_path / "out") == content(tmp_path / "wanted")
    assert run(as_dataset(), new_attributor(), tmp_path / "out", **options).n_computed == 0


def test_an_evaluation_is_that_of_a_local_run(tmp_path):
    options = {"scorer": ["random", "rollout", "blank_out"], "shard_size": 4, "cost_rows": 0}
    evaluate_faithfulness(as_dataset(), new_attributor(), tmp_path / "wanted", **options)
    evaluate_faithfulness(as_dataset(), new_attributor(), tmp_path / "out", engine="ray", concurrency=2, **options)
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_an_actor_that_is_killed_is_started_anew(tmp_path):
    attributor = new_attributor()
    marker = tmp_path / "marker"
    attributor.model.register_forward_pre_hook(KillsOnce(marker, os.getpid()), with_kwargs=True)
    run(as_dataset(), attributor, tmp_path / "out", engine="ray", concurrency=2)
    assert marker.read_text() == "killed"
    run(as_dataset(), new_attributor(), tmp_path / "wanted")
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_a_local_run_goes_on_where_ray_was_and_errors_are_those_of_a_local_run(tmp_path):
    with pytest.raises(TextError, match=r"^row 5 of the data set: the text is empty.*finished shards are kept"):
        run(as_dataset(POISONED), new_attributor(), tmp_path / "out", engine="ray")
    assert not list((tmp_path / "out").glob("shard-00001*"))
    report = run(as_dataset(POISONED), new_attributor(), tmp_path / "out", on_error="record")
    assert [row for row, _ in report.errors] == [5, 9]
    run(as_dataset(POISONED), new_attributor(), tmp_path / "wanted", on_error="record", engine="ray")
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_streams_are_refused(tmp_path):
    for stream in (rows(), as_dataset().to_iterable_dataset()):
        with pytest.raises(OptionError, match="engine 'ray' gives out the rows of a Dataset; a stream has to be read"):
            run(stream, new_attributor(), tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_model_on_a_device_is_refused(tmp_path):
    attributor = new_attributor()
    attributor.model.to("meta")
    with pytest.raises(OptionError, match="must be on the CPU here, not on meta; num_gpus=1 moves it to a GPU there"):
        run(as_dataset(), attributor, tmp_path / "out", engine="ray")


def test_an_empty_data_set(tmp_path):
    empty = as_dataset().select([])
    assert run(empty, new_attributor(), tmp_path / "out", engine="ray").n_shards == 1
    run(empty, new_attributor(), tmp_path / "wanted")
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be a positive integer, got 0"),
        ({"num_cpus": 1.5}, "num_cpus must be a positive integer, got 1.5"),
        ({"num_gpus": -1}, "num_gpus must be a number of at least 0, got -1"),
        ({"num_gpus": "1"}, "num_gpus must be a number of at least 0, got '1'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(OptionError, match=message):
        RayOptions(**options)


def test_other_engines_are_refused(tmp_path):
    with pytest.raises(OptionError, match="unknown engine 'dask'; choose one of 'local', 'ray'"):
        run(as_dataset(TEXTS), new_attributor(), tmp_path / "out", engine="dask")


def test_without_ray_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match=r"engine 'ray' needs Ray Data .*pip install 'attnflow_hf\[ray\]'"):
        run(as_dataset(), new_attributor(), tmp_path / "out", engine="ray")
