from __future__ import annotations

import math
from dataclasses import replace

import pytest

from onnxshrink.measured import Accuracy
from onnxshrink.report import summary
from onnxshrink.report.report import Report
from tests.report.example import example_report, unmeasured_report


def with_latency(ratio: float, significant: bool) -> Report:
    report = example_report()
    assert report.latency is not None
    return replace(report, latency=replace(report.latency, ratio=ratio, significant=significant))


def test_the_headline_says_what_matters() -> None:
    assert summary.headline(example_report()) == (
        "412 kB → 108 kB (26.2 % of the size)",
        "latency: no significant difference (1.00x)",
        "outputs: relative error 0.0041, top-1 agreement 99.67 %",
        "top-1 accuracy 98.17 % → 98.00 % (no significant difference)",
    )


def test_without_measurements_the_headline_is_the_size() -> None:
    assert summary.headline(unmeasured_report()) == ("412 kB → 108 kB (26.2 % of the size)",)
    assert [row.label for row in summary.comparison_rows(unmeasured_report())] == ["file size", "nodes", "parameters"]


def test_synthetic_inputs_and_identical_outputs_are_named() -> None:
    report = example_report()
    assert report.agreement is not None
    identical = replace(report.agreement, equal_share=1.0)
    assert summary.agreement_clause(identical, synthetic=True) == "outputs identical on synthetic inputs"
    labels = replace(report.agreement, relative_error=None, top1=None, equal_share=0.75)
    assert summary.agreement_clause(labels, synthetic=False) == "outputs: 75.00 % of the elements equal"


@pytest.mark.parametrize(
    ("ratio", "significant", "clause", "tone"),
    [
        (0.5, True, "latency: 2.00x faster", "good"),
        (1.1, True, "latency: 1.10x slower", "bad"),
        (1.1, False, "latency: no significant difference (1.10x)", "plain"),
    ],
)
def test_latency_is_judged_only_when_significant(ratio: float, significant: bool, clause: str, tone: str) -> None:
    report = with_latency(ratio, significant)
    assert clause in summary.headline(report)
    assert {row.label: row.tone for row in summary.comparison_rows(report)}["latency"] == tone


def test_outcomes_of_passes() -> None:
    assert [summary.pass_outcome(record) for record in example_report().passes] == [
        "2 changes, 52 → 45 nodes, −2.50 kB",
        "nothing to do",
        "undone: the file grew by 12 bytes",
        "9 changes, 45 → 61 nodes, −302 kB",
    ]


def test_skips_are_grouped_by_reason() -> None:
    groups = list(summary.skip_groups(example_report().passes))
    assert [(group.text.split("{")[0], len(group.nodes)) for group in groups] == [
        ("fold-batchnorm", 1),
        ("quantize-weights", 4),
        ("quantize-weights", 1),
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (26_454, "26.5 kB"), (999_600, "1.00 MB"), (90_852_542, "90.9 MB")],
)
def test_bytes(size: int, text: str) -> None:
    assert summary.bytes_text(size) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (1.0, "100 %"), (0.99999, "99.99 %"), (1e-9, "under 0.01 %"), (1.752, "175.20 %")]
)
def test_percentages_are_never_rounded_to_all_or_nothing(share: float, text: str) -> None:
    assert summary.percent(share) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (98_123, "98,123"), (269_035, "269 k"), (40_551_040, "40.6 M")])
def test_counts(count: int, text: str) -> None:
    assert summary.count_text(count) == text


def test_listings_count_what_they_leave_out() -> None:
    assert summary.listing(("a", "b", "c")) == "a, b, c"
    assert summary.listing(("a", "b", "c", "d", "e")) == "a, b, c and 2 more"


def test_metrics_read_in_their_units_and_are_judged_only_when_significant() -> None:
    rows = {
        row.label: (row.original, row.result, row.change, row.tone) for row in summary.comparison_rows(example_report())
    }
    assert rows["top-1 accuracy"] == (
        "98.17 %",
        "98.00 %",
        "−0.17 points [−0.50, +0.17], not significant (600 samples)",
        "plain",
    )
    assert rows["F1 (macro)"] == ("98.00 %", "93.00 %", "−5.00 points [−6.00, −4.00] (600 samples)", "bad")
    assert rows["SI-SDR"] == ("−1.50 dB", "2.25 dB", "+3.75 dB, too few samples to judge (3 samples)", "plain")
    found = Accuracy("SQNR", "y", 9, math.inf, 3.0, unit="dB", result_low=2.5, result_high=3.5, against_original=True)
    row = summary.accuracy_row(found)
    assert (row.original, row.result, row.change) == ("–", "3.00 dB", "95 % interval [2.50, 3.50] dB (9 samples)")
    assert summary.accuracy_clause(found) == "SQNR 3.00 dB"
    assert rows["MSE"] == ("0.1000", "infinite", "+∞ (600 samples)", "bad")
