from __future__ import annotations

from dataclasses import replace

import pytest

from onnxshrink.report.figures import figures_between, figures_of
from onnxshrink.report.gates import FIGURES, Estimate
from onnxshrink.report.report import Report
from tests.report.example import example_report, unmeasured_report


def with_latency(report: Report, ratio: float, low: float, high: float, *, significant: bool = True) -> Report:
    assert report.latency is not None
    latency = replace(report.latency, ratio=ratio, ratio_low=low, ratio_high=high, significant=significant)
    return replace(report, latency=latency)


def test_every_figure_that_a_gate_can_name_is_there_or_says_why_not() -> None:
    for report in (example_report(), unmeasured_report()):
        figures = figures_of(report)
        for name, figure in FIGURES.items():
            for reading in figure.readings:
                assert (figure.of or name, reading) in figures


def test_figures_are_those_of_the_report() -> None:
    figures = figures_of(example_report())
    assert figures["size", "ratio"] == Estimate(108 / 412)
    assert figures["size", "bytes"] == Estimate(108_000)
    assert figures["nodes", "count"] == Estimate(18)
    assert figures["nodes", "ratio"] == Estimate(18 / 16)
    assert figures["error", "number"] == Estimate(0.0041)
    assert figures["agreement", "share"] == Estimate(0.9967)
    assert figures["top1", "share"] == figures["accuracy", "share"] == Estimate(0.98)
    assert figures["memory", "ratio"] == Estimate(1.0)
    assert figures["latency", "ms"] == Estimate(1.255, 1.25, 1.26)


def test_a_load_ratio_reaches_as_far_as_its_pairs_do() -> None:
    report = example_report()
    assert figures_of(report)["load", "ratio"] == Estimate(14.0 / 12.0, 14.1 / 12.1, 13.9 / 11.9)
    one_slow = replace(report, result=replace(report.result, load_ms=(14.1, 139.0)))
    assert figures_of(one_slow)["load", "ratio"] == Estimate(76.55 / 12.0, 14.1 / 12.1, 139.0 / 11.9)


def test_the_interval_of_a_median_comes_from_its_neighbours_in_order() -> None:
    report = example_report()
    assert report.latency is not None
    latency = replace(report.latency, result_ms=tuple(float(value) for value in range(100, 0, -1)))
    assert figures_of(replace(report, latency=latency))["latency", "ms"] == Estimate(50.5, 40.0, 61.0)


def test_a_difference_that_is_not_significant_is_not_told_from_none() -> None:
    report = with_latency(example_report(), 1.015, 1.005, 1.02, significant=False)
    assert figures_of(report)["latency", "ratio"] == Estimate(1.015, 1.0, 1.02)


def test_what_was_not_measured_says_so() -> None:
    figures = figures_of(unmeasured_report())
    assert figures["latency", "ratio"] == figures["error", "number"] == "the models were not run side by side"
    assert figures["size", "ratio"] == Estimate(108 / 412)


def test_points_carry_the_interval_of_the_accuracy() -> None:
    report = example_report()
    assert report.accuracy is not None
    accuracy = replace(report.accuracy, difference_low=-0.006, difference_high=0.003)
    points = figures_of(replace(report, accuracy=accuracy))["top1", "points"]
    assert isinstance(points, Estimate)
    assert (points.value, points.low, points.high) == pytest.approx((-0.17, -0.6, 0.3))


def test_synthetic_inputs_have_no_accuracy() -> None:
    report = example_report()
    assert report.data is not None
    synthetic = replace(report, accuracy=None, data=replace(report.data, synthetic=True, seed=0))
    assert figures_of(synthetic)["accuracy", "points"] == "the inputs are synthetic, they have no labels"


def test_between_two_runs_latency_is_the_ratio_of_their_ratios() -> None:
    base, new = with_latency(example_report(), 0.5, 0.45, 0.55), with_latency(example_report(), 0.6, 0.57, 0.63)
    found = figures_between(base, new)["latency", "ratio"]
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(1.2)
    assert found.low is not None
    assert found.high is not None
    assert 0.57 / 0.55 < found.low < 1.2 * 0.57 / 0.6
    assert 1.2 * 0.63 / 0.6 < found.high < 0.63 / 0.45


def test_between_two_runs_milliseconds_of_one_machine_are_never_divided_by_those_of_another() -> None:
    base = with_latency(example_report(), 0.5, 0.49, 0.51)
    assert base.latency is not None
    slow = replace(base.latency, original_ms=(120.0,) * 8, result_ms=(60.0,) * 8, result_median_ms=60.0)
    found = figures_between(base, replace(base, latency=slow))["latency", "ratio"]
    assert isinstance(found, Estimate)
    assert found.value == 1.0


def test_between_two_runs_sizes_and_counts_are_those_of_the_results() -> None:
    base = example_report()
    new = replace(base, result=replace(base.result, nodes={"Conv": 9}))
    figures = figures_between(base, new)
    assert figures["nodes", "ratio"] == Estimate(0.5)
    assert figures["size", "ratio"] == Estimate(1.0)
    assert figures["size", "bytes"] == Estimate(108_000)


def test_between_two_runs_points_need_the_same_data() -> None:
    base = example_report()
    assert base.data is not None
    assert base.accuracy is not None
    other = replace(base, data=replace(base.data, digest="ef" * 32))
    assert figures_between(base, other)["top1", "points"] == "the reports were measured on different data"
    better = replace(base, accuracy=replace(base.accuracy, result=0.99))
    points = figures_between(base, better)["top1", "points"]
    assert isinstance(points, Estimate)
    assert points.value == pytest.approx(1.0)
    narrow = {"difference_low": -0.004, "difference_high": 0.002}
    first, second = (replace(one, accuracy=replace(one.accuracy, **narrow)) for one in (base, base))  # type: ignore[type-var]
    both = figures_between(first, second)["top1", "points"]
    assert isinstance(both, Estimate)
    assert both.low is not None
    assert both.low < 0 < (both.high or 0)


def test_a_metric_that_is_no_share_has_points_in_its_own_unit() -> None:
    report = replace(example_report(), other_metrics=())
    assert report.accuracy is not None
    accuracy = replace(
        report.accuracy, metric="SI-SDR", name="si-sdr", unit="dB", original=9.5, result=9.25, difference_low=-0.5
    )
    figures = figures_of(replace(report, accuracy=replace(accuracy, difference_high=0.25)))
    assert figures["sisdr", "points"] == Estimate(-0.25, -0.5, 0.25)
    assert figures["sisdr", "decibels"] == Estimate(9.25)
    assert figures["accuracy", "share"] == "SI-SDR is not a share"
    assert figures["top1", "share"] == "what was measured is SI-SDR"


def test_every_metric_of_a_report_has_its_figures() -> None:
    figures = figures_of(example_report())
    assert figures["top1", "points"] == Estimate(pytest.approx(-0.17), -0.5, pytest.approx(0.17))
    assert figures["sisdr", "points"] == Estimate(3.75)
    assert figures["sisdr", "decibels"] == Estimate(2.25)
    assert figures["wer", "points"] == "what was measured is top-1, F1 (macro), SI-SDR, MSE"
