from __future__ import annotations

from xml.etree import ElementTree

from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.junit import to_junit

PASSED = GateResult("size<=30%", "passed", "size", "ratio", 0.3, 0.26, reason="26.0 %")
FAILED = GateResult("latency<=100%", "failed", "latency", "ratio", 1.0, 1.1, 1.05, 1.2, "110.0 % [105.0 %, 120.0 %]")
UNCERTAIN = GateResult("load<=2", "uncertain", "load", "ratio", 2.0, 1.9, 1.5, 2.1, "<&>")


def test_gates_are_cases_failures_and_skips() -> None:
    root = ElementTree.fromstring(to_junit([("a.onnx", [PASSED, FAILED, UNCERTAIN]), ("b\x00.onnx", [PASSED])]))
    assert root.tag == "testsuites"
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    first, second = root
    assert [case.get("name") for case in first] == ["size<=30%", "latency<=100%", "load<=2"]
    assert [child.tag for case in first for child in case] == ["system-out", "failure", "skipped"]
    failure = first[1][0]
    assert failure.get("message") == "110.0 % [105.0 %, 120.0 %]"
    assert failure.text == "latency<=100%: failed, 110.0 % [105.0 %, 120.0 %]"
    assert first[2][0].get("message") == "uncertain: <&>"
    assert second.get("name") == "b�.onnx"
