"""Samples with their labels, and the metrics that judge what models make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.calibration.padding import without_padding
from onnxshrink.errors import DataError
from onnxshrink.measure.accuracy import MetricMeter
from onnxshrink.measure.session import TensorSpec
from onnxshrink.measured import Accuracy, MetricValue
from onnxshrink.metrics.base import Judged, Metric
from onnxshrink.metrics.choice import default_metrics


@dataclass(frozen=True)
class LabelledBatch:
    """One run: its feed without needless padding, its samples, and the labels of the groups that end in it."""

    feed: Feed
    samples: int
    labels: np.ndarray | None


@dataclass(frozen=True)
class Labelled:
    """Samples with one label for each, or for each group of as many samples.

    Attributes:
        data: the samples.
        labels: None without any.
        group: samples that share a label.
    """

    data: Dataset
    labels: np.ndarray | None
    group: int = 1

    @classmethod
    def of(cls, data: Dataset, labels: np.ndarray | None = None) -> Labelled:
        """The samples with their own labels, or others.

        Raises:
            DataError: the samples are not a multiple of the labels.
        """
        labels = data.labels if labels is None else labels
        if labels is None:
            return cls(data, None)
        if labels.ndim == 0 or not len(labels) or data.samples % len(labels):
            count = len(labels) if labels.ndim else 1
            raise DataError(
                f"{data.description}: {count} labels for {data.samples} samples: give one per sample, or one per pair"
            )
        return cls(data, labels, data.samples // len(labels))

    @property
    def digest(self) -> str:
        """SHA-256 of the labels; empty without any."""
        return "" if self.labels is None else Dataset({"label": self.labels}).digest

    def batches(
        self, inputs: Sequence[TensorSpec], batch_size: int, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Cut into runs, see :meth:`Dataset.batches`; where the model allows it a run holds whole groups."""
        start = 0
        size = max(self.group, batch_size - batch_size % self.group)
        for batch in self.data.batches(inputs, size, limit):
            stop = start + batch.samples
            labels = None if self.labels is None else self.labels[start // self.group : stop // self.group]
            yield LabelledBatch(without_padding(batch.feed, inputs), batch.samples, labels)
            start = stop


class Judges:
    """One meter per metric; the metrics are chosen on the first batch when the user named none."""

    def __init__(self, metrics: Sequence[Metric], samples: Labelled, *, compared: bool, seed: int = 0) -> None:
        self._samples, self._compared, self._seed = samples, compared, seed
        self._meters: list[MetricMeter] | None = None
        self._metrics = tuple(metrics)
        self.reason = ""

    def add(self, models: Sequence[Mapping[str, Any]], batch: LabelledBatch) -> None:
        """Add the outputs of each model for one batch; of two models the original's first.

        Raises:
            DataError: no metric fits, or the one asked for does not.
        """
        group = self._samples.group
        if self._meters is None:
            if not self._metrics:
                reference = models[0] if self._compared else None
                first = Judged(models[0], batch.samples, batch.labels, reference, group)
                self._metrics, self.reason = default_metrics(first, self._samples.labels)
            self._meters = [MetricMeter(metric, seed=self._seed) for metric in self._metrics]
        for meter in self._meters:
            meter.add(models, batch.labels, batch.samples, group, compared=self._compared)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that were asked for or chosen."""
        return self._metrics

    def values(self) -> tuple[MetricValue, ...]:
        """The metrics of the last model."""
        found = [meter.value() for meter in self._meters or []]
        return tuple(value for value in found if value is not None)

    def accuracies(self) -> tuple[Accuracy, ...]:
        """The metrics of both models."""
        found = [meter.accuracy() for meter in self._meters or []]
        return tuple(accuracy for accuracy in found if accuracy is not None)
