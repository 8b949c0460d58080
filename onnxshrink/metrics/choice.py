"""Which metric fits labels and outputs, when the user names none."""

from __future__ import annotations

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Judged, Metric, is_whole, per_sample
from onnxshrink.metrics.classification import Top1, looks_like_classes
from onnxshrink.metrics.detection import Detection
from onnxshrink.metrics.fidelity import Cosine, Top1Agreement
from onnxshrink.metrics.masks import MeanIou
from onnxshrink.metrics.regression import R2, MeanSquaredError, Spearman
from onnxshrink.metrics.text import Cer, is_text
from onnxshrink.numerics.agreement import class_scores

Choice = tuple[tuple[Metric, ...], str]
"""Metrics, the first of which decides, and why these."""


class NoMetricError(DataError):
    """No metric fits the labels and the outputs."""


def default_metrics(first: Judged, labels: np.ndarray | None) -> Choice:
    """The metrics for data whose first batch is ``first``, and the reason in a clause.

    Args:
        labels: all labels of the data, in the form of those of the first batch.

    Raises:
        NoMetricError: the message says what was seen.
    """
    if labels is None:
        return _without_labels(first)
    chosen = _for_labels(first, labels)
    if chosen is None:
        outputs = ", ".join(f"'{name}' {list(getattr(output, 'shape', []))}" for name, output in first.outputs.items())
        seen = f"{labels.dtype} {list(labels.shape)}"
        raise NoMetricError(f"no metric fits labels {seen} and outputs {outputs}: name one with --metric")
    return chosen


def _for_labels(first: Judged, labels: np.ndarray) -> Choice | None:
    if is_text(labels):
        return (Cer(),), "labels are strings"
    if labels.dtype == object:
        return (Detection(),), "labels are boxes"
    if first.group == 2:
        return (Spearman(),), "there is one label for two samples"
    if first.group > 2:
        return None
    if is_whole(labels) and labels.ndim >= 3:
        return (MeanIou(),), "labels are masks of integers"
    if is_whole(labels) and labels.size == len(labels):
        name = _classifier(first)
        integers = labels.dtype.kind in "iub"
        two = bool(((labels == 0) | (labels == 1)).all())
        if name is not None and (_has_scores(first, name) or (integers and (two or not _is_float(first, name)))):
            what = "integers" if integers else "whole numbers"
            return (Top1(),), f"labels are {what} and the output '{name}' looks like class scores"
    if labels.dtype.kind in "iuf" and any(_elements(first, name) == labels[0].size for name in first.outputs):
        return (MeanSquaredError(), R2()), "labels are numbers of the output's shape"
    return None


def _without_labels(first: Judged) -> Choice:
    if first.reference is None:
        raise NoMetricError(
            "there is nothing to judge by: no labels in the data (an array 'label', or --label NAME), "
            "and no model to compare with (--against)"
        )
    name = next((name for name, output in first.outputs.items() if class_scores(output) is not None), None)
    if name is not None:
        return (Top1Agreement(),), f"there are no labels, and the output '{name}' looks like class scores"
    return (Cosine(),), "there are no labels"


def _classifier(first: Judged) -> str | None:
    for name, output in first.outputs.items():
        array = per_sample(output, first.samples)
        if array is not None and looks_like_classes(array, first.samples):
            return name
    return None


def _has_scores(first: Judged, name: str) -> bool:
    """Whether the output has a score per class, so that numbers as labels can only be classes."""
    array = per_sample(first.outputs[name], first.samples)
    return array is not None and class_scores(array) is not None


def _is_float(first: Judged, name: str) -> bool:
    return getattr(first.outputs[name], "dtype", np.dtype(object)).kind == "f"


def _elements(first: Judged, name: str) -> int:
    """Floating-point elements per sample; 0 when there is no axis of samples."""
    array = per_sample(first.outputs[name], first.samples)
    return array[0].size if array is not None and array.dtype.kind == "f" and len(array) else 0
