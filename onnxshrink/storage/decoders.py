"""Putting a decoder in a constant's place: nodes at the top of the constant's graph, and its name on the result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, remove_node
from onnxshrink.graph.file_bytes import constant_file_bytes, node_file_bytes
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
        self._constants: list[ir.Value] = []

    def constant(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """Store ``array``. Names are short on purpose: a file holds each of them twice, and small models feel it."""
        value = add_constant(self._model, self._graph, self._names.fresh(name), array, dtype)
        self._constants.append(value)
        return value

    def node(
        self, op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int | ir.TensorProtocol
    ) -> ir.Value:
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

    def file_bytes(self, decoded: ir.Value) -> int:
        """What the constants and nodes built so far take in the file once ``decoded`` has the constant's name."""
        own_name, decoded.name = decoded.name, self._encoded.name
        size = sum(map(constant_file_bytes, self._constants)) + sum(map(node_file_bytes, self._nodes))
        decoded.name = own_name
        return size

    def discard(self) -> None:
        """Take back everything built so far; the encoded constant stays in place."""
        for node in reversed(self._nodes):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for value in (*self._constants, *(node.outputs[0] for node in self._nodes)):
            assert value.name is not None
            self._names.release(value.name)
        for constant in self._constants:
            self._remove_constant(constant)

    def replace(self, decoded: ir.Value) -> None:
        """Let every reader of the encoded constant read ``decoded``, which takes over its name; drop the constant."""
        old = self._encoded
        self._graph.insert_before(self._top, self._nodes)
        for node in self._nodes:
            node.name = ""  # the graph has named it; a name that nobody chose is not worth its bytes
        old.replace_all_uses_with(decoded)
        name = old.name
        self._remove_constant(old)
        old.name, decoded.name = None, name
        decoded.shape = old.shape

    def _remove_constant(self, constant: ir.Value) -> None:
        producer = constant.producer()
        if producer is None:
            assert constant.name is not None
            self._graph.initializers.pop(constant.name)
        else:
            remove_node(producer)
