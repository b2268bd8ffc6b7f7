"""YAML files whose content is a mapping, read with errors that name the file and the line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from attnflow_hf.errors import OptionError


class _Loader(yaml.SafeLoader):
    """The safe loader, for which a key that stands twice is an error; YAML's own keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys differ."""
        seen: list[str] = []
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.append(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`.

    Raises:
        OptionError: The file is not there, is no YAML, has a key twice, or holds something else than a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OptionError(f"cannot read {os.fspath(path)!r}: {reason}") from error
    values = parse_yaml(text, os.fspath(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise OptionError(f"{os.fspath(path)!r} holds {found}; a mapping of keys to values is needed")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: The text.
        where: Where it stands, for the message.

    Raises:
        OptionError: It is no YAML, or has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or error.context
        line = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise OptionError(f"{where!r}{line}: {problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a date that is none, say, is a ValueError
        raise OptionError(f"{where!r} is no YAML: {str(error).splitlines()[0]}") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the key and the value of `key=value`, whose value is YAML.

    Raises:
        OptionError: There is no `=`, or the value is no YAML.

    Example:
        >>> parse_assignment("options.head_reduction=[0, 3]")
        ('options.head_reduction', [0, 3])
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise OptionError(f"{text!r} sets nothing; needed: KEY=VALUE, such as options.layer=2")
    return key.strip(), parse_yaml(value, text)
