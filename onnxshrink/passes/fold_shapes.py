"""Fold shape computations whose result follows from known dimensions. A part of ``fold-constants``.

Shape(x)[1] of x: (batch, 13) is 13, whatever the batch. A Reshape target such as (Shape(x)[0], 12, 64) becomes the
constant (0, 12, 64), where 0 copies the dimension of x at the same place. One unknown dimension may become -1, but only
beside known positive numbers: with a copied dimension of 0 at run time, -1 could not be resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.walk import all_nodes, is_op, label
from onnxshrink.passes.base import Change
from onnxshrink.passes.replace_by_constant import remove_unread, replace_by_constant
from onnxshrink.passes.shape_values import Dim, Element, ShapeValue, ShapeValues, dimensions


def fold_shape_computations(model: ir.Model, names: Names) -> list[Change]:
    """Replace what is known of shape computations by constants."""
    values = ShapeValues(model)
    return [*_fold_reshape_targets(model, values, names), *_fold_known_numbers(model, values, names)]


def _fold_known_numbers(model: ir.Model, values: ShapeValues, names: Names) -> Iterator[Change]:
    for value, known in list(values.computed()):
        numbers = known.numbers
        producer = value.producer()
        if numbers is None or producer is None or producer.graph is None or value.dtype not in _integer_types():
            continue
        if not value.is_graph_output() and all(_is_known(user, values) for user, _ in value.uses()):
            continue
        assert value.dtype is not None
        array = np.array(numbers, value.dtype.numpy()).reshape([len(numbers)] if known.ndim else [])
        yield Change(label(producer), f"{producer.op_type} of known dimensions is {list(numbers)}")
        replace_by_constant(model, value, array, names)


def _integer_types() -> tuple[ir.DataType, ...]:
    return ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL


def _is_known(node: ir.Node, values: ShapeValues) -> bool:
    known = values.get(node.outputs[0])
    return known is not None and known.numbers is not None


def _fold_reshape_targets(model: ir.Model, values: ShapeValues, names: Names) -> Iterator[Change]:
    for node in all_nodes(model):
        if not is_op(node, "Reshape") or len(node.inputs) < 2 or constant_tensor(node.inputs[1]) is not None:
            continue
        known = values.get(node.inputs[1])
        target = None if known is None or node.attributes.get_int("allowzero", 0) != 0 else _target(node, known)
        if target is None or node.graph is None:
            continue
        name = names.fresh(f"{node.inputs[1].name}_known")  # type: ignore[union-attr]
        producer = node.inputs[1].producer()  # type: ignore[union-attr]
        node.replace_input_with(1, add_constant(model, node.graph, name, np.array(target, np.int64)))
        if producer is not None:
            remove_unread(producer)
        yield Change(label(node), f"computed Reshape target is the constant {target}")


def _target(node: ir.Node, known: ShapeValue) -> list[int] | None:
    source = dimensions(node.inputs[0]) or ()
    copied = [_copied(element, source[axis : axis + 1]) for axis, element in enumerate(known.elements)]
    unknown = [axis for axis, number in enumerate(copied) if number is None]
    numbers = [number for number in copied if number is not None]
    if not unknown:
        return numbers
    # A computed -1 is already resolved by what stands beside it; a second one would be ambiguous.
    if len(unknown) > 1 or any(number < 1 for number in numbers):
        return None
    return [-1 if number is None else number for number in copied]


def _copied(element: Element, at_same_place: Sequence[Element]) -> int | None:
    """The number to write for one element of a Reshape target: itself, 0 for a copied dimension, or None."""
    if isinstance(element, int):
        return element
    return 0 if isinstance(element, Dim) and list(at_same_place) == [element] else None
