"""Errors and correlations of numbers.

    MSE = mean (y − f)²        RMSE = √MSE        MAE = mean |y − f|        R² = 1 − Σ (y − f)² / Σ (y − ȳ)²

y is the label and f the output, element by element. R² of several numbers per sample is the mean over their R² (as in
scikit-learn), of more than 64 that of all elements together. Without variance in the labels R² is 1 for exact outputs,
else 0. Spearman and Pearson are the correlation of one output per sample with the labels; with one label for two
samples, of the cosine similarity of the outputs (embeddings) of samples 2i and 2i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Bound, Judged, Metric, labels_of, ratio_of_sums, read_output, single_column
from onnxshrink.numerics.correlation import pearson, places, spearman_of_places
from onnxshrink.numerics.resampling import totals

_MOST_TARGETS = 64
_EPSILON = 1e-12


@dataclass(frozen=True)
class _Regression(Metric):
    unit = "value"

    def target_output(self, first: Judged) -> str:
        labels = labels_of(first)
        expected = f"floating-point numbers of the labels' shape {list(labels.shape)}"
        if labels.dtype.kind not in "iufb":
            raise DataError(f"{self.name} needs numbers as labels, not {labels.dtype} {list(labels.shape)}")
        elements = math.prod(labels.shape[1:])
        return self.find_output(
            first, lambda array: array.dtype.kind == "f" and math.prod(array.shape[1:]) == elements, expected
        )


def _numbers_of(batch: Judged) -> np.ndarray:
    """The labels as float64."""
    labels = labels_of(batch).astype(np.float64)
    if not np.isfinite(labels).all():
        raise DataError("the labels contain NaN or infinity: drop those samples")
    return labels


def _difference(batch: Judged, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Label − output and label, both (samples, elements), float64."""
    output = read_output(batch.outputs, name, batch.samples).astype(np.float64)
    labels = _numbers_of(batch)
    if output.size != labels.size:
        raise DataError(f"the output '{name}' is {list(output.shape)}, the labels are {list(labels.shape)}")
    labels = labels.reshape(len(labels), -1)
    return labels - output.reshape(labels.shape), labels


@dataclass(frozen=True)
class _MeanError(_Regression):
    higher_is_better = False
    title: ClassVar[str]

    def _bind(self, first: Judged) -> Bound:
        name = self.target_output(first)

        def rows(batch: Judged) -> np.ndarray:
            difference, _ = _difference(batch, name)
            sizes = np.full(len(difference), difference.shape[1], np.float64)
            return np.stack([self.errors(difference).sum(axis=1), sizes], axis=1)

        return Bound(self.title, name, rows, self.values)

    @staticmethod
    def errors(difference: np.ndarray) -> np.ndarray:
        return difference**2

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return ratio_of_sums(rows, counts)


@dataclass(frozen=True)
class MeanSquaredError(_MeanError):
    """Mean squared error."""

    name = "mse"
    title = "MSE"


@dataclass(frozen=True)
class RootMeanSquaredError(_MeanError):
    """Root of the mean squared error."""

    name = "rmse"
    title = "RMSE"

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        roots: np.ndarray = np.sqrt(ratio_of_sums(rows, counts))
        return roots


@dataclass(frozen=True)
class MeanAbsoluteError(_MeanError):
    """Mean absolute error."""

    name = "mae"
    title = "MAE"

    @staticmethod
    def errors(difference: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = np.abs(difference)
        return sizes


@dataclass(frozen=True)
class R2(_Regression):
    """Coefficient of determination: the share of the labels' variance that the outputs explain."""

    name = "r2"

    def _bind(self, first: Judged) -> Bound:
        name = self.target_output(first)
        # Sums of squares of labels far from 0 would cancel: they are taken around the first sample's label.
        _, labels = _difference(first, name)
        one_target = labels.shape[1] > _MOST_TARGETS
        shift = labels[:1].mean() if one_target else labels[:1]

        def rows(batch: Judged) -> np.ndarray:
            difference, labels = _difference(batch, name)
            shifted = labels - shift
            columns = [difference**2, shifted, shifted**2]
            if one_target:
                columns = [column.sum(axis=1, keepdims=True) for column in columns]
            size = np.full((len(labels), 1), labels.shape[1] if one_target else 1, np.float64)
            return np.concatenate([size, *columns], axis=1)

        return Bound("R²", name, rows, _r2)


def _r2(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = totals(rows, counts)
    error, first, second = np.split(sums[:, 1:], 3, axis=1)
    spread = np.maximum(second - first**2 / sums[:, :1], 0)
    exact = np.where(error == 0, 1.0, 0.0)
    varied = spread > _EPSILON * np.maximum(second, _EPSILON)
    scores = np.where(varied, 1 - error / np.where(varied, spread, 1), exact)
    means: np.ndarray = scores.mean(axis=1)
    return means


@dataclass(frozen=True)
class _Correlation(Metric):
    unit = "value"
    judges_pairs = True
    title: ClassVar[str]

    def _bind(self, first: Judged) -> Bound:
        labels = labels_of(first)
        if labels.dtype.kind not in "iufb" or labels.size != len(labels):
            raise DataError(f"{self.name} needs one number per label, not {labels.dtype} {list(labels.shape)}")
        read = _similarities if first.group == 2 else _numbers
        if first.group == 2:
            name = self.find_output(first, _is_embedding, "an embedding [samples, features] per sample")
        else:
            name = self.find_output(
                first, lambda array: array.dtype.kind == "f" and single_column(array), "one number per sample"
            )

        def rows(batch: Judged) -> np.ndarray:
            predictions = read(read_output(batch.outputs, name, batch.samples))
            return np.stack([predictions, _numbers_of(batch).reshape(-1)], axis=1)

        of_what = " of cosine similarities" if first.group == 2 else ""
        return Bound(self.title + of_what, name, rows, self.values, prepared=self.prepared)

    @staticmethod
    def prepared(rows: np.ndarray) -> np.ndarray:
        return rows

    @staticmethod
    def correlation() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        raise NotImplementedError

    def values(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        if not np.isfinite(rows).all():
            return np.full(len(counts), np.nan)
        return self.correlation()(rows[:, 0], rows[:, 1], counts)


@dataclass(frozen=True)
class Spearman(_Correlation):
    """Rank correlation with the labels."""

    name = "spearman"
    title = "Spearman"

    @staticmethod
    def correlation() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        return spearman_of_places

    @staticmethod
    def prepared(rows: np.ndarray) -> np.ndarray:
        """Places instead of values: sorting once, not once per resample, keeps every rank as it is."""
        return places(rows) if np.isfinite(rows).all() else rows


@dataclass(frozen=True)
class Pearson(_Correlation):
    """Linear correlation with the labels."""

    name = "pearson"
    title = "Pearson"

    @staticmethod
    def correlation() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        return pearson


def _is_embedding(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1


def _numbers(output: np.ndarray) -> np.ndarray:
    return output.reshape(-1).astype(np.float64)


def _similarities(output: np.ndarray) -> np.ndarray:
    """Cosine similarity of rows 2i and 2i + 1, (samples / 2,)."""
    embeddings = output.astype(np.float64)
    first, second = embeddings[0::2], embeddings[1::2]
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    similarities: np.ndarray = (first * second).sum(axis=1) / (norms + _EPSILON)
    return similarities
