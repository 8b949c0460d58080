"""Remove nodes that change nothing, and merge neighbours that one node can stand for.

Dropped: Identity, inference Dropout, Cast to the same type, Reshape, Transpose, Slice, Pad, Concat, Expand, Tile,
Resize and the like where they hand their input on (:mod:`onnxshrink.passes.no_ops`), x·1, x/1, x¹, x − 0, and
Relu(Relu(x)) and its kind. Merged: consecutive Transposes, Casts, Slices and reshaping nodes
(:mod:`onnxshrink.passes.merge_moves`). Initial states of LSTM, GRU and RNN that are all zero are left out: zero is
their default. All of it is repeated until nothing changes.

Refusals: a node between two graph outputs, or between an input and an output of one graph, keeps the two names apart
and stays. What depends on a shape stays unless the shape is known; x + 0 stays, because it turns −0 into 0.

Operators: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.edits import Names, can_replace_value, replace_value
from onnxshrink.graph.walk import all_graphs, is_op, label, opset_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.merge_moves import Merger, undone_by
from onnxshrink.passes.no_ops import Operation, passed_on
from onnxshrink.passes.replace_by_constant import remove_unread
from onnxshrink.passes.shape_values import ShapeValues

_INITIAL_STATES = (5, 6)
"""Inputs ``initial_h`` and ``initial_c`` of recurrent operators."""


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Remove nodes that hand their input on unchanged, and merge consecutive data movements."""

    name: ClassVar[str] = "drop-identity"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        shapes, merger = ShapeValues(model), Merger(model, Names(model))
        changes: list[Change] = []
        skips: dict[str, Skip] = {}
        changed = True
        while changed:
            changed = False
            for outcome in _sweep(model, shapes, merger):
                if isinstance(outcome, Change):
                    changed = True
                    changes.append(outcome)
                else:
                    skips[outcome.node] = outcome
        return PassResult(tuple(changes), tuple(skips.values()))


def _sweep(model: ir.Model, shapes: ShapeValues, merger: Merger) -> Iterator[Change | Skip]:
    for graph in list(all_graphs(model)):
        opset = opset_of(model, graph)
        for node in list(graph):
            # A node further up may have taken this one with it.
            if node.graph is not None and node.domain == "" and node.inputs:
                yield from _simplify(Operation(node, opset, shapes), merger)


def _simplify(operation: Operation, merger: Merger) -> Iterator[Change | Skip]:
    node = operation.node
    without_states = _drop_states(node)
    if without_states is not None:
        yield without_states
    outcome = _drop(operation)
    if outcome is not None:
        yield outcome
    if isinstance(outcome, Change):
        return
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    if producer is not None and merger.merge(operation):
        yield Change(label(node), f"{producer.op_type} in front of it merged into it")
        remove_unread(producer)


def _drop(operation: Operation) -> Change | Skip | None:
    node = operation.node
    value = passed_on(operation) or _taken_back(node)
    if value is None:
        return None
    output = node.outputs[0]
    if not can_replace_value(output, value):
        return Skip(label(node), f"{node.op_type} changes nothing, but stands between two outputs, or input and output")
    if value.shape is None:
        value.shape = output.shape
    what = f"{node.op_type} changes nothing"
    name = label(node)
    replace_value(output, value)
    remove_unread(node)
    return Change(name, what)


def _taken_back(node: ir.Node) -> ir.Value | None:
    """The input of the node's producer when the two undo each other."""
    inner = None if node.inputs[0] is None else node.inputs[0].producer()
    return inner.inputs[0] if inner is not None and undone_by(node, inner) else None


def _drop_states(node: ir.Node) -> Change | None:
    if not is_op(node, "LSTM", "GRU", "RNN"):
        return None
    zero = [index for index in _INITIAL_STATES if index < len(node.inputs) and _is_zero(node.inputs[index])]
    for index in zero:
        value = node.inputs[index]
        assert value is not None
        node.replace_input_with(index, None)
        producer = value.producer()
        if producer is not None:
            remove_unread(producer)
    return Change(label(node), "initial states of zeros left out") if zero else None


def _is_zero(value: ir.Value | None) -> bool:
    """Whether all elements are +0: a constant, or a ConstantOfShape of any shape."""
    producer = None if value is None else value.producer()
    if producer is not None and is_op(producer, "ConstantOfShape"):
        fill = producer.attributes.get("value")
        array = (
            None if fill is not None and fill.is_ref() else np.zeros(1) if fill is None else fill.as_tensor().numpy()
        )
    else:
        array = constant_array(value)
    return array is not None and not array.any() and not np.signbit(array).any()
