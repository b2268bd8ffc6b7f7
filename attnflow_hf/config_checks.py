"""What is wrong with the values of a config: unknown keys, wrong types and unknown choices, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from attnflow_hf.errors import OptionError, guess

_WORDS: dict[Any, tuple[str, str]] = {  # of one, of several
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    NoneType: ("null", "nulls"),
}


def key_faults(section: str, values: Mapping[Any, Any], sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each unknown key of a section, one with the valid keys, and one for each value of a wrong type.

    Args:
        section: The section's name; empty for the top.
        values: What the config says there.
        sections: The type of each key, by section.
    """
    types = sections[section]
    for key, value in values.items():
        name = dotted(section, str(key))
        if key not in types:
            yield f"{name}: unknown key, got {shown(value)}{_guess_key(section, str(key), sections)}"
        elif not _is_of(value, types[key]):
            yield f"{name}: {shown(value)}; needed: {describe(types[key])}{guess(value, _choices(types[key]))}"
    if values.keys() - types.keys():
        others = [] if section else [other for other in sections if other]
        yield f"(the keys{' of ' + section if section else ''} are {', '.join([*types, *others])})"


def choice_faults(
    make: Callable[..., object],
    values: Mapping[str, Any],
    section: str = "",
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield a line for each value that a checked dataclass refuses.

    Args:
        make: The dataclass; it raises `OptionError` for the first fault.
        values: The fields that the config gives.
        section: In which section they stand.
        beside: What some of them, found by name, can be judged with alone.
    """
    whole = _refusal(make, values)
    if whole is None:
        return
    refusals: dict[str, str] = {}
    for name in sorted(values, key=lambda each: len(beside.get(each, ()))):  # first what others are judged with
        asked = {each: values[each] for each in (name, *beside.get(name, ())) if each in values}
        if (refusal := _refusal(make, asked)) is not None:
            refusals.setdefault(refusal, name)
    named = [f"{dotted(section, name)}: {refusal}" for refusal, name in refusals.items()]
    yield from named or [f"{section}: {whole}" if section else whole]


def describe(hint: Any) -> str:
    """Return the type of a value in words.

    Example:
        >>> describe(str | Sequence[int] | None)
        'a text or a list of whole numbers or null'
    """
    if hint in _WORDS:
        return _WORDS[hint][0]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if origin is Sequence:
        return f"a list of {_describe_several(arguments[0])}"
    return "a mapping" if origin is Mapping else str(hint)


def _describe_several(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_describe_several, get_args(hint)))
    return "mappings" if get_origin(hint) is Mapping else _WORDS[hint][1]


def dotted(section: str, key: str) -> str:
    """Return the name of a key with that of its section."""
    return f"{section}.{key}" if section else key


def shown(value: Any) -> str:
    """Return a value as YAML has it, a long one shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except TypeError:  # a mapping whose keys JSON cannot have, such as dates
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refusal(make: Callable[..., object], values: Mapping[str, Any]) -> str | None:
    try:
        make(**values)
    except OptionError as error:
        return str(error)
    return None


def _is_of(value: Any, hint: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _guess_key(section: str, key: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a question after the key that was probably meant: this one in another section, or a similar one here."""
    elsewhere = [dotted(other, key) for other, types in sections.items() if key in types]
    here = [*sections[section], *([] if section else sections)]
    return f" (did you mean {' or '.join(map(repr, elsewhere))}?)" if elsewhere else guess(key, here)


def _choices(hint: Any) -> Iterable[str]:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return [argument for argument in arguments if isinstance(argument, str)]
    return [choice for argument in arguments for choice in _choices(argument)]
