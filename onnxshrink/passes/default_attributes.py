"""Attributes that say what an operator does anyway.

An attribute may go when its value equals the default of the operator's schema at the opset in force, or the default
that the specification states in words: strides and dilations of ones, pads of zeros, and a Conv's kernel shape, which
is that of its weight (https://onnx.ai/onnx/operators/onnx__Conv.html).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxshrink.graph.shapes import static_shape
from onnxshrink.graph.walk import all_graphs, is_op, opset_of

_SCHEMA_DOMAINS = ("", "ai.onnx.ml")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WINDOWED = (*_CONVOLUTIONS, "AveragePool", "LpPool", "MaxPool")
_DEFAULT_PER_AXIS = {"strides": 1, "dilations": 1, "pads": 0}


def drop_default_attributes(model: ir.Model) -> int:
    """Remove attributes equal to their defaults, in subgraphs and functions too. Returns how many."""
    removed = 0
    for graph in all_graphs(model):
        versions = {domain: opset_of(model, graph, domain) for domain in _SCHEMA_DOMAINS}
        for node in graph:
            if node.op_identifier() not in model.functions and node.domain in versions:
                names = list(_redundant(node, versions[node.domain]))
                removed += len(names)
                for name in names:
                    node.attributes.pop(name)
    return removed


def _redundant(node: ir.Node, opset: int) -> Iterator[str]:
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return
    formal = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
    for name, attribute in node.attributes.items():
        if name not in formal or formal[name].required or attribute.is_ref():
            continue
        if _is_schema_default(attribute, formal[name].default_value) or _is_stated_default(node, attribute):
            yield name


def _is_schema_default(attribute: ir.Attr, default: onnx.AttributeProto) -> bool:
    """Whether the bytes are the same: so -0.0 is not 0.0, and no attribute type needs a rule of its own."""
    if attribute.type.value != default.type or attribute.type == ir.AttributeType.GRAPH:
        return False
    written = ir.serde.serialize_attribute(attribute)
    written.ClearField("doc_string")
    return bool(written.SerializeToString(deterministic=True) == default.SerializeToString(deterministic=True))


def _is_stated_default(node: ir.Node, attribute: ir.Attr) -> bool:
    if attribute.type != ir.AttributeType.INTS:
        return False
    numbers = tuple(attribute.as_ints())
    if attribute.name == "kernel_shape" and is_op(node, *_CONVOLUTIONS):
        weight = static_shape(node.inputs[1])
        return weight is not None and weight[2:] == numbers
    if attribute.name in _DEFAULT_PER_AXIS and is_op(node, *_WINDOWED):
        return set(numbers) == {_DEFAULT_PER_AXIS[attribute.name]}
    return False
