"""Folds a Pad with constants into the Conv, AveragePool or MaxPool nodes that read it.

    Conv(Pad(x, p), pads=q)         = Conv(x, pads=q+p)                           when the padding value is 0
    AveragePool(Pad(x, p), pads=q)  = AveragePool(x, pads=q+p, count_include_pad=1)  likewise, with q = 0 or counted
    MaxPool(Pad(x, p), pads=q)      = MaxPool(x, pads=q+p)                        when the padding value never wins

MaxPool ignores what it pads. A padding value never wins when it is the lowest of its type, or 0 behind an operator
that yields no negative numbers; each window then overlaps real data because pads stay smaller than the kernel, which
ONNX Runtime demands of pools anyway.

Refused: other modes and values, pads that are negative, unknown or outside the spatial axes, a reader that computes
its own pads (auto_pad SAME), pools with ceil_mode (windows that start in the padding are dropped there), dilated
MaxPools and MaxPools whose Indices are read, since these count in the padded input.

Source: https://onnx.ai/onnx/operators/onnx__Pad.html and the operators named above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_array, int_list
from onnxshrink.graph.edits import remove_node, replace_value
from onnxshrink.graph.walk import all_graphs, is_op, label, opset_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.constant_rewriter import release
from onnxshrink.passes.refusal import CannotFold


@dataclass(frozen=True)
class FoldPad(Pass):
    """Fold Pad into the pads of the Conv, AveragePool or MaxPool behind it."""

    name: ClassVar[str] = "fold-pad"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        changes, skips = [], []
        for graph in list(all_graphs(model)):
            opset = opset_of(model, graph)
            if opset < 7:  # older pools do not say whether they count padding
                continue
            for node in reversed(list(graph)):  # a Pad behind a Pad folds first, so one sweep is enough
                readers = _readers(node)
                if not readers:
                    continue
                try:
                    _fold(node, readers, opset)
                except CannotFold as refusal:
                    skips.append(Skip(label(node), str(refusal)))
                else:
                    changes.append(Change(label(node), f"folded into {' and '.join(map(label, readers))}"))
        return PassResult(tuple(changes), tuple(skips))


@dataclass(frozen=True)
class _Padding:
    """What a Pad adds. ``begin``, ``end``: elements per spatial axis; ``value``: what they hold."""

    x: ir.Value
    begin: tuple[int, ...]
    end: tuple[int, ...]
    value: np.generic


def _readers(node: ir.Node) -> list[ir.Node]:
    """The convolutions and pools that read a Pad, when nothing else does; else none."""
    if not is_op(node, "Pad") or node.outputs[0].is_graph_output() or _has_parameters(node):
        return []
    uses = node.outputs[0].uses()
    fitting = all(is_op(use.node, "Conv", "AveragePool", "MaxPool") and use.idx == 0 for use in uses)
    return [use.node for use in uses] if fitting else []


def _has_parameters(node: ir.Node) -> bool:
    """Whether attributes of the node are parameters of the function around it, unknown here."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def _fold(node: ir.Node, readers: list[ir.Node], opset: int) -> None:
    padding = _padding(node, readers, opset)
    new_pads = [_pads_of(reader, padding) for reader in readers]
    for reader, pads in zip(readers, new_pads, strict=True):
        reader.attributes.pop("auto_pad", None)
        reader.attributes["pads"] = ir.AttrInt64s("pads", pads)
        if reader.op_type == "AveragePool":
            reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    replace_value(node.outputs[0], padding.x)
    inputs = dict.fromkeys(node.inputs[1:])
    remove_node(node)
    for value in inputs:
        release(value)


def _padding(node: ir.Node, readers: list[ir.Node], opset: int) -> _Padding:
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        raise CannotFold(f"it pads by {mode}, not by a constant")
    x, pads, value = node.inputs[0], _pads_of_pad(node, opset), _value_of_pad(node, opset)
    if x is None or pads is None or value is None:
        raise CannotFold("its pads or its value are not constant")
    begin, end = _by_axis(node, readers, pads)
    if min(begin + end) < 0:
        raise CannotFold("it crops: some of its pads are negative")
    if any(begin[:2] + end[:2]):
        raise CannotFold("it pads the batch or channel axis")
    return _Padding(x, tuple(begin[2:]), tuple(end[2:]), value)


