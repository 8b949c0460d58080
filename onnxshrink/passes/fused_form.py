"""The fused form of an int8 weight: DequantizeLinear in front of a MatMul or Gemm, which ONNX Runtime merges.

ONNX Runtime 1.31 turns DequantizeLinear → MatMul, and → Gemm without transposition, into one MatMulNBits that reads
int8 weights and quantizes the activation row to int8 inside. With one row that is memory-bound and wins: 0.72 of the
time of float for 512×512 weights, 0.25 for 1024×1024, but 1.03 for 256×256 and 1.16 for 128×128; its outputs are off
by about 1.3 times as much. From sixteen rows on it loses (1.05 to 1.5), and in front of other operators, or of a Gemm
with transB, DequantizeLinear is executed at every run. Measured by ``benchmarks/weight_forms.py`` on one thread.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.shapes import static_shape
from onnxshrink.graph.stored_weights import StoredWeight
from onnxshrink.graph.walk import is_op, opset_of
from onnxshrink.numerics.affine import AffineWeight
from onnxshrink.storage.affine_int8 import fused_decoder
from onnxshrink.storage.decoders import DecoderBuilder

_LEAST_ELEMENTS = 1 << 18
"""Smaller weights stay in the processor's cache, where float is as fast or faster."""


def can_fuse(model: ir.Model, weight: StoredWeight) -> bool:
    """Whether ONNX Runtime merges a DequantizeLinear of ``weight`` with every operator that reads it."""
    graph = weight.value.graph
    assert graph is not None
    if weight.tensor.dtype != ir.DataType.FLOAT or len(weight.shape) != 2 or opset_of(model, graph) < 13:
        return False
    nodes = [use.node for use in weight.uses]
    transposed = [node.attributes.get_int("transB", 0) for node in nodes]
    return (
        all(use.index == 1 and use.node.inputs[1] is weight.value for use in weight.uses)
        and all(is_op(node, "MatMul") or (is_op(node, "Gemm") and _is_plain_gemm(node)) for node in nodes)
        and len(set(transposed)) == 1
    )


def fused_is_faster(weight: StoredWeight) -> bool:
    """Whether every reader certainly has an activation of one row, and the weight is large."""
    return weight.tensor.size >= _LEAST_ELEMENTS and all(_rows(use.node) == 1 for use in weight.uses)


def fuse(build: DecoderBuilder, weight: StoredWeight, encoded: AffineWeight) -> None:
    """Put the fused form in the weight's place; a Gemm with transB gets its weight transposed for good."""
    nodes = [use.node for use in weight.uses]
    if nodes[0].attributes.get_int("transB", 0):
        zero_point = encoded.zero_point
        encoded = AffineWeight(
            np.ascontiguousarray(encoded.quantized.T), encoded.scale.T, None if zero_point is None else zero_point.T
        )
        for node in nodes:
            node.attributes.pop("transB")
    decoded = fused_decoder(build, encoded)
    build.replace(decoded)
    decoded.shape = ir.Shape(encoded.quantized.shape)


def _is_plain_gemm(node: ir.Node) -> bool:
    scaled = node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0
    return not scaled and not node.attributes.get_int("transA", 0)


def _rows(node: ir.Node) -> int | None:
    shape = static_shape(node.inputs[0])
    return None if shape is None else math.prod(shape[:-1])
