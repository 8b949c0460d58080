"""Which nodes that decode weights are still there once ONNX Runtime has optimised a model: there should be none."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxshrink.measure.session import optimized_model


def decode_nodes_left(model: ir.Model) -> list[str]:
    """Nodes of the optimised graph that compute from constants alone, as ``Operator→output``.

    They run at every inference. Constants that a caller may override are none; subgraphs are looked through.
    DequantizeLinear is left out: the runtime merges it with the node behind it.
    """
    graph = optimized_model(model).graph
    return [f"{node.op_type}→{node.output[0]}" for node in _constant_nodes(graph, set())]


def _constant_nodes(graph: onnx.GraphProto, outer: set[str]) -> Iterator[onnx.NodeProto]:
    overridable = {value.name for value in graph.input}
    constant = outer | {tensor.name for tensor in graph.initializer if tensor.name not in overridable}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _constant_nodes(inner, constant)
        if node.op_type == "DequantizeLinear" or not node.input:
            continue
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
            yield node
