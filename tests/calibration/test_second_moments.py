"""Second moments of activations are means of products over all samples and positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration import second_moments
from onnxshrink.calibration.second_moments import measure_second_moments
from onnxshrink.errors import DataError
from onnxshrink.graph.shapes import infer_shapes
from tests.static_models import SETTINGS, normal, text_model

TEXT = """m (float[N, 3, H] x, bool c) => (float[N, 3, H] y, float[N, 3, H] z) {
  h = Relu(x)  g = Log(h)  y = Neg(g)
  z = If(c) <then_branch = t () => (float[N, 3, H] a) { a = Neg(h) },
             else_branch = e () => (float[N, 3, H] b) { b = Abs(h) }> }"""


def _model() -> tuple[ir.Model, dict[str | None, ir.Value]]:
    model = text_model(TEXT)
    infer_shapes(model)
    values = [*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)]
    return model, {value.name: value for value in values}


def _feeds(*shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(*shape, seed=seed), "c": np.array(True)} for seed, shape in enumerate(shapes)]


def test_means_of_products_over_samples_and_positions() -> None:
    model, values = _model()
    feeds = _feeds((2, 3, 4), (1, 3, 7))
    found = measure_second_moments(model, {values["x"]: 1, values["h"]: -2, values["z"]: 1}, feeds, SETTINGS)
    columns = np.concatenate([np.moveaxis(feed["x"], 1, -1).reshape(-1, 3) for feed in feeds]).astype(np.float64)
    assert len(columns) == 15
    np.testing.assert_allclose(found[values["x"]], columns.T @ columns / 15, rtol=1e-5, atol=1e-6)
    relu = np.maximum(columns, 0)
    np.testing.assert_allclose(found[values["h"]], relu.T @ relu / 15, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[values["z"]], relu.T @ relu / 15, rtol=1e-5, atol=1e-6)
    assert found[values["x"]].dtype == np.float32


def test_what_is_not_finite_or_inside_a_subgraph_is_left_out() -> None:
    model, values = _model()
    found = measure_second_moments(model, {values[name]: 1 for name in "xgab"}, _feeds((1, 3, 4)), SETTINGS)
    assert list(found) == [values["x"]]


def test_the_model_is_left_as_it_was() -> None:
    model, values = _model()
    measure_second_moments(model, {values["h"]: 1}, _feeds((1, 3, 4)), SETTINGS)
    assert [output.name for output in model.graph.outputs] == ["y", "z"]


def test_wide_activations_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "_LARGEST_CHANNELS", 3)
    model, values = _model()
    found = measure_second_moments(model, {values["x"]: 1, values["h"]: 2}, _feeds((1, 3, 4)), SETTINGS)
    assert list(found) == [values["x"]]


def test_without_values_or_feeds_nothing_is_run() -> None:
    model, values = _model()
    assert measure_second_moments(model, {}, _feeds((1, 3, 4)), SETTINGS) == {}
    assert measure_second_moments(model, {values["h"]: 1}, [], SETTINGS) == {}


def test_a_feed_that_does_not_fit_is_an_error() -> None:
    model, values = _model()
    with pytest.raises(DataError, match="onnxruntime"):
        measure_second_moments(model, {values["h"]: 1}, _feeds((1, 2, 4)), SETTINGS)
