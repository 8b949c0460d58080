"""Nodes that multiply by a constant weight and add a bias, and how they take in y = scale·x + shift.

Conv, ConvTranspose, Gemm and MatMul (with the Add behind it as its bias), and inference BatchNormalization, which is
γ·x̂ + β: a depthwise product of its normalised input. A MatMul of matrices that takes a bias becomes a Gemm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import is_op, label
from onnxshrink.numerics.folding import (
    Affine,
    WeightLayout,
    affine_bias,
    is_float,
    response_to_constant,
    round_once,
    scale_inputs,
    scale_outputs,
)
from onnxshrink.passes.constant_rewriter import NewConstant, known_array
from onnxshrink.passes.refusal import CannotFold


@dataclass(frozen=True)
class ChannelAxis:
    """The axis of a tensor along which the numbers of a fold vary.

    Attributes:
        size: the number of channels.
        from_end: the axis, negative.
        rank: the tensor's number of dimensions, or None when unknown.
    """

    size: int
    from_end: int
    rank: int | None


@dataclass(frozen=True)
class LinearNode:
    """One linear node with its constants.

    Attributes:
        node: the node that holds the weight, as input 1.
        bias_node: the node that holds the bias, or can: ``node`` itself, or the Add behind a MatMul of more than two
            dimensions, or None where there is no such Add.
        bias_index: position of the bias among ``bias_node``'s inputs.
        bias: (out,), (), or None when there is none yet.
        gain: the factor on the product (Gemm's alpha).
    """

    node: ir.Node
    bias_node: ir.Node | None
    bias_index: int
    weight: np.ndarray
    bias: np.ndarray | None
    layout: WeightLayout
    gain: float = 1.0

    @property
    def out_axis(self) -> ChannelAxis:
        size = self.layout.out_channels(self.weight.shape)
        from_end, rank = self._place(self.node.outputs[0])
        return ChannelAxis(size, from_end, rank)

    @property
    def in_axis(self) -> ChannelAxis:
        size = self.layout.in_channels(self.weight.shape)
        from_end, rank = self._place(self.node.inputs[0])
        if is_op(self.node, "Gemm") and self.node.attributes.get_int("transA"):
            from_end = -2
        return ChannelAxis(size, from_end, rank)

    def after(self, affine: Affine) -> list[NewConstant]:
        """The constants that make this node compute ``affine`` of its present output."""
        new = []
        if affine.scales:
            new.append(self._new_weight(scale_outputs(self.weight, self.layout, affine.scale)))
        if affine.shifts or (affine.scales and self.bias is not None):
            new.append(self._new_bias(affine_bias(self.bias, affine, self.out_axis.size)))
        return new

    def before(self, affine: Affine) -> list[NewConstant]:
        """The constants that make this node, fed with x, compute what it computes when fed with ``affine`` of x."""
        new = []
        if affine.scales:
            new.append(self._new_weight(scale_inputs(self.weight, self.layout, affine.scale)))
        if affine.shifts:
            if not reads_no_padding(self.node):
                raise CannotFold(f"{label(self.node)} pads with zeros, which the shift would have to reach")
            answer = self.gain * response_to_constant(self.weight, self.layout, affine.shift)
            new.append(self._new_bias(affine_bias(self.bias, Affine(np.ones(()), answer), self.out_axis.size)))
        return new

    def _place(self, value: ir.Value | None) -> tuple[int, int | None]:
        rank = None if value is None or value.shape is None else len(value.shape)
        if is_op(self.node, "Conv", "ConvTranspose"):
            return 1 - self.weight.ndim, self.weight.ndim
        if is_op(self.node, "BatchNormalization"):
            if rank is None:
                raise CannotFold("the number of dimensions of its input is unknown")
            return 1 - rank, rank
        return -1, 2 if is_op(self.node, "Gemm") else rank

    def _new_weight(self, array: np.ndarray) -> NewConstant:
        stored = known_array(self.node.inputs[1])
        assert stored is not None
        return NewConstant(self.node, 1, self._rounded(array).reshape(stored.shape))

    def _new_bias(self, array: np.ndarray) -> NewConstant:
        assert self.bias_node is not None, "callers fold shifts only where there is a bias"
        return NewConstant(self.bias_node, self.bias_index, self._rounded(array))

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        rounded = round_once(array, self.weight.dtype)
        if rounded is None:
            raise CannotFold(f"the folded weights of {label(self.node)} do not fit {self.weight.dtype.name}")
        return rounded


def linear_node(node: ir.Node | None) -> LinearNode | None:
    """``node`` as a linear node, or None when it is none.

    Raises:
        CannotFold: it is one, but its weight or bias is not constant.
    """
    if node is None or node.domain != "" or any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    reader = {
        "Conv": _convolution,
        "ConvTranspose": _convolution,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "BatchNormalization": _batchnorm,
    }.get(node.op_type)
    return None if reader is None else reader(node)


def linear_node_behind(value: ir.Value) -> LinearNode | None:
    """The linear node that computes ``value``: its producer, or the MatMul in front of an Add that is its bias."""
    producer = value.producer()
    if not is_op(producer, "Add"):
        return linear_node(producer)
    assert producer is not None
    for operand in producer.inputs:
        source = None if operand is None else operand.producer()
        if source is not None and source.graph is producer.graph and is_op(source, "MatMul"):
            found = linear_node(source)
            if found is not None and found.bias_node is producer:
                return found
    return None


def is_inference_batchnorm(node: ir.Node) -> bool:
    """Whether a BatchNormalization of opset 7 or later uses the statistics it is given, per channel."""
    spare_outputs = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
    flags = node.attributes
    return not spare_outputs and not flags.get_int("training_mode", 0) and flags.get_int("spatial", 1) == 1


def reads_no_padding(node: ir.Node) -> bool:
    """Whether every output element of a linear node sums over all of its taps, none of them in zero padding."""
    if not is_op(node, "Conv", "ConvTranspose"):
        return True
    if is_op(node, "ConvTranspose"):
        return False
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        return not any(node.attributes.get_ints("pads", []))
    kernel = known_array(node.inputs[1])
    return auto_pad == "VALID" or (kernel is not None and all(size == 1 for size in kernel.shape[2:]))


def _convolution(node: ir.Node) -> LinearNode:
    weight = _weight(node)
    layout = WeightLayout(node.attributes.get_int("group", 1), out_first=node.op_type == "Conv")
    return LinearNode(node, node, 2, weight, _bias(node, layout.out_channels(weight.shape)), layout)


def _gemm(node: ir.Node) -> LinearNode | None:
    weight = _weight(node)
    if not is_float(weight):
        return None
    layout = WeightLayout(out_first=bool(node.attributes.get_int("transB", 0)))
    bias = _bias(node, layout.out_channels(weight.shape))
    beta = node.attributes.get_float("beta", 1.0)
    if bias is not None and beta != 1.0:
        bias = bias.astype(np.float64) * beta
    return LinearNode(node, node, 2, weight, bias, layout, node.attributes.get_float("alpha", 1.0))


def _matmul(node: ir.Node) -> LinearNode | None:
    weight, layout = known_array(node.inputs[1]), WeightLayout(out_first=False)
    if weight is None or weight.ndim != 2 or not is_float(weight):
        return None
    product = node.outputs[0]
    rank = next((len(value.shape) for value in (product, node.inputs[0]) if value and value.shape is not None), None)
    if rank == 2 and weight.dtype.kind == "f":
        return LinearNode(node, node, 2, weight, None, layout)
    adder = _bias_adder(node)
    if adder is not None:
        index = 1 if adder.inputs[0] is product else 0
        bias = vector_along(known_array(adder.inputs[index]), ChannelAxis(weight.shape[1], -1, rank))
        if bias is not None:
            return LinearNode(node, adder, index, weight, bias, layout)
    return LinearNode(node, None, 0, weight, None, layout)


def _bias_adder(node: ir.Node) -> ir.Node | None:
    product = node.outputs[0]
    uses = product.uses()
    if len(uses) != 1 or product.is_graph_output():
        return None
    user = next(iter(uses)).node
    return user if is_op(user, "Add") and user.graph is node.graph else None


def _batchnorm(node: ir.Node) -> LinearNode | None:
    gamma, beta = known_array(node.inputs[1]), known_array(node.inputs[2])
    if gamma is None or beta is None or not is_inference_batchnorm(node):
        return None
    return LinearNode(node, node, 2, gamma[:, np.newaxis], beta, WeightLayout(groups=gamma.size))


def _weight(node: ir.Node) -> np.ndarray:
    weight = known_array(node.inputs[1])
    if weight is None:
        raise CannotFold(f"the weight of {label(node)} is not constant")
    return weight


def _bias(node: ir.Node, channels: int) -> np.ndarray | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    array = known_array(value)
    if array is None:
        raise CannotFold(f"the bias of {label(node)} is not constant")
    bias = vector_along(array, ChannelAxis(channels, -1, 2))
    if bias is None:
        raise CannotFold(f"the bias of {label(node)} varies along more than the output channels")
    return bias


def vector_along(array: np.ndarray | None, axis: ChannelAxis) -> np.ndarray | None:
    """A constant operand as one number per channel, (channels,), or for all, (), or None when it is neither.

    The operand must not add dimensions to, nor widen, the tensor it is broadcast against.
    """
    if array is None or array.ndim > (axis.rank if axis.rank is not None else 1):
        return None
    if array.size == 1:
        return array.reshape(())
    if array.size == axis.size and array.ndim >= -axis.from_end and array.shape[axis.from_end] == axis.size:
        return array.reshape(-1)
    return None
