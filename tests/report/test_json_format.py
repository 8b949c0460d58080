from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.passes.base import Change, Skip
from onnxshrink.report.json_format import from_json, plain_json, to_json
from onnxshrink.report.report import PassRecord, Report
from tests.report.example import example_report, unmeasured_report

TEXT = st.text(max_size=20)
FLOATS = st.floats(allow_nan=False)
RECORDS = st.builds(
    PassRecord,
    text=TEXT,
    effect=st.sampled_from(("exact", "rounding", "lossy")),
    status=st.sampled_from(("applied", "unchanged", "undone")),
    reason=st.none() | TEXT,
    seconds=FLOATS,
    bytes_before=st.integers(0, 2**40),
    bytes_after=st.integers(0, 2**40),
    nodes_before=st.integers(0, 10**6),
    nodes_after=st.integers(0, 10**6),
    changes=st.lists(st.builds(Change, TEXT, TEXT), max_size=3).map(tuple),
    skips=st.lists(st.builds(Skip, TEXT, TEXT), max_size=3).map(tuple),
)


@pytest.mark.parametrize("report", [example_report(), unmeasured_report()])
def test_reports_come_back_exactly(report: Report) -> None:
    text = to_json(report)
    assert from_json(text) == report
    assert to_json(from_json(text)) == text


@given(st.lists(RECORDS, max_size=3).map(tuple), st.lists(FLOATS, max_size=3).map(tuple), st.lists(TEXT).map(tuple))
def test_any_values_come_back_exactly(
    passes: tuple[PassRecord, ...], load_ms: tuple[float, ...], notes: tuple[str, ...]
) -> None:
    example = example_report()
    report = replace(example, passes=passes, notes=notes, original=replace(example.original, load_ms=load_ms))
    assert from_json(to_json(report)) == report


def test_the_text_is_strict_json_with_the_version_and_the_first_figures_on_top() -> None:
    data = json.loads(to_json(example_report()), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(data)[:3] == ["schema_version", "kind", "summary"]
    assert data["kind"] == "compression"
    assert data["schema_version"] == 1
    assert data["summary"] == {
        "original_bytes": 412_000,
        "result_bytes": 108_000,
        "size_ratio": 108 / 412,
        "latency_ratio": 1.004,
        "latency_verdict": "no significant difference",
        "relative_error": 0.0041,
        "top1_agreement": 0.9967,
        "accuracy_drop_points": pytest.approx(0.17),
        "metric": "top-1",
        "metric_difference": pytest.approx(-0.0017),
        "metric_significant": False,
    }
    assert data["latency"]["original_ms"] == [1.2, 1.3]
    assert data["agreement"]["outputs"][1]["relative_error"] == "Infinity"


def test_what_was_not_measured_is_null() -> None:
    data = json.loads(to_json(unmeasured_report()))
    assert data["summary"]["latency_ratio"] is None
    assert data["agreement"] is None


def edited(**fields: Any) -> str:
    return json.dumps({**json.loads(to_json(example_report())), **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an onnxshrink report"),
        ('{"a": 1}', "not an onnxshrink report"),
        (edited(schema_version=2), "schema version 2, newer than the 1"),
        (edited(kind="poem"), "does not know reports of kind 'poem'"),
        (edited(seed="seven"), "damaged: expected int, got 'seven'"),
        (edited(original=None), "damaged"),
        (edited(passes=[{"text": "x"}]), "damaged"),
        (edited(machine={"cpu": "x", "cores": 1.5, "cpu_features": [], "memory_bytes": None, "system": ""}), "got 1.5"),
    ],
)
def test_refuses_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(OnnxShrinkError, match=message) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


def test_fields_of_the_future_are_ignored() -> None:
    assert from_json(edited(mood="good")) == example_report()


def test_any_dataclass_can_be_written() -> None:
    assert json.loads(plain_json(Change("conv", "folded"))) == {"node": "conv", "what": "folded"}
