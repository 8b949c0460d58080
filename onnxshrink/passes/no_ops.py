"""Which nodes hand an input on unchanged, bit for bit. A part of ``drop-identity``.

Floating point decides some cases: x·1, x/1, x¹ and x − 0 are x for every x, but x + 0 turns −0 into 0 and is x only
when the zero is −0. A sum over a single element starts from 0 in some kernels, so sums and means count only when the
whole tensor has one element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_array, int_list, scalar_constant
from onnxshrink.graph.edits import is_unused
from onnxshrink.graph.shapes import rank, static_shape
from onnxshrink.graph.walk import is_op
from onnxshrink.passes.shape_values import Element, ShapeValues, dimensions

_BEYOND_EVERY_AXIS = 2**31 - 1
"""Exporters write ends of slices from this number on for "to the end"."""


@dataclass(frozen=True)
class Operation:
    """A node as the rules read it."""

    node: ir.Node
    opset: int
    shapes: ShapeValues

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Integers that were an attribute in old opsets and are an input now; None when absent or not constant."""
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return None if attribute.is_ref() else list(attribute.as_ints())
        return int_list(self.input(index))


def passed_on(operation: Operation) -> ir.Value | None:
    """The input that the node's first output always equals, or None. Its other outputs must be unused."""
    rule = _RULES.get(operation.node.op_type)
    if rule is None or any(attribute.is_ref() for attribute in operation.node.attributes.values()):
        return None
    if not all(is_unused(output) for output in operation.node.outputs[1:]):
        return None
    return rule(operation)


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two values certainly have the same shape."""
    found = dimensions(a)
    return found is not None and found == dimensions(b)


def _first_if(test: Callable[[Operation], bool]) -> Callable[[Operation], ir.Value | None]:
    return lambda operation: operation.input(0) if test(operation) else None


def _always(operation: Operation) -> bool:
    return True


def _one_input(operation: Operation) -> bool:
    return len(operation.node.inputs) == 1


def _dropout(operation: Operation) -> bool:
    training = operation.input(2)
    return operation.opset < 12 or training is None or scalar_constant(training) is False


def _cast(operation: Operation) -> bool:
    value = operation.input(0)
    return value is not None and value.dtype is not None and operation.node.attributes.get_int("to", 0) == value.dtype


def _cast_like(operation: Operation) -> bool:
    value, like = operation.input(0), operation.input(1)
    return value is not None and like is not None and value.dtype is not None and value.dtype == like.dtype


def _reshape(operation: Operation) -> bool:
    source, target = dimensions(operation.input(0)), operation.shapes.get(operation.input(1))
    if source is None:
        return False
    if target is None or len(target.elements) != len(source):
        return same_shape(operation.input(0), operation.node.outputs[0])
    copies = not operation.node.attributes.get_int("allowzero", 0)
    # One dimension may be left to inference: the number of elements does not change.
    inferred = sum(element == -1 for element in target.elements)
    return inferred <= 1 and all(
        element in (size, -1) or (element == 0 and copies)
        for element, size in zip(target.elements, source, strict=True)
    )


def _transpose(operation: Operation) -> bool:
    perm = operation.node.attributes.get_ints("perm", None)
    known_rank = rank(operation.input(0))
    return (known_rank is not None and known_rank < 2) or (perm is not None and list(perm) == sorted(perm))


def _flatten(operation: Operation) -> bool:
    return rank(operation.input(0)) == 2 and operation.node.attributes.get_int("axis", 1) in (1, -1)


def _squeeze(operation: Operation) -> bool:
    before = rank(operation.input(0))
    return before is not None and before == rank(operation.node.outputs[0])


def _expand(operation: Operation) -> bool:
    source, target = dimensions(operation.input(0)), operation.shapes.get(operation.input(1))
    if source is None or target is None or len(target.elements) > len(source):
        return False
    return _broadcasts_to(target.elements, source)


def _broadcasts_to(elements: Sequence[Element], source: Sequence[Element]) -> bool:
    aligned = source[len(source) - len(elements) :]
    return all(element in (1, size) for element, size in zip(elements, aligned, strict=True))


def _tile(operation: Operation) -> bool:
    repeats = int_list(operation.input(1))
    return repeats is not None and all(repeat == 1 for repeat in repeats)


def _pad(operation: Operation) -> bool:
    pads = operation.numbers("pads", 1)
    return pads is not None and not any(pads)


def _slice(operation: Operation) -> bool:
    starts, ends, axes, steps = slice_arguments(operation) or ([1], [0], None, [1])
    source = dimensions(operation.input(0))
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=True):
        size = source[axis] if source is not None else None
        if start != 0 or step != 1 or not (end >= _BEYOND_EVERY_AXIS or (isinstance(size, int) and end >= size)):
            return False
    return True


def slice_arguments(operation: Operation) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Constant starts, ends, axes and steps of a Slice, or None."""
    starts, ends = operation.numbers("starts", 1), operation.numbers("ends", 2)
    if starts is None or ends is None:
        return None
    has_axes = "axes" in operation.node.attributes or operation.input(3) is not None
    axes = operation.numbers("axes", 3) if has_axes else list(range(len(starts)))
    steps = [1] * len(starts) if operation.input(4) is None else int_list(operation.input(4))
    return None if axes is None or steps is None else (starts, ends, axes, steps)


