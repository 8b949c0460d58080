"""Folding affine nodes into the linear nodes in front of or behind them, and into each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import can_replace_value, replace_value
from onnxshrink.graph.walk import all_graphs, is_op, label, opset_of
from onnxshrink.numerics.folding import Affine, is_float, round_once
from onnxshrink.passes.affine_nodes import (
    ELEMENTWISE,
    AffineNode,
    affine_node,
    constant_operand,
    keeps_shape,
    rounds_its_input,
)
from onnxshrink.passes.base import Change, PassResult, Skip
from onnxshrink.passes.constant_rewriter import ConstantRewriter, NewConstant
from onnxshrink.passes.linear_nodes import LinearNode, linear_node, linear_node_behind
from onnxshrink.passes.refusal import CannotFold

_MAX_SPREAD = 8.0


class AffineFolder:
    """Folds affine nodes of one model. Build one for each application of a pass."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._rewriter = ConstantRewriter(model)
        self._changes: list[Change] = []
        self._skips: dict[str, Skip] = {}

    def run(self, op_types: tuple[str, ...]) -> PassResult:
        """Fold nodes of these operators until nothing folds any more."""
        folded = True
        while folded:
            folded = False
            self._skips.clear()
            for graph in list(all_graphs(self._model)):
                if opset_of(self._model, graph) >= 7:  # older operators broadcast differently
                    for node in list(graph):
                        folded |= is_op(node, *op_types) and self._fold(node)
        return PassResult(tuple(self._changes), tuple(self._skips.values()))

    def _fold(self, node: ir.Node) -> bool:
        affine = affine_node(node)
        if affine is None:
            return False
        refusals = []
        for attempt in (self._drop_neutral, self._into_producer, self._into_readers, self._into_twin):
            try:
                if attempt(affine):
                    return True
            except CannotFold as refusal:
                refusals.append(str(refusal))
        if refusals:
            self._skips[label(node)] = Skip(label(node), refusals[0])
        return False

    def _drop_neutral(self, affine: AffineNode) -> bool:
        """x·1, x/1, x + 0 and x − 0."""
        if affine.node.op_type not in ELEMENTWISE:
            return False
        index, constant = constant_operand(affine)
        if index == 0 and affine.node.op_type in ("Sub", "Div"):
            return False
        neutral = 1 if affine.node.op_type in ("Mul", "Div") else 0
        if (constant != neutral).any() or not keeps_shape(affine) or not can_replace_value(affine.y, affine.x):
            return False
        self._changes.append(Change(label(affine.node), "dropped: it changes nothing"))
        replace_value(affine.y, affine.x)
        self._rewriter.write((), affine.node)
        return True

    def _into_producer(self, affine: AffineNode) -> bool:
        linear = linear_node_behind(affine.x)
        if linear is None or linear.bias_node is affine.node or linear.node.graph is not affine.node.graph:
            return False
        numbers = affine.along(linear.out_axis)
        if numbers is None or not _takes(linear, numbers):
            return False
        _require_sole_reader(affine.x, linear.node)
        if not can_replace_value(affine.y, affine.x):
            raise CannotFold("its output is a graph output more than once")
        new = linear.after(numbers)
        self._require_room(new, affine.node)
        replace_value(affine.y, affine.x)
        self._commit((linear,), new, affine.node)
        return True

    def _into_readers(self, affine: AffineNode) -> bool:
        readers = _linear_readers(affine.y)
        if not readers:
            return False
        if not keeps_shape(affine):
            if affine.x.shape is None:
                raise CannotFold("the shape of its input is unknown")
            return False
        new: list[NewConstant] = []
        for linear in readers:
            numbers = affine.along(linear.in_axis)
            if numbers is None or not _takes(linear, numbers):
                return False
            _require_like_scales(linear, numbers)
            new += linear.before(numbers)
        if _ends_fused_pattern(affine.node):
            raise CannotFold("it ends a LayerNormalization or Gelu that ONNX Runtime computes in one node")
        self._require_room(new, affine.node)
        replace_value(affine.y, affine.x)
        self._commit(readers, new, affine.node)
        return True

    def _into_twin(self, affine: AffineNode) -> bool:
        """Two products, or two sums, in a row: one, with the constants multiplied or added up."""
        twin = _elementwise_behind(affine)
        constant = None if twin is None else _merged_constant(twin, affine)
        if twin is None or constant is None:
            return False
        _require_sole_reader(affine.x, twin.node)
        if not can_replace_value(affine.y, affine.x):
            raise CannotFold("its output is a graph output more than once")
        index, old = constant_operand(twin)
        rounded = round_once(constant, old.dtype)
        if rounded is None:
            raise CannotFold(f"its constant and that of {label(twin.node)} together do not fit {old.dtype.name}")
        new = (NewConstant(twin.node, index, rounded),)
        self._require_room(new, affine.node)
        affine.x.shape = affine.y.shape
        self._changes.append(Change(label(affine.node), f"merged into {label(twin.node)}"))
        replace_value(affine.y, affine.x)
        self._rewriter.write(new, affine.node)
        return True

    def _require_room(self, new: Sequence[NewConstant], removed: ir.Node) -> None:
        growth = self._rewriter.growth_bytes(new, removed)
        if growth > 0:
            raise CannotFold(f"folding it would make the file {growth} bytes larger")

    def _commit(self, linears: Sequence[LinearNode], new: Sequence[NewConstant], removed: ir.Node) -> None:
        targets = " and ".join(label(linear.node) for linear in linears)
        self._changes.append(Change(label(removed), f"folded into {targets}"))
        self._rewriter.write(new, removed)
        for constant in new:
            if constant.index == 2 and is_op(constant.node, "MatMul"):
                constant.node.op_type = "Gemm"
            elif constant.index == 2 and is_op(constant.node, "Gemm"):
                constant.node.attributes.pop("beta", None)


