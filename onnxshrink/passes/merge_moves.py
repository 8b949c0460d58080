"""Two consecutive nodes that only move or convert elements become one. A part of ``drop-identity``.

Transpose(Transpose(x, p), q) = Transpose(x, p∘q). A chain of Reshape, Flatten, Squeeze and Unsqueeze is one Reshape
when its final shape is known, with at most one dimension left to inference. Slice(Slice(x)) over other axes is one
Slice. Cast(Cast(x, t), u) = Cast(x, u) when t holds every value of x's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, int_list
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.walk import is_op
from onnxshrink.passes.no_ops import Operation, slice_arguments
from onnxshrink.passes.shape_values import Element, dimensions

_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Merger:
    """Merges nodes of one model."""

    model: ir.Model
    names: Names

    def merge(self, operation: Operation) -> bool:
        """Let the node do the work of its producer as well. Whether it did; the producer may be unused now."""
        rule = _RULES.get(operation.node.op_type)
        value = operation.input(0)
        inner = None if value is None else value.producer()
        if rule is None or inner is None or inner.domain != "" or inner.graph is not operation.node.graph:
            return False
        if any(attribute.is_ref() for node in (inner, operation.node) for attribute in node.attributes.values()):
            return False
        return rule(self, operation, Operation(inner, operation.opset, operation.shapes))

    def constant(self, node: ir.Node, name: str, numbers: Sequence[int]) -> ir.Value:
        """A new int64 constant in the node's graph."""
        assert node.graph is not None
        fresh = self.names.fresh(f"{node.outputs[0].name}_{name}")
        return add_constant(self.model, node.graph, fresh, np.array(numbers, np.int64))


def _merge_transposes(merger: Merger, outer: Operation, inner: Operation) -> bool:
    if not is_op(inner.node, "Transpose"):
        return False
    first, second = inner.node.attributes.get_ints("perm", None), outer.node.attributes.get_ints("perm", None)
    length = len(first or second or dimensions(inner.input(0)) or ())
    if not length:
        return False
    first, second = first or range(length)[::-1], second or range(length)[::-1]
    outer.node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
    outer.node.replace_input_with(0, inner.input(0))
    return True


def _merge_casts(merger: Merger, outer: Operation, inner: Operation) -> bool:
    source = inner.input(0)
    if not is_op(inner.node, "Cast") or source is None or source.dtype is None:
        return False
    between, final = (
        ir.DataType(inner.node.attributes["to"].as_int()),
        ir.DataType(outer.node.attributes["to"].as_int()),
    )
    # From float to integer, the runtime's result for NaN and overflow may depend on the float's width.
    if not _holds_all(source.dtype, between) or (source.dtype.is_floating_point() and not final.is_floating_point()):
        return False
    outer.node.replace_input_with(0, source)
    return True