def _resize(operation: Operation) -> bool:
    if operation.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    scales = _scales(operation)
    if scales is not None and scales.size:
        return bool((scales == 1).all())
    sizes, source = operation.shapes.get(operation.input(3)), dimensions(operation.input(0))
    return sizes is not None and "axes" not in operation.node.attributes and sizes.elements == source


def _scales(operation: Operation) -> np.ndarray | None:
    attribute = operation.node.attributes.get_floats("scales", None)
    if attribute is not None:
        return np.asarray(attribute)
    return constant_array(operation.input(1 if len(operation.node.inputs) == 2 else 2))


def _split(operation: Operation) -> bool:
    return len(operation.node.outputs) == 1


def _repeated(operation: Operation) -> bool:
    """f(f(x)) = f(x) for rounding and clamping functions."""
    value = operation.input(0)
    return value is not None and value.producer() is not None and is_op(value.producer(), operation.node.op_type)


def _extremum(operation: Operation) -> bool:
    source, axes = static_shape(operation.input(0)), operation.numbers("axes", 1)
    if source is None or not operation.node.attributes.get_int("keepdims", 1):
        return False
    if not axes:
        unknown = operation.input(1) is not None and axes is None
        no_op = operation.node.attributes.get_int("noop_with_empty_axes", 0)
        return not unknown and (bool(no_op) or all(size == 1 for size in source))
    return all(source[axis] == 1 for axis in axes)


def _sum(operation: Operation) -> bool:
    source = static_shape(operation.input(0))
    return source is not None and all(size == 1 for size in source) and _extremum(operation)


def _neutral(is_neutral: Callable[[np.ndarray], bool], *, both_sides: bool) -> Callable[[Operation], ir.Value | None]:
    """x ∘ e = x for the constant e, which must not broadcast x to another shape."""

    def rule(operation: Operation) -> ir.Value | None:
        for index in (1, 0) if both_sides else (1,):
            array, other = constant_array(operation.input(index)), operation.input(1 - index)
            if array is not None and array.size and is_neutral(array) and _keeps_shape(operation, array, other):
                return other
        return None

    return rule


def _keeps_shape(operation: Operation, array: np.ndarray, other: ir.Value | None) -> bool:
    known_rank = rank(other)
    if array.size == 1 and (array.ndim == 0 or (known_rank is not None and array.ndim <= known_rank)):
        return True
    return same_shape(other, operation.node.outputs[0])


def _is_one(array: np.ndarray) -> bool:
    return array.dtype.kind in "biufV" and bool((array == 1).all())


def _is_zero(array: np.ndarray) -> bool:
    return bool((array == 0).all()) and (array.dtype.kind in "iu" or not np.signbit(array).any())


def _is_added_zero(array: np.ndarray) -> bool:
    return bool((array == 0).all()) and (array.dtype.kind in "iu" or bool(np.signbit(array).all()))


def _is_false(array: np.ndarray) -> bool:
    return not array.any()


def _is_true(array: np.ndarray) -> bool:
    return bool(array.all())


def _power(operation: Operation) -> ir.Value | None:
    base = operation.input(0)
    # Integers are raised in double precision, which rounds large ones.
    exact = base is not None and base.dtype is not None and base.dtype.is_floating_point()
    return _neutral(_is_one, both_sides=False)(operation) if exact else None


def _where(operation: Operation) -> ir.Value | None:
    condition = constant_array(operation.input(0))
    if condition is None or not condition.size or condition.any() != condition.all():
        return None
    taken = operation.input(1 if condition.all() else 2)
    return taken if same_shape(taken, operation.node.outputs[0]) else None


_RULES: Mapping[str, Callable[[Operation], ir.Value | None]] = {
    "Abs": _first_if(_repeated),
    "Add": _neutral(_is_added_zero, both_sides=True),
    "And": _neutral(_is_true, both_sides=True),
    "Cast": _first_if(_cast),
    "CastLike": _first_if(_cast_like),
    "Ceil": _first_if(_repeated),
    "Concat": _first_if(_one_input),
    "Div": _neutral(_is_one, both_sides=False),
    "Dropout": _first_if(_dropout),
    "Expand": _first_if(_expand),
    "Flatten": _first_if(_flatten),
    "Floor": _first_if(_repeated),
    "Identity": _first_if(_always),
    "Max": _first_if(_one_input),
    "Mean": _first_if(_one_input),
    "Min": _first_if(_one_input),
    "Mul": _neutral(_is_one, both_sides=True),
    "Or": _neutral(_is_false, both_sides=True),
    "Pad": _first_if(_pad),
    "Pow": _power,
    "ReduceMax": _first_if(_extremum),
    "ReduceMean": _first_if(_sum),
    "ReduceMin": _first_if(_extremum),
    "ReduceProd": _first_if(_extremum),
    "ReduceSum": _first_if(_sum),
    "Relu": _first_if(_repeated),
    "Reshape": _first_if(_reshape),
    "Resize": _first_if(_resize),
    "Round": _first_if(_repeated),
    "Slice": _first_if(_slice),
    "Split": _first_if(_split),
    "Squeeze": _first_if(_squeeze),
    "Sub": _neutral(_is_zero, both_sides=False),
    "Sum": _first_if(_one_input),
    "Tile": _first_if(_tile),
    "Transpose": _first_if(_transpose),
    "Upsample": _first_if(_resize),
    "Where": _where,
}
