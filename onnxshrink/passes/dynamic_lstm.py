"""LSTM → com.microsoft.DynamicQuantizeLSTM: its two weights in int8, its inputs and states quantized at every step.

    inputs  X, W, R, B, sequence_lens, initial_h, initial_c, P   as those of LSTM, then
            W_scale, W_zero_point, R_scale, R_zero_point

W and R are transposed to (directions, input, 4 · hidden) and int8 with zero points of zero; their scales are
(directions, 4 · hidden).

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, insert_before, remove_node, replace_value
from onnxshrink.graph.stored_weights import StoredWeight
from onnxshrink.graph.walk import is_op, label

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class IntegerRows:
    """A weight as rows on symmetric int8 grids.

    Attributes:
        quantized: int8 (channels, reduction).
        scale: float32 (channels,).
    """

    quantized: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class StoredLstmWeight:
    """An LSTM weight in the form that the integer operator reads: its integers, scales and zero points."""

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def lstm_obstacle(node: ir.Node, quantizable: Collection[ir.Value]) -> str | None:
    """Why an LSTM cannot be replaced, or None. ``quantizable``: constants that only LSTMs read, as weights."""
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "its attributes are parameters of a function"
    if node.attributes.get_int("layout", 0):
        return "its layout is 1, and the integer operator knows only layout 0"
    for name, value in zip(("W", "R"), node.inputs[1:3], strict=True):
        if value not in quantizable:
            return f"its {name} is not a constant float32 weight that only LSTMs read and that this pass may change"
    return None


def lstm_weight_obstacle(weight: StoredWeight) -> str | None:
    """Why a constant cannot be the weight of an integer LSTM, or None."""
    if weight.obstacle is not None:
        return weight.obstacle
    if weight.tensor.dtype != ir.DataType.FLOAT:
        return f"it computes in {weight.tensor.dtype.name.lower()}, not float32"
    other = next((use.node for use in weight.uses if not is_op(use.node, "LSTM")), None)
    if other is not None:
        return f"{label(other)} ({other.op_type}) reads it as well"
    return None


def state_source(node: ir.Node) -> ir.Value | None:
    """An output of an LSTM that shows the hidden states R is multiplied with; None for two directions, which mix."""
    if node.attributes.get_string("direction", "forward") == "bidirectional":
        return None
    return next((output for output in node.outputs[:2] if output.name), None)


def store_lstm_weight(model: ir.Model, names: Names, weight: StoredWeight, rows: IntegerRows) -> StoredLstmWeight:
    """Add the constants of the integer form, beside ``weight`` (directions, 4 · hidden, input)."""
    graph = weight.value.graph
    assert graph is not None
    directions, channels, _ = weight.shape
    integers = np.ascontiguousarray(rows.quantized.reshape(weight.shape).swapaxes(1, 2))
    scale = rows.scale.reshape(directions, channels)

    def constant(suffix: str, array: np.ndarray) -> ir.Value:
        return add_constant(model, graph, names.fresh(f"{weight.name}_{suffix}"), array)

    return StoredLstmWeight(
        constant("quantized", integers),
        constant("scale", scale),
        constant("zero_point", np.zeros(scale.shape, np.int8)),
    )


def replace_lstm(model: ir.Model, node: ir.Node, w: StoredLstmWeight, r: StoredLstmWeight) -> None:
    """Put the integer operator in the place of ``node``, with its name and those of its outputs."""
    rest = [*node.inputs[3:], *[None] * (8 - len(node.inputs))]
    inputs = [node.inputs[0], w.integers, r.integers, *rest]
    inputs += [w.scale, w.zero_point, r.scale, r.zero_point]
    attributes = [attribute for name, attribute in node.attributes.items() if name != "layout"]
    new = ir.Node(MICROSOFT, "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs), name=node.name)
    insert_before(node, [new])
    for old, output in zip(node.outputs, new.outputs, strict=True):
        name = old.name
        # Shape inference does not know the operator: what is known of its outputs is stored.
        output.shape, output.type = old.shape, old.type
        replace_value(old, output)
        old.name, output.name = None, name
    graph = node.graph
    remove_node(node)
    assert graph is not None
    _import_microsoft(model, graph)


def _import_microsoft(model: ir.Model, graph: ir.Graph) -> None:
    owner = next(
        (
            function
            for function in model.functions.values()
            if graph is function.graph or graph in set(function.subgraphs())
        ),
        None,
    )
    imports = (model if owner is None else owner).opset_imports
    imports.setdefault(MICROSOFT, 1)
    model.opset_imports.setdefault(MICROSOFT, 1)
