"""Edits that keep a model valid: names stay unique, graph outputs keep their names, scopes are respected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import all_graphs, is_function_body, subgraphs_of

IR_VERSION_OF_PLAIN_INITIALIZERS = 4
"""Before this IR version every initializer had to be listed among the graph inputs."""


class Names:
    """Hands out value and node names that no graph of the model uses. Build one per pass, after loading names."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in all_graphs(model):
            self._taken.update(name for name in graph.initializers)
            self._taken.update(value.name for value in graph.inputs if value.name)
            for node in graph:
                self._taken.update(output.name for output in node.outputs if output.name)
                if node.name:
                    self._taken.add(node.name)

    def fresh(self, base: str) -> str:
        """``base`` itself when it is free, else ``base_1``, ``base_2``, …; the name is taken from then on."""
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def release(self, name: str) -> None:
        """Give back a name that :meth:`fresh` handed out and that no value has any more."""
        self._taken.discard(name)


def add_constant(
    model: ir.Model, graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType | None = None
) -> ir.Value:
    """Add a constant to ``graph``: an initializer, or a Constant node first in a function body.

    ``name`` must be free (see :class:`Names`). ``dtype`` is needed only for types numpy does not tell apart.
    """
    # ascontiguousarray alone would turn a scalar into a vector of one element.
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name, dtype=dtype)
    if is_function_body(model, graph):
        node = ir.node("Constant", [], {"value": tensor}, num_outputs=1)
        node.outputs[0].name = name
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(array.shape), tensor.dtype
        first = next(iter(graph), None)
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)
        return node.outputs[0]
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    model.ir_version = max(model.ir_version, IR_VERSION_OF_PLAIN_INITIALIZERS)
    return value


def can_replace_value(old: ir.Value, new: ir.Value) -> bool:
    """Whether every use of ``old``, also as a graph output, can read ``new`` without an Identity in between.

    A graph output must be computed by a node of that very graph, once, under the output's own name.
    """
    graph = old.graph
    if graph is None or not old.is_graph_output():
        return True
    return (
        new.producer() is not None
        and new.graph is graph
        and not new.is_graph_output()
        and not new.is_graph_input()
        and sum(output is old for output in graph.outputs) == 1
    )


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads ``old`` read ``new``; a graph output keeps its name. See :func:`can_replace_value`."""
    if not can_replace_value(old, new):
        raise ValueError(f"cannot replace the graph output {old.name!r} by {new.name!r}")
    if old.is_graph_output():
        name, shape, kind = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        # A scalar's empty shape is false, but known.
        new.name, new.shape, new.type = name, new.shape if shape is None else shape, kind or new.type
        return
    old.replace_all_uses_with(new)


def with_outputs(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """A copy of the model whose only outputs are ``values``, which nodes of the main graph compute."""
    probe = model.clone()
    found = {output.name: output for node in probe.graph for output in node.outputs}
    probe.graph.outputs[:] = [found[value.name] for value in values]
    return probe


def remove_node(node: ir.Node) -> None:
    """Remove a node whose outputs nobody reads, releasing what it and its subgraphs read."""
    for graph in subgraphs_of(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def is_unused(value: ir.Value) -> bool:
    """Whether nothing reads ``value``: no node, and it is no graph output."""
    return not value.uses() and not value.is_graph_output()


def insert_before(node: ir.Node, new_nodes: Sequence[ir.Node]) -> None:
    """Insert ``new_nodes``, in order, in front of ``node`` in its graph."""
    assert node.graph is not None
    node.graph.insert_before(node, new_nodes)


def drop_initializer_if_unused(value: ir.Value) -> None:
    """Remove a fixed initializer that nothing reads any more."""
    if value.is_initializer() and not value.is_graph_input() and is_unused(value) and value.graph is not None:
        assert value.name is not None
        value.graph.initializers.pop(value.name)
