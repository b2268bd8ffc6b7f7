"""`RunConfig`: a dataset run as a YAML file says it, every key checked before a model is loaded."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

import torch

from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import METHODS, backend_names
from attnflow_hf.config_checks import choice_faults, dotted, key_faults, shown
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.options import Options
from attnflow_hf.run_files import load_rows
from attnflow_hf.run_ray import RayOptions
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.runs import check_engine, run_dataset
from attnflow_hf.yaml_files import read_yaml

_IN_YAML: dict[str, Any] = {  # types that YAML has no values of
    "dtype": Literal["float32", "float16", "bfloat16", "float64"] | None,
    "device": str | None,
    "path": str | Sequence[str],
}
_NOT_OF_RUN = {"dataset", "attributor", "output", "options", "split", "progress"}  # sections, or of the command
_SHORT = {"model": "name", "dataset": "path"}  # a section may be given by this key's value alone


def _types(function: Callable[..., Any], without: set[str]) -> dict[str, Any]:
    hints = get_type_hints(function)
    names = [name for name in inspect.signature(function).parameters if name not in without]
    return {name: _IN_YAML.get(name, hints[name]) for name in names}


SECTIONS: dict[str, dict[str, Any]] = {
    "": {"output": str, **_types(run_dataset, _NOT_OF_RUN)},
    "model": {"name": str | None, **_types(Attributor.from_pretrained, {"name_or_path"})},
    "dataset": _types(load_rows, set()),
    "options": _types(Options, set()),
}
"""The type of each key, by section; the top's name is empty. They are the arguments of the functions that are called,
so that a new argument is a new key."""


@dataclass(frozen=True)
class RunConfig:
    """A dataset run as arguments. What the config does not say is left out, so that defaults stand in one place.

    Attributes:
        model: The arguments of `Attributor.from_pretrained`.
        dataset: Those of `load_rows`.
        output: The folder of the shards.
        run: The keywords of `run_dataset`.
    """

    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    output: str
    run: Mapping[str, Any]


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
    values = read_yaml(path)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    sections = {name: _section(values, name) for name in SECTIONS if name}
    sections = {"": {key: value for key, value in values.items() if key not in sections}, **sections}
    if faults := list(_faults(sections)):
        where = f"{os.fspath(path)!r}" + (f" with {', '.join(overrides)} set" if overrides else "")
        raise OptionError("\n  ".join([f"{where} cannot be run:", *faults]))
    return _config(sections)


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


def _faults(sections: Mapping[str, Mapping[Any, Any]]) -> Iterator[str]:
    for name, values in sections.items():
        if "" in values:
            yield f"{name}: {shown(values[''])}; needed: a mapping of the keys {', '.join(SECTIONS[name])}"
        else:
            yield from key_faults(name, values, SECTIONS)
    for section, key in (("dataset", "path"), ("", "output")):
        if key not in sections[section] and "" not in sections[section]:
            yield f"{dotted(section, key)}: missing; every run needs it"
    yield from _choice_faults({name: _of_right_types(name, values) for name, values in sections.items()})


def _of_right_types(name: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not list(key_faults(name, {key: value}, SECTIONS))}


def _choice_faults(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    options, top = sections["options"], sections[""]
    faults = list(choice_faults(_checked_options, options, "options"))
    yield from faults
    asked = {field.name: top[field.name] for field in fields(RunSettings) if field.name in top}
    yield from choice_faults(_run_settings, asked if faults else {**asked, "options": Options(**options)})
    yield from choice_faults(check_engine, {"engine": top["engine"]} if "engine" in top else {})
    of_ray = {field.name: top[field.name] for field in fields(RayOptions) if field.name in top}
    yield from choice_faults(RayOptions, of_ray)


def _checked_options(**options: Any) -> Options:
    check_choice("backend", options.get("backend", "auto"), {"auto", "fold"}.union(*map(backend_names, METHODS)))
    return Options(**options)


def _run_settings(**given: Any) -> RunSettings:
    keywords = inspect.signature(run_dataset).parameters
    defaults = {field.name: keywords[field.name].default for field in fields(RunSettings)}
    return RunSettings(**{**defaults, "options": Options(), **given})


def _config(sections: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    model = {"name_or_path" if key == "name" else key: value for key, value in sections["model"].items()}
    if model.get("dtype") is not None:
        model["dtype"] = getattr(torch, model["dtype"])
    top = dict(sections[""])
    output = top.pop("output")
    return RunConfig(model, dict(sections["dataset"]), output, {**top, "options": Options(**sections["options"])})
