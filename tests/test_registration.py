import subprocess
import sys
from types import SimpleNamespace

import pytest

from attnflow_hf.registration import _Finder, _register_after, register

CALL = """
result = pipeline("text-attribution", device="cpu")("the keys")
assert result["prediction_label"] == "plural", result
"""
ORDERS = {
    "attnflow_hf first": """
import attnflow_hf, importlib.util, sys
assert importlib.util.find_spec("transformers.pipelines").name == "transformers.pipelines"  # somebody only looks
assert "transformers.pipelines" not in sys.modules
from transformers import pipeline""",
    "transformers first": """
from transformers import pipeline
import attnflow_hf""",
    "the pipeline's own module, and once more": """
import attnflow_hf.text_attribution
from transformers import pipeline
attnflow_hf.registration.register()""",
    "another pipeline first": "import attnflow_hf.pipeline; from transformers import pipeline",
}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", ORDERS)
def test_the_pipeline_is_there_whatever_is_imported_first(order):
    done = run(ORDERS[order] + CALL)
    assert done.returncode == 0, done.stderr
    assert "already registered" not in done.stderr


def test_our_modules_do_not_load_transformers_pipelines_so_that_no_import_runs_in_a_circle():
    code = "import sys, attnflow_hf.attributor, attnflow_hf.shards; sys.exit('transformers.pipelines' in sys.modules)"
    assert run(code).returncode == 0


def test_waiting_for_transformers_is_one_finder_that_finds_nothing_else():
    code = """
import sys
n_before = len(sys.meta_path)
import attnflow_hf
attnflow_hf.registration.register()
sys.exit(len(sys.meta_path) - n_before - 1)"""
    assert run(code).returncode == 0
    assert _Finder().find_spec("transformers") is None
    assert _Finder().find_spec("transformers.pipelines.base") is None


def test_a_loader_of_several_modules_registers_after_its_own_alone(monkeypatch):
    ran, imported = [], []
    monkeypatch.setattr("attnflow_hf.registration.import_module", imported.append)
    spec = SimpleNamespace(loader=SimpleNamespace(exec_module=ran.append))
    _register_after(spec)
    for name in ("transformers.pipelines", "transformers.other"):
        spec.loader.exec_module(SimpleNamespace(__name__=name))
    assert [module.__name__ for module in ran] == ["transformers.pipelines", "transformers.other"]
    assert imported == ["attnflow_hf.text_attribution"]


def test_registering_once_more_changes_nothing():
    from transformers.pipelines import PIPELINE_REGISTRY

    before, finders = PIPELINE_REGISTRY.supported_tasks["text-attribution"], list(sys.meta_path)
    register()
    assert PIPELINE_REGISTRY.supported_tasks["text-attribution"] is before
    assert sys.meta_path == finders
