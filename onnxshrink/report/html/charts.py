"""The charts of a page. Names of models and layers stand in the page's text: charts hold numbers and our own words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxshrink.measured import LatencyComparison
from onnxshrink.report.html.svg import COLOURS, figure, inline_svg
from onnxshrink.report.layers import WeightHistogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_WIDTH, _HEIGHT = 400, 230
_SMALL_WIDTH, _SMALL_HEIGHT = 220, 110
_LATENCY_BINS = 40
_MOST_DOTS = 400
_SHARE_BINS = 40


@dataclass(frozen=True)
class Dot:
    """One point of a scatter plot. ``low`` and ``high``: the interval of ``x``, where there is one."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    kept: bool = False


def latency_histogram(latency: LatencyComparison, name: str) -> str:
    """Both distributions of times, with their medians; the slowest percent lies outside."""
    times = (np.asarray(latency.original_ms), np.asarray(latency.result_ms))
    everything = np.concatenate(times)
    low, high = float(everything.min()), float(np.quantile(everything, 0.99))
    high = high if high > low else low * 1.01 + 1e-6
    with figure(_WIDTH, _HEIGHT) as drawn:
        axes = drawn.add_subplot()
        edges = np.linspace(low, high, _LATENCY_BINS + 1)
        medians = (latency.original_median_ms, latency.result_median_ms)
        for values, median, model in zip(times, medians, ("original", "result"), strict=True):
            counts, _ = np.histogram(values, bins=edges)
            axes.stairs(counts, edges, fill=True, color=COLOURS[model], alpha=0.45, label=model)
            axes.axvline(median, color=COLOURS[model], linewidth=1.5)
        axes.set_xlabel("time of one run, ms (lines: medians)")
        axes.set_ylabel("runs")
        _legend(axes)
        return inline_svg(drawn, name, "Histogram of the measured times of both models")


def latency_sequence(latency: LatencyComparison, name: str) -> str:
    """Every measured time in the order of measurement, thinned out when there are many."""
    with figure(_WIDTH, _HEIGHT) as drawn:
        axes = drawn.add_subplot()
        step = math.ceil(len(latency.original_ms) / _MOST_DOTS)
        for values, model in ((latency.original_ms, "original"), (latency.result_ms, "result")):
            shown = np.asarray(values)[::step]
            axes.plot(
                np.arange(len(shown)) * step, shown, ".", color=COLOURS[model], markersize=3.5, alpha=0.7, label=model
            )
        axes.set_ylim(top=1.02 * float(np.quantile([*latency.original_ms, *latency.result_ms], 0.99)))
        axes.set_xlabel("measurement, in order")
        axes.set_ylabel("ms")
        _legend(axes)
        return inline_svg(drawn, name, "Measured times of both models in the order of measurement")


def layer_errors(numbers: Sequence[int], errors: Sequence[float], name: str) -> str:
    """Relative error of every layer's output from the first layer to the last, on a logarithmic scale."""
    with figure(2 * _WIDTH, _HEIGHT) as drawn:
        axes = drawn.add_subplot()
        least = min((error for error in errors if error > 0), default=1e-6)
        shown = [max(error, least) for error in errors]
        axes.vlines(numbers, least / 2, shown, color=COLOURS["result"], alpha=0.35, linewidth=1.5)
        axes.plot(numbers, shown, "o", color=COLOURS["result"], markersize=3.5)
        _logarithmic(axes, least / 2, 1.3 * max(shown))
        axes.set_xlabel("layer, from input to output")
        axes.set_ylabel("relative error of its output")
        axes.margins(x=0.02)
        _whole_ticks(axes.xaxis)
        return inline_svg(drawn, name, "Relative error of every layer's output, from input to output")


