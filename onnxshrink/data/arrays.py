"""Arrays in ``.npz`` and ``.npy`` files: one file with all samples, or a folder of files with one or some each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import LABEL, Dataset, named_by_order
from onnxshrink.data.array_files import open_npy, open_npz
from onnxshrink.data.config import DataConfig
from onnxshrink.data.files import DataFiles, class_ids, file_parts, labels_of
from onnxshrink.data.samples import Chained, Rows, packed
from onnxshrink.data.scaling import Scaling
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec


def read_arrays(files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig, origin: str) -> Dataset:
    """The data set of array files; see :meth:`onnxshrink.calibration.dataset.Dataset.from_arrays` for one file."""
    opened = _opened(files, inputs, config)
    if opened is not None:
        return arrays_as_dataset(opened, inputs, config, origin)
    samples = _FileSamples(files, inputs, config)
    labels, notes = labels_of(files, config)
    if labels is None:
        labels, notes = samples.stored_labels(config, origin)
    else:
        labels = np.repeat(labels, samples.part_counts(), axis=0)
    return Dataset(
        samples,
        origin,
        labels,
        explanation=notes,
        preprocessing=_preprocessing(inputs, config),
        samples_per_label=config.samples_per_label,
        allow_nan=config.allow_nan,
    )


def _opened(files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig) -> Mapping[str, Rows] | None:
    """The arrays of a data set that is one file, or a folder of .npy files that are named after the inputs."""
    if len(files.paths) == 1 and not files.folder_given:
        return _arrays_in(files.paths[0], inputs, config)
    by_stem = {path.stem: path for path in files.paths if path.suffix == ".npy"}
    wanted = {config.of(spec.name).array_name or spec.name for spec in inputs}
    if wanted and wanted <= by_stem.keys() and not files.groups:
        return {stem: open_npy(path) for stem, path in by_stem.items()}
    return None


def _arrays_in(path: Path, inputs: Sequence[TensorSpec], config: DataConfig) -> Mapping[str, Rows]:
    if path.suffix.lower() == ".npz":
        return open_npz(path)
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(f"{path} is one array, the model takes {len(inputs)} inputs ({names}): make an .npz file")
    return {config.of(inputs[0].name).array_name or inputs[0].name: open_npy(path)}


def arrays_as_dataset(
    arrays: Mapping[str, Rows], inputs: Sequence[TensorSpec], config: DataConfig, origin: str
) -> Dataset:
    """The data set of arrays that hold all samples."""
    arrays, order_notes = named_by_order(arrays, inputs)
    config = config.among(arrays)
    named = dict(arrays)
    for spec in inputs:
        array = config.of(spec.name).array_name
        if array is not None and array not in arrays:
            raise DataError(f"{origin}: no array '{array}' for the input '{spec.name}' (arrays: {', '.join(arrays)})")
        if array is not None:
            named[spec.name] = named.pop(array, arrays[array])
    if config.label is False and LABEL not in {spec.name for spec in inputs}:
        named.pop(LABEL, None)
    scaled: dict[str, Rows] = {name: _scaled(array, name, config) for name, array in named.items()}
    data = Dataset.from_arrays(
        {name: scaled[name] if name in {spec.name for spec in inputs} else array for name, array in named.items()},
        inputs,
        origin,
        label=config.label_name,
        samples_per_label=config.samples_per_label,
        allow_nan=config.allow_nan,
    )
    labels, notes = data.labels, order_notes + data.explanation
    if labels is not None and (config.classes or config.label_offset):
        labels, more = class_ids(labels, config, origin)
        notes += more
    return data.revised(labels=labels, explanation=notes, preprocessing=_preprocessing(inputs, config))


def _preprocessing(inputs: Sequence[TensorSpec], config: DataConfig) -> str:
    lines = [(spec.name, str(Scaling.configured(config.of(spec.name)))) for spec in inputs]
    return "; ".join(f"'{name}' {line}" for name, line in lines if line)


def _scaled(array: Rows, name: str, config: DataConfig) -> Rows:
    scaling = Scaling.configured(config.of(name))
    return _ScaledRows(array, scaling) if scaling.changes_values or scaling.dtype is not None else array


class _ScaledRows:
    """Rows of an array after something was done to their values."""

    def __init__(self, rows: Rows, scaling: Scaling) -> None:
        self._rows, self._scaling = rows, scaling
        self.shape: tuple[int, ...] = rows.shape
        self.dtype: np.dtype[Any] = scaling.result_type(rows.dtype)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._scaling.apply_to_arrays(self._rows[rows])


class _FileSamples(Chained):
    """Samples in files. A file holds one sample, or several along the first axes, or one run's whole feed."""

    def __init__(self, files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig) -> None:
        super().__init__(len(files.paths))
        self._files, self._inputs, self._config = files, inputs, config
        self._last: tuple[int, Mapping[str, Rows]] | None = None
        first = self._arrays(0)
        ndims = {spec.name: len(first[spec.name].shape) - len(spec.shape) for spec in inputs}
        self._one_sample = all(difference == -1 for difference in ndims.values())
        lengths = {len(first[spec.name]) for spec in inputs if first[spec.name].shape}
        self._whole = not self._one_sample and (max(ndims.values(), default=0) == 0 and len(lengths) > 1)
        self._stacked_feeds = any(difference == 1 for difference in ndims.values())

    def part_count(self, part: int) -> int:
        if self._one_sample or self._whole:
            return 1
        arrays = self._arrays(part)
        lengths = {spec.name: len(arrays[spec.name]) for spec in self._inputs}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{self._files.paths[part]}: arrays differ in their number of samples: {lengths}")
        return next(iter(lengths.values()), 0)

    def read_part(self, part: int, start: int, stop: int) -> Mapping[str, np.ndarray | Sequence[np.ndarray]]:
        arrays = self._arrays(part)
        found: dict[str, np.ndarray | Sequence[np.ndarray]] = {}
        for spec in self._inputs:
            scaling = Scaling.configured(self._config.of(spec.name))
            array = arrays[spec.name]
            rows = array[:][None] if self._one_sample or self._whole else array[start:stop]
            found[spec.name] = scaling.apply_to_arrays(rows)
        return found

    def stored_labels(self, config: DataConfig, origin: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """The labels that the files themselves hold."""
        config = config.among(self._arrays(0))
        name = config.label_name or LABEL
        if config.label is False or name in {spec.name for spec in self._inputs} or name not in self._arrays(0):
            if config.label_name:
                raise DataError(f"{self._files.paths[0]}: no array '{name}' for the labels")
            return None, ()
        found: list[Any] = []
        for part in range(len(self._files.paths)):
            arrays = self._arrays(part)
            if name not in arrays:
                raise DataError(f"{self._files.paths[part]}: no array '{name}' for the labels")
            values = arrays[name][:] if arrays[name].shape else np.asarray(arrays[name])
            one = self._one_sample or self._whole
            found += [values[0] if one and values.shape == (1,) else values] if one else list(values)
        return class_ids(packed(found), config, origin)

    def digest_parts(self) -> Iterator[bytes]:
        yield f"{_preprocessing(self._inputs, self._config)}\n".encode()
        yield from file_parts(self._files)

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return self._whole or self._stacked_feeds

    def name(self, index: int) -> str:
        place = self.place(index)
        if place is None:
            return f"sample {index}"
        return self._files.name(place[0]) + ("" if self._one_sample or self._whole else f", sample {place[1]}")

    def _arrays(self, part: int) -> Mapping[str, Rows]:
        """The arrays of a file under the inputs' names, and what else it holds."""
        last = self._last
        if last is not None and last[0] == part:
            return last[1]
        path = self._files.paths[part]
        arrays = dict(_arrays_in(path, self._inputs, self._config))
        for spec in self._inputs:
            name = self._config.of(spec.name).array_name or spec.name
            if name not in arrays:
                raise DataError(f"{path}: no array for the input '{name}' (arrays: {', '.join(arrays) or 'none'})")
            arrays[spec.name] = arrays[name]
        self._last = part, arrays
        return arrays
