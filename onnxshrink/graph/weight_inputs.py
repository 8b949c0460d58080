"""What a weight is multiplied with: the activation, its channel axis, and how channels line up with the weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import is_op
from onnxshrink.graph.weights import WeightUse


@dataclass(frozen=True)
class WeightInput:
    """The activation that a weight is multiplied with.

    Attributes:
        value: the activation.
        axis: its axis along which every index meets weights of its own; the product sums over it.
        weight_axis: the axis of the weight that is summed over together with it.
        groups: the number of Conv groups; 1 for other operators.
    """

    value: ir.Value
    axis: int
    weight_axis: int
    groups: int = 1


def weight_input(use: WeightUse) -> WeightInput | None:
    """The activation that the weight of ``use`` is multiplied with.

    None where there is none that could be observed: Gather reads rows, the R of a recurrent operator meets its state.
    """
    node, index = use.node, use.index
    if is_op(node, "Conv", "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        found = (node.inputs[0], 1, 1 if is_op(node, "Conv") else 0, groups)
    elif is_op(node, "MatMul"):
        found = (node.inputs[0], -1, -2, 1) if index == 1 else (node.inputs[1], -2, -1, 1)
    elif is_op(node, "Gemm"):
        trans_a, trans_b = node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)
        sum_a, sum_b = (0 if trans_a else 1), (1 if trans_b else 0)
        found = (node.inputs[0], sum_a, sum_b, 1) if index == 1 else (node.inputs[1], sum_b, sum_a, 1)
    elif is_op(node, "LSTM", "GRU", "RNN") and index == 1:
        found = (node.inputs[0], 2, 2, 1)
    else:
        return None
    value, axis, weight_axis, groups = found
    rank = len(use.value.shape) if use.value.shape is not None else 0
    if value is None or rank < 2:
        return None
    return WeightInput(value, axis, weight_axis % rank, groups)


def per_weight(mean: np.ndarray, source: WeightInput, shape: tuple[int, ...]) -> np.ndarray | None:
    """``mean`` (channels of the activation) broadcastable to the weight of ``shape``; None when they do not line up."""
    axis, groups = source.weight_axis, source.groups
    ones = [1] * len(shape)
    if mean.size == shape[axis]:  # also a ConvTranspose, whose axis 0 counts the channels of all groups
        ones[axis] = mean.size
        return mean.reshape(ones)
    if mean.size != shape[axis] * groups or shape[0] % groups:
        return None
    # Grouped Conv (out, in/groups, *kernel): every out/groups outputs read the next in/groups channels.
    per_group = np.repeat(mean.reshape(groups, shape[axis]), shape[0] // groups, axis=0)
    ones[0], ones[axis] = per_group.shape
    return per_group.reshape(ones)
