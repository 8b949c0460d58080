"""The decoder of int8 weights: bit-exact against numpy, and gone when ONNX Runtime has optimised the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.edits import Names
from onnxshrink.measure.session import optimized_model
from onnxshrink.numerics.affine import (
    AffineScheme,
    AffineWeight,
    dequantize_weight,
    quantize_in_groups,
    quantize_weight,
)
from onnxshrink.storage.affine_int8 import folded_decoder, fused_decoder
from onnxshrink.storage.decoders import DecoderBuilder
from tests.support import model_from_text, outputs

_TEXT = """
<ir_version: 8, opset_import: ["": {opset}]>
m (float[1, 24] x) => ({kind}[24, 40] y) {{ zeros = Sub(x, x)  total = ReduceSum(zeros) t = Cast<to = {to}>(total)
  y = Add(w, t) }}
"""
_WEIGHT = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
_X = {"x": np.zeros((1, 24), np.float32)}


def _model(opset: int = 13, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """y = w, so that the decoded weight can be seen."""
    kind = {ir.DataType.FLOAT: "float", ir.DataType.FLOAT16: "float16", ir.DataType.DOUBLE: "double"}[dtype]
    return model_from_text(_TEXT.format(opset=opset, kind=kind, to=int(dtype)), w=_WEIGHT.astype(dtype.numpy()))


def _decoded_by_runtime(model: ir.Model, encoded: AffineWeight, dtype: ir.DataType = ir.DataType.FLOAT) -> np.ndarray:
    build = DecoderBuilder(model, model.graph.initializers["w"], Names(model))
    build.replace(folded_decoder(build, encoded, dtype, _WEIGHT.shape))
    return outputs(model, _X)["y"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("half_scale", [True, False])
@pytest.mark.parametrize("axes", [(), (0,), (1,)])
def test_the_runtime_decodes_what_numpy_decodes(symmetric: bool, half_scale: bool, axes: tuple[int, ...]) -> None:
    encoded = quantize_weight(_WEIGHT, axes, AffineScheme(symmetric, "mse", half_scale))
    assert np.array_equal(_decoded_by_runtime(_model(), encoded), dequantize_weight(encoded))


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_are_decoded_and_reshaped(symmetric: bool) -> None:
    encoded = quantize_in_groups(_WEIGHT, (1,), 0, 8, AffineScheme(symmetric))
    expected = dequantize_weight(encoded).reshape(_WEIGHT.shape)
    assert np.array_equal(_decoded_by_runtime(_model(), encoded), expected)


@pytest.mark.parametrize(
    ("opset", "dtype"),
    [
        *((opset, dtype) for opset in (7, 11, 13, 18) for dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)),
        *((opset, ir.DataType.FLOAT16) for opset in (13, 18)),
    ],
)
def test_the_result_has_the_type_of_the_weight_at_every_opset(opset: int, dtype: ir.DataType) -> None:
    encoded = quantize_weight(_WEIGHT, (1,))
    decoded = _decoded_by_runtime(_model(opset, dtype), encoded, dtype)
    assert np.array_equal(decoded, dequantize_weight(encoded).astype(dtype.numpy()))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_optimised_graph_holds_no_decoder(symmetric: bool) -> None:
    model = model_from_text(
        '<ir_version: 8, opset_import: ["": 13]> m (float[N, 24] x) => (float[N, 40] y) { y = MatMul(x, w) }', w=_WEIGHT
    )
    encoded = quantize_in_groups(_WEIGHT, (1,), 0, 8, AffineScheme(symmetric, half_scale=True))
    build = DecoderBuilder(model, model.graph.initializers["w"], Names(model))
    build.replace(folded_decoder(build, encoded, ir.DataType.FLOAT, _WEIGHT.shape))
    assert [node.op_type for node in optimized_model(model).graph.node] == ["MatMul"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_fused_form_decodes_to_the_same_numbers(symmetric: bool) -> None:
    encoded = quantize_weight(_WEIGHT, (1,), AffineScheme(symmetric))
    model = _model()
    build = DecoderBuilder(model, model.graph.initializers["w"], Names(model))
    build.replace(fused_decoder(build, encoded))
    assert np.array_equal(outputs(model, _X)["y"], dequantize_weight(encoded))
