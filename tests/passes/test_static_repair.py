"""Each repair by itself: it runs on the quantized model's own activations, and makes what it is for smaller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.constants import constant_array
from onnxshrink.passes.quantize_static import QuantizeStatic
from tests.static_models import PLAIN, Quantized, normal, quantized, scales, text_model
from tests.support import outputs

DEEP = (
    "m (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { a = CONV(x, k) b = Relu(a) c = CONV(b, l) d = Add(b, c) "
    "e = Relu(d) f = CONV(e, l) g = Relu(f) y = CONV(g, l) }"
).replace("CONV", "Conv<pads = [1, 1, 1, 1]>")
MATMULS = "m (float[N, 6, 8] x) => (float[N, 6, 8] y) { a = MatMul(x, u) b = Add(a, c) r = Relu(b) y = MatMul(r, v) }"
COARSE = replace(PLAIN, granularity="tensor")


def _images(count: int = 6) -> list[Feed]:
    return [{"x": np.cumsum(normal(1, 3, 8, 8, seed=seed), axis=3)} for seed in range(count)]


def _deep() -> ir.Model:
    spread = np.array([1, 0.3, 0.05, 0.6], np.float32).reshape(-1, 1, 1, 1)
    return text_model(
        DEEP, k=normal(4, 3, 3, 3, seed=1, scale=0.3) * spread, l=normal(4, 4, 3, 3, seed=2, scale=0.3) * spread
    )


def _errors(found: Quantized) -> np.ndarray:
    """(samples, channels, ...) reference minus quantized."""
    pairs = [(outputs(found.original, feed)["y"], outputs(found.model, feed)["y"]) for feed in found.feeds]
    return np.concatenate([expected - actual for expected, actual in pairs])


def _squared(one_pass: QuantizeStatic) -> float:
    return float(np.square(_errors(quantized(_deep(), _images(), one_pass))).mean())


def test_every_repair_lowers_the_error_of_a_deep_model() -> None:
    plain = _squared(COARSE)
    assert _squared(replace(COARSE, correct_biases=True)) < plain
    assert _squared(replace(COARSE, rounding="compensated")) < plain
    everything = replace(COARSE, rounding="compensated", correct_biases=True, calibration="auto")
    assert _squared(everything) < 0.8 * plain


def test_biases_make_up_for_the_mean_error_of_each_channel() -> None:
    plain, corrected = (
        np.abs(_errors(quantized(_deep(), _images(), one_pass)).mean(axis=(0, 2, 3)))
        for one_pass in (COARSE, replace(COARSE, correct_biases=True))
    )
    assert corrected.max() < 0.25 * plain.max()


def test_the_bias_behind_a_matmul_is_corrected_in_its_add() -> None:
    weights = {"u": normal(8, 8, seed=1), "v": normal(8, 8, seed=2), "c": normal(8, seed=3)}
    feeds = [{"x": normal(2, 6, 8, seed=seed)} for seed in range(4)]
    found = quantized(text_model(MATMULS, **weights), feeds, replace(COARSE, correct_biases=True))
    adding = next(node for node in found.model.graph if node.op_type == "Add")
    changed = constant_array(adding.inputs[1])
    assert changed is not None
    shift = changed.reshape(-1) - weights["c"]
    assert 0 < np.abs(shift).max() < 0.1
    assert found.kernels.missed == ()
    pairs = [(_behind_add(found.original, feed), _behind_add(found.model, feed)) for feed in feeds]
    mean = np.mean([expected - actual for expected, actual in pairs], axis=(0, 1, 2))
    assert np.abs(mean).max() < 1e-6


def _behind_add(model: ir.Model, feed: Feed) -> np.ndarray:
    probe = model.clone()
    probe.graph.outputs.append(next(node for node in probe.graph if node.op_type == "Add").outputs[0])
    return outputs(probe, feed)["b"]


def test_auto_takes_the_range_that_moves_the_layer_least() -> None:
    feeds = [{"x": normal(1, 3, 8, 8, seed=seed)} for seed in range(4)]
    feeds[0]["x"][0, 0, 0, 0] = 200  # what follows does not see channel 0
    kernel = normal(4, 3, 3, 3, seed=1)
    kernel[:, 0] = 0
    text = "m (float[N, 3, 8, 8] x) => (float y) { y = Conv(x, k) }"
    wide, chosen = (
        quantized(text_model(text, k=kernel), feeds, replace(PLAIN, calibration=name))  # type: ignore[arg-type]
        for name in ("minmax", "auto")
    )
    assert scales(wide.model)["x"] > 0.7
    assert scales(chosen.model)["x"] < 0.3
    assert np.square(_errors(chosen)).mean() < 0.2 * np.square(_errors(wide)).mean()


def test_ranges_that_clip_what_matters_are_not_taken() -> None:
    feeds = [{"x": normal(1, 3, 8, 8, seed=seed)} for seed in range(4)]
    feeds[0]["x"][0, 0] = 40
    text = "m (float[N, 3, 8, 8] x) => (float y) { y = Conv(x, k) }"
    found = quantized(text_model(text, k=normal(4, 3, 3, 3, seed=1)), feeds, replace(PLAIN, calibration="auto"))
    assert scales(found.model)["x"] > 30 / 255


@pytest.mark.parametrize("one_pass", [PLAIN, QuantizeStatic(equalize="off", smooth="off")])
def test_a_bias_larger_than_its_integers_widens_the_weights_grid(one_pass: QuantizeStatic) -> None:
    weight, bias = normal(4, 3, 3, 3, seed=1), np.array([1e5, 0, 0, 0], np.float32)
    weight[0] *= 1e-9
    text = "m (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { y = Conv(x, k, b) }"
    found = quantized(text_model(text, k=weight, b=bias), _images(2), one_pass)
    stored = constant_array(found.model.graph.initializers["b/q"])
    assert stored is not None
    assert 2**28 < abs(int(stored[0])) <= 2**30 + 2**10
    # Beside a bias this large the other channels are below the output's step: only the first one is judged.
    error = np.abs(_errors(found)[:, 0]).max()
    assert error <= scales(found.model)[_output_name(found)] / 2 + 1e5 * 2**-22


def _output_name(found: Quantized) -> str:
    return next(name for name in scales(found.model) if name.startswith("y"))


def test_a_shared_weight_is_not_fitted_to_one_of_its_readers() -> None:
    text = "m (float[N, 3, 8, 8] x) => (float y) { a = Conv(x, k) y = Conv(a, k) }"
    model = text_model(text, k=normal(3, 3, 3, 3, seed=1))
    fitted = quantized(model, _images(2), replace(PLAIN, rounding="compensated"))
    plain = quantized(model, _images(2))
    first, second = (
        [
            array
            for value in found.model.graph.initializers.values()
            if (array := constant_array(value)) is not None and array.dtype == np.int8 and array.ndim == 4
        ]
        for found in (fitted, plain)
    )
    np.testing.assert_array_equal(first[0], second[0])


def test_repair_leaves_no_float_weights_behind() -> None:
    found = quantized(_deep(), _images(2), QuantizeStatic(equalize="off", smooth="off"))
    arrays = [constant_array(value) for value in found.model.graph.initializers.values()]
    assert all(array.ndim <= 1 for array in arrays if array is not None and array.dtype == np.float32)
