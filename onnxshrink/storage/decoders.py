"""Putting a decoder in a constant's place: nodes at the top of the constant's graph, and its name on the result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, remove_node
from onnxshrink.graph.shapes import mark_inferred


class DecoderBuilder:
    """Builds the nodes that decode one stored constant, and puts them in its place."""

    def __init__(self, model: ir.Model, encoded: ir.Value, names: Names) -> None:
        graph = encoded.graph
        if graph is None:
            raise ValueError(f"{encoded.name!r} belongs to no graph")
        self._model, self._graph, self._encoded, self._names = model, graph, encoded, names
        self._top = next(iter(graph))
        self._nodes: list[ir.Node] = []

    def constant(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """Store ``array``. Names are short on purpose: a file holds each of them twice, and small models feel it."""
        return add_constant(self._model, self._graph, self._names.fresh(name), array, dtype)

    def node(self, op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int) -> ir.Value:
        """Add a node with one output of type ``dtype``."""
        node = ir.node(op_type, inputs, attributes or None)
        output = node.outputs[0]
        output.name, output.dtype = self._names.fresh("t"), dtype
        mark_inferred(output)
        self._nodes.append(node)
        return output

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` itself when it has the type already."""
        if value.dtype == dtype:
            return value
        return self.node("Cast", [value], dtype, to=int(dtype))

    def replace(self, decoded: ir.Value) -> None:
        """Let every reader of the encoded constant read ``decoded``, which takes over its name; drop the constant."""
        old = self._encoded
        self._graph.insert_before(self._top, self._nodes)
        for node in self._nodes:
            node.name = ""  # the graph has named it; a name that nobody chose is not worth its bytes
        old.replace_all_uses_with(decoded)
        name, producer = old.name, old.producer()
        if producer is None:
            assert name is not None
            self._graph.initializers.pop(name)
        else:
            remove_node(producer)
        old.name, decoded.name = None, name
        decoded.shape = old.shape
