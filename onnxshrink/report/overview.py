"""Several reports side by side: one line each, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxshrink.report.metric_text import value_text
from onnxshrink.report.report import Report
from onnxshrink.report.summary import bytes_text, comparison_rows, number, percent


@dataclass(frozen=True)
class Line:
    """One report among several.

    Attributes:
        place: from 1 on.
        recipe: the preset, or the recipe when there was none.
        size: bytes before and after; ``size_share`` in percent.
        latency: the ratio with its interval, or that it is not significant; empty when not measured.
        accuracy: the metric before and after; empty without labels.
    """

    place: int
    original: str
    result: str
    recipe: str
    size: str
    size_share: str
    latency: str
    error: str
    accuracy: str


def overview_lines(reports: Sequence[Report]) -> tuple[Line, ...]:
    """The first figures of every report, in their order."""
    return tuple(_line(place, report) for place, report in enumerate(reports, 1))


def _line(place: int, report: Report) -> Line:
    changes = {row.label: row.change for row in comparison_rows(report)}
    sizes = report.original.size.file_bytes, report.result.size.file_bytes
    agreement, accuracy = report.agreement, report.accuracy
    error = None if agreement is None else agreement.relative_error
    before_and_after = ""
    if accuracy is not None:
        values = [value_text(value, accuracy.unit) for value in (accuracy.original, accuracy.result)]
        before_and_after = f"{accuracy.metric} {values[0]} → {values[1]}"
    return Line(
        place,
        report.original.name,
        report.result.name,
        report.preset or report.recipe,
        f"{bytes_text(sizes[0])} → {bytes_text(sizes[1])}",
        percent(report.size_ratio, 1),
        changes.get("latency", ""),
        "" if error is None else number(error),
        before_and_after,
    )
