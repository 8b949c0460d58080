"""Which weights are tables of a decision rather than numbers of a sum: rounding those changes answers, not accuracy.

Converters write decision trees as tensors: thresholds in a Gather that feed a comparison, 0/1 path matrices whose
product is compared with a count, leaf values selected by a truth value. Three rules find them:

1. A weight is exact when the result of its node reaches a comparison, a rounding operator or a cast to integers
   through operators that only add, scale, move or select numbers. Any other operator in between (an activation, a
   normalisation, another weight) ends the walk. Less and Greater against a single constant do not count: that is a
   score threshold, or an activation spelled out. Equal always counts.
2. A weight is exact when its node multiplies it by a truth value cast to a float.
3. A Gather table is an embedding, and may be rounded, when it is a matrix gathered by rows of at least 16 numbers and
   rule 1 does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.walk import is_op, label
from onnxshrink.graph.weights import WeightUse

_ORDER_OPS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_ROUNDING_OPS = ("Equal", "Floor", "Ceil", "Round", "Sign", "Mod", "Unique")
_SHAPE_OPS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Expand", "Tile")
_LINEAR_OPS = (
    *_SHAPE_OPS,
    *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sum", "Concat", "Slice", "Split", "Pad", "Where"),
    *("Gather", "GatherElements", "GatherND", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "Cast"),
)
_EMBEDDING_WIDTH = 16


def exactness(use: WeightUse) -> str | None:
    """Why the weight of ``use`` must keep its exact values, or None when it may be rounded."""
    if use.node.op_type == "Gather" and not _is_embedding(use):
        return "a lookup table, not an embedding (a matrix gathered by rows of 16 numbers or more)"
    reader = _exact_reader(use.node.outputs)
    if reader is not None:
        return f"{label(reader)} ({reader.op_type}) decides by the exact result"
    if is_op(use.node, "MatMul", "Gemm") and _is_truth_value(use.node.inputs[1 - use.index]):
        return "multiplied by truth values: a decision table"
    return None


def _is_embedding(use: WeightUse) -> bool:
    tensor = constant_tensor(use.value)
    assert tensor is not None
    shape = tensor.shape.numpy()
    return use.channel_axes == (0,) and len(shape) == 2 and shape[1] >= _EMBEDDING_WIDTH


def _exact_reader(outputs: Sequence[ir.Value]) -> ir.Node | None:
    """The first node that decides by the exact values of ``outputs`` or of what is linear in them."""
    pending, seen = list(outputs), set(outputs)
    while pending:
        for node, index in pending.pop().uses():
            if _decides(node, index):
                return node
            if is_op(node, *_LINEAR_OPS):
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                pending += fresh
    return None


def _decides(node: ir.Node, index: int) -> bool:
    if is_op(node, *_ROUNDING_OPS):
        return True
    if is_op(node, "Cast"):
        kind = ir.DataType(node.attributes.get_int("to", ir.DataType.FLOAT))
        return not kind.is_floating_point()
    if is_op(node, *_ORDER_OPS):
        other = constant_tensor(node.inputs[1 - index])
        return other is None or other.size > 1
    return False


def _is_truth_value(value: ir.Value | None) -> bool:
    """Whether ``value`` is a truth value cast to a number, shape operators aside."""
    producer = None if value is None else value.producer()
    while is_op(producer, *_SHAPE_OPS):
        assert producer is not None
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Cast"):
        return False
    source = producer.inputs[0]
    return source is not None and source.dtype == ir.DataType.BOOL
