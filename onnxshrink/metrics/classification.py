"""Top-k accuracy, precision, recall and F1 of class scores, or of predicted classes.

    top-k     = samples whose label is among the k best scores / samples
    precision = TP / (TP + FP)        recall = TP / (TP + FN)        F1 = 2 TP / (2 TP + FP + FN)

``binary`` counts one class as positive; ``macro`` is the mean over the classes that occur in the labels or the
predictions, each counting the same. What would be divided by nothing is 0 (as in scikit-learn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxshrink.errors import DataError, RecipeError
from onnxshrink.metrics.base import (
    Bound,
    Judged,
    Metric,
    is_whole,
    labels_of,
    ratio_of_sums,
    read_output,
    single_column,
    with_ones,
)
from onnxshrink.numerics.agreement import class_scores

_EXPECTED = "class scores [samples, classes], one score or one predicted class per sample"


@dataclass(frozen=True)
class Classifier(Metric):
    """What metrics of classes share.

    Attributes:
        offset: number of the first class in the labels: labels 1 to 1000 of 1000 classes have offset 1; a model with
            a background class in front of the labels' class 0 has −1.
        threshold: from which score on a model with one score per sample says class 1.
    """

    offset: int = 0
    threshold: float = 0.5

    def classifier_output(self, first: Judged) -> str:
        return self.find_output(first, lambda array: looks_like_classes(array, first.samples), _EXPECTED)

    def classes_in(self, output: np.ndarray) -> int | None:
        """How many classes the output tells apart; None when it holds predicted classes."""
        if output.dtype.kind in "iu":
            return None
        return 2 if single_column(output) else output.shape[1]

    def predicted(self, output: np.ndarray) -> np.ndarray:
        """The predicted class of each sample, (samples,); −1 where a score is NaN."""
        if output.dtype.kind in "iub":
            return output.reshape(len(output)).astype(np.int64)
        if single_column(output):
            column = output.reshape(len(output))
            return np.where(np.isnan(column), -1, column > self.threshold)
        scores = output.reshape(output.shape[:2])
        return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))

    def class_labels(self, batch: Judged, classes: int | None) -> np.ndarray:
        """The labels as classes from 0 on, (samples,).

        Raises:
            DataError: labels that are no whole numbers, not one per sample, or that the output has no class for.
        """
        labels = labels_of(batch)
        if not is_whole(labels):
            raise DataError(f"{self.name} needs whole numbers as labels, not {labels.dtype} {list(labels.shape)}")
        if labels.size != len(labels):
            raise DataError(f"{self.name} needs one label per sample, not labels of shape {list(labels.shape)}")
        found = labels.reshape(-1).astype(np.int64) - self.offset
        if found.size and classes is not None and (found.min() < 0 or found.max() >= classes):
            wrong = int(found[(found < 0) | (found >= classes)][0]) + self.offset
            first, last = self.offset, self.offset + classes - 1
            raise DataError(
                f"{self.name}: there is a label {wrong}, but the output has {classes} classes ({first} to {last}); "
                f"{self.name}{{offset=N}} says what the first class is called"
            )
        return found


def looks_like_classes(array: np.ndarray, samples: int) -> bool:
    """Whether an output with samples along axis 0 looks like class scores, one score, or a predicted class."""
    if array.dtype.kind in "iub":
        return single_column(array)
    if array.dtype.kind != "f" or array.ndim < 1:
        return False
    return single_column(array) or (array.ndim >= 2 and class_scores(array) is not None)


@dataclass(frozen=True)
class TopK(Classifier):
    """Share of samples whose label is among the k best scores."""

    k: ClassVar[int]

    def _bind(self, first: Judged) -> Bound:
        name = self.classifier_output(first)
        classes = self.classes_in(read_output(first.outputs, name, first.samples))
        if self.k > 1 and (classes is None or classes <= self.k):
            raise DataError(f"{self.name} needs more than {self.k} classes, but '{name}' has {classes or 'one answer'}")

        def rows(batch: Judged) -> np.ndarray:
            output = read_output(batch.outputs, name, batch.samples)
            labels = self.class_labels(batch, classes)
            if self.k == 1:
                return with_ones(self.predicted(output) == labels)
            return with_ones(_among_best(output.reshape(output.shape[:2]), labels, self.k))

        self.class_labels(first, classes)
        return Bound(f"top-{self.k}", name, rows, ratio_of_sums, right_or_wrong=True)


@dataclass(frozen=True)
class Top1(TopK):
    """Share of samples whose label has the best score."""

    name = "top1"
    k = 1


@dataclass(frozen=True)
class Top5(TopK):
    """Share of samples whose label is among the five best scores."""

    name = "top5"
    k = 5


def _among_best(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether fewer than k scores stand before the label's; of equal scores the lower class stands first."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    among: np.ndarray = (before.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)
    return among


@dataclass(frozen=True)
class _FromConfusion(Classifier):
    """Precision, recall and F1.

    Attributes:
        average: ``binary`` or ``macro``; ``auto`` is binary for two classes and macro for more.
        positive: the class that ``binary`` counts as positive.
    """

    title: ClassVar[str]
    average: Literal["auto", "binary", "macro"] = "auto"
    positive: int = 1

    def __post_init__(self) -> None:
        if self.positive < 0:
            raise RecipeError(f"{self.name}: positive must be a class, got {self.positive}")

    def _bind(self, first: Judged) -> Bound:
        name = self.classifier_output(first)
        classes = self.classes_in(read_output(first.outputs, name, first.samples))
        average = self.average if self.average != "auto" else "binary" if classes == 2 else "macro"

        def rows(batch: Judged) -> np.ndarray:
            predicted = self.predicted(read_output(batch.outputs, name, batch.samples))
            return np.stack([self.class_labels(batch, classes), predicted], axis=1).astype(np.float64)

        def values(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
            hits, guesses, actual = _confusion(table, counts)
            scores, occurs = self.scores(hits, guesses, actual), guesses + actual > 0
            if average == "binary":
                positive = self.positive - self.offset
                return scores[:, positive] if positive < scores.shape[1] else np.zeros(len(counts))
            means: np.ndarray = (scores * occurs).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
            return means

        self.class_labels(first, classes)
        of_what = f"binary, class {self.positive}" if average == "binary" else average
        return Bound(f"{self.title} ({of_what})", name, rows, values)

    @staticmethod
    def scores(hits: np.ndarray, guesses: np.ndarray, actual: np.ndarray) -> np.ndarray:
        """The metric of every class from how often it is right, predicted and meant, (resamples, classes)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Precision(_FromConfusion):
    """Share of the predictions of a class that are right."""

    name = "precision"
    title = "precision"

    @staticmethod
    def scores(hits: np.ndarray, guesses: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _divided(hits, guesses)


@dataclass(frozen=True)
class Recall(_FromConfusion):
    """Share of the samples of a class that are found."""

    name = "recall"
    title = "recall"

    @staticmethod
    def scores(hits: np.ndarray, guesses: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _divided(hits, actual)


@dataclass(frozen=True)
class F1(_FromConfusion):
    """Harmonic mean of precision and recall."""

    name = "f1"
    title = "F1"

    @staticmethod
    def scores(hits: np.ndarray, guesses: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return _divided(2 * hits, guesses + actual)


def _confusion(table: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per resample and class: right predictions, predictions, labels. Rows are (label, predicted or −1)."""
    labels, predicted = table.astype(np.int64).T + 1  # class −1, no prediction, becomes column 0
    classes = int(max(labels.max(), predicted.max())) + 1
    right = np.where(labels == predicted, labels, 0)
    sums = [
        np.stack([np.bincount(column, weights=row, minlength=classes)[1:] for row in counts])
        for column in (right, predicted, labels)
    ]
    return sums[0], sums[1], sums[2]


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares
