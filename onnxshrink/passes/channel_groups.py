"""Which channels of which activations have to be scaled together, and what takes the factors up.

Every layer's output channels start with factors of their own. They are followed forward through what commutes with
positive factors. Where activations meet, their factors become one: an Add of a residual connection, a Max, a Concat
across other axes. A Concat of channels puts factors in a row, a Split, Slice or Pad picks from them or adds to them.
What does not commute fixes the factors that reach it: they must stay 1. What remains connected is a group:

    layers that produce, divided by s  →  activations  →  products that read, multiplied by s
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import int_list
from onnxshrink.graph.shapes import rank
from onnxshrink.graph.walk import is_op, label
from onnxshrink.numerics.folding import Affine, is_float
from onnxshrink.passes.affine_nodes import affine_node
from onnxshrink.passes.constant_rewriter import NewConstant, known_array
from onnxshrink.passes.equalization_pairs import (
    Channels,
    Reader,
    Shift,
    arrive,
    commutes_everywhere,
    require_own_weight,
)
from onnxshrink.passes.linear_nodes import LinearNode, linear_node
from onnxshrink.passes.refusal import CannotFold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]
    Index = NDArray[np.intp]

_PRODUCERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
_MEETINGS = ("Add", "Sum", "Sub", "Max", "Min", "Mean")
_SPATIAL = ("Resize", "Upsample")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


@dataclass(frozen=True)
class Lane:
    """A value and the factors, (channels,), of its channels along an axis counted from the end."""

    value: ir.Value
    from_end: int
    factors: Index


@dataclass(frozen=True)
class Producer:
    """A layer whose output channels are divided by the factors ``factors`` (out,)."""

    linear: LinearNode
    output: ir.Value
    factors: Index


@dataclass(frozen=True)
class Consumer:
    """A product whose input channels, along ``from_end`` of ``activation``, arrive divided by ``factors`` (in,)."""

    linear: LinearNode
    activation: ir.Value
    from_end: int
    factors: Index


@dataclass(frozen=True)
class Addend:
    """A constant on the way that is divided too; see :class:`~onnxshrink.passes.equalization_pairs.Shift`."""

    shift: Shift
    factors: Index


@dataclass(frozen=True)
class ClippedLane:
    """A Clip with an end that is neither 0 nor infinite, and what it clips."""

    node: ir.Node
    lane: Lane


@dataclass
class ChannelGroup:
    """Channels that are scaled together. In all index arrays, factors are numbered from 0 to ``size`` − 1.

    Attributes:
        size: the number of factors.
        fixed: (size,) whether a factor must stay 1.
        obstacles: what fixes factors, in the order of the graph.
    """

    size: int
    fixed: NDArray[np.bool_]
    producers: list[Producer] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    addends: list[Addend] = field(default_factory=list)
    clips: list[ClippedLane] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    def rescaled(self, scale: Float64Array) -> list[NewConstant]:
        """The constants with which the graph computes the same with channels divided by ``scale`` (size,).

        Raises:
            CannotFold: they do not fit the types they are stored in.
        """
        new = [addend.shift.divided(scale[addend.factors]) for addend in self.addends]
        weights: dict[ir.Node, NewConstant] = {}
        for consumer in self.consumers:
            linear = _as_it_is(consumer.linear)
            for constant in linear.before(Affine(scale[consumer.factors], np.zeros(()))):
                weights[linear.node] = constant
        for producer in self.producers:
            linear = _as_it_is(producer.linear)
            if linear.node in weights:  # it reads what it adds to
                linear = replace(linear, weight=weights[linear.node].array.reshape(linear.weight.shape))
            for constant in linear.after(Affine(1 / scale[producer.factors], np.zeros(()))):
                if constant.node is linear.node and constant.index == 1:
                    weights[linear.node] = constant
                else:
                    new.append(constant)
        return [*new, *weights.values()]


def channel_groups(graph: ir.Graph) -> tuple[list[ChannelGroup], dict[ir.Node, str]]:
    """The groups of one graph, and the layers that are in none, with the reason."""
    walk = _Walk()
    for node in graph:
        walk.visit(node)
    for output in graph.outputs:
        walk.fix(output, f"{output.name} is an output of its graph")
    return walk.groups(), walk.refused


class _Walk:
    """One pass over a graph in its order. Factors are numbers; a union-find says which of them are one."""

    def __init__(self) -> None:
        self.refused: dict[ir.Node, str] = {}
        self._lanes: dict[ir.Value, Lane] = {}
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._obstacles: list[tuple[Index, str]] = []
        self._producers: list[Producer] = []
        self._consumers: list[Consumer] = []
        self._addends: list[Addend] = []
        self._clips: list[ClippedLane] = []

    def visit(self, node: ir.Node) -> None:
        lanes = [
            self._lanes[value] for value in dict.fromkeys(node.inputs) if value is not None and value in self._lanes
        ]
        if lanes:
            self._carry_on(node, lanes)
        if is_op(node, *_PRODUCERS):
            self._start(node)
        for output in node.outputs:
            if any(use.node.graph is not node.graph for use in output.uses()):
                reader = next(use.node for use in output.uses() if use.node.graph is not node.graph)
                self.fix(output, f"{label(reader)} reads it inside a subgraph")

    def fix(self, value: ir.Value, reason: str) -> None:
        """Keep the factors of a value at 1."""
        lane = self._lanes.get(value)
        if lane is not None:
            self._fixed.update(lane.factors.tolist())
            self._obstacles.append((lane.factors, reason))

    def groups(self) -> list[ChannelGroup]:
        roots = np.array([self._root(number) for number in range(len(self._parents))], np.intp)
        members = _connected([lane.factors for lane in self._lanes.values()], roots)
        fixed_roots = np.isin(np.arange(len(roots)), roots[sorted(self._fixed)])
        found = [ChannelGroup(len(ids), fixed_roots[ids]) for ids in members]
        home: dict[int, ChannelGroup] = {}
        number_of = np.zeros(len(roots), np.intp)
        for group, ids in zip(found, members, strict=True):
            home.update(dict.fromkeys(ids, group))
            number_of[ids] = np.arange(len(ids))

        def placed(factors: Index) -> tuple[ChannelGroup, Index]:
            return home[int(roots[factors[0]])], number_of[roots[factors]]

        for producer in self._producers:
            group, factors = placed(producer.factors)
            group.producers.append(replace(producer, factors=factors))
        for consumer in self._consumers:
            group, factors = placed(consumer.factors)
            group.consumers.append(replace(consumer, factors=factors))
        for addend in self._addends:
            group, factors = placed(addend.factors)
            group.addends.append(replace(addend, factors=factors))
        for clip in self._clips:
            group, factors = placed(clip.lane.factors)
            group.clips.append(replace(clip, lane=replace(clip.lane, factors=factors)))
        for factors, reason in self._obstacles:
            placed(factors)[0].obstacles.append(reason)
        return found

    def _start(self, node: ir.Node) -> None:
        """Give a layer's output channels factors of their own."""
        try:
            linear = linear_node(node)
            if linear is None or not is_float(linear.weight):
                return
            require_own_weight(node)
            axis = linear.out_axis
        except CannotFold as refusal:
            self.refused[node] = str(refusal)
            return
        output = node.outputs[0] if linear.bias_node is None else linear.bias_node.outputs[0]
        if not output.uses():
            return
        lane = Lane(output, axis.from_end, self._fresh(axis.size))
        self._lanes[output] = lane
        self._producers.append(Producer(linear, output, lane.factors))

    def _carry_on(self, node: ir.Node, lanes: Sequence[Lane]) -> None:
        """Follow the factors of what a node reads to what it computes."""
        if len(node.outputs) == 1 and node.outputs[0] in self._lanes:
            return  # the Add of a MatMul's bias
        try:
            for value, lane in self._computed(node, lanes):
                self._lanes[value] = replace(lane, value=value)
        except CannotFold as refusal:
            for lane in lanes:
                self.fix(lane.value, str(refusal))

    def _computed(self, node: ir.Node, lanes: Sequence[Lane]) -> Iterator[tuple[ir.Value, Lane]]:
        """What a node makes of the lanes it reads.

        Raises:
            CannotFold: it does not commute with the factors of some of them.
        """
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            raise CannotFold(f"the attributes of {label(node)} are parameters of the function around it")
        if is_op(node, "Concat"):
            yield node.outputs[0], self._concatenated(node, lanes)
        elif is_op(node, "Mul") and affine_node(node) is None:
            yield node.outputs[0], self._gated(node, lanes)
        elif is_op(node, *_MEETINGS) and affine_node(node) is None:
            yield node.outputs[0], self._met(node, lanes)
        elif is_op(node, "Split", "Slice", "Pad", *_SPATIAL, *_REDUCTIONS):
            (lane,) = _only(node, lanes)
            yield from self._picked(node, lane)
        else:
            yield from self._arrived(node, lanes)

    def _arrived(self, node: ir.Node, lanes: Sequence[Lane]) -> Iterator[tuple[ir.Value, Lane]]:
        (lane,) = _only(node, lanes)
        positions = [index for index, value in enumerate(node.inputs) if value is lane.value]
        if len(positions) != 1:
            raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
        channels = Channels(lane.value, lane.from_end)
        found = arrive(node, positions[0], channels, len(lane.factors))
        if isinstance(found, Reader):
            self._consumers.append(
                Consumer(found.linear, lane.value, found.from_end, np.repeat(lane.factors, found.repeat))
            )
            return
        if isinstance(found, Shift):
            self._addends.append(Addend(found, lane.factors))
            yield node.outputs[0], lane
            return
        if is_op(node, "Clip") and not commutes_everywhere(node):
            self._clips.append(ClippedLane(node, lane))
        yield node.outputs[0], Lane(node.outputs[0], found.from_end, np.repeat(lane.factors, found.repeat))

    def _met(self, node: ir.Node, lanes: Sequence[Lane]) -> Lane:
        """Sums and the like of activations: the factors of the operands become one."""
        operands = [value for value in node.inputs if value is not None]
        shape = [(lane.from_end, len(lane.factors)) for lane in lanes]
        if {lane.value for lane in lanes} != set(operands) or len(set(shape)) != 1:
            raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
        for lane in lanes[1:]:
            self._unite(lanes[0].factors, lane.factors)
        return lanes[0]

    def _gated(self, node: ir.Node, lanes: Sequence[Lane]) -> Lane:
        """A product of activations commutes with the factors of one of them; those of the others are fixed."""
        output, (first, *others) = node.outputs[0], lanes
        if list(node.inputs).count(first.value) != 1 or _channels(output, first.from_end) != len(first.factors):
            raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
        for lane in others:
            self.fix(lane.value, f"{label(node)} ({node.op_type}) multiplies with it")
        return first

    def _concatenated(self, node: ir.Node, lanes: Sequence[Lane]) -> Lane:
        operands = [value for value in node.inputs if value is not None]
        from_end, ndim = lanes[0].from_end, rank(operands[0])
        axis = node.attributes.get_int("axis", 0)
        if ndim is None or any(lane.from_end != from_end for lane in lanes):
            raise CannotFold(f"{label(node)} (Concat) reads it along another axis")
        if axis % ndim != ndim + from_end:
            return self._met(node, lanes)
        known, row = {lane.value: lane for lane in lanes}, []
        for operand in operands:
            size = _channels(operand, from_end)
            if operand in known:
                row.append(known[operand].factors)
                continue
            if size is None:
                raise CannotFold(f"{label(node)} (Concat) joins it to channels of unknown number")
            row.append(self._fresh(size))
            self._fixed.update(row[-1].tolist())
        return Lane(node.outputs[0], from_end, np.concatenate(row))

    def _picked(self, node: ir.Node, lane: Lane) -> Iterator[tuple[ir.Value, Lane]]:
        """Operators that keep, drop or add whole channels, or work on other axes only."""
        ndim = rank(lane.value)
        if ndim is None or node.inputs[0] is not lane.value:
            raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
        axis = ndim + lane.from_end
        if is_op(node, "Split"):
            yield from self._split(node, lane, axis, ndim)
            return
        if is_op(node, "Slice"):
            yield node.outputs[0], replace(lane, factors=lane.factors[_sliced(node, axis, ndim)])
            return
        if is_op(node, "Pad"):
            before, after = _padding(node, axis, ndim)
            factors = np.concatenate([self._fresh(before), lane.factors, self._fresh(after)])
            yield node.outputs[0], replace(lane, factors=factors)
            return
        from_end = _reduced(node, axis, ndim) if is_op(node, *_REDUCTIONS) else lane.from_end
        if _channels(node.outputs[0], from_end) != len(lane.factors) or "crop" in _mode(node):
            raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
        yield node.outputs[0], replace(lane, from_end=from_end)

    def _split(self, node: ir.Node, lane: Lane, axis: int, ndim: int) -> Iterator[tuple[ir.Value, Lane]]:
        if node.attributes.get_int("axis", 0) % ndim != axis:
            for output in node.outputs:
                yield output, lane
            return
        sizes = [_channels(output, lane.from_end) for output in node.outputs]
        if None in sizes or sum(size or 0 for size in sizes) != len(lane.factors):
            raise CannotFold(f"{label(node)} (Split) cuts its channels into parts of unknown size")
        start = 0
        for output, size in zip(node.outputs, sizes, strict=True):
            assert size is not None
            yield output, replace(lane, factors=lane.factors[start : start + size])
            start += size

    def _fresh(self, count: int) -> Index:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _unite(self, first: Index, second: Index) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self._parents[self._root(other)] = self._root(one)


