"""What changing one weight does to the outputs, measured in one session."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration import output_errors
from onnxshrink.calibration.output_errors import measure_output_errors
from onnxshrink.graph.shapes import infer_shapes
from tests.support import model_from_text, outputs

_TEXT = """<ir_version: 8, opset_import: ["": 13]>
m (float[N, 4] x) => (float[N, 4] y) {{ h = MatMul(x, a)  c = Constant<value = float[4, 4] {{{ones}}}>()
  g = MatMul(h, c)  y = MatMul(g, b) }}"""


def _model() -> tuple[ir.Model, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in "ab"}
    model = model_from_text(_TEXT.format(ones=", ".join(["1"] * 16)), **weights)
    infer_shapes(model)
    return model, weights


def test_each_weight_is_changed_by_itself() -> None:
    model, weights = _model()
    feeds = [{"x": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)} for seed in (1, 2)]
    values = {name: model.graph.initializers[name] for name in "ab"}
    errors = measure_output_errors(
        model, {values["a"]: lambda: 1.5 * weights["a"], values["b"]: lambda: 1.25 * weights["b"]}, feeds
    )
    assert errors[values["a"]] == pytest.approx(0.5, rel=1e-5)
    assert errors[values["b"]] == pytest.approx(0.25, rel=1e-5)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert set(outputs(model, feeds[0])) == {"y"}


def test_constants_of_nodes_and_infinite_errors_are_left_out() -> None:
    model, weights = _model()
    constant = next(node for node in model.graph if node.op_type == "Constant").outputs[0]
    trials = {
        constant: lambda: np.ones((4, 4), np.float32),
        model.graph.initializers["a"]: lambda: np.full_like(weights["a"], np.nan),
    }
    assert measure_output_errors(model, trials, [{"x": np.ones((1, 4), np.float32)}]) == {}


def test_nothing_is_run_when_it_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = _model()
    trials = {model.graph.initializers["a"]: lambda: weights["a"]}
    feeds = [{"x": np.ones((1, 4), np.float32)}]
    assert measure_output_errors(model, trials, feeds)
    monkeypatch.setattr(output_errors, "_LARGEST_COMPUTE", 10)
    assert measure_output_errors(model, trials, feeds) == {}
    monkeypatch.undo()
    monkeypatch.setattr(output_errors, "_LARGEST_MODEL_BYTES", 10)
    assert measure_output_errors(model, trials, feeds) == {}


def test_patience_has_limits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = _model()
    trials = {model.graph.initializers["a"]: lambda: 1.5 * weights["a"]}
    feeds = [{"x": np.ones((1, 4), np.float32)}]
    monkeypatch.setattr(output_errors, "_LARGEST_COMPUTE", 10)
    assert len(measure_output_errors(model, trials, feeds, patient=True)) == 1
    monkeypatch.setattr(output_errors, "_PATIENT", (2**30, 10))
    assert measure_output_errors(model, trials, feeds, patient=True) == {}
