"""What is known about the integers of shape computations: numbers, run-time dimensions, or nothing.

A value such as Concat(Shape(x)[0:1], [3, 4]) is known as (batch, 3, 4), where ``batch`` is a dimension: two equal
dimensions are the same number in every run. Dimensions are equal when they carry the same name (``dim_param``, which
the ONNX specification defines that way) or when they are the same axis of the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxshrink.graph.constants import constant_array, int_list
from onnxshrink.graph.walk import all_graphs, opset_of

_MAX_ELEMENTS = 64
"""Longer integer tensors are data, not shapes."""

_MAX_NUMBER = 2**31
"""Numbers beyond this are left unknown: int32 arithmetic would wrap around."""


@dataclass(frozen=True)
class Dim:
    """A dimension known only at run time, never negative. Equal keys: equal numbers."""

    key: Hashable


Element = int | Dim | None
"""One integer of a shape value; None: unknown."""


@dataclass(frozen=True)
class ShapeValue:
    """The elements of an integer tensor of ``ndim`` 0 (one element) or 1."""

    elements: tuple[Element, ...]
    ndim: int

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The elements when all of them are known numbers."""
        if all(isinstance(element, int) for element in self.elements):
            return tuple(element for element in self.elements if isinstance(element, int))
        return None


def dimension(value: ir.Value, axis: int) -> Element:
    """One dimension of a value of known rank. A declared size of 0 on a graph input is exporters' "unknown"."""
    assert value.shape is not None
    size = value.shape[axis]
    if isinstance(size, int):
        return Dim((value, axis)) if size < 1 and value.is_graph_input() else size
    named = size.value is not None and any(character.isalnum() for character in size.value)
    return Dim(size.value if named else (value, axis))


def dimensions(value: ir.Value | None) -> tuple[Element, ...] | None:
    """All dimensions of a value, or None when its rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dimension(value, axis) for axis in range(len(value.shape)))


class ShapeValues:
    """The shape values of a model as it stands when this is built."""

    def __init__(self, model: ir.Model) -> None:
        self._computed: dict[ir.Value, ShapeValue] = {}
        for graph in all_graphs(model):
            opset = opset_of(model, graph)
            for node in graph:
                rule = _RULES.get(node.op_type) if node.domain == "" else None
                found = rule(_Arguments(node, opset, self._computed)) if rule else None
                if found is not None and len(found.elements) <= _MAX_ELEMENTS:
                    self._computed[node.outputs[0]] = found

    def get(self, value: ir.Value | None) -> ShapeValue | None:
        """What is known about ``value``, constant or computed."""
        return _lookup(value, self._computed)

    def computed(self) -> Iterator[tuple[ir.Value, ShapeValue]]:
        """The values that nodes compute, in execution order."""
        yield from self._computed.items()


def _lookup(value: ir.Value | None, computed: Mapping[ir.Value, ShapeValue]) -> ShapeValue | None:
    if value is None:
        return None
    if value in computed:
        return computed[value]
    array = constant_array(value)
    if array is None or array.ndim > 1 or array.size > _MAX_ELEMENTS or array.dtype.kind not in "biu":
        return None
    return ShapeValue(tuple(int(element) for element in array.reshape(-1)), array.ndim)


@dataclass(frozen=True)
class _Arguments:
    """A node as its rule reads it."""

    node: ir.Node
    opset: int
    computed: Mapping[ir.Value, ShapeValue]

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def shape_value(self, index: int) -> ShapeValue | None:
        return _lookup(self.input(index), self.computed)

    def attribute(self, name: str, default: int) -> int:
        return self.node.attributes.get_int(name, default)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Integers that were an attribute in old opsets and are an input now; None when absent or not constant."""
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return None if attribute.is_ref() else list(attribute.as_ints())
        return int_list(self.input(index))


def _shape(arguments: _Arguments) -> ShapeValue | None:
    found = dimensions(arguments.input(0))
    if found is None:
        return None
    start, end = arguments.attribute("start", 0), arguments.attribute("end", len(found))
    return ShapeValue(found[start:end], 1)


def _size(arguments: _Arguments) -> ShapeValue | None:
    return _product(dimensions(arguments.input(0)), 0)


def _product(elements: tuple[Element, ...] | None, ndim: int) -> ShapeValue | None:
    if elements is None:
        return None
    product: Element = 1
    for element in elements:
        product = _multiply(product, element)
    return ShapeValue((product,), ndim)


def _gather(arguments: _Arguments) -> ShapeValue | None:
    data, indices = arguments.shape_value(0), arguments.shape_value(1)
    if data is None or indices is None or data.ndim != 1 or indices.numbers is None:
        return None
    length = len(data.elements)
    if not all(-length <= index < length for index in indices.numbers):
        return None
    return ShapeValue(tuple(data.elements[index] for index in indices.numbers), indices.ndim)


