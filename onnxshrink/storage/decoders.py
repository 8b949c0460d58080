"""Putting a decoder in a constant's place: nodes at the top of the constant's graph, and its name on the result."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, remove_node
from onnxshrink.graph.file_bytes import constant_file_bytes, node_file_bytes
from onnxshrink.graph.shapes import mark_inferred


class SharedParts:
    """What the decoders of a graph have in common, such as tables; built by the first that needs it."""

    def __init__(self) -> None:
        self._parts: dict[tuple[ir.Graph, Hashable], ir.Value] = {}
        self._tops: dict[ir.Graph, ir.Node] = {}
        self._constants: set[ir.Value] = set()

    def top(self, graph: ir.Graph) -> ir.Node:
        """The node that decoders are put before: the first that is neither a constant nor part of a decoder."""
        if graph not in self._tops:
            first = next((node for node in graph if node.op_type != "Constant"), None)
            self._tops[graph] = first or next(iter(graph))
        return self._tops[graph]

    def find(self, graph: ir.Graph, key: Hashable) -> ir.Value | None:
        return self._parts.get((graph, key))

    def holds(self, constant: ir.Value) -> bool:
        """Whether shared parts are computed from ``constant``."""
        return constant in self._constants

    def keep(self, graph: ir.Graph, parts: dict[Hashable, ir.Value], constants: list[ir.Value]) -> None:
        self._constants.update(constants)
        self._parts |= {(graph, key): value for key, value in parts.items()}


class DecoderBuilder:
    """Builds the nodes that decode one stored constant, and puts them in its place."""

    def __init__(self, model: ir.Model, encoded: ir.Value, names: Names, parts: SharedParts | None = None) -> None:
        graph = encoded.graph
        if graph is None:
            raise ValueError(f"{encoded.name!r} belongs to no graph")
        self._model, self._graph, self._encoded, self._names = model, graph, encoded, names
        self._parts = parts or SharedParts()
        self._top = self._parts.top(graph) if parts else next(iter(graph))
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self._new_parts: dict[Hashable, ir.Value] = {}
        self._shared_constants: list[ir.Value] = []
        self._shared_nodes: list[ir.Node] = []

    def shared(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """What ``make`` builds, or what it built for an earlier decoder of this graph under the same key."""
        value = self._parts.find(self._graph, key) or self._new_parts.get(key)
        if value is None:
            constants, nodes = len(self._constants), len(self._nodes)
            value = self._new_parts[key] = make()
            # Parts within parts are counted once.
            self._shared_constants = [*dict.fromkeys((*self._shared_constants, *self._constants[constants:]))]
            self._shared_nodes = [*dict.fromkeys((*self._shared_nodes, *self._nodes[nodes:]))]
        return value

    def constant(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """Store ``array``. Names are short on purpose: a file holds each of them twice, and small models feel it."""
        value = add_constant(self._model, self._graph, self._names.fresh(name), array, dtype)
        self._constants.append(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of int64, such as a shape, stored once for all decoders of the graph."""
        array = np.array(numbers, np.int64)
        return self.shared(("ints", numbers), lambda: self.constant("d", array))

    def node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        dtype: ir.DataType,
        **attributes: int | list[int] | ir.TensorProtocol,
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

    def shared_bytes(self) -> int:
        """What of :meth:`file_bytes` is for parts that later decoders of the graph may use as well."""
        constants = sum(map(constant_file_bytes, self._shared_constants))
        return constants + sum(map(node_file_bytes, self._shared_nodes))

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
        self._parts.keep(self._graph, self._new_parts, self._shared_constants)
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
