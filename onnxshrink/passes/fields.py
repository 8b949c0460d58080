"""The typed fields of a pass: how they are spelled in recipes, and how text and TOML become values of their type.

Whatever else is a frozen dataclass with a ``name`` (metrics are) is spelled in the same way.

A field ``min_elements: int`` is spelled ``min-elements=64``. Booleans are ``true`` and ``false``; lists of names are
joined by ``|``; text that holds a character with a meaning in recipes is a JSON string.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from onnxshrink.errors import RecipeError
from onnxshrink.passes.registry import nearest

_SPECIAL = set(',{}="| \\')


class Named(Protocol):
    """A frozen dataclass that recipes can spell."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


Spelled = TypeVar("Spelled", bound=Named)


def spelling(field_name: str) -> str:
    """How a field is written in a recipe."""
    return field_name.replace("_", "-")


def field_types(pass_type: type[Named]) -> dict[str, Any]:
    """The type of every field, by its spelling."""
    hints = typing.get_type_hints(pass_type)
    return {spelling(field.name): hints[field.name] for field in dataclasses.fields(pass_type)}


def type_text(kind: Any) -> str:
    """A field's type for people: ``float``, ``true|false``, or the choices of a Literal."""
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "name|name|…"
    if _is_optional(kind):
        return type_text(_inner(kind))
    return {bool: "true|false", int: "integer", float: "number", str: "text"}.get(kind, str(kind))


def build(pass_type: type[Spelled], values: dict[str, Any]) -> Spelled:
    """Make a pass from values by spelling: text from a recipe, or typed values from TOML.

    Raises:
        RecipeError: an unknown field, a value of the wrong type, or one the pass itself refuses.
    """
    known = field_types(pass_type)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            fields = ", ".join(known) or "none"
            raise RecipeError(f"{pass_type.name} has no field '{key}'{nearest(key, known)} (its fields: {fields})")
        try:
            arguments[key.replace("-", "_")] = _convert(value, known[key])
        except ValueError:
            raise RecipeError(f"{pass_type.name}: {key} must be {type_text(known[key])}, got '{value}'") from None
    return pass_type(**arguments)


def changed_fields(one_pass: Named) -> dict[str, Any]:
    """The fields that differ from their defaults, by spelling, in the order of declaration."""
    return {
        spelling(field.name): getattr(one_pass, field.name)
        for field in dataclasses.fields(one_pass)
        if getattr(one_pass, field.name) != field.default
    }


def spelled(named: Named, name: str | None = None) -> str:
    """``name{field=value,…}`` with the fields that differ from their defaults."""
    fields = ",".join(f"{key}={value_text(value)}" for key, value in changed_fields(named).items())
    name = name or named.name
    return f"{name}{{{fields}}}" if fields else name


def parse_spelled(part: str, kind: str, line: str) -> tuple[str, dict[str, Any]]:
    """The name and the field texts of ``name{field=value,…}``. Errors name the ``kind`` of the ``line``.

    Raises:
        RecipeError: bad syntax.
    """
    name, brace, rest = part.partition("{")
    if not name or (brace and not rest.endswith("}")):
        raise RecipeError(f"cannot read '{part or line}' in the {kind}: write name or name{{field=value,...}}")
    values: dict[str, Any] = {}
    for item in split_outside_quotes(rest[:-1], ",") if brace and rest[:-1].strip() else []:
        key, equals, value = item.strip().partition("=")
        if not equals:
            raise RecipeError(f"cannot read '{item}' in '{part}': write field=value")
        values[key.strip()] = value.strip()
    return name.strip(), values


def value_text(value: Any) -> str:
    """A field's value as it is written in a recipe; the inverse of the conversion in :func:`build`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "|".join(value_text(item) for item in value)
    text = str(value)
    if isinstance(value, str) and (not text or not text.isprintable() or _SPECIAL & set(text)):
        return json.dumps(text)
    return text


def _convert(value: Any, kind: Any) -> Any:
    if _is_optional(kind):
        return _convert(value, _inner(kind))
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else _split_bars(value)
        return tuple(_convert(item, str) for item in items)
    if typing.get_origin(kind) is typing.Literal:
        return _one_of(value, typing.get_args(kind))
    if kind is bool:
        return _one_of(value, (True, False))
    if kind in (int, float):
        if isinstance(value, bool):
            raise ValueError(value)
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError(value)
        return kind(value)
    return _unquote(value)


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
        if isinstance(value, str) and _unquote(value) == value_text(choice):
            return choice
    raise ValueError(value)


def _unquote(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    if value.startswith('"'):
        text = json.loads(value)
        if not isinstance(text, str):
            raise ValueError(value)
        return text
    return value


def _split_bars(text: Any) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(text)
    return [part for part in split_outside_quotes(text, "|") if part]


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split at ``separator`` wherever it is outside braces and JSON strings."""
    parts, depth, quoted, start, index = [], 0, False, 0, 0
    while index < len(text):
        char = text[index]
        if quoted:
            index += char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "{}":
            depth += 1 if char == "{" else -1
        elif char == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    return [*parts, text[start:]]


def _is_optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind)


def _inner(kind: Any) -> Any:
    return next(argument for argument in typing.get_args(kind) if argument is not type(None))
