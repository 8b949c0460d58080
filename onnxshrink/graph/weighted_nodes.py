"""Nodes with weights of their own, in whatever form they are stored, and the values that those weights decode to.

A weight may be a constant, or computed from constants alone when the model is loaded: DequantizeLinear of integers,
a codebook, a Reshape or a Transpose. Integer operators hold integers and their scales in inputs, or next to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_array, constant_tensor
from onnxshrink.graph.edits import Names
from onnxshrink.graph.shapes import static_shape
from onnxshrink.graph.walk import all_nodes, is_op, is_random, subgraphs_of

_KINDS: Mapping[tuple[str, str], tuple[str, tuple[int, ...]]] = {
    ("", "Conv"): ("conv", (1,)),
    ("", "ConvInteger"): ("conv", (1,)),
    ("", "QLinearConv"): ("conv", (3,)),
    ("com.microsoft", "FusedConv"): ("conv", (1,)),
    ("", "ConvTranspose"): ("transposed conv", (1,)),
    ("", "Gemm"): ("product", (0, 1)),
    ("", "MatMul"): ("product", (0, 1)),
    ("", "MatMulInteger"): ("product", (0, 1)),
    ("", "QLinearMatMul"): ("product", (0, 3)),
    ("com.microsoft", "FusedGemm"): ("product", (0, 1)),
    ("com.microsoft", "FusedMatMul"): ("product", (0, 1)),
    ("com.microsoft", "QGemm"): ("product", (0, 3)),
    ("com.microsoft", "DynamicQuantizeMatMul"): ("product", (1,)),
    ("com.microsoft", "MatMulIntegerToFloat"): ("product", (1,)),
    ("com.microsoft", "MatMulNBits"): ("product", (1,)),
    ("", "Gather"): ("table", (0,)),
    ("", "LSTM"): ("recurrence", (1, 2)),
    ("com.microsoft", "DynamicQuantizeLSTM"): ("recurrence", (1, 2)),
    ("", "GRU"): ("recurrence", (1, 2)),
    ("", "RNN"): ("recurrence", (1, 2)),
}
"""What an operator computes, the same for its float and integer forms, and where it takes weights."""


@dataclass(frozen=True)
class WeightedNode:
    """A node that reads weights.

    Attributes:
        kind: what it computes: the same for the float and the integer forms of an operator.
        weights: its weights, constants or computed from constants.
        constants: every stored constant that its weights, biases and scales are computed from, once.
        elements: elements of its weights; 0 when unknown.
    """

    node: ir.Node
    kind: str
    weights: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]
    elements: int

    @property
    def dtype(self) -> str:
        """The type that most bytes of its weights are stored in; their own when they are computed from a shape."""
        tensors = [tensor for tensor in map(_tensor, self.constants) if _may_be_learnt(tensor.dtype)]
        if tensors:
            return max(tensors, key=lambda tensor: tensor.nbytes).dtype.name
        own = self.weights[0].dtype
        return "FLOAT" if own is None else own.name


def stored_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of a constant, or of an initializer that callers may override; None for other values."""
    return value.const_value if value.is_initializer() else constant_tensor(value)


def constant_bytes(value: ir.Value) -> int:
    """Bytes of the elements of a stored constant."""
    return int(_tensor(value).nbytes)


def weighted_nodes(model: ir.Model) -> list[WeightedNode]:
    """Nodes with weights, subgraphs and functions included, in graph order. Shapes should have been inferred."""
    cones = _Cones()
    found = []
    for node in all_nodes(model):
        kind, positions = _KINDS.get((node.domain, node.op_type), ("", ()))
        weights = tuple(
            value
            for index, value in enumerate(node.inputs)
            if index in positions and value is not None and cones.constants(value) and _may_be_weight(node, value)
        )
        if weights and not any(cones.constants(output) for output in node.outputs):  # that would decode a weight
            read = (value for value in node.inputs if value is not None)
            constants = tuple(dict.fromkeys(leaf for value in read for leaf in cones.constants(value)))
            found.append(WeightedNode(node, kind, weights, constants, _elements(node, weights)))
        for output in node.outputs:
            cones.constants(output)  # in graph order, so that nothing has to be looked up from far below
    return found


