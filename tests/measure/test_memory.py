from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.measure import memory
from onnxshrink.measure.memory import PeakMemory, measure_peak_memory
from tests.support import model_from_text

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, string[N] s) => (float[N] y, string[N] t)'
    ir.save(model_from_text(f"{text} {{y = Relu(x) t = Identity(s)}}"), path)
    return path


@needs_proc
def test_a_run_on_large_inputs_needs_memory_for_its_outputs(model_path: Path) -> None:
    feeds = {"x": np.zeros(10_000_000, np.float32), "s": np.array(["a"], object)}
    peak = measure_peak_memory(model_path, feeds)
    assert peak.reason is None
    assert peak.bytes is not None
    assert 30_000_000 < peak.bytes < 200_000_000


@needs_proc
def test_a_failed_run_has_a_reason(model_path: Path) -> None:
    peak = measure_peak_memory(model_path, {"other": np.zeros(1, np.float32)})
    assert peak.bytes is None
    assert peak.reason is not None
    assert "cannot run the model" in peak.reason


def test_without_proc_it_says_so(model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    peak = measure_peak_memory(model_path, {})
    assert peak == PeakMemory(None, "peak memory is read from /proc, which this system does not have")
