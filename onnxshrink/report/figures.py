"""The figures that gates and comparisons are about, computed from reports: of one run, or of one run against another.

Of one run, ratios and differences are the result against the original. Between two runs they are the new result
against the base's. What depends on the machine (latency, load time, memory) is then the ratio of both runs' own ratios:
each result was timed beside its own original, which milliseconds of two runs were not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from onnxshrink.measured import Accuracy, Agreement, LatencyComparison, MetricValue
from onnxshrink.report.gates import FIGURES, METRICS, Estimate, Figures, Reading
from onnxshrink.report.report import ModelFacts, Report

_Found = tuple[tuple[str, Reading], Estimate | str]

NOT_RUN = "the models were not run side by side"
OTHER_DATA = "the reports were measured on different data"


def figures_of(report: Report) -> Figures:
    """The result against its original."""
    original, result = report.original, report.result
    found: dict[tuple[str, Reading], Estimate | str] = {}
    for name, (reading, count) in _COUNTED.items():
        found.update(_pair(name, reading, count(original), count(result)))
    found["latency", "ratio"] = latency_ratio(report.latency)
    found["latency", "ms"] = latency_ms(report.latency)
    found["load", "ratio"] = load_ratio(report)
    found["load", "ms"] = median(result.load_ms)
    found.update(closeness(report.agreement))
    found["relativeerror", "number"] = found["error", "number"]
    found["top1agreement", "share"] = found["agreement", "share"]
    found.update(_levels(report))
    found["accuracy", "points"] = points_gained(report.accuracy) or _no_metric(report)
    for accuracy in _accuracies(report):
        found[accuracy.key, "points"] = points_gained(accuracy) or _no_metric(report)
    return dict(_absent_metrics(report)) | found


def figures_between(base: Report, new: Report) -> Figures:
    """The new result against the base's."""
    found = dict(figures_of(new))
    for name, (reading, count) in _COUNTED.items():
        found.update(_pair(name, reading, count(base.result), count(new.result)))
    of_base = figures_of(base)
    for name in ("latency", "load", "memory"):
        found[name, "ratio"] = quotient(of_base[name, "ratio"], figures_of(new)[name, "ratio"])
    before = {accuracy.key: accuracy for accuracy in _accuracies(base)}
    found["accuracy", "points"] = _points_between(base, new, base.accuracy, new.accuracy)
    for accuracy in _accuracies(new):
        found[accuracy.key, "points"] = _points_between(base, new, before.get(accuracy.key), accuracy)
    return found


_COUNTED: dict[str, tuple[Reading, Callable[[ModelFacts], int | None]]] = {
    "size": ("bytes", lambda facts: facts.size.file_bytes),
    "gzip": ("bytes", lambda facts: facts.size.gzip_bytes),
    "memory": ("bytes", lambda facts: facts.peak_memory_bytes),
    "nodes": ("count", lambda facts: facts.node_count),
    "parameters": ("count", lambda facts: facts.size.parameters),
    "macs": ("count", lambda facts: facts.macs),
}


def _pair(name: str, reading: Reading, before: int | None, after: int | None) -> Iterator[_Found]:
    """A count of the second model, and its ratio to the first's."""
    yield (name, reading), NOT_RUN if after is None else Estimate(after)
    if before is None or after is None:
        yield (name, "ratio"), NOT_RUN
    else:
        yield (name, "ratio"), Estimate(after / before if before else 1.0 if not after else math.inf)


def latency_ratio(latency: LatencyComparison | None) -> Estimate | str:
    """The latency ratio; where the report calls the difference not significant, the interval reaches to 1."""
    if latency is None:
        return NOT_RUN
    return cautious(latency.ratio, latency.ratio_low, latency.ratio_high, significant=latency.significant)


def cautious(ratio: float, low: float, high: float, *, significant: bool) -> Estimate:
    """A ratio whose interval reaches to 1 where the difference is not significant."""
    return Estimate(ratio, low, high) if significant else Estimate(ratio, min(low, 1.0), max(high, 1.0))


