"""The layers whose weights are quantized: weight, bias, and how the kernel sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, read_array
from onnxshrink.graph.walk import is_op
from onnxshrink.numerics.layer_inputs import Window

_SAME: dict[str, Literal["upper", "lower"]] = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}


@dataclass(frozen=True)
class WeightedLayer:
    """A Conv, Gemm or MatMul with a constant weight, input 1.

    Attributes:
        node: the layer.
        weight: its weight as stored: Conv (out, in/groups, *kernel), Gemm and MatMul two-dimensional.
        axis: the weight's axis of output channels.
        window: how a Conv slides; None for Gemm and MatMul.
        bias_node: the node that adds a constant bias to every output channel; None when there is none.
        bias_index: position of the bias among its inputs.
    """

    node: ir.Node
    weight: np.ndarray
    axis: int
    window: Window | None
    bias_node: ir.Node | None
    bias_index: int

    @property
    def weight_value(self) -> ir.Value:
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def output_axis(self) -> int:
        """Channel axis of the output."""
        return 1 if self.window is not None else -1

    @property
    def groups(self) -> int:
        return 1 if self.window is None else self.window.groups

    @property
    def bias(self) -> np.ndarray | None:
        """(channels,), or None when the layer has no bias."""
        if self.bias_node is None:
            return None
        tensor = constant_tensor(self.bias_node.inputs[self.bias_index])
        assert tensor is not None
        return read_array(tensor, np.copy).reshape(-1)

    @property
    def is_shared(self) -> bool:
        """Whether another node, or another input, reads the same weight."""
        return len(self.weight_value.uses()) > 1 or self.weight_value.is_graph_output()

    def rows(self, weight: np.ndarray) -> np.ndarray:
        """(groups, channels/groups, reduction), the reduction in the order of an ONNX Conv weight."""
        moved = np.moveaxis(weight, self.axis, 0)
        return moved.reshape(self.groups, moved.shape[0] // self.groups, -1)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`rows`."""
        moved_shape = np.moveaxis(self.weight, self.axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(moved_shape), 0, self.axis))


def weighted_layer(node: ir.Node) -> WeightedLayer | None:
    """``node`` as a layer with a constant weight; None when it has none (a MatMul of two activations)."""
    tensor = constant_tensor(node.inputs[1])
    if tensor is None:
        return None
    # A view of a file would keep it mapped when other passes let go of it.
    weight = read_array(tensor, np.copy) if isinstance(tensor, ir.ExternalTensor) else tensor.numpy()
    if is_op(node, "Conv"):
        return WeightedLayer(node, weight, 0, _window(node, weight), *_own_bias(node))
    if is_op(node, "Gemm"):
        return WeightedLayer(node, weight, 0 if node.attributes.get_int("transB", 0) else 1, None, *_own_bias(node))
    return WeightedLayer(node, weight, 1, None, *_bias_behind(node, weight.shape[1]))


def _own_bias(node: ir.Node) -> tuple[ir.Node | None, int]:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return (None if value is None else node), 2


def _bias_behind(node: ir.Node, channels: int) -> tuple[ir.Node | None, int]:
    """The Add of a constant vector that alone reads a MatMul."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or not is_op(uses[0].node, "Add"):
        return None, 0
    adding, index = uses[0].node, 1 - uses[0].idx
    tensor = constant_tensor(adding.inputs[index])
    if tensor is None or tensor.size != channels or tuple(tensor.shape)[-1:] != (channels,):
        return None, 0
    return adding, index


def _window(node: ir.Node, weight: np.ndarray) -> Window:
    spatial = weight.ndim - 2
    pads = node.attributes.get_ints("pads", (0,) * (2 * spatial))
    if node.attributes.get_string("auto_pad", "NOTSET") == "VALID":
        pads = (0,) * (2 * spatial)
    return Window(
        kernel=tuple(weight.shape[2:]),
        strides=tuple(node.attributes.get_ints("strides", (1,) * spatial)),
        dilations=tuple(node.attributes.get_ints("dilations", (1,) * spatial)),
        pads=tuple(zip(pads[:spatial], pads[spatial:], strict=True)),
        groups=node.attributes.get_int("group", 1),
        same=_SAME.get(node.attributes.get_string("auto_pad", "NOTSET")),
    )
