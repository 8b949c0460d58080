"""A layer's weight as rows, its bias wherever it is, and the window that its kernel slides as."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.numerics.layer_inputs import Window
from onnxshrink.passes.weighted_layers import WeightedLayer, weighted_layer
from tests.static_models import normal, text_model

CONV = "m (float[1, 4, 8, 8] x) => (float y) {{ y = Conv<{}>(x, w{}) }}"


def _node(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def _layer(model: ir.Model, op_type: str) -> WeightedLayer:
    layer = weighted_layer(_node(model, op_type))
    assert layer is not None
    return layer


def test_rows_of_a_grouped_convolution() -> None:
    weight = normal(6, 2, 3, 3)
    layer = _layer(text_model(CONV.format("group = 2", ", b"), w=weight, b=normal(6)), "Conv")
    rows = layer.rows(weight)
    assert rows.shape == (2, 3, 18)
    np.testing.assert_array_equal(rows[1, 2], weight[5].reshape(-1))
    np.testing.assert_array_equal(layer.from_rows(rows), weight)
    assert (layer.groups, layer.axis, layer.output_axis) == (2, 0, 1)


@pytest.mark.parametrize(("text", "axis"), [("Gemm(x, w)", 1), ("Gemm<transB = 1>(x, w)", 0), ("MatMul(x, w)", 1)])
def test_rows_of_a_matrix(text: str, axis: int) -> None:
    weight = normal(4, 4)
    layer = _layer(text_model(f"m (float[3, 4] x) => (float y) {{ y = {text} }}", w=weight), re.split("[<(]", text)[0])
    rows = layer.rows(weight)
    np.testing.assert_array_equal(rows, (weight if axis == 0 else weight.T)[None])
    np.testing.assert_array_equal(layer.from_rows(rows), weight)
    assert (layer.groups, layer.axis, layer.output_axis, layer.window) == (1, axis, -1, None)


@pytest.mark.parametrize(
    ("attributes", "window"),
    [
        ("pads = [0, 0, 0, 0]", Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))),
        (
            "strides = [2, 1], dilations = [1, 2], pads = [1, 2, 3, 4], group = 2",
            Window((3, 3), (2, 1), (1, 2), ((1, 3), (2, 4)), 2),
        ),
        ('auto_pad = "VALID"', Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))),
        ('auto_pad = "SAME_UPPER"', Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), same="upper")),
        ('auto_pad = "SAME_LOWER"', Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), same="lower")),
    ],
)
def test_windows(attributes: str, window: Window) -> None:
    weight = normal(2, 4 // window.groups, 3, 3)
    assert _layer(text_model(CONV.format(attributes, ""), w=weight), "Conv").window == window


def test_a_convolutions_own_bias() -> None:
    bias = normal(2)
    layer = _layer(text_model(CONV.format("group = 1", ", b"), w=normal(2, 4, 3, 3), b=bias), "Conv")
    np.testing.assert_array_equal(layer.bias, bias)  # type: ignore[arg-type]
    assert layer.bias_node is layer.node
    assert layer.bias_index == 2


@pytest.mark.parametrize(("operands", "index"), [("a, b", 1), ("b, a", 0)])
@pytest.mark.parametrize("shape", [(5,), (1, 1, 5)])
def test_the_bias_behind_a_matmul(operands: str, index: int, shape: tuple[int, ...]) -> None:
    bias = normal(*shape)
    model = text_model(
        f"m (float[2, 3, 4] x) => (float y) {{ a = MatMul(x, w) y = Add({operands}) }}", w=normal(4, 5), b=bias
    )
    layer = _layer(model, "MatMul")
    assert layer.bias_node is _node(model, "Add")
    assert layer.bias_index == index
    np.testing.assert_array_equal(layer.bias, bias.reshape(-1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "(float y) { a = MatMul(x, w) y = Add(a, t) }",  # one number per row
        "(float y) { a = MatMul(x, w) y = Add(a, x) }",
        "(float y, float z) { a = MatMul(x, w) y = Add(a, b) z = Neg(a) }",
        "(float y, float a) { a = MatMul(x, w) y = Add(a, b) }",
        "(float y) { y = MatMul(x, w) }",
    ],
)
def test_what_is_no_bias_of_a_matmul(text: str) -> None:
    model = text_model(f"m (float[4, 4] x) => {text}", w=normal(4, 4), b=normal(4), t=normal(4, 1))
    layer = _layer(model, "MatMul")
    assert layer.bias_node is None
    assert layer.bias is None


def test_a_layer_without_a_constant_weight_is_none() -> None:
    model = text_model("m (float[4, 4] x, float[4, 4] w) => (float y) { y = MatMul(x, w) }")
    assert weighted_layer(_node(model, "MatMul")) is None


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("(float y) { y = MatMul(x, w) }", False),
        ("(float y, float w) { y = MatMul(x, w) }", True),
        ("(float y, float z) { y = MatMul(x, w) z = Add(x, w) }", True),
    ],
)
def test_a_weight_that_others_read_is_shared(text: str, shared: bool) -> None:
    model = text_model(f"m (float[4, 4] x) => {text}", w=normal(4, 4))
    assert _layer(model, "MatMul").is_shared == shared
