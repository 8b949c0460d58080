from __future__ import annotations

import math
from dataclasses import replace

import pytest

from onnxshrink.measured import Accuracy
from onnxshrink.report.metric_text import change_text, interval_text, value_text, verdict, verdict_with_interval

LOWER = Accuracy("top-1", "y", 500, 0.903, 0.9, difference_low=-0.008, difference_high=0.002)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "no significant difference (0.30 points lower, 95 % interval [−0.80, +0.20])"),
        ({"difference_high": -0.001}, "0.30 points lower, 95 % interval [−0.80, −0.10]"),
        (
            {"result": 0.906, "difference_low": 0.001, "difference_high": 0.005},
            "0.30 points higher, 95 % interval [+0.10, +0.50]",
        ),
        ({"result": 0.903, "difference_low": 0.0, "difference_high": 0.0}, "no difference"),
        ({"result": 0.903}, "no significant difference, 95 % interval [−0.80, +0.20]"),
        (
            {"difference_low": None, "difference_high": None},
            "0.30 points lower, from too few samples to tell whether by chance",
        ),
        (
            {"unit": "dB", "original": 9.4, "result": 9.3, "difference_low": -0.2, "difference_high": -0.05},
            "0.10 dB lower, 95 % interval [−0.20, −0.05]",
        ),
        ({"unit": "value", "result": math.inf, "difference_low": None, "difference_high": None}, "infinitely higher"),
    ],
)  # fmt: skip
def test_the_verdict_is_one_line(changes: dict[str, object], text: str) -> None:
    accuracy = replace(LOWER, **changes)  # type: ignore[arg-type]
    assert verdict_with_interval(accuracy) == text
    assert text.startswith(verdict(accuracy))


def test_values_and_intervals() -> None:
    assert value_text(0.915, "share") == "91.50 %"
    assert value_text(-0.25, "dB") == "−0.25 dB"
    assert value_text(0.82034, "value") == "0.8203"
    assert value_text(-math.inf, "value") == "−infinite"
    assert interval_text(0.5, 0.75, "share") == "[50.00, 75.00] %"
    assert interval_text(None, None, "share") == ""
    assert change_text(replace(LOWER, result=0.903)) == "no change"
