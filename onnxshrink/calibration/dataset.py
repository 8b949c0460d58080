"""A ``Dataset``: samples for a model's inputs, cut into feeds as they are needed, with labels where there are any."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, overload

import numpy as np

from onnxshrink.calibration.padding import MASK, without_padding
from onnxshrink.data.array_files import open_npz
from onnxshrink.data.samples import ArraySamples, Block, Rows, Samples, read_ahead
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec

LABEL = "label"
"""The array of this name holds the labels, unless the model has an input called so."""

Feed = Mapping[str, np.ndarray]

_SAMPLES, _SENTENCES = 100, 512


@dataclass(frozen=True)
class Batch:
    """One run's inputs, and the labels of its samples where each sample has one."""

    feed: Feed
    samples: int
    labels: np.ndarray | None = None


class Dataset:
    """Samples for a model's inputs. They are read batch by batch, as often as they are asked for.

    Attributes:
        source: where the samples come from. Of arrays by input name, one with an axis more than the input holds a whole
            feed per sample; otherwise samples are stacked along the input's own batch axis.
        description: where the samples come from, for people.
        synthetic_seed: the seed of made-up values; None for real data.
        ignored: names of arrays or columns that are neither an input nor the labels.
        explanation: what was guessed about the data, a sentence each.
        preprocessing: what is done to the samples before the model sees them, in one line; empty when nothing is.
        allow_nan: whether NaN is a value like others.
    """

    def __init__(
        self,
        arrays: Mapping[str, Rows] | Samples,
        description: str = "arrays",
        labels: np.ndarray | None = None,
        *,
        synthetic_seed: int | None = None,
        ignored: tuple[str, ...] = (),
        explanation: tuple[str, ...] = (),
        preprocessing: str = "",
        allow_nan: bool = False,
        samples_per_label: int | None = None,
    ) -> None:
        self.source = arrays if isinstance(arrays, Samples) else ArraySamples(arrays)
        self.description = description
        self.synthetic_seed = synthetic_seed
        self.ignored = ignored
        self.preprocessing = preprocessing
        self.allow_nan = allow_nan
        self._labels = labels
        self.samples_per_label = samples_per_label or 1
        if labels is not None:
            self.samples_per_label = samples_per_label or self._inferred_samples_per_label(labels)
            if len(labels) * self.samples_per_label != self.samples:
                raise DataError(
                    f"{description}: {len(labels)} labels for {self.samples} samples: "
                    "give one per sample, or one per pair"
                )
            if self.samples_per_label > 1 and samples_per_label is None:
                explanation += (f"{len(labels)} labels for {self.samples} samples: {self.samples_per_label} to each",)
        self.explanation = explanation

    def _inferred_samples_per_label(self, labels: np.ndarray) -> int:
        return self.samples // len(labels) if len(labels) and self.samples % len(labels) == 0 else 1

    def revised(self, **changes: Any) -> Dataset:
        """This data set with other arguments than it was made with."""
        known: dict[str, Any] = {
            "arrays": self.source,
            "description": self.description,
            "labels": self._labels,
            "synthetic_seed": self.synthetic_seed,
            "ignored": self.ignored,
            "explanation": self.explanation,
            "preprocessing": self.preprocessing,
            "allow_nan": self.allow_nan,
            "samples_per_label": self.samples_per_label,
        }
        return Dataset(**{**known, **changes})

    @property
    def synthetic(self) -> bool:
        return self.synthetic_seed is not None

    @property
    def arrays(self) -> Mapping[str, Rows]:
        """By input name, where the samples are arrays; else empty."""
        return self.source.arrays if isinstance(self.source, ArraySamples) else {}

    @property
    def labels(self) -> np.ndarray | None:
        """All targets (class ids, numbers, text, masks, objects): one per sample, or per group of consecutive ones."""
        return self.source.labels if self._labels is None else self._labels

    @property
    def samples(self) -> int:
        """How many samples there are; 0 for a model without inputs."""
        return self.source.samples

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what the samples are made from, in hex; of arrays: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for part in self.source.digest_parts():
            digest.update(part)
        return digest.hexdigest()

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], inputs: Sequence[TensorSpec]) -> Dataset:
        """The arrays of an ``.npz`` file, named after ``inputs``, or in their order (arr_0, arr_1, …).

        An array called ``label`` is the labels. Other arrays are ignored. Rows are read when they are used.

        Raises:
            FileAccessError: the file cannot be read.
            DataError: not an .npz file, or its arrays do not fit the inputs.
        """
        return cls.from_arrays(open_npz(Path(path)), inputs, str(path))

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Rows],
        inputs: Sequence[TensorSpec],
        description: str = "arrays",
        *,
        label: str | None = None,
        samples_per_label: int | None = None,
        allow_nan: bool = False,
    ) -> Dataset:
        """Match arrays with a model's inputs; types are converted where no value changes its meaning.

        Args:
            arrays: by input name, or arr_0, arr_1, … in the order of the inputs.
            inputs: of the model.
            description: where the arrays come from, for people.
            label: name of the array with the labels; None: ``label``, if there is one.
            samples_per_label: how many consecutive samples each label is for; None: as many as divide evenly.
            allow_nan: whether NaN is a value like others.

        Raises:
            DataError: an input without an array, a shape or type that does not fit, NaN, or no samples.
        """
        names = {spec.name for spec in inputs}
        arrays, explanation = named_by_order(arrays, inputs)
        matched = {spec.name: checked_shape(arrays, spec, description) for spec in inputs}
        lengths = {name: len(array) for name, array in matched.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{description}: arrays differ in their number of samples: {lengths}")
        if label is not None and label not in arrays:
            raise DataError(f"{description}: no array '{label}' for the labels (arrays: {', '.join(arrays)})")
        labels = arrays[label or LABEL] if label or (LABEL in arrays and LABEL not in names) else None
        if labels is not None and not labels.shape:
            raise DataError(f"{description}: '{label or LABEL}' is a single value: labels are one per sample")
        known = names | {label or LABEL} | {f"arr_{index}" for index in range(len(inputs))}
        data = cls(
            matched,
            description,
            None if labels is None else labels[:],
            ignored=tuple(sorted(set(arrays) - known)),
            explanation=explanation,
            allow_nan=allow_nan,
            samples_per_label=samples_per_label,
        )
        return data.checked(inputs)

    def checked(self, inputs: Sequence[TensorSpec]) -> Dataset:
        """This data set, once its first run fits the inputs.

        Raises:
            DataError: there are no samples, or the first ones do not fit.
        """
        if inputs and self.source.count(1) == 0:
            raise DataError(f"{self.description}: there are no samples")
        fixed = self.fixed_batch(inputs) or 1
        if inputs and self.source.count(fixed) >= fixed:
            next(self._batches(inputs, fixed, 0, fixed))
        return self

    def fitted_to(self, inputs: Sequence[TensorSpec]) -> Dataset:
        """The same samples, checked against a model's inputs."""
        if self.synthetic:
            return self
        if isinstance(self.source, ArraySamples):
            for spec in inputs:
                checked_shape(self.source.arrays, spec, self.description)
        return self.checked(inputs)

    def batches(self, inputs: Sequence[TensorSpec], batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Cut the first ``limit`` samples (at least one run) into runs of ``batch_size``, where the inputs allow that.

        Whole feeds give one run each. A fixed first dimension overrides ``batch_size``; samples that do not fill it are
        left out. Samples of different shapes are not put into one run. A model without inputs gets one empty feed.

        Raises:
            DataError: fewer samples than the model's fixed batch; a sample that does not fit, or holds NaN.
        """
        if not inputs:
            return iter([Batch({}, 1)])
        fixed = self.fixed_batch(inputs)
        stop = None if limit is None else max(limit, fixed or 1)
        found = self._batches(inputs, fixed or batch_size, 0, stop)
        return read_ahead(found) if self.source.slow else found

    def runs(self, inputs: Sequence[TensorSpec], start: int, stop: int) -> Iterator[Feed]:
        """The feeds of some of the runs that the samples give, each as short as the model allows."""
        step = self.fixed_batch(inputs) or 1
        found = self._batches(inputs, step, start * step, stop * step) if inputs else iter([Batch({}, 1)])
        return (batch.feed for batch in (read_ahead(found) if self.source.slow else found))

    def fixed_batch(self, inputs: Sequence[TensorSpec]) -> int | None:
        """The number of items that every run must have, or None when the model leaves it open."""
        if self.source.holds_whole_feeds(inputs):
            return 1
        return max((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)), default=None)

    def _batches(self, inputs: Sequence[TensorSpec], step: int, start: int, stop: int | None) -> Iterator[Batch]:
        """Runs of ``step`` items from ``start`` up to ``stop``."""
        fixed = self.fixed_batch(inputs)
        for first in count(start, step):
            last = first + step if stop is None else min(first + step, stop)
            if last - first < (fixed or 1):
                return
            block = self.source.read(first, last)
            if len(block) < (fixed or 1):
                if fixed is not None and first == 0:
                    found = self.source.count()
                    raise DataError(
                        f"{self.description}: {found} samples do not fill the model's fixed batch of {fixed}"
                    )
                return
            yield from self._cut(inputs, block, first, fixed)
            if len(block) < last - first:
                return

    def _cut(self, inputs: Sequence[TensorSpec], block: Block, first: int, fixed: int | None) -> Iterator[Batch]:
        """Runs of consecutive items with equal shapes."""
        shapes = [tuple(np.shape(block.arrays[spec.name][item]) for spec in inputs) for item in range(len(block))]
        begin = 0
        for end in range(1, len(shapes) + 1):
            if end < len(shapes) and shapes[end] == shapes[begin]:
                continue
            if fixed is not None and end - begin != fixed:
                raise DataError(
                    f"{self.description}: {self.source.name(first + end)} and the one before it have different shapes, "
                    f"and the model runs {fixed} samples at once"
                )
            names = [self.source.name(first + item) for item in range(begin, end)]
            feed = {spec.name: self._fit(spec, block.arrays[spec.name][begin:end], names) for spec in inputs}
            labels = self._batch_labels(block, first, begin, end)
            whole = block.labels is not None and labels is not None
            yield Batch(feed, len(labels) if whole and labels is not None else end - begin, labels)
            begin = end

    def _batch_labels(self, block: Block, first: int, begin: int, end: int) -> np.ndarray | None:
        if block.labels is not None:
            return np.concatenate(block.labels[begin:end])
        if self.samples_per_label != 1 or self.labels is None:
            return None
        return self.labels[first + begin : first + end]

    def _fit(self, spec: TensorSpec, items: np.ndarray | Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """Items as one array for an input, in its type."""
        stacked = np.asarray(items) if isinstance(items, np.ndarray) else np.stack([np.asarray(item) for item in items])
        if not self.allow_nan and stacked.dtype.kind == "f" and stacked.size and np.isnan(np.max(stacked)):
            for name, item in zip(names, stacked, strict=True):
                if np.isnan(item).any():
                    raise DataError(f"{self.description}: {name}: '{spec.name}' contains NaN: drop that sample")
        whole = stacked.ndim == len(spec.shape) + 1
        shape = stacked.shape[1:] if whole else stacked.shape
        if not _fits(shape, spec, whole=whole):
            raise DataError(
                f"{self.description}: {names[0]}: '{spec.name}' has shape {stacked.shape[1:]}, "
                f"the model's input is {_shape_text(spec)}"
            )
        array = stacked[0] if whole else stacked
        converted = _converted(array, spec, self.description)
        return np.asarray(converted, converted.dtype)  # one element of a vector is no array, but a scalar input is


class Feeds(Sequence[Feed]):
    """The feeds of a data set, one run each without padding, read when they are asked for. A slice reads nothing."""

    def __init__(self, data: Dataset, inputs: Sequence[TensorSpec], runs: range) -> None:
        self._data, self._inputs, self._runs = data, inputs, runs

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Feed]:
        return (
            without_padding(feed, self._inputs)
            for feed in self._data.runs(self._inputs, self._runs.start, self._runs.stop)
        )

    @overload
    def __getitem__(self, index: int) -> Feed: ...

    @overload
    def __getitem__(self, index: slice) -> Feeds: ...

    def __getitem__(self, index: int | slice) -> Feed | Feeds:
        chosen = self._runs[index]
        if isinstance(chosen, range):
            assert chosen.step == 1, "feeds are read in order"
            return Feeds(self._data, self._inputs, chosen)
        return without_padding(next(self._data.runs(self._inputs, chosen, chosen + 1)), self._inputs)


def feeds_of(data: Dataset, inputs: Sequence[TensorSpec], limit: int) -> Feeds:
    """The first ``limit`` samples, at least one run, with one run each where the model allows it.

    Raises:
        DataError: fewer samples than the model's fixed batch.
    """
    if not inputs:
        return Feeds(data, inputs, range(1))
    fixed = data.fixed_batch(inputs) or 1
    wanted = max(limit, fixed)
    found = min(data.source.count(wanted), wanted)
    if found < fixed:
        raise DataError(f"{data.description}: {found} samples do not fill the model's fixed batch of {fixed}")
    return Feeds(data, inputs, range(found // fixed))


def default_calibration_samples(inputs: Sequence[TensorSpec]) -> int:
    """How many samples calibrate a model when nobody says: more where one is a row of tokens than where it is an image.

    With 100 sentences instead of 512, second moments made an encoder at 3 bits lose 8 points instead of 1.
    """
    return _SENTENCES if any(spec.name == MASK for spec in inputs) else _SAMPLES


def named_by_order(
    arrays: Mapping[str, Rows], inputs: Sequence[TensorSpec]
) -> tuple[Mapping[str, Rows], tuple[str, ...]]:
    """Arrays without names (arr_0, arr_1, …) named after the inputs in their order, and a note that says so."""
    by_order = {spec.name: f"arr_{index}" for index, spec in enumerate(inputs)}
    if by_order.keys() & arrays.keys() or not arrays.keys() >= set(by_order.values()):
        return arrays, ()
    pairs = ", ".join(f"{array} is '{name}'" for name, array in by_order.items())
    note = f"arrays without names are given to the inputs in order: {pairs}"
    return {name: arrays[array] for name, array in by_order.items()} | dict(arrays), (note,) if len(inputs) > 1 else ()


def checked_shape(arrays: Mapping[str, Rows], spec: TensorSpec, origin: str) -> Rows:
    """The array for one input, if its shape and type fit."""
    if spec.name not in arrays:
        raise DataError(f"{origin}: no array for the input '{spec.name}' (arrays: {', '.join(arrays) or 'none'})")
    array = arrays[spec.name]
    ndim = len(array.shape)
    whole = ndim == len(spec.shape) + 1
    if not ndim or not _fits(array.shape[whole:], spec, whole=whole):
        raise DataError(f"{origin}: '{spec.name}' has shape {array.shape}, the model's input is {_shape_text(spec)}")
    _converted(np.zeros(0, array.dtype), spec, origin)
    return array


def _fits(shape: tuple[int, ...], spec: TensorSpec, *, whole: bool) -> bool:
    """Whether an array can be fed; that the first axis is as long as the batch is known of whole feeds only."""
    return len(shape) == len(spec.shape) and all(
        not isinstance(want, int) or have == want or (axis == 0 and not whole)
        for axis, (have, want) in enumerate(zip(shape, spec.shape, strict=True))
    )


def _converted(array: np.ndarray, spec: TensorSpec, origin: str) -> np.ndarray:
    """An array in the input's type, where no value changes its meaning."""
    if spec.dtype is None:
        raise DataError(f"{origin}: the input '{spec.name}' has type {spec.type}, which numpy arrays cannot feed")
    if array.dtype == spec.dtype:
        return array
    if spec.dtype != object and not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        raise DataError(f"{origin}: '{spec.name}' has type {array.dtype}, the model's input takes {spec.dtype}")
    return array.astype(spec.dtype)


def _shape_text(spec: TensorSpec) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + "]"
