"""Configs: what each key becomes, what each fault says, and that no argument of a run lacks its key."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from attnflow_hf import Attributor, Options, run_dataset
from attnflow_hf.config import EVALUATION_SECTIONS, EVALUATIONS, SECTIONS, RunConfig, load_config, load_evaluation
from attnflow_hf.config_checks import describe
from attnflow_hf.errors import OptionError
from attnflow_hf.run_files import load_rows
from attnflow_hf.run_settings import RunSettings

CONFIGS = Path(__file__).parents[1] / "configs"
LEAST = {"dataset": "a.csv", "output": "out"}
FULL: dict[str, Any] = {
    "model": {
        "name": "me/mine",
        "revision": "v2",
        "dtype": "bfloat16",
        "device": "cuda:1",
        "attn_implementation": "eager",
        "trust_remote_code": True,
        "batch_size": 4,
    },
    "dataset": {
        "path": ["a.csv", "b.csv"],
        "name": "en",
        "split": "test",
        "streaming": True,
        "reader": {"delimiter": ";"},
    },
    "output": "out",
    "text_column": "premise",
    "text_pair_column": "hypothesis",
    "method": ["raw", "flow"],
    "options": {
        "backend": "networkx",
        "layer": 1,
        "output_position": "mean",
        "head_reduction": [0, 2],
        "residual_weight": 1,
        "edge_weights": "attention",
        "target": None,
        "normalize_rows": False,
        "relu": "before",
        "baseline": None,
        "normalize": "max",
        "special_tokens": "drop",
        "first_token": "zero",
        "position_correction": "uniform",
        "keep": "layers",
        "n_permutations": 4,
        "seed": 7,
    },
    "columns": ["id"],
    "words": True,
    "save_layer_graphs": True,
    "window": None,
    "stride": 3,
    "engine": "ray",
    "concurrency": 2,
    "num_gpus": 0.5,
    "num_cpus": 3,
    "shard_size": 7,
    "on_error": "record",
    "truncation": True,
}


def load(tmp_path: Path, values: dict[Any, Any], overrides: dict[str, Any] | None = None) -> RunConfig:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    return load_config(tmp_path / "a.yaml", overrides)


def faults(tmp_path: Path, values: dict[Any, Any], overrides: dict[str, Any] | None = None) -> list[str]:
    """Return the lines of the error, without those that list the valid keys."""
    with pytest.raises(OptionError, match=r"^'.*a\.yaml'.* cannot be run:\n") as caught:
        load(tmp_path, values, overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:] if not line.startswith("  (")]


def test_each_key_becomes_its_argument(tmp_path: Path) -> None:
    for section, keys in SECTIONS.items():
        assert set(keys) == set(FULL[section]) if section else set(keys) <= set(FULL), "a key is not tried"
    config = load(tmp_path, FULL)
    model = {key: value for key, value in FULL["model"].items() if key != "name"}
    assert config.model == {"name_or_path": "me/mine", **model, "dtype": torch.bfloat16}
    assert config.dataset == FULL["dataset"]
    assert config.output == "out"
    assert config.run["options"] == Options(**FULL["options"])
    assert config.run == {key: FULL[key] for key in SECTIONS[""] if key != "output"} | {
        "options": config.run["options"]
    }


def test_the_arguments_are_those_of_the_functions_called(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    inspect.signature(run_dataset).bind("rows", "attributor", config.output, **config.run, progress=False)
    inspect.signature(Attributor.from_pretrained).bind(**config.model)
    inspect.signature(load_rows).bind(**config.dataset)


def test_no_argument_lacks_a_key() -> None:
    not_in_configs = {"dataset", "attributor", "output", "options", "split", "progress"}
    assert SECTIONS[""].keys() - {"output"} == inspect.signature(run_dataset).parameters.keys() - not_in_configs
    arguments = inspect.signature(Attributor.from_pretrained).parameters.keys()
    assert SECTIONS["model"].keys() == arguments - {"name_or_path"} | {"name"}
    assert SECTIONS["dataset"].keys() == inspect.signature(load_rows).parameters.keys()
    assert list(SECTIONS["options"]) == [field.name for field in fields(Options)]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_keys_of_evaluations_are_the_keywords_of_their_functions(tmp_path: Path, name: str) -> None:
    asked, sections = EVALUATIONS[name], EVALUATION_SECTIONS[name]
    not_in_configs = {"dataset", "rationales", "sentences", "attributor", "output", "options", "split", "progress"}
    keywords = inspect.signature(asked.function).parameters.keys()
    assert sections[""].keys() - {"evaluation", "output"} == keywords - not_in_configs
    assert sections["dataset"].keys() == inspect.signature(asked.load).parameters.keys()
    assert {field.name for field in fields(asked.settings)} <= keywords
    for types in sections.values():
        assert not any("<" in describe(hint) for hint in types.values())
    own = {"agreement": {"special_tokens": "keep", "norm": "sum"}, "pronouns": {"decimals": 5}}.get(
        name, {"n_steps": 3}
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**LEAST, "sample": 5, **own}))
    more = {"dataset": {"path": "a.csv", "format": "fair_rationales"}} if name == "plausibility" else {}
    config = load_evaluation(tmp_path / "a.yaml", {"evaluation": name, "options.residual_weight": 0.8, **more})
    inspect.signature(asked.function).bind("rows", "attributor", config.output, **config.run, progress=False)
    inspect.signature(asked.load).bind(**config.dataset)
    assert config.evaluation == name
    assert config.run == {"sample": 5, "options": Options(residual_weight=0.8), **own}


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        (
            {"evaluation": "faithful"},
            [
                "evaluation: unknown evaluation 'faithful'; choose one of 'agreement', 'faithfulness', 'plausibility', "
                "'pronouns' (did you mean 'faithfulness'?)"
            ],
        ),
        (
            {"evaluation": ["agreement"]},
            [
                "evaluation: unknown evaluation ['agreement']; choose one of 'agreement', 'faithfulness', "
                "'plausibility', 'pronouns'"
            ],
        ),
        ({"evaluation": "agreement", "output": "out"}, ["special_tokens: missing; every run needs it"]),
        ({}, ["special_tokens: missing; every run needs it"]),
        (
            {"evaluation": "faithfulness", "scorers": "raw", "n_points": 0, "layer": "top", "cost_rows": -1},
            [
                "layer: \"top\"; needed: a whole number or a list of whole numbers or 'all'",
                "scorers: unknown key, got \"raw\" (did you mean 'scorer'?)",
                "n_points: n_points must be a positive integer, got 0",
                "cost_rows: cost_rows must be a number of rows, 0 or more, got -1",
            ],
        ),
        (
            {"evaluation": "faithfulness", "bins": [0.1, "x"], "scorer": ["raw", "gradient"], "shard_size": 0},
            [
                'bins: [0.1, "x"]; needed: a list of numbers',
                "scorer: unknown scorer 'gradient'; choose one of 'blank_out', 'column_sum', 'flow', 'flow_shapley', "
                "'gradient_x_input', 'input_gradient', 'integrated_gradients', 'random', 'raw', 'rollout' "
                "(did you mean 'input_gradient'?)",
                "shard_size: shard_size must be a positive integer, got 0",
            ],
        ),
        (
            {"evaluation": "faithfulness", "scorer": ["raw", {"method": "flow", "name": 3}], "n_points": 0},
            [
                "n_points: n_points must be a positive integer, got 0",
                "scorer: a scorer's name must be a text, and that of one method, got {'method': 'flow', 'name': 3}",
            ],
        ),
        (
            {
                "evaluation": "faithfulness",
                "options": {"edge_weights": "grad_attention"},
                "scorer": ["raw", {"method": "flow", "target": 1, "name": "flow of 1"}],
                "compared_with": "flow of 1",
                "n_points": 0,
            },
            ["n_points: n_points must be a positive integer, got 0"],
        ),
        (
            {"evaluation": "faithfulness", "scorer": 3},
            ["scorer: 3; needed: a text or a list of texts or mappings"],
        ),
        ({"evaluation": "plausibility"}, ["dataset.format: missing; every run needs it"]),
        (
            {
                "evaluation": "pronouns",
                "dataset": {"path": "a.tsv", "format": "winogender", "share": "us"},
                "options": {"layer": 2},
                "special_tokens": "drop",
            },
            [
                "special_tokens: unknown key, got \"drop\" (did you mean 'options.special_tokens'?)",
                "dataset.share: \"us\"; needed: 'bls', 'bergsma'",
                "options: pronouns are explained at the mask, by every layer's values as they are; leave layer out",
            ],
        ),
        (
            {
                "evaluation": "plausibility",
                "dataset": {"path": ["a.csv"], "format": "fair_rationale", "split": "test"},
                "text_column": "text",
                "window": 0,
            },
            [
                "text_column: unknown key, got \"text\" (did you mean 'columns'?)",
                "dataset.format: \"fair_rationale\"; needed: 'fair_rationales', 'eraser_movies' "
                "(did you mean 'fair_rationales'?)",
                'dataset.path: ["a.csv"]; needed: a text',
                'dataset.split: unknown key, got "test"',
                "window: window must be an integer of at least 1, got 0",
            ],
        ),
    ],
)
def test_faults_of_evaluations(tmp_path: Path, values: dict[str, Any], lines: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**LEAST, **values}))
    with pytest.raises(OptionError, match=r"^'.*a\.yaml' cannot be run:\n") as caught:
        load_evaluation(tmp_path / "a.yaml")
    found = [line.strip() for line in str(caught.value).splitlines()[1:] if not line.startswith("  (")]
    assert found == lines


def test_a_dataset_run_is_no_evaluation(tmp_path: Path) -> None:
    assert faults(tmp_path, {**LEAST, "evaluation": "agreement"}) == [
        "evaluation: unknown key, got \"agreement\" (did you mean 'truncation'?)"
    ]


def test_settings_are_checked_from_their_defaults_in_run_dataset() -> None:
    assert {field.name for field in fields(RunSettings)} <= inspect.signature(run_dataset).parameters.keys()


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in SECTIONS.items() for key in keys])
def test_each_key_refuses_what_it_is_not(tmp_path: Path, section: str, key: str) -> None:
    assert "<" not in describe(SECTIONS[section][key])
    wrong = {"what": 3} if key != "reader" else 3
    values = {**LEAST, section: {"path": "a.csv", key: wrong}} if section else {**LEAST, key: wrong}
    if section in ("model", "options"):
        del values[section]["path"]
    name = f"{section}.{key}" if section else key
    shown = '{"what": 3}' if key != "reader" else "3"
    assert faults(tmp_path, values) == [f"{name}: {shown}; needed: {describe(SECTIONS[section][key])}"]


def test_what_a_config_does_not_say_is_left_to_the_functions(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST) == RunConfig({}, {"path": "a.csv"}, "out", {"options": Options()})


@pytest.mark.parametrize(
    ("values", "model"),
    [
        ({"model": None}, {}),
        ({"model": "me/mine"}, {"name_or_path": "me/mine"}),
        ({"model": {"name": None, "batch_size": 2}}, {"name_or_path": None, "batch_size": 2}),
        ({"options": None}, {}),
    ],
)
def test_short_and_empty_sections(tmp_path: Path, values: dict[str, Any], model: dict[str, Any]) -> None:
    assert load(tmp_path, LEAST | values).model == model


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("method", "raw", "raw"),
        ("options.layer", 2, 2),
        ("options", {"layer": 0}, 0),
        ("model", "other", {"name_or_path": "other"}),
        ("model.batch_size", 3, {"name_or_path": "me/mine", "batch_size": 3}),
        ("dataset", "b.csv", {"path": "b.csv"}),
        ("dataset.split", "test", {"path": "a.csv", "split": "test"}),
        ("dataset.reader.sep", ";", {"path": "a.csv", "reader": {"sep": ";"}}),
        ("output", "there", "there"),
    ],
)
def test_overrides_replace_keys(tmp_path: Path, key: str, value: Any, wanted: Any) -> None:
    given = {**LEAST, "model": "me/mine", "method": "flow", "options": {"layer": 1, "normalize": "max"}}
    config = load(tmp_path, given, {key: value})
    plain = load(tmp_path, given)
    found = {
        "method": config.run.get("method"),
        "options": config.run["options"].layer,
        "model": config.model,
        "dataset": config.dataset,
        "output": config.output,
    }
    assert found[key.partition(".")[0]] == wanted
    assert config != plain
    assert config.run["options"].normalize == ("sum" if key == "options" else "max")


def test_overrides_add_to_what_is_in_a_reader(tmp_path: Path) -> None:
    given = {**LEAST, "dataset": {"path": "a.csv", "reader": {"sep": ";", "header": 0}}}
    config = load(tmp_path, given, {"dataset.reader.sep": "|", "dataset.reader.skiprows": 1})
    assert config.dataset["reader"] == {"sep": "|", "header": 0, "skiprows": 1}


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"methd": "flow"}, ["methd: unknown key, got \"flow\" (did you mean 'method'?)"]),
        ({"layer": 2}, ["layer: unknown key, got 2 (did you mean 'options.layer'?)"]),
        ({"batch_size": 2}, ["batch_size: unknown key, got 2 (did you mean 'model.batch_size'?)"]),
        ({"name": "x"}, ["name: unknown key, got \"x\" (did you mean 'model.name' or 'dataset.name'?)"]),
        ({"options": {"method": "raw"}}, ["options.method: unknown key, got \"raw\" (did you mean 'method'?)"]),
        ({"words": {date(2020, 1, 2): 1}}, ["words: {datetime.date(2020, 1, 2): 1}; needed: true or false"]),
        ({"modell": "x"}, ["modell: unknown key, got \"x\" (did you mean 'model'?)"]),
        ({"options": {"layr": 2}}, ["options.layr: unknown key, got 2 (did you mean 'layer'?)"]),
        ({"qqq": None, 7: 1}, ["qqq: unknown key, got null", "7: unknown key, got 1"]),
        ({"shard_size": "10"}, ['shard_size: "10"; needed: a whole number']),
        ({"shard_size": 10.0}, ["shard_size: 10.0; needed: a whole number"]),
        ({"shard_size": True}, ["shard_size: true; needed: a whole number"]),
        ({"shard_size": 0}, ["shard_size: shard_size must be a positive integer, got 0"]),
        ({"words": "yes"}, ['words: "yes"; needed: true or false']),
        ({"words": None}, ["words: null; needed: true or false"]),
        ({"columns": "id"}, ['columns: "id"; needed: a list of texts or null']),
        ({"columns": ["id", 3]}, ['columns: ["id", 3]; needed: a list of texts or null']),
        ({"output": 3}, ["output: 3; needed: a text"]),
        ({"method": 3}, ["method: 3; needed: a text or a list of texts"]),
        (
            {"method": ["raw", "flows"]},
            [
                "method: unknown method 'flows'; choose one of 'flow', 'flow_shapley', 'raw', 'rollout' "
                "(did you mean 'flow'?)"
            ],
        ),
        ({"method": ["raw", "raw"]}, ["method: methods must differ from each other, got ['raw', 'raw']"]),
        ({"on_error": "ignore"}, ["on_error: unknown on_error 'ignore'; choose one of 'raise', 'record', 'skip'"]),
        (
            {"options": {"normalize": "Sum"}},
            ["options.normalize: unknown normalize 'Sum'; choose one of 'max', 'none', 'sum' (did you mean 'sum'?)"],
        ),
        (
            {"options": {"backend": "nunba"}},
            [
                "options.backend: unknown backend 'nunba'; choose one of 'auto', 'fold', 'networkx', 'numba', 'numpy' "
                "(did you mean 'numba'?)"
            ],
        ),
        ({"options": {"layer": "last"}}, ["options.layer: \"last\"; needed: a whole number or 'all'"]),
        (
            {"options": {"residual_weight": 2}},
            ["options.residual_weight: residual_weight must be a number from 0 to 1, or 'unlimited', got 2"],
        ),
        (
            {"options": {"n_permutations": 1}},
            ["options.n_permutations: n_permutations must be an integer, 2 or more, got 1"],
        ),
        (
            {"options": {"keep": "rollout", "backend": "numpy"}},
            [
                "options: keep='rollout' folds while the model runs: it has no position_correction and no choice of a "
                "backend"
            ],
        ),
        (
            {"options": {"layer": "all"}},
            [
                "options: a run keeps one score for each token: choose one output_position and one layer instead of "
                "'all'"
            ],
        ),
        (
            {"model": {"dtype": "float17"}},
            [
                "model.dtype: \"float17\"; needed: 'float32', 'float16', 'bfloat16', 'float64' or null "
                "(did you mean 'float16'?)"
            ],
        ),
        ({"options": 3}, [f"options: 3; needed: a mapping of the keys {', '.join(SECTIONS['options'])}"]),
        (
            {"options": [{"layer": 1}]},
            ['options: [{"layer": 1}]; needed: a mapping of the keys ' + ", ".join(FULL["options"])],
        ),
        ({"model": 3}, ["model.name: 3; needed: a text or null"]),
        ({"dataset": None}, ["dataset.path: missing; every run needs it"]),
        ({"dataset": {"split": "test"}}, ["dataset.path: missing; every run needs it"]),
        ({"text_column": "x" * 99}, []),
        ({"text_column": ["x" * 99]}, [f'text_column: ["{"x" * 55}...; needed: a text']),
    ],
)
def test_faults(tmp_path: Path, values: dict[Any, Any], lines: list[str]) -> None:
    if lines:
        assert faults(tmp_path, {**LEAST, **values}) == lines
    else:
        load(tmp_path, {**LEAST, **values})


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    values = {"words": 1, "methd": "raw", "method": "flows"}
    values |= {"dataset": {"splt": 1}, "options": {"keep": "x", "layer": ""}}
    found = faults(tmp_path, values, {"options.normalize": "l2"})
    names = ["words", "methd", "dataset.splt", "options.layer", "dataset.path", "output"]
    names += ["options.keep", "options.normalize", "method"]
    assert sorted(line.partition(":")[0] for line in found) == sorted(names)


def test_options_are_judged_with_their_edge_weights(tmp_path: Path) -> None:
    options = {"edge_weights": "grad_attention", "target": 1, "baseline": "mask", "normalize": "l2"}
    (line,) = faults(tmp_path, {**LEAST, "options": options})
    assert line.startswith("options.normalize: unknown normalize 'l2'")
    options = {"edge_weights": "alti", "residual_weight": "measured", "keep": "rollout"}
    (line,) = faults(tmp_path, {**LEAST, "options": options})
    assert line.startswith("options.keep: edge_weights='alti' are no shares of attention")
    (line,) = faults(tmp_path, {**LEAST, "options": {"edge_weights": "alty", "target": 1}})
    assert line.startswith("options.edge_weights: unknown edge_weights 'alty'")


def test_the_valid_keys_are_listed_once_for_each_section(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be run") as caught:
        load(tmp_path, {**LEAST, "a": 1, "b": 1, "options": {"a": 1}})
    listed = [line for line in str(caught.value).splitlines() if line.startswith("  (")]
    assert listed == [
        f"  (the keys are {', '.join([*SECTIONS[''], 'model', 'dataset', 'options'])})",
        f"  (the keys of options are {', '.join(SECTIONS['options'])})",
    ]


@pytest.mark.parametrize("key", ["foo", "foo.bar", "options.layer.x", "dataset.x.y", "options.", ".foo"])
def test_overrides_of_unknown_keys_are_told(tmp_path: Path, key: str) -> None:
    (line,) = faults(tmp_path, {**LEAST, "options": {"layer": 1}}, {key: 1})
    assert line.startswith("dataset.x: unknown key" if key == "dataset.x.y" else f"{key}: unknown key")
    with pytest.raises(OptionError, match=rf"^'.*a\.yaml' with {key} set cannot be run:"):
        load(tmp_path, LEAST, {key: 1})


def test_types_in_words() -> None:
    assert describe(str | int | Sequence[int]) == "a text or a whole number or a list of whole numbers"
    assert describe(Literal["a", "b"] | None) == "'a', 'b' or null"
    assert describe(Sequence[str | Mapping[str, Any]]) == "a list of texts or mappings"
    assert describe(float | bool) == "a number or true or false"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_load(path: Path) -> None:
    if path.stem == "verb_number":  # the settings of a training script, which has tests of its own
        with pytest.raises(OptionError, match=r"seed: unknown key, got 1 \(did you mean 'options.seed'\?\)\n"):
            load_config(path)
        return
    is_evaluation = path.stem.partition("_")[0] in ("paper", "faithfulness", "plausibility", "edge")
    config = (load_evaluation if is_evaluation else load_config)(path)
    assert config.output == f"runs/{path.stem}"
    for line in path.read_text(encoding="utf-8").splitlines():
        assert "#" in line or not line.strip() or line.strip() in ("options:", "model:", "dataset:"), f"{line}: no word"
