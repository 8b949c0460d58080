"""Weights and biases as they are stored: each constant once, with all its uses, for passes that change it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, read_array
from onnxshrink.graph.exact_values import exactness
from onnxshrink.graph.walk import all_nodes, is_op, label
from onnxshrink.graph.weight_inputs import weight_input
from onnxshrink.graph.weights import WeightUse, bias_uses, weight_operands, weight_uses


@dataclass(frozen=True)
class StoredWeight:
    """One constant, read as a weight by one or more nodes.

    Attributes:
        value: the constant: an initializer, or the output of a Constant node.
        name: the constant's name, for reports and patterns.
        tensor: its values.
        uses: every use as a weight; the axes are those of ``value``, also where a Transpose stands in between.
        channel_axes: the axes that are channels in all uses; empty when the uses have none in common.
        obstacle: why the values must stay as they are, or None.
    """

    value: ir.Value
    name: str
    tensor: ir.TensorProtocol
    uses: tuple[WeightUse, ...]
    channel_axes: tuple[int, ...]
    obstacle: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.tensor.shape.numpy())

    @property
    def input_axis(self) -> int | None:
        """The axis that the product with the weight sums over; None for tables that are gathered from."""
        if (
            len(self.shape) == 2
            and len(self.channel_axes) == 1
            and any(use.node.op_type != "Gather" for use in self.uses)
        ):
            return 1 - self.channel_axes[0]
        use = self.uses[0]
        if is_op(use.node, "LSTM", "GRU", "RNN"):
            return 2
        source = weight_input(use)
        return None if source is None else source.weight_axis

    @property
    def kernel_size(self) -> int:
        """How many weights of a Conv or ConvTranspose read the same input channel; 1 for other operators."""
        convolution = is_op(self.uses[0].node, "Conv", "ConvTranspose")
        return math.prod(self.shape[2:]) if convolution else 1

    def array(self) -> np.ndarray:
        """The values. Not for writing: they may be the model's own.

        A tensor in a file of its own is read into memory and unmapped, so that a sweep over a large model holds one
        weight at a time.
        """
        if not isinstance(self.tensor, ir.ExternalTensor):
            return self.tensor.numpy()
        return read_array(self.tensor, np.copy)


def stored_weights(model: ir.Model, op_types: tuple[str, ...] | None = None) -> list[StoredWeight]:
    """Every constant that is used as a weight, once, in the order of first use.

    ``op_types`` leaves out weights that no operator of these types reads.
    """
    uses: defaultdict[ir.Value, list[WeightUse]] = defaultdict(list)
    for use in weight_uses(model):
        uses[use.value].append(use)
    for use in _transposed_uses(model):
        uses[use.value].append(use)
    return [
        _stored_weight(value, tuple(found))
        for value, found in uses.items()
        if op_types is None or any(use.node.op_type in op_types for use in found)
    ]


def stored_biases(model: ir.Model) -> list[StoredWeight]:
    """Every constant that is added as a bias, once, in the order of first use; see :func:`bias_uses`."""
    uses: defaultdict[ir.Value, list[WeightUse]] = defaultdict(list)
    for use in bias_uses(model):
        uses[use.value].append(use)
    return [_stored_weight(value, tuple(found)) for value, found in uses.items()]


def replace_tensor(weight: StoredWeight, tensor: ir.TensorProtocol) -> None:
    """Let the constant of ``weight`` hold ``tensor``, of the same type and shape, under the same name."""
    tensor.name = weight.value.name
    producer = weight.value.producer()
    if producer is not None:
        producer.attributes.clear()
        producer.attributes.add(ir.AttrTensor("value", tensor))
    if producer is None or weight.value.const_value is not None:
        weight.value.const_value = tensor


def _stored_weight(value: ir.Value, uses: tuple[WeightUse, ...]) -> StoredWeight:
    axes = [axis for axis in uses[0].channel_axes if all(axis in use.channel_axes for use in uses)]
    neighbours = axes == list(range(axes[0], axes[-1] + 1)) if axes else True
    tensor = constant_tensor(value)
    assert tensor is not None
    name = value.name or label(uses[0].node)
    return StoredWeight(value, name, tensor, uses, tuple(axes) if neighbours else (), _obstacle(value, uses))


def _obstacle(value: ir.Value, uses: tuple[WeightUse, ...]) -> str | None:
    if value.is_graph_output():
        return "it is also an output of its graph"
    readers = {(use.node, use.index) for use in uses if use.node.inputs[use.index] is value}
    via_transpose = {use.node.inputs[use.index] for use in uses} - {value}
    for node, index in value.uses():
        if (node, index) not in readers and not (node.outputs and node.outputs[0] in via_transpose):
            return f"{label(node)} ({node.op_type}) reads the same constant, and not as a weight"
    return next((reason for reason in map(exactness, uses) if reason is not None), None)


def _transposed_uses(model: ir.Model) -> Iterator[WeightUse]:
    """Uses of a constant as a weight behind a Transpose, as with an embedding that is tied to the output layer."""
    for node in all_nodes(model):
        value = node.inputs[0] if is_op(node, "Transpose") else None
        tensor = constant_tensor(value)
        if value is None or tensor is None or not tensor.dtype.is_floating_point():
            continue
        rank = len(tensor.shape)
        permutation = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
        found = [
            WeightUse(reader, index, value, tuple(sorted(permutation[axis % rank] for axis in axes)))
            for reader, index in node.outputs[0].uses()
            for position, axes in weight_operands(reader)
            if position == index
        ]
        if len(found) == len(node.outputs[0].uses()) and not node.outputs[0].is_graph_output():
            yield from found
