"""The figures of evaluations that gates and comparisons are about: of one, or of one against another."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxshrink.measured import Accuracy, MetricValue
from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.figures import (
    NOT_RUN,
    OTHER_DATA,
    closeness,
    metric_level,
    points_gained,
    points_scale,
    share_points,
)
from onnxshrink.report.gates import FIGURES, METRICS, Estimate, Figures, Reading

_RIGHT_OR_WRONG = ("top1", "top5", "top1-agreement")

OTHER_REFERENCE = "they were compared with different models"


def figures_of_evaluation(found: Evaluation) -> Figures:
    """The model's metrics, and where it was compared with another, the differences and the agreement."""
    figures: dict[tuple[str, Reading], Estimate | str] = dict(closeness(found.agreement))
    figures["relativeerror", "number"] = figures["error", "number"]
    figures["top1agreement", "share"] = figures["agreement", "share"]
    for value in found.metrics:
        figures[metric_level(value)] = Estimate(value.value, value.low, value.high)
    for accuracy in found.differences:
        figures[accuracy.key, "points"] = points_gained(accuracy) or NOT_RUN
    first = next(iter(found.metrics), None)
    if first is not None:
        figures["accuracy", "share"] = (
            figures[metric_level(first)] if first.unit == "share" else f"{first.metric} is not a share"
        )
    if found.differences:
        figures["accuracy", "points"] = figures[found.differences[0].key, "points"]
    why = f"what was measured is {', '.join(value.metric for value in found.metrics)}"
    for name, figure in FIGURES.items():
        for reading in figure.readings:
            missing = why if figure.labelled or name in METRICS else "evaluate does not measure it"
            alone = reading == "points" and found.against is None
            figures.setdefault((name, reading), "there is no model to compare with (--against)" if alone else missing)
    return figures


def figures_between_evaluations(base: Evaluation, new: Evaluation) -> Figures:
    """The new model's levels, and as points what it has more than the base's."""
    figures = {
        key: "it is not a metric of both evaluations" if key[1] == "points" else found
        for key, found in figures_of_evaluation(new).items()
    }
    before = metrics_by_spelling(base)
    for spelling, value in metrics_by_spelling(new).items():
        if spelling not in before:
            continue
        change = metric_change(base, new, spelling)
        figures[value.key, "points"] = change
        if value is new.metrics[0]:
            figures["accuracy", "points"] = change
    return figures


def metrics_by_spelling(found: Evaluation) -> Mapping[str, MetricValue]:
    """The metrics as ``--metric`` spells them, so that equal ones have equal options too."""
    spelled = found.metric_texts or tuple(value.metric for value in found.metrics)
    return dict(zip(spelled, found.metrics, strict=True))


def same_data(base: Evaluation, new: Evaluation) -> bool:
    """Whether both were judged on the same samples by the same labels."""
    sides = [(one.data.digest, one.data.samples, one.labels_digest) for one in (base, new)]
    return sides[0] == sides[1]


def same_reference(base: Evaluation, new: Evaluation) -> bool:
    """Whether both were compared with the same model."""
    return base.against is not None and new.against is not None and base.against.sha256 == new.against.sha256


def metric_change(base: Evaluation, new: Evaluation, spelling: str) -> Estimate | str:
    """Points of a metric, see :func:`points_scale`, that the new model has more than the base's.

    The rows of the samples are not saved, so the difference has no paired interval. When both were compared with the
    same model, the intervals of these two differences add up as independent errors; else those of the two values do.
    What is hard for both models is counted twice then: the interval is wider than one from a direct comparison.
    """
    if not same_data(base, new):
        return OTHER_DATA
    first, second = (metrics_by_spelling(one)[spelling] for one in (base, new))
    lost, gained = (_difference(one, spelling) for one in (base, new))
    if any(one is not None and one.against_original for one in (lost, gained)) and not same_reference(base, new):
        return OTHER_REFERENCE
    scale = points_scale(second)
    if first.value == second.value and base.model.sha256 == new.model.sha256:
        return Estimate(0.0)
    if math.isinf(first.value) or math.isinf(second.value):
        return Estimate(0.0 if first.value == second.value else scale * (second.value - first.value))
    if lost is not None and gained is not None and same_reference(base, new) and lost.original == gained.original:
        ends = [(one.difference, one.difference_low, one.difference_high) for one in (lost, gained)]
    elif second.name in _RIGHT_OR_WRONG and second.low is not None:
        return share_points(first.value, first.samples, second.value, second.samples)
    else:
        ends = [(one.value, one.low, one.high) for one in (first, second)]
    return _added(scale, scale * (second.value - first.value), ends)


def _added(scale: float, change: float, ends: list[tuple[float, float | None, float | None]]) -> Estimate:
    (one, one_low, one_high), (two, two_low, two_high) = ends
    if one_low is None or one_high is None or two_low is None or two_high is None:
        return Estimate(change)
    below = scale * math.hypot(one_high - one, two - two_low)
    above = scale * math.hypot(one - one_low, two_high - two)
    return Estimate(change, change - below, change + above)


def _difference(found: Evaluation, spelling: str) -> Accuracy | None:
    """The metric of both models of one evaluation."""
    if not found.differences:
        return None
    return found.differences[list(metrics_by_spelling(found)).index(spelling)]
