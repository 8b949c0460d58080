"""Which values are computed from constants alone, what storing them would cost, and a model that computes them.

The *cone* of a constant value is every node it depends on. The *frontier* are the constant values that something else
reads: what would have to be stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, uniform_element
from onnxshrink.graph.shapes import static_shape
from onnxshrink.graph.walk import all_graphs, is_random, subgraphs_of

_NEVER_FOLDED = ("Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")

_FRAMING_BYTES = 24
"""About what a node or tensor takes in the file beside its names and its data."""

_SHARED_BYTES = 64
"""Constants from this size on, when several cones read them, are freed only by folding all of these cones."""


class Cones:
    """The constant nodes of a model, without ``kept``.

    ``results``: arrays of values that were evaluated before, for the sizes that shape inference does not find.
    """

    def __init__(self, model: ir.Model, kept: set[ir.Node], results: Mapping[ir.Value, np.ndarray]) -> None:
        self._results = results
        self._order: dict[ir.Node, int] = {}
        for graph in all_graphs(model):
            for node in graph:
                if node not in kept and _is_foldable(node) and all(map(self._is_constant, node.inputs)):
                    self._order[node] = len(self._order)
        self.frontier = [output for node in self._order for output in node.outputs if self._is_read_outside(output)]

    def nbytes(self, value: ir.Value) -> int | None:
        """Bytes of a constant value, or None when that is known only after evaluating it."""
        if value in self._results:
            return int(self._results[value].nbytes)
        shape = static_shape(value)
        if shape is None or value.dtype is None:
            return None
        return int(np.prod(shape, dtype=np.int64)) * value.dtype.itemsize  # type: ignore[return-value]

    def groups(self) -> list[list[ir.Value]]:
        """The frontier in groups: what shares nodes or larger constants, and equal outputs of ConstantOfShape nodes.

        The former free something only together; the latter are one constant, once shared.
        """
        links: dict[Hashable, Hashable] = {}

        def root(key: Hashable) -> Hashable:
            while links.setdefault(key, key) != key:
                key = links[key]
            return key

        for value in self.frontier:
            for key in self._shared_keys(value):
                links[root(key)] = root(value)
        groups: defaultdict[Hashable, list[ir.Value]] = defaultdict(list)
        for value in self.frontier:
            groups[root(value)].append(value)
        return list(groups.values())

    def growth(self, values: Sequence[ir.Value]) -> int:
        """By how many bytes, about, the file grows when ``values`` are stored and what only they need is removed."""
        dead = self._dead_nodes(values)
        freed = sum(_bytes_of_node(node) for node in dead)
        constants = {value for node in dead for value in node.inputs if value is not None}
        freed += sum(_bytes_of_constant(value) for value in constants if {user for user, _ in value.uses()} <= dead)
        stored = sum((self.nbytes(value) or 0) + len(str(value.name)) + _FRAMING_BYTES for value in values)
        return stored - freed

    def cone(self, values: Iterable[ir.Value]) -> list[ir.Node]:
        """The constant nodes that ``values`` depend on, in execution order."""
        found: set[ir.Node] = set()
        pending = list(values)
        while pending:
            producer = pending.pop().producer()
            if producer in self._order and producer not in found:
                found.add(producer)
                pending += [value for value in producer.inputs if value is not None]
        return sorted(found, key=self._order.__getitem__)

    def _is_constant(self, value: ir.Value | None) -> bool:
        return value is None or value.producer() in self._order or constant_tensor(value) is not None

    def _is_read_outside(self, value: ir.Value) -> bool:
        return value.is_graph_output() or any(user not in self._order for user, _ in value.uses())

    def _shared_keys(self, value: ir.Value) -> Iterator[Hashable]:
        for node in self.cone([value]):
            yield node
            for read in node.inputs:
                if read is not None and _bytes_of_constant(read) >= _SHARED_BYTES:
                    yield read
        element = uniform_element(value)
        if element is not None:
            yield element.dtype.str, element.tobytes(), static_shape(value)

    def _dead_nodes(self, values: Sequence[ir.Value]) -> set[ir.Node]:
        stored, dead = set(values), set[ir.Node]()
        for node in reversed(self.cone(values)):
            if all(
                output in stored or (not output.is_graph_output() and all(user in dead for user, _ in output.uses()))
                for output in node.outputs
            ):
                dead.add(node)
        return dead


def evaluation_model(cone: Sequence[ir.Node], outputs: Mapping[str, ir.Value], opset: int, ir_version: int) -> ir.Model:
    """A model without inputs that computes ``outputs``, from copies of the nodes of their cone.

    Beside each float16 output stands, under :func:`exactness_name`, for which elements it equals what its readers would
    get: the runtime hands float32 results on unrounded to operators that have no float16 kernel.
    """
    copies: dict[ir.Value, ir.Value] = {}
    names = {value: name for name, value in outputs.items()}
    initializers = []
    nodes = []
    for node in cone:
        for read in node.inputs:
            if read is not None and read not in copies:
                copies[read] = _initializer(read, f"constant_{len(copies)}")
                initializers.append(copies[read])
        inputs = [None if read is None else copies[read] for read in node.inputs]
        copy = ir.node(node.op_type, inputs, num_outputs=len(node.outputs), version=opset)
        copy.attributes.update(node.attributes)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type = names.get(old, f"computed_{len(copies)}"), old.type
            copies[old] = new
        nodes.append(copy)
    results = [copies[value] for value in outputs.values()]
    for name, value in outputs.items():
        if value.dtype == ir.DataType.FLOAT16:
            # Identity has a float16 kernel and forces the rounding; Equal has none and sees the float32 result.
            rounded = ir.node("Identity", [copies[value]], num_outputs=1, version=opset)
            rounded.outputs[0].name = f"{name}_rounded"
            equal = ir.node("Equal", [copies[value], rounded.outputs[0]], num_outputs=1, version=opset)
            equal.outputs[0].name, equal.outputs[0].dtype = exactness_name(name), ir.DataType.BOOL
            nodes += [rounded, equal]
            results.append(equal.outputs[0])
    graph = ir.Graph([], results, nodes=nodes, initializers=initializers, opset_imports={"": opset}, name="constants")
    return ir.Model(graph, ir_version=ir_version)


def exactness_name(output_name: str) -> str:
    """The name of the output that says whether a float16 output is exact."""
    return f"{output_name}_is_exact"


def _initializer(value: ir.Value, name: str) -> ir.Value:
    tensor = constant_tensor(value)
    assert tensor is not None
    return ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _is_foldable(node: ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type not in _NEVER_FOLDED
        and not is_random(node)
        and any(value is not None for value in node.inputs)
        and not any(attribute.is_ref() for attribute in node.attributes.values())
        and not any(True for _ in subgraphs_of(node))
        and all(_may_be_numeric(output) for output in node.outputs)
    )


def _may_be_numeric(value: ir.Value) -> bool:
    """Whether the runtime can hand the value out as a numpy array of numbers, as far as is known."""
    if value.type is None:
        return True
    return isinstance(value.type, ir.TensorType) and value.dtype in (
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BOOL,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    )


def _bytes_of_node(node: ir.Node) -> int:
    names = [*(value.name for value in (*node.inputs, *node.outputs) if value is not None), node.name, node.op_type]
    attributes = sum(_FRAMING_BYTES + len(name) for name in node.attributes)
    return sum(len(name or "") + 2 for name in names) + attributes


def _bytes_of_constant(value: ir.Value) -> int:
    tensor = constant_tensor(value)
    return 0 if tensor is None else int(tensor.nbytes) + len(str(value.name)) + _FRAMING_BYTES
