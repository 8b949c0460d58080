"""Means per channel, measured inside the model."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.calibration.channel_means import measure_channel_means
from onnxshrink.graph.shapes import infer_shapes
from tests.support import model_from_text

_TEXT = """<ir_version: 8, opset_import: ["": %d]>
m (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { h = Relu(x)  g = Log(h)  y = Neg(h) }"""


@pytest.mark.parametrize("opset", [13, 18])
def test_means_are_taken_over_samples_and_all_other_axes(opset: int) -> None:
    model = model_from_text(_TEXT % opset)
    infer_shapes(model)
    nodes = list(model.graph)
    x, h, y = model.graph.inputs[0], nodes[0].outputs[0], nodes[2].outputs[0]
    feeds = [{"x": np.random.default_rng(seed).standard_normal((2, 3, 4, 4)).astype(np.float32)} for seed in (0, 1)]
    means = measure_channel_means(model, {x: 1, h: 1, y: -1}, feeds)
    everything = np.concatenate([feed["x"] for feed in feeds])
    assert np.allclose(means[x], everything.mean(axis=(0, 2, 3)), rtol=0, atol=1e-6)
    assert np.allclose(means[h], np.maximum(everything, 0).mean(axis=(0, 2, 3)), rtol=0, atol=1e-6)
    assert np.allclose(means[y], -np.maximum(everything, 0).mean(axis=(0, 1, 2)), rtol=0, atol=1e-6)
    assert len(list(model.graph)) == 3


def test_values_without_a_finite_mean_are_left_out() -> None:
    model = model_from_text(_TEXT % 13)
    infer_shapes(model)
    logarithm = list(model.graph)[1].outputs[0]
    assert measure_channel_means(model, {logarithm: 1}, [{"x": -np.ones((1, 3, 4, 4), np.float32)}]) == {}


def test_nothing_to_observe_needs_no_session() -> None:
    assert measure_channel_means(model_from_text(_TEXT % 13), {}, []) == {}
