"""The order of modules, the libraries that each may import, and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attnflow_hf
from attnflow_hf import evaluation, plot

ROOT = Path(attnflow_hf.__file__).parent
ROWS = [
    ["errors", "threads", "white_space", "registration", "stopping"],
    ["tokens", "html", "packing", "terminal", "prediction", "attentions", "run_files", "yaml_files", "config_checks"],
    ["plot.palette", "plot.ribbons", "plot.fonts", "captured_layer"],
    ["plot.labels", "plot.canvas"],
    ["plot.level_axes"],
    ["evaluation.summary", "evaluation.rationales", "evaluation.plausibility_metrics", "evaluation.grid"],
    ["storage", "layer_graph", "word_attribution", "evaluation.scored", "evaluation.pivot", "evaluation.cost"],
    ["edge_weights"],
    ["evaluation.agreement", "evaluation.word_scores", "evaluation.table", "evaluation.pronouns", "shapley_values"],
    ["evaluation.plausibility", "evaluation.pronoun_summary", "evaluation.winogender"],
    [
        "saturation",
        "flow_result",
        "backends.flow_workspace",
        "page_sheet",
        "evaluation.pronoun_files",
    ],
    ["attribution"],
    ["plot.subjects"],
    ["plot.bars", "plot.heat_maps", "plot.patches", "plot.graphs", "plot.flow_paths", "plot.rollout_ribbons"],
    ["plot.animations"],
    ["plot"],
    ["backends.flow_star", "backends.flow_search", "backends.flow_push", "backends.flow_log", "backends.flow_cut"],
    ["backends.flow_dinic"],
    ["backends.flow_task"],
    ["evaluation.layers", "position_bias", "capture_report", "borrowing", "model_facts", "query_blocks"],
    ["options", "captured_graph", "signals", "attention_function", "probe_checks", "probe_inputs", "rollout_fold"],
    ["targets", "block_watch", "transformed_weights"],
    ["probe_hooks", "inputs", "decoder_inputs", "forward_pass", "backends.rollout_numpy", "backends.flow_networkx"],
    ["backends.flow_numba", "probe", "generation", "given", "layer_recorder", "baselines"],
    ["readout", "backends", "capture", "pipeline_tokens", "grad_attention"],
    ["reader", "loading", "shapley", "page_flows", "grad_capture", "unlimited", "layer_capture"],
    ["scoring", "entities", "pooling", "page", "target_capture"],
    ["attributing"],
    ["explained_page"],
    ["attributor", "windows", "evaluation.outputs"],
    ["evaluation.edits", "evaluation.masked_pronouns"],
    ["evaluation.embedded", "evaluation.importance"],
    ["evaluation.captum_scores", "evaluation.ranking"],
    ["evaluation.gradients", "evaluation.erasures", "evaluation.faithfulness_result"],
    ["evaluation.erased_texts", "evaluation.score_settings"],
    ["evaluation.faithfulness", "evaluation.scorers", "evaluation.costs", "evaluation.column_sums"],
    ["attached", "run_settings", "shards", "evaluation.randomized", "evaluation.scorings"],
    ["evaluation.measured_texts", "evaluation.scored_rows"],
    ["evaluation.agreement_rows", "evaluation.faithfulness_rows", "evaluation.plausibility_rows"],
    ["evaluation.pronoun_rows", "evaluation.text_files"],
    ["pipeline_steps", "manifest", "run_sources", "text_attribution"],
    ["shard_maker", "explained_rows", "nodes", "run_page"],
    ["run_work"],
    ["run_local", "run_ray"],
    ["measured_run"],
    ["pipeline", "runs", "cli_model", "cli_arguments", "evaluation.evaluation_report"],
    ["evaluation.evaluated"],
    ["evaluation.evaluated_agreement", "evaluation.evaluated_faithfulness", "evaluation.evaluated_plausibility"],
    ["evaluation.evaluated_pronouns"],
    ["evaluation"],
    ["config"],
    ["run_command"],
    ["cli", "verb_number"],
]
HUGGING_FACE = {"borrowing", "model_facts", "attention_function", "forward_pass", "probe", "probe_checks"}
HUGGING_FACE |= {"probe_hooks", "probe_inputs", "capture", "generation", "given", "reader", "loading"}
HUGGING_FACE |= {"pipeline_steps", "runs", "text_attribution", "cli_model", "evaluation.randomized"}
HUGGING_FACE |= {"measured_run", "grad_capture", "target_capture", "block_watch", "layer_capture", "layer_recorder"}
TENSORS = {"manifest", "nodes", "run_ray", "pipeline_tokens", "query_blocks", "rollout_fold", "signals", "inputs"}
TENSORS |= {"decoder_inputs", "attached", "pooling", "evaluation.cost", "targets", "grad_attention"}
TENSORS |= {"baselines", "captured_layer", "transformed_weights"}
TENSORS |= {"evaluation.outputs", "evaluation.edits", "evaluation.embedded", "evaluation.captum_scores"}
NUMBERS_OF_PLOTS = {"plot.subjects", "plot.ribbons"}
OF_EVALUATION = {"evaluation.table", "evaluation.agreement_rows", "evaluation.faithfulness_rows"}
OF_EVALUATION |= {
    "evaluation.plausibility_rows",
    "evaluation.pronoun_rows",
    "evaluation.scored_rows",
    "evaluation.evaluated",
}
OF_EVALUATION |= {"evaluation.measured_texts"}
EVALUATED = {f"evaluation.evaluated_{name}" for name in ("agreement", "faithfulness", "plausibility", "pronouns")}
GUARDED = {
    "networkx": {"backends.flow_networkx"},
    "numba": {"backends.flow_workspace", "backends.flow_numba"},
    "transformers": {*HUGGING_FACE, "attributor", "verb_number"},
    "torch": {*HUGGING_FACE, *TENSORS, "attributor", "config", "verb_number"},
    "rich": {"terminal"},
    "typer": {"cli", "cli_arguments"},
    "yaml": {"yaml_files"},
    "pydantic": {"config_checks"},
    "datasets": {
        "evaluation.evaluated",
        "evaluation.text_files",
        *EVALUATED,
        "run_files",
        "run_sources",
        "run_work",
        "shard_maker",
        "runs",
        "run_command",
    },
    "pyarrow": {"explained_rows", "run_page", "run_sources", "run_work", "shard_maker", "shards", *OF_EVALUATION},
    "ray": {"run_ray"},
    "captum": {"evaluation.captum_scores"},
    "matplotlib": {name for row in ROWS for name in row if name.startswith("plot.")} - NUMBERS_OF_PLOTS,
    "scipy": set(),  # what the tests compare with
    "sklearn": set(),
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path):
    """The module's name inside the package; the embedded model's scripts count as one room."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "verb_number":
        return "verb_number"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def row_of(name):
    return next(number for number, row in enumerate(ROWS) if name in row)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_import_only_from_earlier_rows(path):
    own = name_of(path)
    for imported in imports_of(path):
        if not imported.startswith("attnflow_hf."):
            continue
        inner = imported.removeprefix("attnflow_hf.")
        known = [name for row in ROWS for name in row if inner == name or inner.startswith(name + ".")]
        if own == "verb_number" and known == ["verb_number"]:
            continue
        for name in sorted(known, key=len)[-1:]:  # of a module in a package, the module
            assert row_of(name) < row_of(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_guarded_libraries_stay_in_their_modules(path):
    libraries = {imported.partition(".")[0] for imported in imports_of(path)}
    for library in libraries & GUARDED.keys():
        assert name_of(path) in GUARDED[library], f"{name_of(path)} imports {library}"


def test_every_module_has_a_row():
    named = {name for row in ROWS for name in row}
    assert {name_of(path) for path in FILES} == named


@pytest.mark.parametrize(
    "module",
    ["attnflow_hf", *(f"attnflow_hf.{name}" for name in ("cli", "layer_graph", "backends", "evaluation", "plot"))],
)
def test_importing_is_light(module):
    heavy = "{'torch', 'transformers', 'numba', 'networkx', 'datasets', 'matplotlib', 'captum'}"
    code = f"import sys, {module}; sys.exit(str({heavy} & sys.modules.keys()) if {heavy} & sys.modules.keys() else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", [attnflow_hf, evaluation, plot], ids=lambda package: package.__name__)
def test_public_names_are_there_and_documented(package):
    for name in package.__all__:
        assert getattr(package, name).__doc__, f"{name} has no docstring"
    assert set(package.__all__) == set(package._HOMES)
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", [attnflow_hf, evaluation, plot])
def test_no_module_has_the_name_of_a_public_one(package):
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not modules & set(package.__all__)


@pytest.mark.parametrize("package", [attnflow_hf, evaluation, plot], ids=lambda package: package.__name__)
def test_unknown_names_are_attribute_errors(package):
    with pytest.raises(AttributeError, match="has no attribute 'rollouts'"):
        _ = package.rollouts
