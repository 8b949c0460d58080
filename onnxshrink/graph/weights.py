"""Which constants are weights, of which node, and which axis is the output channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.walk import all_nodes, is_op


@dataclass(frozen=True)
class WeightUse:
    """One constant weight read by one node.

    Attributes:
        node: the node that multiplies by the weight (or gathers from it).
        index: position of the weight among the node's inputs.
        value: the constant value.
        channel_axes: axes of the weight that get a scale of their own per index; the others share it.
            Conv (out, in/groups, *kernel): 0. ConvTranspose (in, out/groups, *kernel): 1. Gemm B: 0 if transB else 1.
            MatMul: the last axis of a right operand, the last but one of a left operand. Gather: the row axis.
            LSTM/GRU/RNN W and R (directions, gates × hidden, in): 0 and 1.
    """

    node: ir.Node
    index: int
    value: ir.Value
    channel_axes: tuple[int, ...]


def _conv(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 1, (0,)


def _conv_transpose(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 1, (1,)


def _gemm(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 0, (1 if node.attributes.get_int("transA", 0) else 0,)
    yield 1, (0 if node.attributes.get_int("transB", 0) else 1,)


def _matmul(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 0, (-2,)
    yield 1, (-1,)


def _gather(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 0, (node.attributes.get_int("axis", 0),)


def _recurrent(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    yield 1, (0, 1)
    yield 2, (0, 1)


_WEIGHT_INPUTS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _gather,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}

WEIGHT_OPS = tuple(_WEIGHT_INPUTS)
"""Operators whose constant operands count as weights."""


def weight_uses(model: ir.Model, op_types: tuple[str, ...] = WEIGHT_OPS) -> Iterator[WeightUse]:
    """Every constant floating-point weight of the model with the node that uses it, subgraphs and functions included.

    A weight used by several nodes is yielded once for each. Biases and initial states are not weights.
    """
    for node in all_nodes(model):
        if node.op_type not in op_types:
            continue
        for index, axes in weight_operands(node):
            value = node.inputs[index] if index < len(node.inputs) else None
            tensor = constant_tensor(value)
            if value is None or tensor is None or not tensor.dtype.is_floating_point():
                continue
            ndim = len(tensor.shape)
            if all(-ndim <= axis < ndim for axis in axes):
                yield WeightUse(node, index, value, tuple(axis % ndim for axis in axes))


def weight_operands(node: ir.Node) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where ``node`` takes weights: (position among its inputs, channel axes), constant or not.

    Axes may be negative, and may be out of range for a weight that broadcasts.
    """
    if node.domain == "" and node.op_type in _WEIGHT_INPUTS:
        yield from _WEIGHT_INPUTS[node.op_type](node)


_BIAS_INPUTS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}


def bias_uses(model: ir.Model) -> Iterator[WeightUse]:
    """Every constant floating-point bias with the node that adds it, subgraphs and functions included.

    Biases of Conv, ConvTranspose, Gemm, LSTM, GRU and RNN, and what an Add adds to the output of a MatMul. They have no
    channel axes.
    """
    for node in all_nodes(model):
        index = _bias_index(node)
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        tensor = constant_tensor(value)
        if index is not None and value is not None and tensor is not None and tensor.dtype.is_floating_point():
            yield WeightUse(node, index, value, ())


def _bias_index(node: ir.Node) -> int | None:
    if node.domain != "":
        return None
    if node.op_type == "Add":
        producers = [None if value is None else value.producer() for value in node.inputs]
        return next((1 - index for index, producer in enumerate(producers) if is_op(producer, "MatMul")), None)
    return _BIAS_INPUTS.get(node.op_type)
