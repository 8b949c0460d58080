"""What a user says about data in a small TOML file: where values come from, and what is done to them.

Fields at the top hold for every input; a table ``[inputs.NAME]`` says otherwise for one of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.field_values import choice, flag, integer, text
from onnxshrink.passes.registry import nearest

FILE_NAME = "data.toml"

KINDS = ("arrays", "images", "table", "text", "audio", "function")

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class InputConfig:
    """What becomes of the values of one input; None: as the kind of data and the input's shape suggest.

    Attributes:
        array: name of the array that holds the values.
        columns: columns of a table; one for an input of one value per sample, or as many as the input has values.
        tokens: what a tokenizer gives to the input: ids, mask, types or positions.
        value: the same for every sample.
        size: height and width of images.
        fit: how an image comes to that size: crop (the shorter side is scaled, the centre is cut out), stretch, pad
            (the longer side is scaled, the rest is filled), none (it must have the size already).
        shorter_side: what the shorter side is scaled to before the centre is cut out.
        interpolation: how images are scaled.
        pad_value: what the rest is filled with, 0 to 255.
        layout: NCHW or NHWC.
        channels: RGB, BGR, RGBA or gray.
        scale: what values are multiplied with: numerator and denominator.
        mean: subtracted then, one value or one per channel; ``std``: divided by then.
        dtype: the type that values are brought to before the input's: to integers they are rounded and clipped.
    """

    array: str | None = None
    columns: tuple[str, ...] | None = None
    tokens: str | None = None
    value: Any = None
    size: tuple[int, int] | None = None
    fit: str | None = None
    shorter_side: int | None = None
    interpolation: str | None = None
    pad_value: int | None = None
    layout: str | None = None
    channels: str | None = None
    scale: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: str | None = None

    @property
    def array_name(self) -> str | None:
        """The array that holds the values: ``[inputs] x = "a"`` names one, too."""
        return self.array or (self.columns[0] if self.columns and len(self.columns) == 1 else None)

    def over(self, other: InputConfig) -> InputConfig:
        """These fields, and the other's where there are none."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return InputConfig(**{name: getattr(other, name) if value is None else value for name, value in mine.items()})


@dataclass(frozen=True)
class DataConfig:
    """What is said about a data set.

    Attributes:
        origin: the file that says it, for errors; empty when nothing is said.
        folder: what paths in it are relative to.
        format: the kind of data, where file names do not tell.
        label: the array or column with the labels; False: labels are not read; None: ``label``, if there is one.
        labels_file: a .csv or .jsonl file with the labels of the files in a folder.
        label_offset: added to integer labels.
        classes: names of classes in the order of the model's scores.
        samples_per_label: how many consecutive samples each label is for.
        delimiter: between the columns of a .csv file.
        tokenizer: a Hugging Face tokenizer.json.
        text: the column of texts, or of the first of two; ``pair``: that of the second.
        pairs: whether the two make one sample (together), or two in a row (apart).
        max_length: tokens or audio values per sample at most.
        padding: longest (of a run) or max-length.
        pad_id: the token to fill up with.
        special_tokens: whether the tokenizer adds its own at the beginning and the end.
        sample_rate: of audio, in Hz.
        hop: audio values from one frame's start to the next one's.
        remainder: what happens to the last values that fill no frame: pad (with zeros) or drop.
        allow_nan: whether NaN, and an empty cell, is a value like others.
        every: what holds for all inputs; ``inputs``: for one, by name.
        label_optional: whether data without the array or column of ``label`` has no labels, instead of being wrong.
    """

    origin: str = ""
    folder: Path = Path()
    format: str | None = None
    label: str | bool | None = None
    labels_file: Path | None = None
    label_offset: int = 0
    classes: tuple[str, ...] | None = None
    samples_per_label: int | None = None
    delimiter: str | None = None
    tokenizer: Path | None = None
    text: str | None = None
    pair: str | None = None
    pairs: str | None = None
    max_length: int | None = None
    padding: str | None = None
    pad_id: int | None = None
    special_tokens: bool = True
    sample_rate: int | None = None
    hop: int | None = None
    remainder: str | None = None
    allow_nan: bool = False
    every: InputConfig = InputConfig()
    inputs: Mapping[str, InputConfig] | None = None
    given: tuple[str, ...] = ()
    label_optional: bool = False

    def of(self, name: str) -> InputConfig:
        """What holds for the input ``name``."""
        return (self.inputs or {}).get(name, InputConfig()).over(self.every)

    @property
    def label_name(self) -> str | None:
        """The name of the labels, where the user gave one."""
        return self.label if isinstance(self.label, str) else None

    def among(self, names: Iterable[str]) -> DataConfig:
        """The same for data with these arrays or columns: without labels where they may be missing, and are."""
        missing = self.label_optional and self.label_name is not None and self.label_name not in names
        return replace(self, label=None) if missing else self

    def check(self, kind: str, inputs: list[str]) -> None:
        """Refuse fields that say nothing about this kind of data, and inputs that the model does not have."""
        for name in self.inputs or {}:
            if name not in inputs:
                hint = nearest(name, inputs) or f" (inputs: {', '.join(inputs)})"
                raise DataError(f"{self.origin}: the model has no input '{name}'{hint}")
        for key in self.given:
            if kind not in _KINDS_OF[key]:
                raise DataError(f"{self.origin}: '{key}' is for {_listing(_KINDS_OF[key])}; the data is {kind}")


