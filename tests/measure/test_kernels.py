"""Which layers run in integers is read from the graph that ONNX Runtime executes, whatever the model asks for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import ModelError
from onnxshrink.measure.kernels import measure_kernels, measure_layer_times
from tests.static_models import normal, text_model

SCALES = "s = Constant<value_float = 0.05>() z = Constant<value = uint8 {128}>() t = Constant<value_float = 0.01>() "
IN, OUT = (
    "p = QuantizeLinear(x, s, z) q = DequantizeLinear(p, s, z) ",
    "r = QuantizeLinear(a, s, z) y = DequantizeLinear(r, s, z)",
)
SHAPES = "m (float[1, 2, 6, 6] x) => (float[1, 2, 4, 4] y)"


def _conv(middle: str, weight: np.ndarray) -> ir.Model:
    return text_model(f"{SHAPES} {{ {SCALES} {IN} {middle} {OUT} }}", w=weight)


def _integers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-60, 61, shape).astype(np.int8)


def test_a_layer_between_quantized_values_is_an_integer_kernel() -> None:
    model = _conv("d = DequantizeLinear(w, t) a = Conv(q, d)", _integers(2, 2, 3, 3))
    found = measure_kernels(model)
    assert found.integer == {"QLinearConv": 1}
    assert found.integer_mac_share == 1
    assert found.missed == found.unasked == ()


def test_a_float_layer_that_the_runtime_quantizes_is_unasked() -> None:
    found = measure_kernels(_conv("a = Conv(q, w)", normal(2, 2, 3, 3)))
    assert found.integer == {"QLinearConv": 1}
    assert found.unasked == ("Conv→a",)
    assert found.missed == ()


def test_a_layer_without_a_quantized_output_is_missed() -> None:
    text = f"{SHAPES} {{ {SCALES} {IN} d = DequantizeLinear(w, t) y = Conv(q, d) }}"
    found = measure_kernels(text_model(text, w=_integers(2, 2, 3, 3)))
    assert found.integer == {}
    assert found.integer_mac_share == 0
    assert found.missed == ("Conv→y",)


def test_a_layer_that_is_merged_with_the_add_behind_it_is_missed() -> None:
    text = (
        f"m (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ {SCALES} i = Constant<value = int8 {{0}}>() {IN} "
        "d = DequantizeLinear(w, t, i) a = MatMul(q, d) y = Add(a, b) }"
    )
    fused = measure_kernels(text_model(text, w=_integers(4, 4), b=normal(4)))
    assert fused.missed == ("MatMul→a",)
    apart = measure_kernels(text_model(text, w=_integers(4, 4), b=normal(1, 1, 4)))
    assert apart.integer == {"MatMulIntegerToFloat": 1}
    assert apart.missed == ()


def test_weights_alone_ask_for_nothing() -> None:
    text = f"{SHAPES} {{ {SCALES} d = DequantizeLinear(w, t) y = Conv(x, d) }}"
    found = measure_kernels(text_model(text, w=_integers(2, 2, 3, 3)))
    assert (found.integer, found.missed, found.unasked) == ({}, (), ())


def test_the_share_is_that_of_the_multiplications() -> None:
    text = (
        f"{SHAPES} {{ {SCALES} {IN} d = DequantizeLinear(w, t) a = Conv(q, d) {OUT.replace('y', 'c')} y = Conv(c, v) }}"
    )
    model = text_model(text.replace("4, 4] y", "2, 2] y"), w=_integers(2, 2, 3, 3), v=normal(2, 2, 3, 3))
    assert measure_kernels(model).integer_mac_share == pytest.approx(16 / (16 + 4))


def test_open_dimensions_are_bound_by_a_feed() -> None:
    text = f"m (float[N, 2, H, W] x) => (float y) {{ {SCALES} {IN} d = DequantizeLinear(w, t) a = Conv(q, d) {OUT} }}"
    model = text_model(text, w=_integers(2, 2, 3, 3))
    assert measure_kernels(model, {"x": normal(1, 2, 5, 5)}).integer_mac_share == 1


def test_names_survive_and_the_model_is_left_as_it_was() -> None:
    model = _conv("a = Conv(q, w)", normal(2, 2, 3, 3))
    next(node for node in model.graph if node.op_type == "Conv").name = "mine"
    assert measure_kernels(model).unasked == ("mine",)
    assert [node.name for node in model.graph if node.op_type == "Conv"] == ["mine"]


def test_more_layers_than_ten_are_told_apart() -> None:
    body = " ".join(f"a{index} = Conv(a{index - 1}, w)" for index in range(1, 14))
    text = (
        f"m (float[1, 2, 6, 6] x) => (float y) {{ {SCALES} a0 = Identity(x) {body} p = QuantizeLinear(a13, s, z) "
        "q = DequantizeLinear(p, s, z) a = Conv(q, w) r = QuantizeLinear(a, s, z) y = DequantizeLinear(r, s, z) }"
    )
    assert measure_kernels(text_model(text, w=normal(2, 2, 1, 1))).unasked == ("Conv→a",)


def test_a_model_that_does_not_load_is_an_error() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        measure_kernels(text_model("m (double[1, 1, 4, 4] x, double[1, 1, 2, 2] w) => (double y) { y = Conv(x, w) }"))


def test_times_belong_to_layers_with_their_activations() -> None:
    text = (
        "m (float[4, 8] x) => (float[4, 8] y) { a = MatMul(x, w) r = Relu(a) g = Gemm(r, w) h = Relu(g) t = Tanh(h) "
        "y = MatMul(t, w) }"
    )
    times = measure_layer_times(text_model(text, w=normal(8, 8)), {"x": normal(4, 8)})
    assert times.keys() == {"MatMul→a", "Gemm→g", "MatMul→y"}
    assert min(times.values()) >= 0
