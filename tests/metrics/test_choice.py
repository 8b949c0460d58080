from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxshrink.metrics.base import Judged
from onnxshrink.metrics.choice import NoMetricError, default_metrics
from onnxshrink.metrics.spelling import metric_text

SCORES = np.eye(4, dtype=np.float32)
COLUMN = np.full((4, 1), 0.5, np.float32)
MASKS = np.zeros((4, 3, 5, 5), np.float32)
BOXES = np.empty(4, object)
BOXES[:] = [np.zeros((index, 5)) for index in range(4)]


@pytest.mark.parametrize(
    ("output", "labels", "group", "metrics", "reason"),
    [
        (SCORES, np.arange(4), 1, "top1", "labels are integers and the output 'y' looks like class scores"),
        (SCORES, np.arange(4.0), 1, "top1", "labels are whole numbers and the output 'y' looks like class scores"),
        (np.arange(4), np.arange(4), 1, "top1", "integers"),
        (COLUMN, np.array([0, 1, 1, 0]), 1, "top1", "integers"),
        (COLUMN, np.array([0, 1, 7, 0]), 1, "mse,r2", "output's shape"),
        (COLUMN, np.linspace(0, 1, 4), 1, "mse,r2", "output's shape"),
        (SCORES, SCORES + 0.5, 1, "mse,r2", "output's shape"),
        (SCORES, np.array([0.5, 0.7]), 2, "spearman", "one label for two samples"),
        (MASKS, np.zeros((4, 5, 5), int), 1, "miou", "masks"),
        (MASKS, np.array(list("abcd")), 1, "cer", "strings"),
        (MASKS, BOXES, 1, "detection", "boxes"),
    ],
)
def test_labels_and_outputs_choose_the_metric(
    output: np.ndarray, labels: np.ndarray, group: int, metrics: str, reason: str
) -> None:
    found, why = default_metrics(Judged({"y": output}, 4, labels, group=group), labels)
    assert ",".join(map(metric_text, found)) == metrics
    assert reason in why


def test_without_labels_the_original_is_what_is_right() -> None:
    for output, name in ((SCORES, "top1-agreement"), (MASKS, "cosine")):
        found, _ = default_metrics(Judged({"y": output}, 4, reference={"y": output}), None)
        assert [metric.name for metric in found] == [name]


@pytest.mark.parametrize(
    ("output", "labels", "group"),
    [(MASKS, np.arange(4), 1), (SCORES, np.linspace(0, 1, 4), 1), (SCORES, np.array([0.5]), 4), (SCORES, None, 1)],
)
def test_nothing_is_chosen_where_nothing_fits(output: np.ndarray, labels: Any, group: int) -> None:
    with pytest.raises(NoMetricError, match=r"no metric fits labels|nothing to judge by"):
        default_metrics(Judged({"y": output}, 4, labels, group=group), labels)