def read_config(path: Path) -> DataConfig:
    """Read a TOML file.

    Raises:
        FileAccessError: it cannot be read.
        DataError: no TOML, or a field is unknown or has a value of the wrong kind; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileAccessError(f"the data config {path} does not exist") from None
    except OSError as error:
        raise FileAccessError(f"cannot read the data config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file") from error
    return parse_config(text, str(path), path.parent)


def parse_config(text: str, origin: str, folder: Path) -> DataConfig:
    """The config that ``text`` holds; see :func:`read_config`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{origin} is not valid TOML: {error}") from error
    reader = _Reader(text, origin, folder)
    tables = document.pop("inputs", {})
    if not isinstance(tables, dict):
        raise DataError(f"{origin}{reader.line('inputs', ())}: 'inputs' must hold one table for each input")
    top = reader.table(document, (), {**_SHARED, **_ONE_INPUT})
    inputs = {
        name: InputConfig(**reader.table(_as_table(table), ("inputs", name), _ONE_INPUT))
        for name, table in tables.items()
    }
    every = {name: top.pop(name) for name in list(top) if name in {field.name for field in fields(InputConfig)}}
    return DataConfig(origin, folder, **top, every=InputConfig(**every), inputs=inputs, given=tuple(reader.given))


def find_config(data: Path) -> DataConfig:
    """The config that lies inside a folder (``data.toml``), or beside it or a file (``NAME.toml``, ``data.toml``)."""
    data = data.resolve() if data.name in ("", "..") else data  # "." has no name
    named = data.with_suffix(".toml") if data.suffix and not data.is_dir() else data.with_name(f"{data.name}.toml")
    for path in (data / FILE_NAME if data.is_dir() else None, named, data.parent / FILE_NAME):
        if path is not None and path.is_file() and path != data:
            return read_config(path)
    return DataConfig()


def _as_table(table: Any) -> Any:
    """``[inputs] x = ["a", "b"]`` is short for ``[inputs.x] columns = ["a", "b"]``; one name may be an array's."""
    return {"columns": table} if isinstance(table, str | list) else table


class _Reader:
    """Reads tables of one document."""

    def __init__(self, text: str, origin: str, folder: Path) -> None:
        self._lines, self._origin, self._folder = text.splitlines(), origin, folder
        self.given: dict[str, None] = {}

    def table(self, table: Any, path: tuple[str, ...], known: Mapping[str, _Field]) -> dict[str, Any]:
        """The fields of a table, under the names that they have in Python."""
        if not isinstance(table, dict):
            raise DataError(f"{self._origin}{self.line(path[-1], path[:-1])}: '{'.'.join(path)}' must be a table")
        found: dict[str, Any] = {}
        for key, value in table.items():
            name = ".".join((*path, key))
            where = f"{self._origin}{self.line(key, path)}"
            if key not in known:
                raise DataError(f"{where}: unknown field '{name}'{nearest(key, known) or ' (docs/data.md lists them)'}")
            try:
                read = known[key].read(value)
            except ValueError as error:
                raise DataError(f"{where}: '{name}' must be {error}, not {value!r}") from None
            found[key.replace("-", "_")] = self._folder / read if known[key].read is _path else read
            self.given[key] = None
        return found

    def line(self, key: str, path: tuple[str, ...]) -> str:
        """``, line 3`` for the line that sets a key of the table at ``path``; empty when it is not found."""
        table: tuple[str, ...] = ()
        for number, written in enumerate(self._lines, 1):
            header = re.match(r"\s*\[([^\[\]]+)\]", written)
            if header:
                table = tuple(part.strip().strip("\"'") for part in header.group(1).split("."))
                if table == (*path, key):
                    return f", line {number}"
            named = re.match(r"\s*([\w.\-\"']+)\s*=", written)
            if named and (*table, *(part.strip("\"'") for part in named.group(1).split("."))) == (*path, key):
                return f", line {number}"
        return ""


