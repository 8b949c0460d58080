"""A ``Dataset``: named arrays, cut into feeds for a model, with labels where there are any."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from onnxshrink.errors import DataError, FileAccessError, first_line
from onnxshrink.measure.session import TensorSpec

LABEL = "label"
"""The array of this name holds the labels, unless the model has an input called so."""

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """One run's inputs, and the labels of its samples where there are any."""

    feed: Feed
    samples: int
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """Samples for a model's inputs.

    Attributes:
        arrays: one array per input name, samples along the first axis. An array with one axis more than the input
            holds a whole feed per sample; otherwise samples are stacked along the input's own batch axis.
        description: where the samples come from, for people.
        labels: integer class per sample, shape (samples,), or None.
        synthetic_seed: the seed of made-up values; None for real data.
        ignored: names of arrays that are neither an input nor the labels.
    """

    arrays: Mapping[str, np.ndarray]
    description: str = "arrays"
    labels: np.ndarray | None = None
    synthetic_seed: int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        return self.synthetic_seed is not None

    @property
    def samples(self) -> int:
        """How many samples there are; 0 for a model without inputs."""
        return min((len(array) for array in self.arrays.values()), default=0)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the arrays, in hex."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
        return digest.hexdigest()

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], inputs: Sequence[TensorSpec]) -> Dataset:
        """Read a ``.npz`` file whose arrays are named after ``inputs``, or stand in their order (arr_0, arr_1, …).

        An array called ``label`` is the labels. Other arrays are ignored.

        Raises:
            FileAccessError: the file cannot be read.
            DataError: not an .npz file, or its arrays do not fit the inputs.
        """
        path = Path(path)
        try:
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is not an .npz archive")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise FileAccessError(f"the data file {path} does not exist") from None
        except OSError as error:
            raise FileAccessError(f"cannot read the data file {path}: {error.strerror or first_line(error)}") from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a readable .npz archive: make one with numpy.savez") from error
        return cls.from_arrays(arrays, inputs, str(path))

    @classmethod
    def from_arrays(cls, arrays: Feed, inputs: Sequence[TensorSpec], description: str = "arrays") -> Dataset:
        """Match arrays with a model's inputs, converting types where no value changes its meaning.

        Raises:
            DataError: an input without an array, a shape or type that does not fit, NaN, or no samples.
        """
        names = {spec.name for spec in inputs}
        if not names & set(arrays) and all(f"arr_{index}" in arrays for index in range(len(inputs))):
            arrays = {spec.name: arrays[f"arr_{index}"] for index, spec in enumerate(inputs)} | dict(arrays)
        matched = {spec.name: _fit(arrays, spec, description) for spec in inputs}
        lengths = {name: len(array) for name, array in matched.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{description}: arrays differ in their number of samples: {lengths}")
        labels = arrays.get(LABEL) if LABEL not in names else None
        ignored = tuple(sorted(set(arrays) - names - {LABEL} - {f"arr_{index}" for index in range(len(inputs))}))
        data = cls(matched, description, labels, ignored=ignored)
        if inputs and data.samples == 0:
            raise DataError(f"{description}: there are no samples")
        if labels is not None and len(labels) != data.samples:
            raise DataError(f"{description}: {len(labels)} labels for {data.samples} samples")
        return data

    def fitted_to(self, inputs: Sequence[TensorSpec]) -> Dataset:
        """The same samples, checked against a model's inputs and in their types; see :meth:`from_arrays`."""
        if self.synthetic:
            return self
        labels = {} if self.labels is None else {LABEL: self.labels}
        return Dataset.from_arrays({**self.arrays, **labels}, inputs, self.description)

    def batches(self, inputs: Sequence[TensorSpec], batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Cut the first ``limit`` samples (at least one run) into runs of ``batch_size``, where the inputs allow that.

        Arrays that hold whole feeds give one run per sample. A fixed first dimension overrides ``batch_size``;
        samples that do not fill it are left out. A model without inputs gets one empty feed.

        Raises:
            DataError: fewer samples than the model's fixed batch.
        """
        if not inputs:
            yield Batch({}, 1)
            return
        fixed = self._fixed_batch(inputs)
        count = self.samples if limit is None else min(max(limit, fixed or 1), self.samples)
        if fixed is not None and fixed > count:
            raise DataError(f"{self.description}: {count} samples do not fill the model's fixed batch of {fixed}")
        step = fixed or batch_size
        for start in range(0, count if fixed is None else count - count % fixed, step):
            stop = min(start + step, count)
            feed = {spec.name: self._rows(spec, start, stop) for spec in inputs}
            yield Batch(feed, stop - start, None if self.labels is None else self.labels[start:stop])

    def _fixed_batch(self, inputs: Sequence[TensorSpec]) -> int | None:
        """The number of samples every run must have, or None when the model leaves it open."""
        if any(self._holds_whole_feeds(spec) for spec in inputs):
            return 1
        return max((spec.shape[0] for spec in inputs if isinstance(spec.shape[0], int)), default=None)

    def _holds_whole_feeds(self, spec: TensorSpec) -> bool:
        return self.arrays[spec.name].ndim == len(spec.shape) + 1

    def _rows(self, spec: TensorSpec, start: int, stop: int) -> np.ndarray:
        array = self.arrays[spec.name]
        rows = array[start] if self._holds_whole_feeds(spec) else array[start:stop]
        return np.asarray(rows, array.dtype)  # one element of a vector is no array to numpy, but a scalar input is


def _fit(arrays: Feed, spec: TensorSpec, origin: str) -> np.ndarray:
    """The array for one input, in the input's type."""
    if spec.name not in arrays:
        raise DataError(f"{origin}: no array for the input '{spec.name}' (arrays: {', '.join(arrays) or 'none'})")
    array = arrays[spec.name]
    if spec.dtype is None:
        raise DataError(f"{origin}: the input '{spec.name}' has type {spec.type}, which numpy arrays cannot feed")
    if array.ndim not in (len(spec.shape), len(spec.shape) + 1) or array.ndim == 0:
        raise DataError(f"{origin}: '{spec.name}' has shape {array.shape}, the model's input is {_shape_text(spec)}")
    whole = array.ndim == len(spec.shape) + 1
    for axis, (have, want) in enumerate(zip(array.shape[whole:], spec.shape, strict=True)):
        if isinstance(want, int) and have != want and (whole or axis > 0):
            raise DataError(
                f"{origin}: '{spec.name}' has shape {array.shape}, the model's input is {_shape_text(spec)}"
            )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{origin}: '{spec.name}' contains NaN: drop those samples")
    if array.dtype == spec.dtype:
        return array
    if spec.dtype != object and not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        raise DataError(f"{origin}: '{spec.name}' has type {array.dtype}, the model's input takes {spec.dtype}")
    return array.astype(spec.dtype)


def _shape_text(spec: TensorSpec) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + "]"
