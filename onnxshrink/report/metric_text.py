"""How metrics read: values, differences with their intervals, and the verdict on a difference in one line."""

from __future__ import annotations

import math

from onnxshrink.measured import Accuracy, MetricValue, Unit

_ACCURACIES = ("top-1", "top-5")


def title(metric: Accuracy | MetricValue) -> str:
    """The metric's name, with a noun where it has none: ``top-1 accuracy``."""
    return f"{metric.metric} accuracy" if metric.metric in _ACCURACIES else metric.metric


def value_text(value: float, unit: Unit) -> str:
    """A value in its unit: ``91.50 %``, ``9.40 dB``, ``0.8203``."""
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if unit == "share":
        return f"{100 * value:.2f} %".replace("-", "−")
    return (f"{value:.2f} dB" if unit == "dB" else f"{value:#.4g}").replace("-", "−")


def interval_text(low: float | None, high: float | None, unit: Unit) -> str:
    """An interval of values: ``[89.70, 93.20] %``; empty when there is none."""
    if low is None or high is None:
        return ""
    noun = {"share": " %", "dB": " dB", "value": ""}[unit]
    return f"[{value_text(low, unit).removesuffix(noun)}, {value_text(high, unit).removesuffix(noun)}]{noun}"


def change_text(accuracy: Accuracy) -> str:
    """The difference with its sign: ``−0.30 points``, ``+0.02 dB``."""
    if accuracy.difference == 0:
        return "no change"
    return _signed(accuracy.difference, accuracy.unit) + _noun(accuracy.unit)


def change_interval(accuracy: Accuracy) -> str:
    """The 95 % interval of the difference: ``[−0.80, +0.20]``; empty when there is none."""
    if accuracy.difference_low is None or accuracy.difference_high is None:
        return ""
    low, high = (_signed(end, accuracy.unit) for end in (accuracy.difference_low, accuracy.difference_high))
    return f"[{low}, {high}]"


def verdict(accuracy: Accuracy) -> str:
    """What the difference comes to: ``no significant difference``, ``0.30 points lower``."""
    if accuracy.difference == 0 and not accuracy.difference_low and not accuracy.difference_high:
        return "no difference"
    if accuracy.significant is False:
        return "no significant difference"
    moved = f"{_magnitude(accuracy)} {'lower' if accuracy.difference < 0 else 'higher'}"
    if accuracy.against_original or accuracy.significant:
        return moved
    return f"{moved}, from too few samples to tell whether by chance"


def verdict_with_interval(accuracy: Accuracy) -> str:
    """The verdict in one line: ``0.30 points lower, 95 % interval [−0.80, +0.20]``."""
    interval = change_interval(accuracy)
    if not interval or verdict(accuracy) == "no difference":
        return verdict(accuracy)
    if accuracy.significant is False and accuracy.difference:
        direction = "lower" if accuracy.difference < 0 else "higher"
        return f"no significant difference ({_magnitude(accuracy)} {direction}, 95 % interval {interval})"
    return f"{verdict(accuracy)}, 95 % interval {interval}"


def _magnitude(accuracy: Accuracy) -> str:
    if math.isinf(accuracy.difference):
        return "infinitely"
    return _signed(abs(accuracy.difference), accuracy.unit).removeprefix("+") + _noun(accuracy.unit)


def _noun(unit: Unit) -> str:
    return {"share": " points", "dB": " dB", "value": ""}[unit]


def _signed(difference: float, unit: Unit) -> str:
    sign = "−" if difference < 0 else "+"
    size = abs(difference)
    if math.isinf(size):
        return f"{sign}∞"
    return sign + (f"{100 * size:.2f}" if unit == "share" else f"{size:.2f}" if unit == "dB" else f"{size:.2g}")