@dataclass(frozen=True)
class _Field:
    """How a field is read (ValueError: what it must be), and which kinds of data it is about."""

    read: Callable[[Any], Any]
    kinds: tuple[str, ...]


def _path(value: Any) -> Path:
    return Path(text(value))


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise ValueError("a name or a list of names")
    return tuple(values)


def _label(value: Any) -> str | bool:
    if value is not False and not (isinstance(value, str) and value):
        raise ValueError("a name, or false")
    return value


def _size(value: Any) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError("a number of pixels, or [height, width]")
    return sides[0], sides[1]


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        raise ValueError("a number or a list of numbers")
    return tuple(map(float, values))


def _divisors(value: Any) -> tuple[float, ...]:
    found = _numbers(value)
    if 0 in found:
        raise ValueError("other than 0")
    return found


def _fraction(value: Any) -> tuple[float, float]:
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    upper, slash, lower = text.partition("/")
    try:
        found = float(upper), float(lower) if slash else 1.0
    except ValueError:
        found = 0.0, 0.0
    if not all(found):
        raise ValueError('a number or a fraction such as "1/255"')
    return found


def _dtype(value: Any) -> str:
    try:
        return str(np.dtype(text(value)))
    except (TypeError, ValueError):
        raise ValueError("the name of a numpy type such as float32") from None


def _constant(value: Any) -> Any:
    try:
        plain = np.asarray(value).dtype.kind in "biufU"
    except ValueError:
        plain = False
    if not plain:
        raise ValueError("a number, text, or a list of them")
    return value


_FILES = ("images", "audio", "arrays")
_NUMBERS = ("arrays", "images", "table", "audio")

_SHARED: Mapping[str, _Field] = {
    "format": _Field(choice(*KINDS[:-1]), KINDS),
    "label": _Field(_label, KINDS[:-1]),
    "labels-file": _Field(_path, _FILES),
    "label-offset": _Field(integer(), KINDS[:-1]),
    "classes": _Field(_texts, ("images", "audio", "arrays", "table", "text")),
    "samples-per-label": _Field(integer(1), KINDS[:-1]),
    "delimiter": _Field(text, ("table", "text")),
    "tokenizer": _Field(_path, ("text",)),
    "text": _Field(text, ("text",)),
    "pair": _Field(text, ("text",)),
    "pairs": _Field(choice("together", "apart"), ("text",)),
    "max-length": _Field(integer(1), ("text", "audio")),
    "padding": _Field(choice("longest", "max-length"), ("text",)),
    "pad-id": _Field(integer(0), ("text",)),
    "special-tokens": _Field(flag, ("text",)),
    "sample-rate": _Field(integer(1), ("audio",)),
    "hop": _Field(integer(1), ("audio",)),
    "remainder": _Field(choice("pad", "drop"), ("audio",)),
    "allow-nan": _Field(flag, ("arrays", "table", "function")),
}

_ONE_INPUT: Mapping[str, _Field] = {
    "array": _Field(text, ("arrays",)),
    "columns": _Field(_texts, ("table", "arrays")),
    "tokens": _Field(choice("ids", "mask", "types", "positions"), ("text",)),
    "value": _Field(_constant, KINDS),
    "size": _Field(_size, ("images",)),
    "fit": _Field(choice("crop", "stretch", "pad", "none"), ("images",)),
    "shorter-side": _Field(integer(1), ("images",)),
    "interpolation": _Field(choice(*INTERPOLATIONS), ("images",)),
    "pad-value": _Field(integer(0, 255), ("images",)),
    "layout": _Field(choice("NCHW", "NHWC"), ("images",)),
    "channels": _Field(choice("RGB", "BGR", "RGBA", "gray"), ("images",)),
    "scale": _Field(_fraction, _NUMBERS),
    "mean": _Field(_numbers, _NUMBERS),
    "std": _Field(_divisors, _NUMBERS),
    "dtype": _Field(_dtype, _NUMBERS),
}

_KINDS_OF: Mapping[str, tuple[str, ...]] = {key: field.kinds for key, field in {**_SHARED, **_ONE_INPUT}.items()}


def _listing(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