def _connected(rows: Iterable[Index], roots: Index) -> list[list[int]]:
    """The roots that some row holds together, in the order of their first row."""
    owner: dict[int, int] = {}
    merged: list[int] = []

    def find(one: int) -> int:
        while merged[one] != one:
            one = merged[one]
        return one

    for row in rows:
        ids = list(dict.fromkeys(roots[row].tolist()))
        touched = sorted({find(owner[one]) for one in ids if one in owner})
        home = touched[0] if touched else len(merged)
        if not touched:
            merged.append(home)
        for other in touched[1:]:
            merged[other] = home
        for one in ids:
            owner.setdefault(one, home)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for one in owner:
        found[find(owner[one])].append(one)
    return [found[home] for home in sorted(found)]


def _only(node: ir.Node, lanes: Sequence[Lane]) -> Sequence[Lane]:
    if len(lanes) != 1:
        raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
    return lanes


def _as_it_is(linear: LinearNode) -> LinearNode:
    """The node read again: its constants may have changed since it was found."""
    found = linear_node(linear.node)
    assert found is not None
    return found


def _channels(value: ir.Value, from_end: int) -> int | None:
    """The size of an axis counted from the end, where it is known."""
    shape = value.shape
    if shape is None or len(shape) < -from_end:
        return None
    size = shape[from_end]
    return size if isinstance(size, int) else None


