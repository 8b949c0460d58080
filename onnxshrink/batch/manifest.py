"""Manifests: a list of models, each with settings of its own.

TOML has one ``[[model]]`` table for each model, and ``[defaults]`` for all; JSON lines have an object for each::

    [defaults]
    data = "eval.npz"

    [[model]]
    path = "a.onnx"
    preset = "int8"
    gates = ["size<=30%"]

Paths are relative to the manifest.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxshrink.batch.digests import module_file
from onnxshrink.batch.job import Settings
from onnxshrink.batch.remote_files import is_url
from onnxshrink.errors import FileAccessError, RecipeError
from onnxshrink.field_values import choice, flag, integer, number, text
from onnxshrink.passes.registry import nearest

MANIFESTS = (".toml", ".jsonl")


@dataclass(frozen=True)
class Listed:
    """A model of a manifest; ``output``: its path below the output folder, None: the name of its file."""

    path: str
    output: str | None
    settings: Settings


def read_manifest(path: Path, settings: Settings) -> list[Listed]:
    """The models that a manifest lists.

    Args:
        path: of the manifest.
        settings: what holds where the manifest says nothing.

    Raises:
        FileAccessError: it cannot be read.
        RecipeError: it is not what a manifest is; the message names the model and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileAccessError(f"cannot read the manifest {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file") from error
    defaults, models = (_toml if path.suffix == ".toml" else _json_lines)(text, path)
    shared = _Reader(path, f"{path}, [defaults]").settings(defaults, settings)
    listed = [_listed(table, path, f"{path}, {where}", shared) for where, table in models]
    if not listed:
        raise RecipeError(f"{path} lists no models: write [[model]] and path = '…' for each")
    return listed


def _toml(text: str, path: Path) -> tuple[Any, list[tuple[str, Any]]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    tables = document.pop("model", [])
    defaults = document.pop("defaults", {})
    if document:
        name = next(iter(document))
        raise RecipeError(
            f"{path}: unknown key '{name}'{nearest(name, ['model', 'defaults'])} "
            "(a manifest has [[model]] and [defaults])"
        )
    if not isinstance(tables, list):
        raise RecipeError(f"{path}: write [[model]], with two brackets, for each model")
    return defaults, [(f"model {number}", table) for number, table in enumerate(tables, 1)]


def _json_lines(text: str, path: Path) -> tuple[Any, list[tuple[str, Any]]]:
    models = []
    for place, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                models.append((f"line {place}", json.loads(line)))
            except ValueError as error:
                raise RecipeError(f"{path}, line {place}: not valid JSON ({error})") from error
    return {}, models


def _listed(table: Any, path: Path, where: str, shared: Settings) -> Listed:
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: expected a table such as path = 'a.onnx'")
    rest = dict(table)
    model, output = rest.pop("path", None), rest.pop("output", None)
    if not isinstance(model, str) or not model:
        raise RecipeError(f"{where}: 'path' must be the path of a model")
    if output is not None and (not isinstance(output, str) or not output):
        raise RecipeError(f"{where}: 'output' must be a path below the output folder")
    return Listed(
        model if is_url(model) else str(path.parent / model), output, _Reader(path, where).settings(rest, shared)
    )


@dataclass(frozen=True)
class _Reader:
    """Reads the settings of one table; ``where`` is what errors call it."""

    path: Path
    where: str

    def settings(self, table: Any, shared: Settings) -> Settings:
        """``shared`` with what the table says."""
        if not isinstance(table, dict):
            raise RecipeError(f"{self.where} must be a table")
        said = dict(self._fields(table))
        if {"preset", "recipe"} <= said.keys():
            raise RecipeError(f"{self.where}: 'preset' and 'recipe' exclude each other")
        if {"preset", "recipe"} & said.keys():
            said = {"preset": None, "recipe": None} | said
        if said.get("data") is not None and "data_config" not in said:
            said["data_config"] = None  # another data set's
        return replace(shared, **said)

    def _fields(self, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in READERS:
                known = [known.replace("_", "-") for known in ("path", "output", *READERS)]
                hint = nearest(key, known) or f" (keys: {', '.join(known)})"
                raise RecipeError(f"{self.where}: unknown key '{key}'{hint}")
            try:
                read = READERS[name](value)
            except ValueError as error:
                raise RecipeError(f"{self.where}: '{key}' must be {error}, not {value!r}") from None
            yield name, self._found(name, read)

    def _found(self, name: str, value: Any) -> Any:
        """Paths are relative to the manifest; URLs are not."""
        if isinstance(value, str) and is_url(value):
            return value
        if name == "custom_op_libs":
            return tuple(str(self.path.parent / one) for one in value)
        if name in ("data", "calibration_data"):
            place = self.path.parent / value
            return value if not place.exists() and module_file(value) is not None else str(place)
        if name == "data_config" or (name == "recipe" and value.endswith(".toml")):
            return str(self.path.parent / value)
        return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of texts")
    return tuple(value)


READERS: Mapping[str, Callable[[Any], Any]] = {
    "preset": text,
    "recipe": text,
    "data": text,
    "data_config": text,
    "calibration_data": text,
    "calibration_samples": integer(1),
    "memory_bytes": integer(1),
    "metric": text,
    "goal": choice("balanced", "speed", "size"),
    "max_drop": number(0, 1),
    "max_load_ratio": number(0.01),
    "seed": integer(0),
    "measure": flag,
    "latency": flag,
    "threads": integer(0),
    "batch_size": integer(1),
    "latency_seconds": number(0.1),
    "external_data": flag,
    "run_large": flag,
    "custom_op_libs": _texts,
    "gates": _texts,
    "gate_uncertain": choice("warn", "pass", "fail"),
}
"""How each of the settings is read; ValueError says what it must be."""
