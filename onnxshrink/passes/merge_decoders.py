"""Decoding many small constants at once: what a decoder's nodes and headers take is then paid for once.

    a = Mul(Cast(qa), Cast(sa)), b = Mul(Cast(qb), Cast(sb))  →  a, b = Split(Mul(Cast([qa; qb]), Cast([sa; sb])))

Decoders are merged along the first axis when they are made of the same element-wise operators, and when every constant
they read is as long as the result along that axis: so each element meets its own scale. Merging costs no bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import is_fixed_initializer, read_array
from onnxshrink.graph.edits import Names, add_constant, remove_node
from onnxshrink.graph.file_bytes import constant_file_bytes, node_file_bytes
from onnxshrink.graph.shapes import mark_inferred
from onnxshrink.graph.walk import is_op, opset_of
from onnxshrink.passes.base import Change
from onnxshrink.passes.kept_constants import obstacle

_LARGEST_MERGED_BYTES = 2**16
"""Beyond, a decoder takes less than 0.2 % of what it decodes, and loading would hold the joined copy as well."""

_OPSET_OF_SPLIT_BY_INPUT = 13


@dataclass(frozen=True)
class _Decoder:
    """Element-wise nodes over initializers that nothing else reads, in execution order, the result's node last."""

    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]
    parts: tuple[_Decoder, ...]
    form: Hashable
    shape: tuple[int, ...]

    @property
    def result(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    def file_bytes(self) -> int:
        return sum(map(node_file_bytes, self.nodes)) + sum(map(constant_file_bytes, self.constants))


def merge_decoders(model: ir.Model, names: Names) -> Iterator[Change]:
    """Merge decoders of equal form where that makes the file smaller, and of the others the parts that are equal.

    Function bodies are left alone: they have no initializers.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        decoders = _decoders(graph)
        while decoders:
            groups: defaultdict[Hashable, list[_Decoder]] = defaultdict(list)
            for decoder in decoders:
                groups[decoder.form].append(decoder)
            decoders = []
            for group in groups.values():
                name = group[0].result.name or "a constant"
                if len(group) > 1 and (saved := _merge(model, graph, group, names)):
                    yield Change(name, f"decoded in one with {len(group) - 1} others of its form: −{saved:,} bytes")
                else:
                    decoders += [part for decoder in group for part in decoder.parts if part.nodes]


def _decoders(graph: ir.Graph) -> list[_Decoder]:
    found: dict[ir.Value, _Decoder] = {}
    for node in graph:
        decoder = _decoder(node, found)
        if decoder is not None:
            for value in node.inputs:
                if value is not None:
                    found.pop(value, None)
            found[decoder.result] = decoder
    return [decoder for decoder in found.values() if _may_move(decoder.result)]


def _may_move(result: ir.Value) -> bool:
    return bool(result.uses()) and not result.is_graph_output() and obstacle(result) is None


def _decoder(node: ir.Node, found: dict[ir.Value, _Decoder]) -> _Decoder | None:
    """The decoder that ends with ``node``, from the decoders of its inputs, or None."""
    if not is_op(node, "Cast", "Mul", "Sub"):
        return None
    parts: list[_Decoder] = []
    for value in node.inputs:
        part = None if value is None or len(value.uses()) != 1 else found.get(value) or _leaf(node, value)
        if part is None:
            return None
        parts.append(part)
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    if any(len(part.shape) != len(shape) or part.shape[0] != shape[0] for part in parts):
        return None
    nodes = (*(inner for part in parts for inner in part.nodes), node)
    constants = tuple(constant for part in parts for constant in part.constants)
    if sum(_nbytes(constant) for constant in constants) > _LARGEST_MERGED_BYTES:
        return None
    attributes = tuple(sorted((name, attribute.value) for name, attribute in node.attributes.items()))
    form = (node.op_type, attributes, *(part.form for part in parts))
    return _Decoder(nodes, constants, tuple(parts), form, shape)


def _leaf(node: ir.Node, value: ir.Value) -> _Decoder | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or not tensor.shape:
        return None
    if not is_fixed_initializer(value) or value.is_graph_output() or value.graph is not node.graph:
        return None
    shape = tuple(int(size) for size in tensor.shape.numpy())
    return _Decoder((), (value,), (), (tensor.dtype, shape[1:]), shape)


def _merge(model: ir.Model, graph: ir.Graph, group: Sequence[_Decoder], names: Names) -> int:
    """Put one decoder and a Split in the place of ``group``. Returns the bytes saved, 0 when nothing was changed."""
    top = next(iter(graph))
    constants = [
        _joined(model, graph, values, names) for values in zip(*(item.constants for item in group), strict=True)
    ]
    nodes = _copied(group[0], constants, sum(item.shape[0] for item in group), names)
    sizes = [item.shape[0] for item in group]
    inputs, attributes = [nodes[-1].outputs[0]], {"split": sizes}
    if opset_of(model, graph) >= _OPSET_OF_SPLIT_BY_INPUT:
        constants.append(add_constant(model, graph, names.fresh("d"), np.array(sizes, np.int64)))
        inputs, attributes = [*inputs, constants[-1]], {}
    split = ir.node("Split", inputs, attributes, num_outputs=len(group))
    nodes.append(split)
    for part, item in zip(split.outputs, group, strict=True):
        part.name = item.result.name
    built = sum(map(node_file_bytes, nodes)) + sum(map(constant_file_bytes, constants))
    saved = sum(item.file_bytes() for item in group) - built
    if saved <= 0:
        _take_back(graph, nodes, constants, names)
        return 0
    graph.insert_before(top, nodes)
    for part, item in zip(split.outputs, group, strict=True):
        _replace(item, part)
    for node in nodes:
        node.name = ""  # the graph has named it; a name that nobody chose is not worth its bytes
    return saved


def _joined(model: ir.Model, graph: ir.Graph, values: Sequence[ir.Value], names: Names) -> ir.Value:
    tensors = [value.const_value for value in values if value.const_value is not None]
    array = np.concatenate([read_array(tensor, np.copy) for tensor in tensors])
    return add_constant(model, graph, names.fresh("m"), array, tensors[0].dtype)


def _copied(decoder: _Decoder, constants: Sequence[ir.Value], length: int, names: Names) -> list[ir.Node]:
    """The nodes of ``decoder`` over other constants, ``length`` along their first axis."""
    new = dict(zip(decoder.constants, constants, strict=True))
    nodes: list[ir.Node] = []
    for node in decoder.nodes:
        inputs = [new[value] for value in node.inputs if value is not None]
        copy, old = ir.node(node.op_type, inputs, node.attributes), node.outputs[0]
        output = copy.outputs[0]
        output.name, output.type = names.fresh("t"), old.type
        output.shape = None if old.shape is None else ir.Shape([length, *old.shape[1:]])
        mark_inferred(output)
        new[old] = output
        nodes.append(copy)
    return nodes


def _replace(decoder: _Decoder, part: ir.Value) -> None:
    old = decoder.result
    name, part.shape, part.type = old.name, old.shape, old.type
    mark_inferred(part)
    old.replace_all_uses_with(part)
    old.name = None
    part.name = name
    for node in reversed(decoder.nodes):
        remove_node(node)
    for constant in decoder.constants:
        assert constant.graph is not None and constant.name is not None
        constant.graph.initializers.pop(constant.name)


def _take_back(graph: ir.Graph, nodes: Sequence[ir.Node], constants: Sequence[ir.Value], names: Names) -> None:
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    for value in (*constants, *(node.outputs[0] for node in nodes[:-1])):
        assert value.name is not None
        names.release(value.name)
    for constant in constants:
        assert constant.name is not None
        graph.initializers.pop(constant.name)


def _nbytes(constant: ir.Value) -> int:
    assert constant.const_value is not None
    return int(constant.const_value.nbytes)