def _require_sole_reader(value: ir.Value, producer: ir.Node) -> None:
    if value.is_graph_output():
        raise CannotFold(f"the output of {label(producer)} is a graph output")
    if len(value.uses()) != 1:
        raise CannotFold(f"the output of {label(producer)} is also read elsewhere")


def _require_like_scales(linear: LinearNode, numbers: Affine) -> None:
    """Scales that differ widely, as those that standardise raw features do, belong in front of the sum.

    In the weights they would spread each row over their range: what float32 rounds then is no longer small beside the
    smaller products, and int8 loses a bit for each doubling.
    """
    sums_channels = linear.layout.in_channels(linear.weight.shape) > linear.layout.groups
    if sums_channels and numbers.spread > _MAX_SPREAD:
        raise CannotFold(f"its scales differ by a factor of {numbers.spread:.3g}, which would spread the weights")


def _takes(linear: LinearNode, numbers: Affine) -> bool:
    """Whether there is a place for the shift: a MatMul of more than two dimensions without an Add has none."""
    return linear.bias_node is not None or not numbers.shifts


def _linear_readers(value: ir.Value) -> list[LinearNode]:
    """The products that read ``value`` as their data, when nothing else reads it; else none."""
    readers = []
    for use in value.uses():
        product = is_op(use.node, "Conv", "ConvTranspose", "Gemm", "MatMul") and use.idx == 0
        linear = linear_node(use.node) if product and use.node.graph is value.graph else None
        if linear is None:
            return []
        readers.append(linear)
    return [] if value.is_graph_output() else readers


def _elementwise_behind(affine: AffineNode) -> AffineNode | None:
    """The product or sum of floats that computes what ``affine``, one as well, reads in the same graph."""
    producer = affine.x.producer()
    if producer is None or producer.graph is not affine.node.graph:
        return None
    if not is_op(producer, *ELEMENTWISE) or affine.node.op_type not in ELEMENTWISE:
        return None
    twin = affine_node(producer)
    return twin if twin is not None and is_float(constant_operand(twin)[1]) else None


def _merged_constant(first: AffineNode, second: AffineNode) -> np.ndarray | None:
    """The operand of ``first`` that makes it compute both, in float64, or None when there is none, or a larger one."""
    (first_index, first_constant), (second_index, second_constant) = constant_operand(first), constant_operand(second)
    first_op, second_op = first.node.op_type, second.node.op_type
    if second_index == 0 and second_op in ("Sub", "Div"):
        return None
    a, b = first_constant.astype(np.float64), second_constant.astype(np.float64)
    inverse = (first_op in ("Sub", "Div") and first_index == 1) != (second_op in ("Sub", "Div"))
    with np.errstate(all="ignore"):
        if first_op in ("Mul", "Div") and second_op in ("Mul", "Div"):
            merged = a / b if inverse else a * b
        elif first_op in ("Add", "Sub") and second_op in ("Add", "Sub"):
            if rounds_its_input(first_constant) or rounds_its_input(second_constant):
                return None
            merged = a - b if inverse else a + b
        else:
            return None
    return merged if merged.size <= max(a.size, b.size) else None


def _ends_fused_pattern(node: ir.Node, depth: int = 4) -> bool:
    """Whether products and sums up to ``depth`` nodes back from ``node`` stand on Erf, Tanh, Sqrt or Reciprocal.

    LayerNormalization and Gelu spelled out end like that, in a Mul or Add by a constant. ONNX Runtime recognises
    them as a whole: a fold of their last node would save that node and lose the fused kernel.
    """
    if depth == 0 or not is_op(node, *ELEMENTWISE):
        return is_op(node, "Erf", "Tanh", "Sqrt", "Reciprocal")
    producers = (value.producer() for value in node.inputs if value is not None)
    return any(_ends_fused_pattern(producer, depth - 1) for producer in producers if producer is not None)
