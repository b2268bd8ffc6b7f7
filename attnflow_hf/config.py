"""`RunConfig`: a dataset run as a YAML file says it, every key checked before a model is loaded."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_type_hints

import torch

from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import METHODS, backend_names
from attnflow_hf.config_checks import choice_faults, dotted, key_faults, shown
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.evaluation.agreement_rows import AgreementSettings
from attnflow_hf.evaluation.evaluated import check_cost_rows
from attnflow_hf.evaluation.evaluated_agreement import evaluate_agreement
from attnflow_hf.evaluation.evaluated_faithfulness import evaluate_faithfulness
from attnflow_hf.evaluation.evaluated_plausibility import evaluate_plausibility
from attnflow_hf.evaluation.evaluated_pronouns import evaluate_pronouns
from attnflow_hf.evaluation.evaluation_report import EvaluationReport
from attnflow_hf.evaluation.faithfulness_rows import FaithfulnessSettings
from attnflow_hf.evaluation.plausibility_rows import PlausibilitySettings
from attnflow_hf.evaluation.pronoun_files import read_pronouns
from attnflow_hf.evaluation.pronoun_rows import PronounSettings
from attnflow_hf.evaluation.rationales import read_rationales
from attnflow_hf.evaluation.text_files import load_texts
from attnflow_hf.measured_run import check_engine
from attnflow_hf.options import Options
from attnflow_hf.run_files import Names, load_rows
from attnflow_hf.run_ray import RayOptions
from attnflow_hf.run_settings import RunSettings, check_sharding
from attnflow_hf.runs import run_dataset
from attnflow_hf.yaml_files import read_yaml

Types = Mapping[str, Mapping[str, Any]]
Choices = Callable[[Mapping[str, Any]], Iterator[str]]
_IN_YAML: dict[str, Any] = {  # types that YAML has no values of
    "dtype": Literal["float32", "float16", "bfloat16", "float64"] | None,
    "device": str | None,
    "target": int | str | None,  # one for all rows
}
_PATHS_IN_YAML: dict[Any, Any] = {
    Names: str | Sequence[str],
    str | os.PathLike[str]: str,
    str | os.PathLike[str] | None: str | None,
}
_NOT_OF_RUN = {
    "dataset",
    "rationales",
    "sentences",
    "attributor",
    "output",
    "options",
    "split",
    "progress",
}  # sections, or of the command
_BESIDE = {"scorer": ("options", "layer"), "compared_with": ("scorer", "options", "layer")}  # what they speak of
_BESIDE_EDGE_WEIGHTS = dict.fromkeys(
    ("target", "baseline", "residual_weight", "head_reduction", "keep", "position_correction"), ("edge_weights",)
)
_SHORT = {"model": "name", "dataset": "path"}  # a section may be given by this key's value alone


def _types(function: Callable[..., Any], without: set[str]) -> dict[str, Any]:
    hints = get_type_hints(function)
    names = [name for name in inspect.signature(function).parameters if name not in without]
    return {name: _IN_YAML.get(name, _PATHS_IN_YAML.get(hints[name], hints[name])) for name in names}


def _sections_of(function: Callable[..., Any], load: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    return {
        "": {"output": str, **_types(function, _NOT_OF_RUN)},
        "model": {"name": str | None, **_types(Attributor.from_pretrained, {"name_or_path"})},
        "dataset": _types(load, set()),
        "options": _types(Options, set()),
    }


@dataclass(frozen=True)
class Evaluation:
    """What a config can ask to be evaluated.

    Attributes:
        function: What is called.
        load: What loads its data set.
        settings: The checked dataclass of the function's keywords.
    """

    function: Callable[..., EvaluationReport]
    load: Callable[..., Any]
    settings: Any


EVALUATIONS = {
    "agreement": Evaluation(evaluate_agreement, load_rows, AgreementSettings),
    "faithfulness": Evaluation(evaluate_faithfulness, load_texts, FaithfulnessSettings),
    "plausibility": Evaluation(evaluate_plausibility, read_rationales, PlausibilitySettings),
    "pronouns": Evaluation(evaluate_pronouns, read_pronouns, PronounSettings),
}
SECTIONS = _sections_of(run_dataset, load_rows)
"""The type of each key, by section; the top's name is empty. They are the arguments of the functions that are called,
so that a new argument is a new key."""
EVALUATION_SECTIONS = {name: _sections_of(each.function, each.load) for name, each in EVALUATIONS.items()}
"""The same for each evaluation."""
for _sections in EVALUATION_SECTIONS.values():
    _sections[""] = {"evaluation": str, **_sections[""]}


@dataclass(frozen=True)
class RunConfig:
    """A dataset run, or an evaluation, as arguments.

    What the config does not say is left out, so that defaults stand in one place.

    Attributes:
        model: The arguments of `Attributor.from_pretrained`.
        dataset: Those of `load_rows`; of `load_texts` for faithfulness, of `read_rationales` for plausibility, of
            `read_pronouns` for pronouns.
        output: The folder of the shards.
        run: The keywords of `run_dataset`, or of the function of the evaluation.
        evaluation: Which evaluation; empty for a dataset run.
    """

    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    output: str
    run: Mapping[str, Any]
    evaluation: str = ""


def load_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the dataset run that a YAML file describes.

    Args:
        path: The file.
        overrides: Values that replace those of the file, by key; that of a section's key is `"options.layer"`.

    Raises:
        OptionError: The file cannot be read, or has unknown keys, wrong types, unknown choices or lacks a key; the
            message has a line for each.

    Example:
        >>> config = load_config("configs/agreement_rollout.yaml", {"output": "there"})  # doctest: +SKIP
        >>> run_dataset(load_rows(**config.dataset), Attributor.from_pretrained(**config.model), config.output,
        ...             **config.run)  # doctest: +SKIP
    """
    values = _values(path, overrides)
    _check(values, path, overrides, SECTIONS, _required(run_dataset, load_rows), _run_faults)
    return _config(values)


