"""Top-1 accuracy of the original and the result on the same labelled samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshrink.numerics.agreement import class_scores


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of both models.

    Attributes:
        metric: name of the metric: ``top-1``.
        output: the output that was read as class scores.
        samples: labelled samples.
        original: share of samples that the original gets right; ``result`` likewise.
        p_value: two-sided exact McNemar test of "both models are right equally often", from the samples that only
            one of them gets right.
    """

    metric: str
    output: str
    samples: int
    original: float
    result: float
    p_value: float

    @property
    def drop_points(self) -> float:
        """Percentage points lost; negative when the result is better."""
        return 100 * (self.original - self.result)


class AccuracyMeter:
    """Accumulates top-1 accuracy batch by batch, on the first output that looks like class scores."""

    def __init__(self) -> None:
        self._output: str | None = None
        self._samples = 0
        self._original_right = 0
        self._result_right = 0
        self._only_original = 0
        self._only_result = 0

    def add(self, original: Mapping[str, Any], result: Mapping[str, Any], labels: np.ndarray) -> None:
        """Add one batch: the outputs of both models by name, and the labels, integers of shape (samples,).

        Batches without an output of shape (samples, classes) are left out, and so are labels that are not integers.
        """
        labels = labels.reshape(-1)
        name = self._output or _classifier_output(original, len(labels))
        if name is None or not np.issubdtype(labels.dtype, np.integer):
            return
        scores, other_scores = class_scores(original[name]), class_scores(result[name])
        if scores is None or other_scores is None or not len(scores) == len(other_scores) == len(labels):
            return
        self._output = name
        right, other_right = scores.argmax(axis=1) == labels, other_scores.argmax(axis=1) == labels
        self._samples += len(labels)
        self._original_right += int(right.sum())
        self._result_right += int(other_right.sum())
        self._only_original += int((right & ~other_right).sum())
        self._only_result += int((other_right & ~right).sum())

    def accuracy(self) -> Accuracy | None:
        """The accuracy over everything added so far; None when no batch could be judged."""
        if self._output is None:
            return None
        return Accuracy(
            metric="top-1",
            output=self._output,
            samples=self._samples,
            original=self._original_right / self._samples,
            result=self._result_right / self._samples,
            p_value=mcnemar(self._only_original, self._only_result),
        )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two models are right equally often.

    Args:
        only_first: samples that only the first model gets right; ``only_second`` likewise.
    """
    trials = only_first + only_second
    ways, below = 1, 0  # binomial coefficients as exact integers, summed up to the rarer outcome
    for count in range(min(only_first, only_second) + 1):
        below += ways
        ways = ways * (trials - count) // (count + 1)
    return min(1.0, 2 * below / (1 << trials))


def _classifier_output(outputs: Mapping[str, Any], samples: int) -> str | None:
    for name, output in outputs.items():
        scores = class_scores(output)
        if scores is not None and len(scores) == samples:
            return name
    return None