def latency_ms(latency: LatencyComparison | None) -> Estimate | str:
    """The result's median, with the interval of a median by order statistics."""
    return NOT_RUN if latency is None else median(latency.result_ms)


def median(times: Sequence[float]) -> Estimate | str:
    """A median with its 95 % interval: the k-th smallest and largest, k = n/2 − 0.98 √n; with few, the extremes."""
    if not times:
        return NOT_RUN
    ordered = sorted(times)
    rank = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))) - 1)
    return Estimate(statistics.median(ordered), ordered[rank], ordered[-1 - rank])


def load_ratio(report: Report) -> Estimate | str:
    """The ratio of the median load times; its interval holds the ratios of all pairs, loaded one after the other."""
    before, after = report.original.load_ms, report.result.load_ms
    if not before or len(before) != len(after) or min(before) <= 0:
        return NOT_RUN
    ratio = statistics.median(after) / statistics.median(before)
    pairs = [ratio, *(second / first for first, second in zip(before, after, strict=True))]
    return Estimate(ratio, min(pairs), max(pairs))


def points_gained(accuracy: Accuracy | None) -> Estimate | None:
    """Result minus original: percentage points of a share, else in the metric's unit."""
    if accuracy is None:
        return None
    scale, low, high = points_scale(accuracy), accuracy.difference_low, accuracy.difference_high
    if low is None or high is None:
        return Estimate(scale * accuracy.difference)
    return Estimate(scale * accuracy.difference, scale * low, scale * high)


def points_scale(accuracy: Accuracy | MetricValue) -> float:
    """What a difference is multiplied by to be in points: percentage points of shares, else the metric's unit."""
    return 100.0 if accuracy.unit == "share" else 1.0


def closeness(agreement: Agreement | None) -> Iterator[_Found]:
    """How close the result's outputs are to the original's."""
    if agreement is None:
        yield from ((key, NOT_RUN) for key in _AGREEMENT)
        return
    values = (agreement.relative_error, agreement.cosine, agreement.top1, agreement.sqnr_db)
    for key, value, missing in zip(_AGREEMENT, values, _AGREEMENT.values(), strict=True):
        if key[0] == "sqnr" and value is None and agreement.relative_error == 0:
            value = math.inf  # equal outputs
        yield key, missing if value is None else Estimate(value)


_AGREEMENT: dict[tuple[str, Reading], str] = {
    ("error", "number"): "no output has floating-point numbers",
    ("cosine", "share"): "no output has a direction",
    ("agreement", "share"): "no output looks like class scores",
    ("sqnr", "decibels"): "no output has floating-point numbers",
}


def _levels(report: Report) -> Iterator[_Found]:
    share = report.integer_mac_share
    if share is None:
        lossless = report.agreement is not None and report.integer_kernels is None
        yield ("integer", "share"), "nothing was quantized" if lossless else "the share is unknown"
    else:
        yield ("integer", "share"), Estimate(share)
    accuracy = report.accuracy
    if accuracy is None:
        yield ("accuracy", "share"), _no_metric(report)
        return
    yield from ((metric_level(one), Estimate(one.result)) for one in _accuracies(report))
    level = Estimate(accuracy.result)
    yield ("accuracy", "share"), level if accuracy.unit == "share" else f"{accuracy.metric} is not a share"


def metric_level(accuracy: Accuracy | MetricValue) -> tuple[str, Reading]:
    """The figure and reading under which the level of the metric is found."""
    readings: dict[str, Reading] = {"share": "share", "dB": "decibels", "value": "number"}
    return accuracy.key, readings[accuracy.unit]


def _accuracies(report: Report) -> tuple[Accuracy, ...]:
    return () if report.accuracy is None else (report.accuracy, *report.other_metrics)


def _no_metric(report: Report) -> str:
    if report.agreement is None:
        return NOT_RUN
    if report.data is None or report.data.synthetic:
        return "the inputs are synthetic, they have no labels"
    return "the data has no labels that fit an output"


