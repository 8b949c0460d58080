"""A weight stored as int8 integers, a scale and, where asymmetric, a zero point.

Folded form, for every operator and opset; ONNX Runtime computes it once, when it loads the model:

    w = (Cast(q) − Cast(zero_point)) · Cast(scale)        and a Reshape where scales belong to groups of inputs

Fused form, opset 13 and up: ``w = DequantizeLinear(q, scale, zero_point, axis)``, which ONNX Runtime does not fold but
merges with the MatMul behind it into one MatMulNBits that reads the integers.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.affine import AffineWeight
from onnxshrink.storage.decoders import DecoderBuilder

_TENSOR_BYTES = 25
_CAST_BYTES = 35
_MUL_BYTES = 30
_RESHAPE_BYTES = 35
"""What a tensor's header and the three kinds of nodes take in a file, with short names."""


def folded_decoder(build: DecoderBuilder, weight: AffineWeight, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    """Nodes that decode ``weight`` in float32 and cast the result to ``dtype``, reshaped to ``shape`` where it differs.

    The numpy oracle is :func:`onnxshrink.numerics.affine.dequantize_weight`.
    """
    single = ir.DataType.FLOAT
    decoded = build.cast(build.constant("q", weight.quantized), single)
    if weight.zero_point is not None:
        zero_point = build.cast(build.constant("z", weight.zero_point), single)
        decoded = build.node("Sub", [decoded, zero_point], single)
    scale = build.cast(build.constant("s", _leading_ones_dropped(weight.scale)), single)
    decoded = build.node("Mul", [decoded, scale], single)
    if weight.quantized.shape != shape:
        decoded = build.node("Reshape", [decoded, build.constant("d", np.array(shape, np.int64))], single)
    return build.cast(decoded, dtype)


def fused_decoder(build: DecoderBuilder, weight: AffineWeight) -> ir.Value:
    """A DequantizeLinear for a float32 ``weight`` with at most one channel axis."""
    axes = [axis for axis, size in enumerate(weight.scale.shape) if size > 1]
    shape = [weight.scale.size] if axes else []
    parameters = [("s", weight.scale.astype(np.float32)), ("z", weight.zero_point)]
    inputs = [build.constant("q", weight.quantized)]
    inputs += [build.constant(name, array.reshape(shape)) for name, array in parameters if array is not None]
    return build.node("DequantizeLinear", inputs, ir.DataType.FLOAT, axis=axes[0] if axes else 0)


def channel_count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many scales a weight of ``shape`` has with channels along ``axes``."""
    return math.prod(shape[axis] for axis in axes)


def half_scale_pays(channels: int) -> bool:
    """Whether float16 scales save more than the Cast that they need."""
    return 2 * channels > _CAST_BYTES


def decoder_bytes(scales: int, *, symmetric: bool, rank: int = 0) -> int:
    """About how many bytes the folded decoder takes in a file beside the integers, measured with short names.

    ``rank`` of the weight when the scales belong to groups of inputs, which takes a Reshape; else 0.
    """
    numbers = min(4 * scales, 2 * scales + _CAST_BYTES)
    zero_points = 0 if symmetric else scales + _TENSOR_BYTES + _CAST_BYTES + _MUL_BYTES
    reshape = _RESHAPE_BYTES + _TENSOR_BYTES + 8 * rank if rank else 0
    return 2 * _TENSOR_BYTES + _CAST_BYTES + _MUL_BYTES + numbers + zero_points + reshape


def _leading_ones_dropped(scale: np.ndarray) -> np.ndarray:
    """The scale in fewer dimensions; broadcasting adds leading ones by itself."""
    first = next((axis for axis, size in enumerate(scale.shape) if size != 1), scale.ndim)
    return scale.reshape(scale.shape[first:])
