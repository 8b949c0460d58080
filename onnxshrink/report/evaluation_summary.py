"""What the readable forms of an evaluation say, as plain text."""

from __future__ import annotations

from onnxshrink.measured import MetricValue
from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.metric_text import interval_text, title, value_text, verdict_with_interval
from onnxshrink.report.summary import Row, accuracy_row


def origin(found: Evaluation) -> str:
    """What was judged, and on what."""
    against = "" if found.against is None else f" against {found.against.name}"
    return f"{found.model.name}{against} on {found.data.samples} samples of {found.data.description}"


def metric_rows(found: Evaluation) -> tuple[Row, ...]:
    """One row per metric: against another model both values and the difference, else the value and its interval."""
    if found.differences:
        return tuple(map(accuracy_row, found.differences))
    return tuple(map(_value_row, found.metrics))


def verdicts(found: Evaluation) -> tuple[str, ...]:
    """One line per metric on what the difference comes to; none without another model."""
    lines = []
    for accuracy in found.differences:
        if accuracy.against_original:
            interval = interval_text(accuracy.result_low, accuracy.result_high, accuracy.unit)
            value = value_text(accuracy.result, accuracy.unit)
            lines.append(f"{title(accuracy)}: {value}" + (f", 95 % interval {interval}" if interval else ""))
        else:
            lines.append(f"{title(accuracy)}: {verdict_with_interval(accuracy)}")
    return tuple(lines)


def environment_of(found: Evaluation) -> str:
    """Where the figures come from, in one line."""
    names = ("onnxshrink", "onnxruntime", "python")
    software = ", ".join(f"{name} {found.versions[name]}" for name in names if name in found.versions)
    threads = f"{found.threads} threads" if found.threads else "default threads"
    return f"{software}; {found.machine.cpu}; {threads}, batch size {found.batch_size}; seed {found.seed}"


def _value_row(metric: MetricValue) -> Row:
    interval = interval_text(metric.low, metric.high, metric.unit) or "too few samples for an interval"
    return Row(title(metric), "", value_text(metric.value, metric.unit), f"{interval} ({metric.samples} samples)")