def _absent_metrics(report: Report) -> Iterator[_Found]:
    """Why metrics that gates may name are not there."""
    measured = _accuracies(report)
    known = ", ".join(accuracy.metric for accuracy in measured)
    why = f"what was measured is {known}" if measured else _no_metric(report)
    absent = [name for name in FIGURES if name in (*METRICS, "cosine", "sqnr")]
    yield from (((name, reading), why) for name in absent for reading in FIGURES[name].readings)


def quotient(base: Estimate | str, new: Estimate | str) -> Estimate | str:
    """New over base; both intervals count, as independent errors of the logarithms."""
    if isinstance(base, str) or isinstance(new, str):
        return base if isinstance(base, str) else str(new)
    if min(base.value, new.value) <= 0:
        return "a figure is zero"
    ratio = new.value / base.value
    bounds = (base.low, base.high, new.low, new.high)
    if any(bound is None or bound <= 0 for bound in bounds):
        return Estimate(ratio)
    base_low, base_high, new_low, new_high = (math.log(bound) for bound in bounds if bound)
    at_base, at_new = math.log(base.value), math.log(new.value)
    below = math.hypot(at_new - new_low, base_high - at_base)
    above = math.hypot(new_high - at_new, at_base - base_low)
    return Estimate(ratio, ratio * math.exp(-below), ratio * math.exp(above))


def _points_between(base: Report, new: Report, first: Accuracy | None, second: Accuracy | None) -> Estimate | str:
    """Percentage points of a metric that the new result has more than the base's."""
    if first is None or second is None:
        return _no_metric(base if first is None else new)
    if first.metric != second.metric:
        return f"the metrics are {first.metric} and {second.metric}"
    if base.data is None or new.data is None or base.data.digest != new.data.digest:
        return OTHER_DATA
    difference = points_scale(second) * (second.result - first.result)
    one, two = points_gained(first), points_gained(second)
    assert one is not None and two is not None
    ends = (one.low, one.high, two.low, two.high)
    if first.original != second.original or any(end is None for end in ends):
        if second.unit != "share":
            return Estimate(difference)
        return share_points(first.result, first.samples, second.result, second.samples)
    low = math.hypot((one.high or 0) - one.value, two.value - (two.low or 0))
    high = math.hypot(one.value - (one.low or 0), (two.high or 0) - two.value)
    return Estimate(difference, difference - low, difference + high)


def share_points(base: float, base_samples: int, new: float, new_samples: int) -> Estimate:
    """Percentage points between two shares of samples, as if those were different (Agresti and Caffo's interval)."""
    counts = [(share * samples + 1) / (samples + 2) for share, samples in ((base, base_samples), (new, new_samples))]
    spread = sum(p * (1 - p) / (n + 2) for p, n in zip(counts, (base_samples, new_samples), strict=True))
    middle, width = counts[1] - counts[0], 1.96 * math.sqrt(max(spread, 0.0))
    return Estimate(100 * (new - base), 100 * (middle - width), 100 * (middle + width))


def error_ratio(base: Agreement | None, new: Agreement | None) -> Estimate | str:
    """The relative output error of the new model over the base's, both against the same model on the same data."""
    if base is None or new is None or base.relative_error is None or new.relative_error is None:
        return "not measured"
    if base.relative_error == 0:
        return Estimate(1.0) if new.relative_error == 0 else Estimate(math.inf)
    return Estimate(new.relative_error / base.relative_error)


def agreement_points(base: Agreement | None, new: Agreement | None) -> Estimate | str:
    """Percentage points of top-1 agreement that the new model has more."""
    if base is None or new is None or base.top1 is None or new.top1 is None:
        return "not measured"
    return share_points(base.top1, base.samples, new.top1, new.samples)


def figures_of_original(report: Report) -> Figures:
    """What can be said of the original alone, in the figures of a result."""
    latency, accuracy = report.latency, report.accuracy
    mirrored = replace(
        report,
        result=report.original,
        latency=None if latency is None else replace(latency, result_ms=latency.original_ms),
        accuracy=None if accuracy is None else replace(accuracy, result=accuracy.original),
    )
    return figures_of(mirrored)
