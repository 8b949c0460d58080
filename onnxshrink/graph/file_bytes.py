"""How many bytes a node or a tensor takes in the file, computed without copying large tensors.

Follows the protobuf wire format, https://protobuf.dev/programming-guides/encoding/: a field of ``n`` bytes takes a
tag, its length as a varint of 7 bits per byte, and the ``n`` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

_DATA_TYPE_BYTES = 2
_ATTRIBUTE_TYPE_BYTES = 3  # its field number, 20, makes the tag one byte longer


def tensor_file_bytes(name: str, shape: Sequence[int], nbytes: int) -> int:
    """The bytes of an initializer with its values stored raw; ``nbytes``: the bytes of its values."""
    return _field(_tensor_message(name, shape, nbytes))


def node_file_bytes(node: ir.Node) -> int:
    """The bytes of a node, tensors in its attributes included."""
    values = [value.name or "" if value is not None else "" for value in (*node.inputs, *node.outputs)]
    texts = [text for text in (node.op_type, node.name, node.domain) if text]
    attributes = sum(_field(_attribute_message(attribute)) for attribute in node.attributes.values())
    return _field(sum(_field(len(text.encode())) for text in (*values, *texts)) + attributes)


def constant_file_bytes(value: ir.Value) -> int:
    """The bytes of a constant with its values stored raw: an initializer, or a Constant node."""
    producer = value.producer()
    if producer is not None:
        return node_file_bytes(producer)
    tensor = value.const_value
    return 0 if tensor is None else tensor_file_bytes(value.name or "", tensor.shape.numpy(), int(tensor.nbytes))


def graph_file_bytes(graph: ir.Graph) -> int:
    """The bytes of a graph's nodes, those of subgraphs included, and of its initializers."""
    return sum(map(node_file_bytes, graph)) + sum(map(constant_file_bytes, graph.initializers.values()))


def _attribute_message(attribute: ir.Attr) -> int:
    if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
        message = _graph_message(attribute.as_graph())
        return _field(len(attribute.name.encode())) + _ATTRIBUTE_TYPE_BYTES + _field(message)
    if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return int(ir.serde.serialize_attribute(attribute).ByteSize())
    tensor = attribute.as_tensor()
    shape = [int(dim) for dim in tensor.shape]  # type: ignore[arg-type]
    message = _tensor_message(tensor.name or "", shape, int(tensor.nbytes))
    return _field(len(attribute.name.encode())) + _ATTRIBUTE_TYPE_BYTES + _field(message)


def _graph_message(graph: ir.Graph) -> int:
    """A subgraph as it is stored when the shapes between its nodes are not recorded."""
    interface = sum(
        _field(int(ir.serde.serialize_value(value).ByteSize())) for value in (*graph.inputs, *graph.outputs)
    )
    return (_field(len(graph.name.encode())) if graph.name else 0) + interface + graph_file_bytes(graph)


def _tensor_message(name: str, shape: Sequence[int], nbytes: int) -> int:
    dims = sum(1 + _varint(dim) for dim in shape)
    return dims + _DATA_TYPE_BYTES + (_field(len(name.encode())) if name else 0) + _field(nbytes)


def _field(length: int) -> int:
    return 1 + _varint(length) + length


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))
