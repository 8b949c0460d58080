from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxshrink.measure.operator_times import profile_model, profile_of
from onnxshrink.measure.session import KernelCall, SessionSettings


def test_shares_by_operator_and_by_node() -> None:
    calls = [
        call
        for run in (0, 1000, 2000)
        for call in (
            KernelCall("a", "Conv", run, 60),
            KernelCall("b", "Conv", run + 60, 20),
            KernelCall("c", "Relu", run + 80, 20),
        )
    ]
    profile = profile_of(calls, 3)
    assert profile.total_ms == pytest.approx(0.1)
    assert [(found.op_type, found.nodes, found.ms, found.share) for found in profile.operators] == [
        ("Conv", 2, pytest.approx(0.08), pytest.approx(0.8)),
        ("Relu", 1, pytest.approx(0.02), pytest.approx(0.2)),
    ]
    assert [found.node for found in profile.nodes] == ["a", "b", "c"]


def test_an_interrupted_call_does_not_count() -> None:
    calls = [KernelCall("a", "Conv", 1000 * run, 50 if run else 9000) for run in range(5)]
    assert profile_of(calls, 5).total_ms == pytest.approx(0.05)


def test_time_in_a_body_is_not_counted_twice() -> None:
    calls = [
        KernelCall("body", "MatMul", 10, 30),
        KernelCall("body", "MatMul", 50, 30),
        KernelCall("loop", "Loop", 0, 100),
        KernelCall("after", "Relu", 100, 10),
    ]
    profile = profile_of(calls, 1)
    assert {found.op_type: found.ms for found in profile.operators} == pytest.approx(
        {"MatMul": 0.06, "Loop": 0.04, "Relu": 0.01}
    )


def test_a_model_under_the_profiler(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    text = "m (float[64, 64] x) => (float[64, 64] y) { a = MatMul(x, x) y = Exp(a) }"
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(header + text), path)
    profile = profile_model(path, {"x": np.zeros((64, 64), np.float32)}, SessionSettings(threads=1), 5)
    assert {found.op_type for found in profile.operators} == {"MatMul", "Exp"}
    assert sum(found.share for found in profile.operators) in (0, pytest.approx(1))
