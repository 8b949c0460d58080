"""Nodes that compute y = scale·x + shift with constants: inference BatchNormalization, and Mul, Div, Add, Sub."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import is_op
from onnxshrink.numerics.folding import Affine, batchnorm_affine
from onnxshrink.passes.constant_rewriter import known_array
from onnxshrink.passes.linear_nodes import ChannelAxis, is_inference_batchnorm, vector_along
from onnxshrink.passes.refusal import CannotFold

ELEMENTWISE = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class AffineNode:
    """A node and the input on which it computes scale·x + shift."""

    node: ir.Node
    x: ir.Value

    @property
    def y(self) -> ir.Value:
        return self.node.outputs[0]

    def along(self, axis: ChannelAxis) -> Affine | None:
        """The numbers per channel of ``axis`` of x, or None when they vary along more than that.

        Raises:
            CannotFold: they are not constant, not finite, or belong to another axis.
        """
        affine = (_batchnorm if self.node.op_type == "BatchNormalization" else _elementwise)(self, axis)
        if affine is not None and not affine.is_finite:
            raise CannotFold("its scale and shift are not finite numbers")
        return affine


def affine_node(node: ir.Node) -> AffineNode | None:
    """``node`` as an affine node: a BatchNormalization, or one of ELEMENTWISE with exactly one constant operand."""
    if is_op(node, "BatchNormalization"):
        return AffineNode(node, node.inputs[0]) if node.inputs[0] is not None else None
    if not is_op(node, *ELEMENTWISE):
        return None
    varying = [value for value in node.inputs if value is not None and known_array(value) is None]
    return AffineNode(node, varying[0]) if len(varying) == 1 else None


def constant_operand(affine: AffineNode) -> tuple[int, np.ndarray]:
    """Position and value of the constant operand of an elementwise affine node."""
    index = 1 if affine.node.inputs[0] is affine.x else 0
    array = known_array(affine.node.inputs[index])
    assert array is not None
    return index, array


def keeps_shape(affine: AffineNode) -> bool:
    """Whether the node certainly does not broadcast its input to a larger shape."""
    if affine.node.op_type == "BatchNormalization":
        return True
    constant, shape = constant_operand(affine)[1], affine.x.shape
    if constant.ndim == 0:
        return True
    if shape is None or len(shape) < constant.ndim:
        return False
    return all(size in (1, shape[axis - constant.ndim]) for axis, size in enumerate(constant.shape))


def rounds_its_input(constant: np.ndarray) -> bool:
    """Whether adding ``constant`` drops fractional digits: some models round to integers that way, on purpose."""
    one = np.ones((), constant.dtype)
    spacing = float(np.nextafter(one, one + one)) - 1.0
    return bool((np.abs(constant.astype(np.float64)) * spacing >= 0.25).any())


def _batchnorm(affine: AffineNode, axis: ChannelAxis) -> Affine:
    node = affine.node
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        raise CannotFold("its attributes are parameters of the function around it")
    if not is_inference_batchnorm(node):
        raise CannotFold("it runs in training mode or has more than one output")
    gamma, beta, mean, variance = (known_array(value) for value in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        raise CannotFold("its parameters are not constant")
    if axis.rank is None:
        raise CannotFold("the number of dimensions of its input is unknown")
    if axis.rank + axis.from_end != 1 or gamma.size != axis.size:
        raise CannotFold("its channels are not those of its neighbour")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    if not (variance.astype(np.float64) + epsilon > 0).all():
        raise CannotFold("its variance plus epsilon is not positive")
    return batchnorm_affine(gamma, beta, mean, variance, epsilon)


def _elementwise(affine: AffineNode, axis: ChannelAxis) -> Affine | None:
    index, operand = constant_operand(affine)
    vector = vector_along(operand, axis)
    if vector is None:
        return None
    number, op_type = vector.astype(np.float64), affine.node.op_type
    if op_type in ("Mul", "Div"):
        if op_type == "Div" and index == 0:
            return None
        with np.errstate(divide="ignore"):
            return Affine(number if op_type == "Mul" else 1 / number, np.zeros(()))
    if rounds_its_input(vector):
        raise CannotFold("it adds a number so large that it rounds its input")
    sign = -1.0 if op_type == "Sub" else 1.0
    return Affine(np.asarray(sign), number) if index == 0 and op_type == "Sub" else Affine(np.ones(()), sign * number)
