"""What a metric is: options, and once it has seen a first batch, a way to turn batches into one row per sample.

A row holds what the metric needs of a sample (right or wrong; squared error and elements; edits and length), and a pure
function turns any rows into the value. That is what makes a bootstrap of any metric one function.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.measured import Unit
from onnxshrink.numerics.resampling import Values, totals


@dataclass(frozen=True)
class Judged:
    """What a metric sees of a batch.

    Attributes:
        outputs: the outputs of the model that is judged, by name.
        samples: samples in the batch.
        labels: one entry per ``group`` samples, or None.
        reference: the original's outputs on the same samples; None when there is no original.
        group: samples that share a label.
    """

    outputs: Mapping[str, Any]
    samples: int
    labels: np.ndarray | None = None
    reference: Mapping[str, Any] | None = None
    group: int = 1


@dataclass(frozen=True)
class Bound:
    """A metric that knows which outputs it reads.

    Attributes:
        label: its name for people: ``top-1``, ``F1 (macro)``.
        output: the outputs that are read, joined by a comma.
        rows: a batch → (rows, k), float64.
        values: rows and counts → values, see :data:`~onnxshrink.numerics.resampling.Values`.
        right_or_wrong: whether every row is one sample that is right (1, 1) or wrong (0, 1): McNemar's test applies.
        against_original: whether the original's outputs are what is right.
        prepared: all rows of a model, once → rows that ``values`` is quicker with.
    """

    label: str
    output: str
    rows: Callable[[Judged], np.ndarray]
    values: Values
    right_or_wrong: bool = False
    against_original: bool = False
    prepared: Callable[[np.ndarray], np.ndarray] = lambda rows: rows


@dataclass(frozen=True)
class Metric(ABC):
    """Options of a metric. ``output`` names the output to read; by default the first that fits."""

    name: ClassVar[str]
    unit: ClassVar[Unit] = "share"
    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    judges_pairs: ClassVar[bool] = False

    output: str | None = None

    def bind(self, first: Judged) -> Bound:
        """Choose the outputs to read from a first batch.

        Raises:
            DataError: the outputs or the labels are not of the metric's kind.
        """
        if self.output is not None and self.output not in first.outputs:
            known = ", ".join(first.outputs)
            raise DataError(f"{self.name}: the model has no output '{self.output}' (its outputs: {known})")
        self.check(labelled=first.labels is not None)
        if first.group > (2 if self.judges_pairs else 1):
            raise DataError(f"{self.name} needs one label per sample, but {first.group} samples share one")
        return self._bind(first)

    def check(self, *, labelled: bool) -> None:
        """Refuse what can be refused before the model is run.

        Raises:
            DataError: the metric needs labels that are not there, or cannot be computed in batches.
        """
        if self.needs_labels and not labelled:
            raise DataError(f"{self.name} needs labels: add an array 'label' to the data, or name it with --label")

    @abstractmethod
    def _bind(self, first: Judged) -> Bound: ...

    def find_output(self, first: Judged, fits: Callable[[np.ndarray], bool], expected: str) -> str:
        """The chosen output, or the first with samples along axis 0 that fits."""
        shapes = []
        for name, output in first.outputs.items():
            array = per_sample(output, first.samples)
            if self.output in (None, name) and array is not None and fits(array):
                return name
            if self.output in (None, name):
                shapes.append(f"'{name}' is {_described(output)}")
        raise DataError(f"{self.name} needs {expected}, but {', '.join(shapes)}")


def per_sample(output: Any, samples: int) -> np.ndarray | None:
    """An output with samples along axis 0, which a run of one sample may leave out; None when there is no such axis."""
    if not isinstance(output, np.ndarray):
        return None
    if output.ndim and len(output) == samples:
        return output
    return output[None] if samples == 1 else None


def read_output(outputs: Mapping[str, Any], name: str, samples: int) -> np.ndarray:
    """The output called ``name`` with samples along axis 0."""
    array = per_sample(outputs[name], samples)
    if array is None:
        raise DataError(f"the output '{name}' is {_described(outputs[name])}: it has no axis of {samples} samples")
    return array


def labels_of(batch: Judged) -> np.ndarray:
    """The labels of a batch, for metrics that need some."""
    assert batch.labels is not None
    return batch.labels


def ratio_of_sums(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Σ row[0] / Σ row[1]; 0 where there is nothing to divide by."""
    parts, wholes = totals(rows[:, :2], counts).T
    quotients: np.ndarray = np.divide(parts, wholes, out=np.zeros(len(counts)), where=wholes != 0)
    return quotients


def mean_of_rows(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean of row[0]."""
    means: np.ndarray = totals(rows[:, :1], counts)[:, 0] / counts.sum(axis=1)
    return means


def with_ones(column: np.ndarray) -> np.ndarray:
    """Rows (value, 1), float64."""
    return np.stack([column.astype(np.float64), np.ones(len(column))], axis=1)


def is_whole(labels: np.ndarray) -> bool:
    """Whether all labels are whole numbers, whatever their type."""
    if labels.dtype.kind in "iub":
        return True
    return labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels == np.round(labels))).all())


def single_column(array: np.ndarray) -> bool:
    """Whether there is one element per sample."""
    return math.prod(array.shape[1:]) == 1


def _described(output: Any) -> str:
    if isinstance(output, np.ndarray):
        return f"{output.dtype} {list(output.shape)}"
    return "a map" if isinstance(output, Mapping) else "a sequence"