def _sliced(node: ir.Node, axis: int, ndim: int) -> slice:
    """Which part of ``axis`` a Slice keeps.

    Raises:
        CannotFold: its bounds are not constant.
    """
    if len(node.inputs) > 1:
        given = [int_list(value) for value in node.inputs[1:]]
        starts, ends = given[0], given[1] if len(given) > 1 else None
        axes = given[2] if len(given) > 2 and node.inputs[3] is not None else _positions(starts)
        steps = given[3] if len(given) > 3 and node.inputs[4] is not None else [1] * len(starts or [])
    else:
        starts, ends = _ints(node, "starts"), _ints(node, "ends")
        axes, steps = _ints(node, "axes") or _positions(starts), [1] * len(starts or [])
    if starts is None or ends is None or axes is None or steps is None:
        raise CannotFold(f"the bounds of {label(node)} (Slice) are not constant")
    for start, end, where, step in zip(starts, ends, axes, steps, strict=True):
        if where % ndim == axis:
            if step < 0 and end < -(2**31):
                return slice(start, None, step)
            return slice(start, end, step)
    return slice(None)


def _padding(node: ir.Node, axis: int, ndim: int) -> tuple[int, int]:
    """How many channels of zeros a Pad adds in front of and behind the others.

    Raises:
        CannotFold: it pads with something else, or its widths are not constant.
    """
    constant = node.attributes.get_string("mode", "constant") == "constant"
    pads = _ints(node, "pads") if len(node.inputs) < 2 else int_list(node.inputs[1])
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    filled = known_array(fill) if fill is not None else np.array(node.attributes.get_float("value", 0.0))
    if pads is None or len(pads) != 2 * ndim or filled is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        raise CannotFold(f"the widths of {label(node)} (Pad) are not constant")
    before, after = pads[axis], pads[axis + ndim]
    if (constant and filled.any()) or (not constant and (before or after)) or before < 0 or after < 0:
        raise CannotFold(f"{label(node)} (Pad) adds other numbers than zeros")
    return before, after


def _reduced(node: ir.Node, axis: int, ndim: int) -> int:
    """Where ``axis``, counted from the end, is after a reduction over others.

    Raises:
        CannotFold: it is one of those that are reduced, or they are not constant.
    """
    axes = _ints(node, "axes") if len(node.inputs) < 2 else int_list(node.inputs[1])
    reduced = {one % ndim for one in axes} if axes else set()
    if not reduced or axis in reduced:
        raise CannotFold(f"{label(node)} ({node.op_type}) reduces its channels")
    if node.attributes.get_int("keepdims", 1):
        return axis - ndim
    return axis - sum(one < axis for one in reduced) - (ndim - len(reduced))


def _mode(node: ir.Node) -> str:
    """How a Resize maps coordinates: one of the ways fills the outside with a number."""
    return node.attributes.get_string("coordinate_transformation_mode", "") or ""


def _positions(listed: Sequence[int] | None) -> list[int]:
    return list(range(len(listed or ())))


def _ints(node: ir.Node, name: str) -> list[int] | None:
    return list(node.attributes.get_ints(name)) if name in node.attributes else None
