"""Which nodes ONNX Runtime computes from 8-bit integers, and what each kernel asks of the values around it.

As its QDQ transformer selects them on the CPU:

- layers (Conv, Gemm, MatMul): quantized inputs; a Conv also needs a quantized output, the others may give floats;
- operators with kernels of their own (Add, Mul, Concat, pools, Sigmoid, LeakyRelu): quantized inputs and output;
- data movement (Reshape, Transpose, MaxPool, …): the ONNX operators themselves take integers, of any one scale.
"""

from __future__ import annotations

import enum

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, read_array, scalar_constant
from onnxshrink.graph.edits import is_unused
from onnxshrink.graph.shapes import rank
from onnxshrink.graph.walk import is_op


class Kernel(enum.Enum):
    """What kind of integer kernel a node has."""

    LAYER = "layer"
    OPERATOR = "operator"
    MOVE = "move"


_OPERATORS = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")
_MOVES = (
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "MaxPool",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
_INTERPOLATIONS = ("nearest", "linear")


def kernel_of(node: ir.Node) -> Kernel | None:
    """The kind of integer kernel that a node of the main graph can have, or None."""
    if node.domain != "" or not node.outputs or any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        return Kernel.LAYER
    if node.op_type in _OPERATORS:
        return Kernel.OPERATOR
    return Kernel.MOVE if node.op_type in _MOVES else None


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node with an integer kernel that must be quantized activations."""
    if is_op(node, "Add", "Mul", "Concat", "MatMul", "Gemm"):
        values = node.inputs[:2] if not is_op(node, "Concat") else node.inputs
        return [value for value in values if value is not None and constant_tensor(value) is None]
    first = node.inputs[0]
    return [] if first is None else [first]


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or Clip lets pass; None when that is not constant, or the node is neither."""
    if is_op(node, "Relu"):
        return 0.0, float("inf")
    if not is_op(node, "Clip"):
        return None
    limits = [node.attributes.get_float("min", float("-inf")), node.attributes.get_float("max", float("inf"))]
    for index, value in enumerate(node.inputs[1:3]):
        limit = scalar_constant(value)
        if value is not None and limit is None:
            return None
        if limit is not None:
            limits[index] = float(limit)
    return limits[0], limits[1]


def is_absorbable(node: ir.Node) -> bool:
    """Whether the saturation of a QuantizeLinear whose range contains zero can do what a Relu or Clip does."""
    bounds = clip_bounds(node)
    return bounds is not None and bounds[0] <= 0 <= bounds[1]


def needs_quantized_output(node: ir.Node) -> bool:
    """Whether the kernel only exists with a quantized output."""
    return not is_op(node, "Gemm", "MatMul")


def obstacle(node: ir.Node, kind: Kernel) -> str | None:
    """Why a node cannot get its integer kernel, or None."""
    if any(value is not None and is_op(value.producer(), "DequantizeLinear") for value in node.inputs):
        return "it is quantized already"
    for value in (*data_inputs(node), node.outputs[0]):
        if value.dtype not in (ir.DataType.FLOAT, None):
            return f"it computes in {value.dtype.name.lower() if value.dtype else 'an unknown type'}, not float32"
    if any(value.dtype is None for value in data_inputs(node)):
        return "the type of its input is unknown"
    checks = {Kernel.LAYER: _layer_obstacle, Kernel.OPERATOR: _operator_obstacle, Kernel.MOVE: _move_obstacle}
    return checks[kind](node)


def _layer_obstacle(node: ir.Node) -> str | None:
    if not all(_is_ordinary(value) for value in node.inputs[1:]):
        return "its weights hold NaN, infinity, or numbers near the end of the float32 range"
    constant = [constant_tensor(value) is not None for value in node.inputs]
    if is_op(node, "Conv"):
        if not constant[1]:
            return "its weights are computed while the model runs"
        return None if all(constant[2:]) else "its bias is computed while the model runs"
    if is_op(node, "MatMul"):
        if constant[0]:
            return "its left operand is constant"
        if constant[1] and rank(node.inputs[1]) != 2:
            return "its right operand is no matrix"
        return None
    return _gemm_obstacle(node, constant)


def _is_ordinary(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    if tensor is None:
        return True
    return read_array(tensor, lambda weight: bool((np.abs(weight) <= np.finfo(np.float32).max / 4).all()))


def _gemm_obstacle(node: ir.Node, constant: list[bool]) -> str | None:
    if constant[0] or not constant[1]:
        return "its right operand is no constant weight"
    if not all(constant[2:]):
        return "its bias is computed while the model runs"
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return "its alpha or beta is not 1"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and rank(bias) != 1:
        return "its bias is no vector"
    return None


def _operator_obstacle(node: ir.Node) -> str | None:
    if is_op(node, "Add", "Mul", "Concat") and any(constant_tensor(value) is not None for value in node.inputs):
        return "one of its operands is constant"
    return None


def _move_obstacle(node: ir.Node) -> str | None:
    if constant_tensor(node.inputs[0]) is not None:
        return "its data is constant"
    if is_op(node, "MaxPool") and len(node.outputs) > 1 and not is_unused(node.outputs[1]):
        return "its indices are used"
    if is_op(node, "Resize") and node.attributes.get_string("mode", "nearest") not in _INTERPOLATIONS:
        return "cubic interpolation overshoots the range"
    if is_op(node, "Pad"):
        return _pad_obstacle(node)
    return None


def _pad_obstacle(node: ir.Node) -> str | None:
    padding = node.inputs[2] if len(node.inputs) > 2 else None
    if node.attributes.get_string("mode", "constant") != "constant" or padding is None:
        return None
    return None if scalar_constant(padding) == 0 else "it pads with other values than zero"