def _slice(arguments: _Arguments) -> ShapeValue | None:
    data = arguments.shape_value(0)
    starts, ends = arguments.numbers("starts", 1), arguments.numbers("ends", 2)
    steps = [1] if arguments.input(4) is None else int_list(arguments.input(4))
    if data is None or data.ndim != 1 or starts is None or ends is None or steps is None:
        return None
    if len(starts) != 1 or len(ends) != 1 or len(steps) != 1 or steps[0] < 1:
        return None
    return ShapeValue(data.elements[starts[0] : ends[0] : steps[0]], 1)


def _concat(arguments: _Arguments) -> ShapeValue | None:
    elements: list[Element] = []
    for index, value in enumerate(arguments.node.inputs):
        part = arguments.shape_value(index)
        if part is not None and part.ndim == 1:
            elements += part.elements
        elif (
            value is not None and value.shape is not None and len(value.shape) == 1 and isinstance(value.shape[0], int)
        ):
            elements += [None] * min(value.shape[0], _MAX_ELEMENTS + 1)
        else:
            return None
    return ShapeValue(tuple(elements), 1)


def _unsqueeze(arguments: _Arguments) -> ShapeValue | None:
    data = arguments.shape_value(0)
    axes = arguments.numbers("axes", 1)
    return ShapeValue(data.elements, 1) if data is not None and data.ndim == 0 and axes in ([0], [-1]) else None


def _squeeze(arguments: _Arguments) -> ShapeValue | None:
    data = arguments.shape_value(0)
    if data is None or data.ndim != 1 or len(data.elements) != 1:
        return None
    return ShapeValue(data.elements, 0)


def _reshape(arguments: _Arguments) -> ShapeValue | None:
    data, target = arguments.shape_value(0), arguments.numbers("shape", 1)
    if data is None or target is None or len(target) > 1:
        return None
    return ShapeValue(data.elements, len(target))


def _same(arguments: _Arguments) -> ShapeValue | None:
    return arguments.shape_value(0)


def _cast(arguments: _Arguments) -> ShapeValue | None:
    data = arguments.shape_value(0)
    to = arguments.attribute("to", 0)
    return data if to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _reduce_product(arguments: _Arguments) -> ShapeValue | None:
    data = arguments.shape_value(0)
    return _product(data.elements, arguments.attribute("keepdims", 1)) if data is not None and data.ndim == 1 else None


def _where(arguments: _Arguments) -> ShapeValue | None:
    def choose(condition: Element, yes: Element, no: Element) -> Element:
        return (yes if condition else no) if isinstance(condition, int) else (yes if yes == no else None)

    return _elementwise(arguments, 3, choose)


def _equal(arguments: _Arguments) -> ShapeValue | None:
    def compare(a: Element, b: Element, _: Element) -> Element:
        if isinstance(a, int) and isinstance(b, int):
            return int(a == b)
        if isinstance(a, Dim) and isinstance(b, Dim):
            return 1 if a == b else None
        number = a if isinstance(a, int) else b
        return 0 if isinstance(number, int) and number < 0 and a is not None and b is not None else None

    return _elementwise(arguments, 2, compare)


def _arithmetic(rule: Callable[[Element, Element], Element]) -> Callable[[_Arguments], ShapeValue | None]:
    return lambda arguments: _elementwise(arguments, 2, lambda a, b, _: rule(a, b))


def _elementwise(
    arguments: _Arguments, count: int, rule: Callable[[Element, Element, Element], Element]
) -> ShapeValue | None:
    parts = [arguments.shape_value(index) for index in range(count)]
    known = [part for part in parts if part is not None]
    if len(known) < count:
        return None
    length = max((len(part.elements) for part in known), default=0)
    if any(len(part.elements) not in (1, length) for part in known) or any(not part.elements for part in known):
        return None
    rows = [part.elements * (length if len(part.elements) == 1 else 1) for part in known] + [(None,) * length] * (
        3 - count
    )
    found = tuple(rule(a, b, c) for a, b, c in zip(*rows, strict=True))
    return ShapeValue(found, max(part.ndim for part in known))


def _multiply(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a * b)
    return b if a == 1 else a if b == 1 else None


def _add(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a + b)
    return b if a == 0 else a if b == 0 else None


def _subtract(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a - b)
    return a if b == 0 else 0 if isinstance(a, Dim) and a == b else None


def _divide(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a >= 0 and b > 0 else None
    return a if b == 1 else None


def _in_range(number: int) -> int | None:
    return number if abs(number) < _MAX_NUMBER else None


_RULES: Mapping[str, Callable[[_Arguments], ShapeValue | None]] = {
    "Add": _arithmetic(_add),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_divide),
    "Equal": _equal,
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(_multiply),
    "ReduceProd": _reduce_product,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(_subtract),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