def load_evaluation(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the evaluation that a YAML file describes.

    Its key `evaluation` says which, `"agreement"` (the default), `"faithfulness"`, `"plausibility"` or `"pronouns"`;
    its other keys are the keywords of that function, as `EVALUATIONS` has it.

    Args:
        path: The file.
        overrides: As for `load_config`.

    Raises:
        OptionError: As `load_config`.
    """
    values = _values(path, overrides)
    name = values[""].get("evaluation", "agreement")
    asked = EVALUATIONS.get(name) if isinstance(name, str) else None
    if asked is None:
        faults = choice_faults(_check_evaluation, {"evaluation": name})
        raise OptionError("\n  ".join([f"{_where(path, overrides)} cannot be run:", *faults]))
    choices = partial(_evaluation_faults, asked)
    _check(values, path, overrides, EVALUATION_SECTIONS[name], _required(asked.function, asked.load), choices)
    values[""].pop("evaluation", None)
    return replace(_config(values), evaluation=name)


def _values(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None) -> dict[str, dict[Any, Any]]:
    """Return what a file and what replaces it say, by section."""
    values = read_yaml(path)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    sections = {name: _section(values, name) for name in SECTIONS if name}
    return {"": {key: value for key, value in values.items() if key not in sections}, **sections}


def _check(
    sections: Mapping[str, Mapping[Any, Any]],
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None,
    types: Types,
    required: Sequence[tuple[str, str]],
    choices: Choices,
) -> None:
    if faults := list(_faults(sections, types, required, choices)):
        raise OptionError("\n  ".join([f"{_where(path, overrides)} cannot be run:", *faults]))


def _where(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None) -> str:
    return f"{os.fspath(path)!r}" + (f" with {', '.join(overrides)} set" if overrides else "")


def _required(function: Callable[..., Any], load: Callable[..., Any]) -> list[tuple[str, str]]:
    """Return the keys of the arguments that have no default."""
    found = [("dataset", name) for name in _without_default(load)]
    own = [("", name) for name in _without_default(function) if name not in _NOT_OF_RUN]
    return [*found, ("", "output"), *own]


def _without_default(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters
    return [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]


def _override(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a key; one of an unknown section stays whole, and is told as an unknown key."""
    section, _, key = name.partition(".")
    if not section or not key or section not in SECTIONS:
        values[name] = value
        return
    given = _section(values, section)
    outer, _, inner = key.partition(".")
    if inner and isinstance(mapping := given.get(outer) or {}, Mapping):
        key, value = outer, {**mapping, inner: value}
    values[section] = {**given, key: value}


def _section(values: Mapping[str, Any], name: str) -> dict[Any, Any]:
    """Return a section as a mapping, one that is given by one value too; that of a wrong kind has the key `""`."""
    given = values.get(name)
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    return {_SHORT.get(name, ""): given}


def _faults(
    sections: Mapping[str, Mapping[Any, Any]], types: Types, required: Sequence[tuple[str, str]], choices: Choices
) -> Iterator[str]:
    right: dict[str, dict[str, Any]] = {}
    for name, values in sections.items():
        if "" in values:
            yield f"{name}: {shown(values[''])}; needed: a mapping of the keys {', '.join(types[name])}"
        else:
            yield from key_faults(name, values, types)
        right[name] = {key: value for key, value in values.items() if not list(key_faults(name, {key: value}, types))}
    for section, key in required:
        if key not in sections[section] and "" not in sections[section]:
            yield f"{dotted(section, key)}: missing; every run needs it"
    faults = list(choice_faults(_checked_options, right["options"], "options", _BESIDE_EDGE_WEIGHTS))
    yield from faults
    top = right[""]
    yield from choices(top if faults else {**top, "options": Options(**right["options"])})
    yield from choice_faults(check_engine, {"engine": top["engine"]} if "engine" in top else {})
    of_ray = {field.name: top[field.name] for field in fields(RayOptions) if field.name in top}
    yield from choice_faults(RayOptions, of_ray)


def _run_faults(top: Mapping[str, Any]) -> Iterator[str]:
    asked = {field.name: top[field.name] for field in fields(RunSettings) if field.name in top}
    yield from choice_faults(_made_by(RunSettings, run_dataset), asked)


def _evaluation_faults(evaluation: Evaluation, top: Mapping[str, Any]) -> Iterator[str]:
    asked = {field.name: top[field.name] for field in fields(evaluation.settings) if field.name in top}
    make = _made_by(evaluation.settings, evaluation.function, special_tokens="drop")
    yield from choice_faults(make, asked, beside=_BESIDE)
    for check in (check_sharding, check_cost_rows):
        own = {name: top[name] for name in inspect.signature(check).parameters if name in top}
        yield from choice_faults(check, own)


def _check_evaluation(evaluation: object) -> None:
    check_choice("evaluation", evaluation, EVALUATIONS)


def _checked_options(**options: Any) -> Options:
    check_choice("backend", options.get("backend", "auto"), {"auto", "fold"}.union(*map(backend_names, METHODS)))
    return Options(**options)


def _made_by(settings: Any, function: Callable[..., Any], **more: Any) -> Callable[..., object]:
    """Return what makes settings of some values; the others are the defaults of the function that they are for."""
    keywords = inspect.signature(function).parameters
    defaults = {field.name: keywords[field.name].default for field in fields(settings)}
    own = {name: value for name, value in more.items() if defaults.get(name, "") is inspect.Parameter.empty}
    return lambda **given: settings(**{**defaults, "options": Options(), **own, **given})


def _config(sections: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    model = {"name_or_path" if key == "name" else key: value for key, value in sections["model"].items()}
    if model.get("dtype") is not None:
        model["dtype"] = getattr(torch, model["dtype"])
    top = dict(sections[""])
    output = top.pop("output")
    return RunConfig(model, dict(sections["dataset"]), output, {**top, "options": Options(**sections["options"])})
