"""Products with a constant matrix, y = x · W: which MatMul and Gemm nodes compute one, and what they read.

One constant may take part in several products, stored as W or as its transpose (a Gemm with transB, or a MatMul behind
a Transpose). All of them must agree, so that a new form of the constant is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import drop_initializer_if_unused, is_unused, remove_node
from onnxshrink.graph.stored_weights import StoredWeight
from onnxshrink.graph.walk import all_nodes, is_op, label, opset_of
from onnxshrink.graph.weight_inputs import weight_input
from onnxshrink.passes.base import Context, Skip

PRODUCTS = ("MatMul", "Gemm")


def product_obstacle(weight: StoredWeight) -> str | None:
    """Why the weight's readers are not all products x · W with one matrix W of float32, or None."""
    if weight.obstacle is not None:
        return weight.obstacle
    if weight.tensor.dtype != ir.DataType.FLOAT:
        return f"it computes in {weight.tensor.dtype.name.lower()}, not float32"
    if len(weight.shape) != 2:
        return f"it has {len(weight.shape)} dimensions, and only matrices are rewritten"
    for use in weight.uses:
        if not is_op(use.node, *PRODUCTS):
            return f"{label(use.node)} ({use.node.op_type}) reads it as well"
        if use.index != 1:
            return f"it is the left operand of {label(use.node)}"
        if any(attribute.is_ref() for attribute in use.node.attributes.values()):
            return f"attributes of {label(use.node)} are parameters of a function"
        if use.node.attributes.get_int("transA", 0):
            return f"{label(use.node)} transposes its input"
    return None if len(weight.channel_axes) == 1 else "its readers disagree about which axis is the output"


def opset_obstacle(model: ir.Model, weight: StoredWeight, opset: int) -> str | None:
    """Why a weight of a function cannot be read by operators of ``opset``, or None: functions are not converted."""
    assert weight.value.graph is not None
    own = opset_of(model, weight.value.graph)
    if own < opset and own != model.opset_imports.get("", 1):
        return f"opset {opset} is needed, and its function imports {own}"
    return None


def overridable_weights(model: ir.Model, op_types: tuple[str, ...]) -> list[Skip]:
    """A skip for every weight that is only the default of a graph input."""
    return [
        Skip(label(node), f"its weight {value.name} is a graph input, which a caller may override")
        for node in all_nodes(model)
        if is_op(node, *op_types)
        for value in node.inputs[1:2]
        if value is not None and value.is_initializer() and constant_tensor(value) is None
    ]


def is_stored_transposed(weight: StoredWeight) -> bool:
    """Whether the constant of a product is stored as (channels, reduction)."""
    return weight.channel_axes == (0,)


def product_matrix(weight: StoredWeight) -> np.ndarray:
    """W (reduction, channels)."""
    array = weight.array()
    return array.T if is_stored_transposed(weight) else array


def activation_sources(weights: Sequence[StoredWeight]) -> dict[ir.Value, tuple[ir.Value, int]]:
    """What each weight is multiplied with, by constant: the activation of its first reader and the summed axis."""
    found = ((weight.value, weight_input(weight.uses[0])) for weight in weights)
    return {value: (source.value, source.axis) for value, source in found if source is not None}


def weight_moments(
    model: ir.Model, sources: Mapping[ir.Value, tuple[ir.Value, int]], context: Context
) -> dict[ir.Value, np.ndarray]:
    """Second moments (reduction, reduction) of what weights are multiplied with, by constant, where they are known."""
    found = context.second_moments(model, dict(sources.values()))
    return {value: found[source] for value, (source, _) in sources.items() if source in found}


def drop_unused_transposes(value: ir.Value) -> None:
    """Remove Transposes of a constant that nothing reads."""
    for node, _ in list(value.uses()):
        if is_op(node, "Transpose") and is_unused(node.outputs[0]):
            remove_node(node)


def drop_constant_if_unused(value: ir.Value) -> None:
    """Remove a constant that nothing reads any more, and Transposes of it that nothing reads."""
    drop_unused_transposes(value)
    producer = value.producer()
    if producer is None:
        drop_initializer_if_unused(value)
    elif is_unused(value):
        remove_node(producer)
