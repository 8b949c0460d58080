"""Pages: one report, or several with an overview in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxshrink.report.html import charts
from onnxshrink.report.html.run_view import run_view
from onnxshrink.report.html.svg import missing_extra
from onnxshrink.report.overview import overview_lines
from onnxshrink.report.report import Report

if TYPE_CHECKING:
    from jinja2 import Environment


def check_installed() -> None:
    """OnnxShrinkError that names the extra, before any work is done, when its libraries are missing."""
    if not pages_are_possible():
        raise missing_extra()


def pages_are_possible() -> bool:
    """Whether the libraries of the extra are there."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None and find_spec("jinja2") is not None


def to_html(report: Report) -> str:
    """One report as a page of its own.

    Raises:
        OnnxShrinkError: matplotlib or jinja2 is not installed.
    """
    return (
        environment()
        .get_template("page.html")
        .render(
            title=f"{report.original.name} → {report.result.name}",
            runs=[run_view(report, "run-1")],
            lines=(),
            charts=(),
        )
    )


def overview_to_html(reports: Sequence[Report]) -> str:
    """Several reports as one page: a table over all, plots of what each gained and lost, and then each of them.

    Raises:
        OnnxShrinkError: matplotlib or jinja2 is not installed.
    """
    return (
        environment()
        .get_template("page.html")
        .render(
            title=f"{len(reports)} compressions",
            runs=[run_view(report, f"run-{place}") for place, report in enumerate(reports, 1)],
            lines=overview_lines(reports),
            charts=_overview_charts(reports),
        )
    )


def _overview_charts(reports: Sequence[Report]) -> tuple[str, ...]:
    by_size, by_latency = [], []
    for place, report in enumerate(reports, 1):
        error = None if report.agreement is None else report.agreement.relative_error
        if error is None or math.isinf(error):
            continue
        by_size.append(charts.Dot(str(place), 100 * report.size_ratio, error))
        latency = report.latency
        if latency is not None:
            interval = latency.ratio_low, latency.ratio_high
            by_latency.append(charts.Dot(str(place), latency.ratio, error, *interval))
    drawn = []
    if len(by_size) > 1:
        drawn.append(charts.scatter(by_size, "overview-size", "size, % of the original", "relative error"))
    if len(by_latency) > 1:
        drawn.append(charts.scatter(by_latency, "overview-latency", "latency / original", "relative error"))
    return tuple(drawn)


def environment() -> Environment:
    """Templates in which everything is escaped unless it is a chart of ours."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise missing_extra() from error
    return Environment(
        loader=PackageLoader("onnxshrink.report.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
