"""From what the user gave to a ``Dataset``: which kind of data it is, and which reader reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.config import DataConfig, find_config, read_config
from onnxshrink.data.files import DataFiles, find_files
from onnxshrink.data.samples import WithConstants
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec

DataLike = str | os.PathLike[str] | Dataset | Mapping[str, np.ndarray] | Callable[[], Iterable[Any]]
"""A path, ``package.module:function``, a :class:`Dataset`, arrays by input name, or a function that yields feeds."""

ConfigLike = str | os.PathLike[str] | DataConfig


def read_data(
    data: DataLike,
    inputs: Sequence[TensorSpec],
    config: ConfigLike | None = None,
    *,
    model: Path | None = None,
    label: str | None = None,
    label_optional: bool = False,
) -> Dataset:
    """Samples for a model with these inputs, of whatever the user has.

    Args:
        data: see :data:`DataLike`; docs/data.md says what a path may lead to.
        inputs: of the model.
        config: a TOML file; None: the one beside or inside the data, if there is one.
        model: the model's file, for what may lie beside it.
        label: the array or column with the labels, whatever the config says.
        label_optional: take data without it as data without labels.

    Raises:
        FileAccessError: a file cannot be read.
        DataError: the samples, or the config, do not fit the inputs.
    """
    if isinstance(data, Dataset):
        if label is not None:
            raise DataError(
                f"{data.description}: a Dataset has its labels already, so no array '{label}' can be chosen"
            )
        return data.fitted_to(inputs)
    said = config if isinstance(config, DataConfig) or config is None else read_config(Path(config))
    if said is not None:
        said = replace(said, label_optional=label_optional)
    names = [spec.name for spec in inputs]
    if isinstance(data, Mapping):
        from onnxshrink.data.arrays import arrays_as_dataset

        said = _with_label(said or DataConfig(), label)
        said.check("arrays", names)
        return _with_constants(arrays_as_dataset(data, _fed(inputs, said), said, "arrays"), inputs, said)
    if not callable(data) and not isinstance(data, str | os.PathLike):
        raise DataError(
            "data is a path, package.module:function, a mapping of arrays, a Dataset, or a function, "
            f"not a {type(data).__name__}"
        )
    if callable(data) or _is_function(data):
        said = _with_label(said or DataConfig(), label)
        said.check("function", names)
        return _with_constants(_of_function(data, _fed(inputs, said), said), inputs, said)
    path = Path(data)
    said = _with_label(said or replace(find_config(path), label_optional=label_optional), label)
    files = find_files(path)
    kind = _kind(files, inputs, said)
    said.check(kind, names)
    found = _read(kind, files, _fed(inputs, said), said, str(path), model)
    if files.left_out:
        note = f"{path}: the subfolders are not read, because files lie beside them: {', '.join(files.left_out[:3])}"
        found = found.revised(explanation=(*found.explanation, note))
    return _with_constants(found, inputs, said)


def _with_label(config: DataConfig, label: str | None) -> DataConfig:
    return config if label is None else replace(config, label=label)


def _is_function(data: str | os.PathLike[str]) -> bool:
    from onnxshrink.data.function import is_function_name

    return is_function_name(os.fspath(data)) and not Path(data).exists()


def _of_function(data: Any, inputs: Sequence[TensorSpec], config: DataConfig) -> Dataset:
    from onnxshrink.data.function import find_function, read_function

    name = getattr(data, "__qualname__", repr(data)) if callable(data) else os.fspath(data)
    function = data if callable(data) else find_function(name)
    return read_function(function, inputs, name, allow_nan=config.allow_nan)


def _fed(inputs: Sequence[TensorSpec], config: DataConfig) -> list[TensorSpec]:
    """The inputs that get their values from the data."""
    return [spec for spec in inputs if config.of(spec.name).value is None]


def _kind(files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig) -> str:
    """The kind of data: tables are texts where the inputs take tokens that are not in the table already."""
    if config.format is not None:
        return config.format
    if files.kind == "text" or (files.kind == "table" and (config.tokenizer or config.text)):
        return "text"
    if files.kind == "table":
        from onnxshrink.data.rows import Table
        from onnxshrink.data.text import takes_tokens

        fed = _fed(inputs, config)
        named = {spec.name for spec in fed} | {name for spec in fed for name in config.of(spec.name).columns or ()}
        if takes_tokens(fed) and not named & set(Table(files, config).columns):
            return "text"
    return files.kind


def _read(
    kind: str, files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig, origin: str, model: Path | None
) -> Dataset:
    """Read files of one kind. Imports are late: each reader has libraries of its own."""
    if kind == "arrays":
        from onnxshrink.data.arrays import read_arrays

        return read_arrays(files, inputs, config, origin)
    if kind == "table":
        from onnxshrink.data.tables import read_table

        return read_table(files, inputs, config, origin)
    if kind == "text":
        from onnxshrink.data.text import read_text

        return read_text(files, inputs, config, origin, model)
    spec = _only_input(inputs, kind)
    if kind == "audio":
        from onnxshrink.data.audio import read_audio

        return read_audio(files, spec, config, origin)
    from onnxshrink.data.images import read_images

    return read_images(files, spec, config, origin)


def _only_input(inputs: Sequence[TensorSpec], kind: str) -> TensorSpec:
    """The input that images or sounds go into."""
    if len(inputs) == 1:
        return inputs[0]
    names = ", ".join(spec.name for spec in inputs)
    raise DataError(
        f"the model takes {len(inputs)} inputs ({names}) and the data is {kind}: set the values of the others in "
        "[inputs.NAME] value = … of the data config"
    )


def _with_constants(data: Dataset, inputs: Sequence[TensorSpec], config: DataConfig) -> Dataset:
    """The data set together with the inputs whose values the config gives."""
    constants = {}
    for spec in inputs:
        value = config.of(spec.name).value
        if value is not None:
            constants[spec.name] = _constant(spec, value, config.origin)
    if constants:
        told = "; ".join(f"'{name}' is {value.tolist()}" for name, value in constants.items())
        data = data.revised(
            arrays=WithConstants(data.source, constants),
            preprocessing="; ".join(filter(None, (data.preprocessing, told))),
        )
    return data.checked(inputs)


def _constant(spec: TensorSpec, value: Any, origin: str) -> np.ndarray:
    """A sample's value of an input; it may be given with the batch axis, too."""
    if spec.dtype is None:
        raise DataError(f"{origin}: the input '{spec.name}' has type {spec.type}, which 'value' cannot give")
    try:
        array = np.asarray(value).astype(spec.dtype)
    except ValueError:
        raise DataError(f"{origin}: 'value' of the input '{spec.name}' is not of type {spec.dtype}") from None
    if array.ndim == len(spec.shape) > 0 and len(array) == 1 and spec.shape[0] in (1, None, str(spec.shape[0])):
        return np.asarray(array[0])
    return array
