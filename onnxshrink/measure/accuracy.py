"""A metric of one model, or of the original and the result on the same samples, with what chance may have added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.measured import Accuracy, MetricValue
from onnxshrink.metrics.base import Bound, Judged, Metric
from onnxshrink.numerics.resampling import interval, resampled_values, value_of


class MetricMeter:
    """Accumulates one metric of one model, or of the original and the result, batch by batch.

    Memory is the rows of the metric: a few numbers per sample.
    """

    def __init__(self, metric: Metric, *, seed: int = 0) -> None:
        self._metric, self._seed = metric, seed
        self._bound: Bound | None = None
        self._rows: list[list[np.ndarray]] = []
        self._width = 0
        self._left: _Left | None = None

    def add(
        self,
        models: Sequence[Mapping[str, Any]],
        labels: np.ndarray | None,
        samples: int,
        group: int = 1,
        *,
        compared: bool = False,
    ) -> None:
        """Add one batch.

        Args:
            models: the outputs of each model by name: of one, or of the original and the result.
            labels: one entry per ``group`` samples, of the groups that end in this batch.
            compared: whether the first model is the reference of metrics that need one.

        Raises:
            DataError: the outputs or the labels are not of the metric's kind.
        """
        if group > 1:
            self._left, models, samples = _whole_groups(self._left, models, samples, group)
            if not samples:
                return
        batches = [Judged(outputs, samples, labels, models[0] if compared else None, group) for outputs in models]
        if self._bound is None:
            self._bound = self._metric.bind(batches[0])
            self._rows = [[] for _ in models]
        for kept, batch in zip(self._rows, batches, strict=True):
            rows = self._bound.rows(batch)
            self._width = max(self._width, rows.shape[1])
            kept.append(rows)

    def value(self) -> MetricValue | None:
        """The metric of the only, or of the last model; None when nothing was added."""
        if self._bound is None:
            return None
        bound, rows = self._bound, self._tables()[-1]
        return metric_value(self._metric, bound, rows, seed=self._seed)

    def accuracy(self) -> Accuracy | None:
        """The metric of both models; None when nothing was added."""
        if self._bound is None:
            return None
        tables = self._tables()
        return compared_accuracy(self._metric, self._bound, tables[0], tables[1], seed=self._seed)

    def _tables(self) -> list[np.ndarray]:
        """The rows of each model; narrower ones (of fewer classes) get zeros on the right."""
        assert self._bound is not None
        padded = [[np.pad(rows, ((0, 0), (0, self._width - rows.shape[1]))) for rows in kept] for kept in self._rows]
        return [self._bound.prepared(np.concatenate(kept)) for kept in padded]


def metric_value(metric: Metric, bound: Bound, rows: np.ndarray, *, seed: int) -> MetricValue:
    """The metric of one model from its rows, with its interval."""
    low, high = interval(resampled_values([rows], bound.values, seed=seed)[0], len(rows)) or (None, None)
    value = _judged(value_of(rows, bound.values), metric)
    return MetricValue(
        bound.label, bound.output, len(rows), value, low, high, metric.unit, metric.higher_is_better, metric.name
    )


def compared_accuracy(metric: Metric, bound: Bound, original: np.ndarray, result: np.ndarray, *, seed: int) -> Accuracy:
    """The metric of both models from their rows, with intervals, and McNemar's test where it applies."""
    if len(original) != len(result):
        raise DataError(f"{bound.label}: the models gave {len(original)} and {len(result)} values for the same samples")
    resampled = resampled_values([original, result], bound.values, seed=seed)
    samples = len(original)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ has no interval
        differences: tuple[float | None, float | None] = interval(resampled[1] - resampled[0], samples) or (None, None)
    intervals = [interval(values, samples) or (None, None) for values in resampled]
    p_value = None
    if bound.right_or_wrong:
        right, other_right = original[:, 0] > 0, result[:, 0] > 0
        only_first, only_second = int((right & ~other_right).sum()), int((other_right & ~right).sum())
        p_value = mcnemar(only_first, only_second)
        if differences[0] is not None:  # a bootstrap of models that never differ would be certain that they never will
            differences = paired_difference_interval(only_first, only_second, samples)
    return Accuracy(
        metric=bound.label,
        output=bound.output,
        samples=samples,
        original=_judged(value_of(original, bound.values), metric),
        result=_judged(value_of(result, bound.values), metric),
        p_value=p_value,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        difference_low=differences[0],
        difference_high=differences[1],
        original_low=intervals[0][0],
        original_high=intervals[0][1],
        result_low=intervals[1][0],
        result_high=intervals[1][1],
        against_original=bound.against_original,
        name=metric.name,
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


def _judged(value: float, metric: Metric) -> float:
    """A value of outputs that are no numbers is the worst there is."""
    if not math.isnan(value):
        return value
    return -math.inf if metric.higher_is_better else math.inf


_Left = list[dict[str, np.ndarray]]
"""Per model, the outputs of samples whose group is not complete yet."""


def _whole_groups(
    left: _Left | None, models: Sequence[Mapping[str, Any]], samples: int, group: int
) -> tuple[_Left, list[dict[str, np.ndarray]], int]:
    """Cut batches so that they end where a group of samples ends: what is left over, the outputs, and the samples."""
    together: _Left = []
    for index, outputs in enumerate(models):
        before = left[index] if left is not None else {}
        together.append(
            {
                name: np.concatenate([before[name], output]) if name in before else output
                for name, output in outputs.items()
                if isinstance(output, np.ndarray) and output.ndim and len(output) == samples
                if name not in before or before[name].shape[1:] == output.shape[1:]
            }
        )
    waiting = max((len(array) for part in (left or [])[:1] for array in part.values()), default=0)
    total = waiting + samples
    end = total - total % group
    rest = [{name: array[end:] for name, array in part.items()} for part in together]
    return rest, [{name: array[:end] for name, array in part.items()} for part in together], end
