"""The arguments of the command as values; one that is none is told by the name of its option."""

from __future__ import annotations

from typing import Any, Literal

import typer

from attnflow_hf.errors import OptionError, check_choice

_POSITIONS: dict[str, Literal["auto", "mean"]] = {"auto": "auto", "mean": "mean"}
_RESIDUALS: dict[str, Literal["auto", "measured", "unlimited"]] = {
    "auto": "auto",
    "measured": "measured",
    "unlimited": "unlimited",
}


def parse_position(value: str) -> int | Literal["auto", "mean"]:
    """Return an output position.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return _POSITIONS[value] if value in _POSITIONS else int(value)
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is neither an index nor 'auto' or 'mean'", param_hint="--output-position"
        ) from None


def parse_residual(value: str) -> float | Literal["auto", "measured", "unlimited"]:
    """Return a residual weight.

    Raises:
        typer.BadParameter: It is none.
    """
    if value in _RESIDUALS:
        return _RESIDUALS[value]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise typer.BadParameter(
            f"{value!r} is neither a number from 0 to 1 nor 'auto', 'measured' or 'unlimited'",
            param_hint="'--residual-weight'",
        )
    return number


def parse_heads(value: str) -> str | int | list[int]:
    """Return a head reduction: its name, a head, or several heads whose indices have commas between them.

    Raises:
        typer.BadParameter: It is none.
    """
    from attnflow_hf.attentions import HEAD_REDUCTIONS

    parts = value.split(",")
    if all(part.isdecimal() for part in parts):
        heads = [int(part) for part in parts]
        return heads[0] if len(heads) == 1 else heads
    try:
        check_choice("head_reduction", value, ["auto", *HEAD_REDUCTIONS])
    except OptionError as error:
        raise typer.BadParameter(f"{error}; or heads: 2, or 0,3", param_hint="--head-reduction") from error
    return value


def parse_choice(value: Literal["auto", "yes", "no"]) -> bool | Literal["auto"]:
    """Return yes or no as a truth value; `"auto"` stays."""
    return "auto" if value == "auto" else value == "yes"


def parse_assignments(assignments: list[str], output: str | None) -> dict[str, Any]:
    """Return the values of keys of a config, each given as `key=value`.

    Args:
        assignments: Those.
        output: The folder of the shards, which is a key, too; or `None`.

    Raises:
        typer.BadParameter: One is none.
    """
    from attnflow_hf.yaml_files import parse_assignment

    try:
        overrides = dict(map(parse_assignment, assignments))
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    return overrides if output is None else {**overrides, "output": output}
