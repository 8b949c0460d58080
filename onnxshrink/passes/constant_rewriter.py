"""Reading and replacing the constants that nodes read, with an account of what that does to the file's size.

Beside initializers and Constant nodes, a ConstantOfShape node of a constant shape counts as a constant here: it is
read as a zero-stride view, and a new value that is still one repeated number goes back into such a node, so that
weights which take a few bytes in the file do not become megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_array, constant_tensor, int_list, uniform_element
from onnxshrink.graph.edits import (
    Names,
    add_constant,
    drop_initializer_if_unused,
    insert_before,
    is_unused,
    remove_node,
)
from onnxshrink.graph.file_bytes import node_file_bytes, tensor_file_bytes
from onnxshrink.graph.walk import is_op
from onnxshrink.numerics.folding import is_uniform

_FILLED_NODE_BYTES = 84
"""What a ConstantOfShape node and its shape take in the file beside the four mentions of their names."""


@dataclass(frozen=True)
class NewConstant:
    """A constant that input ``index`` of ``node`` shall read from now on."""

    node: ir.Node
    index: int
    array: np.ndarray

    @property
    def old(self) -> ir.Value | None:
        return self.node.inputs[self.index] if self.index < len(self.node.inputs) else None

    @property
    def name(self) -> str:
        """A name for it that may be taken: the old constant's, or one after the weight for a bias that was absent."""
        if self.old is not None:
            return self.old.name or "constant"
        weight = self.node.inputs[1]
        return f"{weight.name}_bias" if weight is not None else "constant"


def known_array(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a constant (do not write to it), or None when ``value`` is absent or not constant."""
    array = constant_array(value)
    if array is not None or value is None:
        return array
    element, producer = uniform_element(value), value.producer()
    shape = int_list(producer.inputs[0]) if producer is not None and element is not None else None
    if element is None or shape is None or any(dim < 1 for dim in shape):
        return None
    return np.broadcast_to(element, tuple(shape))


class ConstantRewriter:
    """Replaces constants in one model. Build one for each application of a pass."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = Names(model)
        self._saved_bytes = 0

    def growth_bytes(self, new: Iterable[NewConstant], removed: ir.Node) -> int:
        """By how much the file grows, about, beyond what was saved so far; not positive: there is room for it."""
        added = sum(_growth_of(constant) for constant in new)
        return added - _bytes_with_constants(removed) - self._saved_bytes

    def write(self, new: Iterable[NewConstant], removed: ir.Node) -> None:
        """Store the new constants and remove ``removed``, whose outputs nobody reads any more, with its constants."""
        constants = tuple(new)
        self._saved_bytes = -self.growth_bytes(constants, removed)
        for constant in constants:
            self._write_one(constant)
        inputs = dict.fromkeys(removed.inputs)
        remove_node(removed)
        for value in inputs:
            release(value)

    def _write_one(self, new: NewConstant) -> None:
        node, old = new.node, new.old
        assert node.graph is not None
        if new.index >= len(node.inputs):
            node.resize_inputs(new.index + 1)
        if old is not None and old.is_initializer() and _sole_reader(old) and known_shape(old) == new.array.shape:
            old.const_value = ir.Tensor(np.ascontiguousarray(new.array), name=old.name)
            return
        if _stays_uniform(new):
            value = self._add_uniform(new)
        else:
            value = add_constant(self._model, node.graph, self._names.fresh(new.name), new.array)
        node.replace_input_with(new.index, value)
        release(old)

    def _add_uniform(self, new: NewConstant) -> ir.Value:
        graph, source = new.node.graph, None if new.old is None else new.old.producer()
        assert graph is not None
        if is_op(source, "ConstantOfShape") and known_shape(new.old) == new.array.shape:
            assert source is not None
            shape = source.inputs[0]
        else:
            dims = np.asarray(new.array.shape, np.int64)
            shape = add_constant(self._model, graph, self._names.fresh(f"{new.name}_shape"), dims)
        fill = ir.Tensor(new.array.reshape(-1)[:1].copy())
        node = ir.node("ConstantOfShape", [shape], {"value": fill}, num_outputs=1, name="")  # None would get a name
        node.outputs[0].name = self._names.fresh(new.name)
        insert_before(new.node, [node])
        return node.outputs[0]


def release(value: ir.Value | None) -> None:
    """Remove a constant that nothing reads any more: an initializer, or the node that makes it."""
    if value is None or not is_unused(value):
        return
    producer = value.producer()
    if producer is None:
        drop_initializer_if_unused(value)
    elif is_op(producer, "Constant", "ConstantOfShape"):
        inputs = dict.fromkeys(producer.inputs)
        remove_node(producer)
        for read in inputs:
            release(read)


def _sole_reader(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _read_by_none_but(node: ir.Node, value: ir.Value) -> bool:
    return not value.is_graph_output() and all(use.node is node for use in value.uses())


def _stays_uniform(new: NewConstant) -> bool:
    """Whether a constant goes into a ConstantOfShape node: it repeats one number, and so does the node's weight."""
    weight = new.node.inputs[1]
    return weight is not None and is_op(weight.producer(), "ConstantOfShape") and is_uniform(new.array)


def known_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a constant, or None when ``value`` is absent or not constant."""
    array = known_array(value)
    return None if array is None else array.shape


def _growth_of(new: NewConstant) -> int:
    freed = _bytes_of(new.old) if new.old is not None and _sole_reader(new.old) else 0
    if not _stays_uniform(new):
        mention = 0 if new.old is not None else len(new.name) + 2
        return tensor_file_bytes(new.name, new.array.shape, new.array.nbytes) + mention - freed
    if new.old is not None and is_op(new.old.producer(), "ConstantOfShape"):
        return _bytes_of(new.old) - freed
    return _FILLED_NODE_BYTES + 4 * len(new.name) - freed


def _bytes_with_constants(node: ir.Node) -> int:
    constants = {value for value in node.inputs if value is not None and _read_by_none_but(node, value)}
    return node_file_bytes(node) + sum(_bytes_of(value) for value in constants)


def _bytes_of(value: ir.Value) -> int:
    """What a constant takes in the file; 0 for a value that is not constant."""
    producer = value.producer()
    if producer is not None:
        return _bytes_with_constants(producer) if is_op(producer, "Constant", "ConstantOfShape") else 0
    tensor = constant_tensor(value)
    return 0 if tensor is None else tensor_file_bytes(value.name or "", tensor.shape.numpy(), int(tensor.nbytes))
