"""A model in a process of its own: outputs, memory, errors and crashes come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import DataError, ModelError
from onnxshrink.measure import own_process
from onnxshrink.measure.own_process import run_in_own_process
from onnxshrink.measure.session import SessionSettings
from tests.support import model_from_text

SETTINGS = SessionSettings(threads=1)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, string[N] s) => (float[N] y, string[N] t)'
    ir.save(model_from_text(f"{text} {{y = Relu(x) t = Identity(s)}}"), path)
    return path


def _feed(count: int) -> dict[str, np.ndarray]:
    return {"x": np.full(count, -1, np.float32), "s": np.array(["a"], object)}


def test_outputs_of_every_feed_come_back(model_path: Path) -> None:
    outputs = run_in_own_process(model_path, [_feed(2), _feed(3)], SETTINGS).outputs
    assert [output["y"].tolist() for output in outputs] == [[0, 0], [0, 0, 0]]
    assert outputs[0]["t"].tolist() == ["a"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_run_on_large_inputs_needs_memory_for_its_outputs(model_path: Path) -> None:
    peak = run_in_own_process(model_path, [_feed(10_000_000)], SETTINGS).peak_memory_bytes
    assert peak is not None
    assert 30_000_000 < peak < 200_000_000


def test_errors_come_back_as_they_are(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot run the model"):
        run_in_own_process(model_path, [{"other": np.zeros(1, np.float32)}], SETTINGS)
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        run_in_own_process(tmp_path / "missing.onnx", [], SETTINGS)


def test_a_crash_is_an_error_with_its_code(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = subprocess.CompletedProcess([], -11, b"", b"Segmentation fault")
    monkeypatch.setattr(own_process.subprocess, "run", lambda *_, **__: crashed)
    with pytest.raises(ModelError, match=r"model\.onnx ended with code -11: Segmentation fault"):
        run_in_own_process(model_path, [], SETTINGS)


def test_without_proc_memory_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(own_process, "_STATUS", tmp_path / "missing")
    assert own_process._resident_bytes("VmRSS") is None