def _holds_all(source: ir.DataType, target: ir.DataType) -> bool:
    """Whether every value of ``source`` is a value of ``target``: numpy's safe casts, types known to numpy only."""
    names = {"BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "FLOAT16", "FLOAT", "DOUBLE"}
    if source.name not in names or target.name not in names:
        return False
    # numpy calls int64 to float64 safe, though it rounds above 2⁵³.
    return np.can_cast(source.numpy(), target.numpy(), "safe") and not (
        source.name == "INT64" and target.name == "DOUBLE"
    )


def _merge_slices(merger: Merger, outer: Operation, inner: Operation) -> bool:
    between = inner.node.outputs[0]
    if not is_op(inner.node, "Slice") or len(between.uses()) != 1 or between.is_graph_output():
        return False
    first, second = slice_arguments(inner), slice_arguments(outer)
    source = dimensions(inner.input(0))
    if first is None or second is None:
        return False
    if source is None and any(axis < 0 for axis in first[2] + second[2]):
        return False
    axes = [axis if source is None else axis % len(source) for axis in first[2] + second[2]]
    if len(set(axes)) < len(axes):
        return False
    starts, ends, steps = first[0] + second[0], first[1] + second[1], first[3] + second[3]
    node = outer.node
    node.replace_input_with(0, inner.input(0))
    if outer.opset < 10:
        for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes)):
            node.attributes[name] = ir.AttrInt64s(name, numbers)
        return True
    node.resize_inputs(5)
    for index, (name, numbers) in enumerate((("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps))):
        node.replace_input_with(index + 1, merger.constant(node, name, numbers))
    return True


def _merge_reshapes(merger: Merger, outer: Operation, inner: Operation) -> bool:
    if not is_op(inner.node, *_RESHAPING):
        return False
    target = _kept_target(outer, inner) or _final_target(outer, inner)
    if target is None:
        return _merge_axes(merger, outer, inner)
    node = outer.node
    node.replace_input_with(0, inner.input(0))
    if is_op(node, "Reshape") and int_list(outer.input(1)) == target:
        return True
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(1, merger.constant(node, "target", target))
    return True


def _kept_target(outer: Operation, inner: Operation) -> list[int] | None:
    """The outer Reshape's own constant target, as it reads for the inner node's input."""
    target = int_list(outer.input(1)) if is_op(outer.node, "Reshape") and len(outer.node.inputs) > 1 else None
    if target is None or 0 not in target:
        return target
    between, source = dimensions(outer.input(0)), dimensions(inner.input(0)) or ()
    if between is None or outer.node.attributes.get_int("allowzero", 0) != 0:
        return None
    found = [
        _same_number(between[axis], source[axis : axis + 1]) if number == 0 else number
        for axis, number in enumerate(target)
    ]
    return [number for number in found if number is not None] if None not in found else None


def _same_number(size: Element, at_same_place: Sequence[Element]) -> int | None:
    """How a target says ``size``: 0 where the source has it at the same place, else the number, or None."""
    if isinstance(size, int):
        return size if size > 0 else None
    return 0 if list(at_same_place) == [size] else None


def _final_target(outer: Operation, inner: Operation) -> list[int] | None:
    """A target for the outer node's known output shape."""
    final, source = dimensions(outer.node.outputs[0]), dimensions(inner.input(0)) or ()
    if final is None:
        return None
    found = [_same_number(size, source[axis : axis + 1]) for axis, size in enumerate(final)]
    if None not in found:
        return [number for number in found if number is not None]
    if found.count(None) > 1 or 0 in found:
        return None
    return [-1 if number is None else number for number in found]


def _merge_axes(merger: Merger, outer: Operation, inner: Operation) -> bool:
    """Squeeze(Squeeze(x)) and Unsqueeze(Unsqueeze(x)) of unknown shapes: one node over all axes."""
    if outer.node.op_type != inner.node.op_type or not is_op(outer.node, "Squeeze", "Unsqueeze"):
        return False
    first, second = inner.numbers("axes", 1), outer.numbers("axes", 1)
    if not first or not second or min(*first, *second) < 0:
        return False
    squeezing = is_op(outer.node, "Squeeze")
    taken, moved = (first, second) if squeezing else (second, first)
    free = [axis for axis in range(len(taken) + max(moved) + 1) if axis not in taken]
    axes = sorted([*taken, *(free[axis] for axis in moved)])
    outer.node.replace_input_with(0, inner.input(0))
    if outer.opset < 13:
        outer.node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    else:
        outer.node.replace_input_with(1, merger.constant(outer.node, "axes", axes))
    return True


def undone_by(outer: ir.Node, inner: ir.Node | None) -> bool:
    """Whether ``outer`` takes back what ``inner`` did: Squeeze and Unsqueeze over the same axes, or equal shapes."""
    if inner is None or not is_op(outer, *_RESHAPING) or not is_op(inner, *_RESHAPING):
        return False
    before, after = dimensions(inner.inputs[0]), dimensions(outer.outputs[0])
    if before is not None and before == after:
        return True
    if {outer.op_type, inner.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes = [_axes(node) for node in (outer, inner)]
    return axes[0] is not None and axes[0] == axes[1]


def _axes(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return None if attribute.is_ref() else sorted(attribute.as_ints())
    if len(node.inputs) < 2 or constant_tensor(node.inputs[1]) is None:
        return None
    return sorted(int_list(node.inputs[1]) or ()) or None


_RULES: Mapping[str, Callable[[Merger, Operation, Operation], bool]] = {
    "Cast": _merge_casts,
    "Flatten": _merge_reshapes,
    "Reshape": _merge_reshapes,
    "Slice": _merge_slices,
    "Squeeze": _merge_reshapes,
    "Transpose": _merge_transposes,
    "Unsqueeze": _merge_reshapes,
}