def weight_histogram(histogram: WeightHistogram, name: str) -> str:
    """Weights before (filled) and after (line)."""
    with figure(_SMALL_WIDTH, _SMALL_HEIGHT) as drawn:
        axes = drawn.add_subplot()
        for counts, model in ((histogram.original, "original"), (histogram.result, "result")):
            if counts is None:
                continue
            edges = np.linspace(-histogram.limit, histogram.limit, len(counts) + 1)
            share = np.asarray(counts) / max(sum(counts), 1)
            filled = model == "original"
            axes.stairs(share, edges, fill=filled, color=COLOURS[model], alpha=0.45 if filled else 1, linewidth=1.3)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xticks([-histogram.limit, 0, histogram.limit])
        axes.set_xticklabels([f"−{histogram.limit:.2g}", "0", f"{histogram.limit:.2g}"])
        return inline_svg(drawn, name, "Histogram of the layer's weights before and after")


def scatter(dots: Sequence[Dot], name: str, x_label: str, y_label: str) -> str:
    """Dots with numbers beside them; those that no other dot beats on both axes are joined by a line."""
    positive = [dot.y for dot in dots if 0 < dot.y < math.inf]
    floor = min(positive, default=1e-3) / 3
    with figure(_WIDTH, _HEIGHT + 20) as drawn:
        axes = drawn.add_subplot()
        front = pareto_front(dots)
        axes.plot(
            [dot.x for dot in front],
            [max(dot.y, floor) for dot in front],
            color=COLOURS["line"],
            linewidth=1.2,
            zorder=1,
        )
        for dot in dots:
            colour, y = COLOURS["result" if dot.kept else "original"], max(dot.y, floor)
            if dot.low is not None and dot.high is not None:
                axes.hlines(y, dot.low, dot.high, color=colour, linewidth=1.2)
            axes.plot(dot.x, y, "o", color=colour, markersize=7 if dot.kept else 5.5)
            weight = "bold" if dot.kept else "normal"
            axes.annotate(dot.label, (dot.x, y), (5, 5), textcoords="offset points", fontweight=weight)
        axes.set_ylim(bottom=0)
        if positive and max(positive) > 3 * min(positive):
            _logarithmic(axes, floor if len(positive) < len(dots) else min(positive) / 1.6, 1.6 * max(positive))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.12)
        return inline_svg(drawn, name, f"Scatter plot: {x_label} against {y_label}")


def share_histogram(shares: Sequence[float], name: str) -> str:
    """How many models ended at which share of their size; the line is the median."""
    with figure(_WIDTH, _HEIGHT) as drawn:
        axes = drawn.add_subplot()
        percent = 100 * np.asarray(shares)
        high = max(100.0, float(percent.max()))
        counts, edges = np.histogram(percent, bins=min(_SHARE_BINS, max(10, len(shares))), range=(0, high))
        axes.stairs(counts, edges, fill=True, color=COLOURS["result"], alpha=0.6)
        axes.axvline(float(np.median(percent)), color=COLOURS["text"], linewidth=1.5)
        axes.set_xlabel("size, % of the original (line: median)")
        axes.set_ylabel("models")
        axes.set_xlim(0, high)
        _whole_ticks(axes.yaxis)
        return inline_svg(drawn, name, "Histogram of the models' sizes as a share of their originals'")


def cloud(points: Sequence[tuple[float, float]], name: str, x_label: str, y_label: str) -> str:
    """Many dots without names, the second of each on a logarithmic scale; thinned out when there are very many."""
    positive = [y for _, y in points if 0 < y < math.inf]
    floor = min(positive, default=1e-6) / 2
    shown = np.array([(x, max(y, floor)) for x, y in points if y < math.inf])
    shown = shown[:: math.ceil(len(shown) / _MOST_DOTS)]
    with figure(_WIDTH, _HEIGHT) as drawn:
        axes = drawn.add_subplot()
        axes.plot(shown[:, 0], shown[:, 1], "o", color=COLOURS["result"], markersize=4, alpha=0.6)
        _logarithmic(axes, floor, 2 * max(positive, default=1.0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.05)
        return inline_svg(drawn, name, f"Scatter plot: {x_label} against {y_label}")


def pareto_front(dots: Sequence[Dot]) -> list[Dot]:
    """The dots than which no other is smaller on one axis and no larger on the other, by ``x``."""
    front: list[Dot] = []
    for dot in sorted(dots, key=lambda one: (one.x, one.y)):
        if not front or dot.y < front[-1].y:
            front.append(dot)
    return front


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis from ``low`` to ``high``, its ticks written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _whole_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
