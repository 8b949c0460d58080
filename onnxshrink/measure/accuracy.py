"""Top-1 accuracy of the original and the result on the same labelled samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxshrink.measured import Accuracy
from onnxshrink.numerics.agreement import class_scores


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
        low, high = paired_difference_interval(self._only_original, self._only_result, self._samples)
        return Accuracy(
            metric="top-1",
            output=self._output,
            samples=self._samples,
            original=self._original_right / self._samples,
            result=self._result_right / self._samples,
            p_value=mcnemar(self._only_original, self._only_result),
            difference_low=low,
            difference_high=high,
        )


def paired_difference_interval(only_first: int, only_second: int, samples: int) -> tuple[float, float]:
    """95 % interval of the second model's share of right answers minus the first's, on the same samples.

    Agresti and Min's adjusted Wald interval (Statistics in Medicine 24, 2005): half a sample is added to each cell of
    the table of both models' answers, so that two models without any difference still get an interval of some width.

    Args:
        only_first: samples that only the first model gets right; ``only_second`` likewise.
        samples: all samples, one or more.
    """
    total, first, second = samples + 2, only_first + 0.5, only_second + 0.5
    difference = (second - first) / total
    width = 1.96 * math.sqrt(first + second - (second - first) ** 2 / total) / total
    return max(-1.0, difference - width), min(1.0, difference + width)


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