def _by_axis(node: ir.Node, readers: list[ir.Node], pads: list[int]) -> tuple[list[int], list[int]]:
    """Pads in front and behind, for every axis of the padded tensor."""
    count = len(pads) // 2
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return pads[:count], pads[count:]
    axes, rank = int_list(node.inputs[3]), _rank(node, readers)
    if axes is None:
        raise CannotFold("its axes are not constant")
    begin, end = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        begin[axis], end[axis] = pads[position], pads[position + count]
    return begin, end


def _pads_of_pad(node: ir.Node, opset: int) -> list[int] | None:
    if opset >= 11:
        return int_list(node.inputs[1])
    return list(node.attributes.get_ints("pads", []))


def _value_of_pad(node: ir.Node, opset: int) -> np.generic | None:
    if opset < 11:
        return np.float32(node.attributes.get_float("value", 0.0))
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.float32(0)
    array = constant_array(node.inputs[2])
    element: np.generic | None = None if array is None or array.size != 1 else array.reshape(-1)[0]
    return element


def _rank(node: ir.Node, readers: list[ir.Node]) -> int:
    """The number of dimensions of the padded tensor, from whatever knows it."""
    for value in (node.inputs[0], node.outputs[0], *(reader.inputs[1] for reader in readers if is_op(reader, "Conv"))):
        if value is not None and value.shape is not None:
            return len(value.shape)
    kernels = [reader.attributes.get_ints("kernel_shape") for reader in readers]
    known = next((kernel for kernel in kernels if kernel), None)
    if known is None:
        raise CannotFold("the number of dimensions of its input is unknown")
    return len(known) + 2


def _pads_of(reader: ir.Node, padding: _Padding) -> list[int]:
    """The pads attribute that lets ``reader`` do the padding as well."""
    if _has_parameters(reader):
        raise CannotFold(f"the attributes of {label(reader)} are parameters of the function around it")
    auto_pad = reader.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID"):
        raise CannotFold(f"{label(reader)} computes its own pads (auto_pad={auto_pad})")
    dims = len(padding.begin)
    own = list(reader.attributes.get_ints("pads", [])) if auto_pad == "NOTSET" else []
    own = own or [0] * (2 * dims)
    pads = [a + b for a, b in zip(own, padding.begin + padding.end, strict=True)]
    if reader.op_type == "MaxPool":
        _check_max_pool(reader, padding)
    elif padding.value != 0:
        raise CannotFold(f"its value is {padding.value}, but {label(reader)} pads with 0")
    if reader.op_type == "AveragePool" and any(own) and not reader.attributes.get_int("count_include_pad", 0):
        raise CannotFold(f"{label(reader)} does not count its own pads")
    if reader.op_type != "Conv":
        _check_pool(reader, pads)
    return pads


def _check_pool(reader: ir.Node, pads: list[int]) -> None:
    if reader.attributes.get_int("ceil_mode", 0):
        raise CannotFold(f"{label(reader)} rounds its output size up")
    kernel = list(reader.attributes.get_ints("kernel_shape", []))
    if any(pad >= size for pad, size in zip(pads, kernel + kernel, strict=True)):
        raise CannotFold(f"the pads would not be smaller than the kernel of {label(reader)}")


def _check_max_pool(reader: ir.Node, padding: _Padding) -> None:
    if len(reader.outputs) > 1 and (reader.outputs[1].uses() or reader.outputs[1].is_graph_output()):
        raise CannotFold(f"the indices of {label(reader)} count in the padded input")
    if any(step != 1 for step in reader.attributes.get_ints("dilations", [])):
        raise CannotFold(f"{label(reader)} is dilated: a window may lie in the padding")
    if not _is_lowest(padding.value) and not (padding.value == 0 and _is_never_negative(padding.x)):
        raise CannotFold(f"its value {padding.value} may exceed what {label(reader)} finds in a window")


def _is_lowest(value: np.generic) -> bool:
    dtype: np.dtype[Any] = value.dtype
    if dtype.kind == "f":
        return bool(value == -np.inf or value == np.finfo(dtype).min)
    return dtype.kind in "iu" and bool(value == np.iinfo(dtype).min)


def _is_never_negative(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return False
    if is_op(producer, "Clip"):
        low = constant_array(producer.inputs[1]) if len(producer.inputs) > 1 else None
        attribute = producer.attributes.get_float("min", -1.0)
        return attribute >= 0 if low is None else bool((low >= 0).all())
    return is_op(producer, "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp")
