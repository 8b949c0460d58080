"""Constants as weights: every use of each, common channels, and which must keep their exact values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.stored_weights import StoredWeight, replace_tensor, stored_weights
from tests.support import model_from_text

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '


def _stored(text: str, **weights: np.ndarray) -> dict[str, StoredWeight]:
    model = model_from_text(_HEAD + text, **weights)
    infer_shapes(model)
    return {weight.name: weight for weight in stored_weights(model)}


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_uses_that_agree_share_their_channels_and_others_have_none() -> None:
    text = "m (float[8, 8] x) => (float[8, 8] y) { a = MatMul(x, w)  b = %s(a, w)  y = Identity(b) }"
    assert _stored(text % "MatMul", w=_weight(8, 8))["w"].channel_axes == (1,)
    found = _stored(text % "Gemm<transB = 1>", w=_weight(8, 8))["w"]
    assert (found.channel_axes, len(found.uses), found.obstacle) == ((), 2, None)


def test_a_transposed_use_counts_in_the_axes_of_the_constant() -> None:
    text = "m (float[N, 20] x) => (float[N, 30] y) { t = Transpose(w)  y = MatMul(x, t) }"
    found = _stored(text, w=_weight(30, 20))["w"]
    assert (found.channel_axes, found.input_axis, found.obstacle) == ((0,), 1, None)


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("m (float[1, 8, 5, 5] x) => (float[?, ?, ?, ?] y) { y = Conv(x, w) }", (4, 8, 3, 3), 1),
        ("m (float[1, 8, 5, 5] x) => (float[?, ?, ?, ?] y) { y = ConvTranspose(x, w) }", (8, 4, 3, 3), 0),
        ("m (float[1, 8, 5] x) => (float[?, ?, ?] y) { y = MatMul(x, w) }", (1, 5, 3), 1),
        ("m (float[7] x, int64[2] i) => (float[?, ?] y) { y = Gather(w, i) }", (5, 16), None),
    ],
)
def test_the_axis_that_is_summed_over(text: str, shape: tuple[int, ...], axis: int | None) -> None:
    assert _stored(text, w=_weight(*shape))["w"].input_axis == axis


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("z = MatMul(x, w)  y = Relu(z)", None),
        ("z = MatMul(x, w)  s = Sigmoid(z)  b = Greater(s, v)  y = Cast<to = 1>(b)", None),
        ("z = MatMul(x, w)  b = Greater(z, half)  y = Cast<to = 1>(b)", None),
        ("z = MatMul(x, w)  b = Less(z, v)  y = Cast<to = 1>(b)", "(Less) decides by the exact result"),
        (
            "z = MatMul(x, w)  t = Transpose(z)  a = Add(t, t)  b = Equal(a, half)  y = Cast<to = 1>(b)",
            "(Equal) decides",
        ),
        ("z = MatMul(x, w)  b = Cast<to = 7>(z)  y = Cast<to = 1>(b)", "(Cast) decides"),
        ("z = MatMul(x, w)  y = Floor(z)", "(Floor) decides"),
        ("b = Less(x, half)  c = Cast<to = 1>(b)  y = MatMul(c, w)", "multiplied by truth values"),
    ],
)
def test_a_matrix_that_encodes_a_decision_keeps_its_values(body: str, reason: str | None) -> None:
    text = f"m (float[16, 16] x) => (float[16, 16] y) {{ {body} }}"
    half = np.array(0.5, np.float32)
    found = _stored(text, w=_weight(16, 16), v=_weight(16), half=half)["w"].obstacle
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ("y = Gather(w, i)", (50, 16), None),
        ("y = Gather(w, i)", (50, 8), "not an embedding"),
        ("y = Gather(w, i)", (50,), "not an embedding"),
        ("y = Gather<axis = 1>(w, i)", (50, 16), "not an embedding"),
        ("z = Gather(w, i)  b = Less(x, z)  y = Cast<to = 1>(b)", (50, 16), "(Less) decides"),
    ],
)
def test_only_wide_rows_are_an_embedding(body: str, shape: tuple[int, ...], reason: str | None) -> None:
    text = f"m (float[3, 16] x, int64[3] i) => (float[3, 16] y) {{ {body} }}"
    found = _stored(text, w=_weight(*shape))["w"].obstacle
    assert found is None if reason is None else reason in (found or "")


def test_the_values_of_an_initializer_and_of_a_constant_node_can_be_replaced() -> None:
    text = """m (float[2, 2] x) => (float[2, 2] y)
    { c = Constant<value = float[2, 2] {1, 2, 3, 4}>()  z = MatMul(x, c)  y = MatMul(z, w) }"""
    model = model_from_text(_HEAD + text, w=_weight(2, 2))
    for weight in stored_weights(model):
        replace_tensor(weight, ir.Tensor(np.zeros((2, 2), np.float32)))
    values = [weight.array() for weight in stored_weights(model)]
    assert len(values) == 2
    assert not np.any(values)
