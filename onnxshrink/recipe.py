"""A recipe is an ordered list of passes. It prints to one line of text, parses back from it, and reads from TOML.

Text:  ``fold-batchnorm,prune-weights{sparsity=0.6,scope=global},quantize-weights``
TOML::

    [[pass]]
    name = "prune-weights"
    sparsity = 0.6
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxshrink.errors import FileAccessError, RecipeError
from onnxshrink.passes.base import Pass
from onnxshrink.passes.fields import build, parse_spelled, spelled, split_outside_quotes
from onnxshrink.passes.registry import pass_class


@dataclass(frozen=True)
class Recipe:
    """Passes in the order in which they are applied. ``str(recipe)`` is its line; ``Recipe.parse`` reads it back."""

    passes: tuple[Pass, ...]

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __str__(self) -> str:
        return ",".join(pass_text(one_pass) for one_pass in self.passes)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read a recipe from its line of text.

        Raises:
            RecipeError: bad syntax, an unknown pass or field, or a value out of range.
        """
        parts = [part.strip() for part in split_outside_quotes(text, ",")]
        if parts == [""]:
            raise RecipeError("the recipe is empty: name at least one pass, for example 'fold-batchnorm'")
        return cls(tuple(_parse_pass(part, text) for part in parts))

    @classmethod
    def from_toml(cls, text: str, origin: str = "recipe") -> Recipe:
        """Read a recipe from TOML with one ``[[pass]]`` table per pass. ``origin`` names the text in errors.

        A list ``gates`` may stand beside them: see :func:`onnxshrink.report.gates.read_gates`.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{origin} is not valid TOML: {error}") from error
        unknown = sorted(set(document) - {"pass", "gates"})
        tables = document.get("pass")
        if unknown or not isinstance(tables, list) or not tables:
            found = f", found {', '.join(unknown)}" if unknown else ""
            raise RecipeError(f"{origin}: expected one [[pass]] table for each pass{found}")
        return cls(tuple(_pass_from_table(table, origin) for table in tables))

    @classmethod
    def read(cls, text_or_path: str | Path) -> Recipe:
        """A recipe from its line, or from the ``.toml`` file of that name.

        Raises:
            FileAccessError: the TOML file cannot be read.
            RecipeError: see :meth:`parse`.
        """
        if not str(text_or_path).endswith(".toml"):
            return cls.parse(str(text_or_path))
        try:
            text = Path(text_or_path).read_text(encoding="utf-8")
        except OSError as error:
            raise FileAccessError(f"cannot read the recipe {text_or_path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"{text_or_path} is not a text file") from error
        return cls.from_toml(text, str(text_or_path))


def pass_text(one_pass: Pass) -> str:
    """A pass as a recipe spells it, with the fields that differ from their defaults."""
    return spelled(one_pass)


def _parse_pass(part: str, recipe: str) -> Pass:
    name, values = parse_spelled(part, "recipe", recipe)
    return build(pass_class(name), values)


def _pass_from_table(table: Any, origin: str) -> Pass:
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise RecipeError(f'{origin}: every [[pass]] needs name = "..."')
    return build(pass_class(table["name"]), {key: value for key, value in table.items() if key != "name"})
