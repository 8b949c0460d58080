"""Let the readers of a computed value read a constant instead. A part of ``fold-constants``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import (
    Names,
    add_constant,
    drop_initializer_if_unused,
    is_unused,
    remove_node,
    replace_value,
)


def replace_by_constant(model: ir.Model, value: ir.Value, array: np.ndarray, names: Names) -> None:
    """Replace ``value`` by a constant of its own name and remove the nodes and constants that nothing reads then.

    A graph output must be computed by a node: it becomes the output of a Constant node.
    """
    producer = value.producer()
    assert producer is not None
    graph = producer.graph
    assert graph is not None
    if value.is_graph_output():
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape))
        node = ir.node("Constant", [], {"value": tensor}, num_outputs=1)
        node.outputs[0].name = names.fresh(f"{value.name}_constant")
        graph.insert_before(producer, node)
        replace_value(value, node.outputs[0])
        value.name = names.fresh(f"{node.outputs[0].name}_computed")
    else:
        name = str(value.name)
        value.name = names.fresh(f"{name}_computed")
        value.replace_all_uses_with(add_constant(model, graph, name, array))
    remove_unread(producer)


def replace_by_uniform(
    model: ir.Model, value: ir.Value, element: np.ndarray, shape: tuple[int, ...], names: Names
) -> None:
    """Replace ``value``, no graph output, by a ConstantOfShape that repeats ``element``, shape (1,)."""
    producer = value.producer()
    assert producer is not None
    graph = producer.graph
    assert graph is not None
    name = str(value.name)
    value.name = names.fresh(f"{name}_computed")
    shape_value = add_constant(model, graph, names.fresh(f"{name}_shape"), np.array(shape, np.int64))
    tensor = ir.Tensor(np.array(element))
    node = ir.node("ConstantOfShape", [shape_value], {"value": tensor}, num_outputs=1)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = name, ir.Shape(shape), tensor.dtype
    graph.insert_before(producer, node)
    value.replace_all_uses_with(output)
    remove_unread(producer)


def remove_unread(node: ir.Node) -> None:
    """Remove ``node`` if nothing reads its outputs, then likewise everything that it alone had read."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current.graph is None or not all(is_unused(output) for output in current.outputs):
            continue
        inputs = [value for value in current.inputs if value is not None]
        remove_node(current)
        for value in inputs:
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            else:
                drop_initializer_if_unused(value)