def decoding_model(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """A model without inputs that computes ``values`` of the main graph, which depend on constants alone.

    Its outputs are in the order of ``values``.
    """
    names = Names(model)
    nodes: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, None] = {}
    for value in values:
        _collect(value, nodes, leaves)
    copies = {leaf: _initializer(leaf) for leaf in leaves}
    copied = []
    for node in nodes:
        inputs = [None if value is None else copies[value] for value in node.inputs]
        copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, copies[old] = old.name, new
        copied.append(copy)
    outputs = []
    for index, value in enumerate(values):
        node = ir.node("Identity", [copies[value]])
        node.outputs[0].name = names.fresh(f"decoded_{index}")
        copied.append(node)
        outputs.append(node.outputs[0])
    graph = ir.Graph(
        [],
        outputs,
        nodes=copied,
        initializers=[copies[leaf] for leaf in leaves],
        opset_imports=dict(model.opset_imports),
    )
    return ir.Model(graph, ir_version=model.ir_version)


def integer_scale(node: ir.Node, index: int) -> np.ndarray | None:
    """What the integers of a weight are multiplied by where the operator takes them as they are, ready to broadcast.

    MatMulInteger: the constant factor of the Mul behind it, (channels,). DynamicQuantizeLSTM: (directions, 1,
    4 · hidden) for its weights of (directions, input, 4 · hidden). None for other operators: their weights decode to
    floats.
    """
    if node.op_type == "DynamicQuantizeLSTM":
        scale = constant_array(node.inputs[8 if index == 1 else 10])
        return None if scale is None else scale[:, None] if scale.ndim == 2 else scale[:, None, None]
    if not is_op(node, "MatMulInteger", "ConvInteger"):
        return None
    value = node.outputs[0]
    for _ in range(2):
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or not is_op(readers[0], "Cast", "Mul"):
            return None
        if is_op(readers[0], "Mul"):
            factor = next((other for other in readers[0].inputs if other is not value), None)
            producer = None if factor is None else factor.producer()
            sources = [factor] if not is_op(producer, "Mul") or producer is None else list(producer.inputs)
            return next((array for array in map(constant_array, sources) if array is not None), None)
        value = readers[0].outputs[0]
    return None


class _Cones:
    """Which stored constants a value is computed from; none when it depends on anything else."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, tuple[ir.Value, ...]] = {}

    def constants(self, value: ir.Value) -> tuple[ir.Value, ...]:
        if value not in self._known:
            self._known[value] = ()  # a cycle, which only an invalid graph has, is not constant
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ir.Value) -> tuple[ir.Value, ...]:
        if stored_tensor(value) is not None:
            return (value,)
        node = value.producer()
        if node is None or not node.inputs or is_random(node) or any(True for _ in subgraphs_of(node)):
            return ()
        leaves: dict[ir.Value, None] = {}
        for read in node.inputs:
            if read is None:
                continue
            below = self.constants(read)
            if not below:
                return ()
            leaves.update(dict.fromkeys(below))
        return tuple(leaves)


def _may_be_weight(node: ir.Node, value: ir.Value) -> bool:
    """Whether a constant operand holds learnt numbers: floats, or small integers where they are multiplied."""
    tensor = stored_tensor(value)
    dtype = tensor.dtype if tensor is not None else value.dtype
    if dtype is None:
        return True
    return dtype.is_floating_point() if node.op_type == "Gather" else _may_be_learnt(dtype)


def _may_be_learnt(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype.itemsize <= 1


def _elements(node: ir.Node, weights: Sequence[ir.Value]) -> int:
    if node.op_type == "MatMulNBits":
        return node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
    shapes = [_shape(value) for value in weights]
    return 0 if None in shapes else sum(math.prod(shape) for shape in shapes if shape is not None)


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    tensor = stored_tensor(value)
    return static_shape(value) if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def _collect(value: ir.Value, nodes: dict[ir.Node, None], leaves: dict[ir.Value, None]) -> None:
    """Add the nodes that ``value`` depends on, in execution order, and the constants they start from."""
    pending: list[tuple[ir.Value, bool]] = [(value, False)]
    while pending:
        current, ready = pending.pop()
        node = current.producer()
        if stored_tensor(current) is not None:
            leaves[current] = None
        elif node is not None and ready:
            nodes[node] = None
        elif node is not None and node not in nodes:
            pending.append((current, True))
            pending += [(read, False) for read in node.inputs if read is not None]


def _initializer(value: ir.Value) -> ir.Value:
    tensor = _tensor(value)
    return ir.Value(
        name=value.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = stored_tensor(value)
    assert tensor is not None
    return tensor
