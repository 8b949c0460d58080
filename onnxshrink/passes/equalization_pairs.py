"""Where a factor per channel can travel: from a value, through operators that commute with it, to the next products.

An operator f commutes with positive factors when f(x / s) = f(x) / s: Relu, LeakyRelu, PRelu, pooling, products with
constants, and whatever moves numbers without changing them. So does x + c when c is divided as well. A Clip commutes
where its ends are 0 or infinite; at its other ends only for channels that never get there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, scalar_constant
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.shapes import rank
from onnxshrink.graph.walk import is_op, is_random, label
from onnxshrink.numerics.equalization import ChannelRanges, Product, product_table
from onnxshrink.numerics.folding import Affine, is_float, round_once
from onnxshrink.passes.affine_nodes import ELEMENTWISE as AFFINE
from onnxshrink.passes.affine_nodes import affine_node, constant_operand, keeps_shape
from onnxshrink.passes.base import Context
from onnxshrink.passes.constant_rewriter import NewConstant, release
from onnxshrink.passes.linear_nodes import ChannelAxis, LinearNode, linear_node, vector_along
from onnxshrink.passes.refusal import CannotFold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxshrink.numerics.activation_statistics import ActivationStatistics

_ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "Clip", "Identity", "Dropout")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
"""Of float32: what exporters write for a Clip without an end."""


@dataclass(frozen=True)
class Channels:
    """A value and the axis, counted from its end, along which a factor varies; ``repeat`` neighbours share a factor."""

    value: ir.Value
    from_end: int
    repeat: int = 1


@dataclass(frozen=True)
class Reader:
    """A product at the end of the way, and the axis of its input along which the factor arrives."""

    linear: LinearNode
    activation: ir.Value
    from_end: int
    repeat: int


@dataclass(frozen=True)
class Shift:
    """A constant on the way, input ``index`` of an Add or Sub, that is divided by the factors as well.

    Attributes:
        vector: the constant, (channels,) or ().
        from_end: the axis of the factors in the node's output.
        repeat: how many neighbouring channels share a factor.
    """

    node: ir.Node
    index: int
    vector: np.ndarray
    from_end: int
    repeat: int

    def divided(self, scale: np.ndarray) -> NewConstant:
        """The constant divided by ``scale``: one factor each for ``repeat`` channels."""
        divided = self.vector.astype(np.float64) / np.repeat(scale, self.repeat)
        return NewConstant(self.node, self.index, fitting(divided, self.vector.dtype, self.node, -self.from_end))


@dataclass(frozen=True)
class Reach:
    """Where a factor on the channels of one value arrives.

    Attributes:
        readers: the products that can take it in.
        shifts: the constants that are added on the way.
        clips: the Clips with an end that is neither 0 nor infinite, on the way.
        refusals: why it cannot get everywhere; when there are none, the readers are all that reads the value.
    """

    readers: tuple[Reader, ...]
    shifts: tuple[Shift, ...]
    clips: tuple[ir.Node, ...]
    refusals: tuple[str, ...]

    def absorb(self, scale: np.ndarray) -> list[NewConstant]:
        """The constants with which the readers compute, from channels divided by ``scale``, what they did before.

        Raises:
            CannotFold: they do not fit the types they are stored in.
        """
        new = [shift.divided(scale) for shift in self.shifts]
        for reader in self.readers:
            linear = linear_node(reader.linear.node)  # its weight may have changed since it was found
            assert linear is not None
            new += linear.before(Affine(np.repeat(scale, reader.repeat), np.zeros(())))
        return new


def reach(channels: Channels, size: int) -> Reach:
    """Follow ``channels``, of ``size`` factors, to everything that reads them."""
    readers, shifts, clips, refusals = [], [], [], []
    pending = [channels]
    while pending:
        place = pending.pop()
        if place.value.is_graph_output():
            refusals.append(f"{place.value.name} is an output of its graph")
        for node, index in place.value.uses():
            try:
                found = arrive(node, index, place, size)
            except CannotFold as refusal:
                refusals.append(str(refusal))
                continue
            if isinstance(found, Reader):
                readers.append(found)
                continue
            if isinstance(found, Shift):
                shifts.append(found)
                found = Channels(node.outputs[0], found.from_end, found.repeat)
            pending.append(found)
            if is_op(node, "Clip") and not commutes_everywhere(node):
                clips.append(node)
    return Reach(tuple(readers), tuple(shifts), tuple(clips), tuple(refusals))


def direct_readers(value: ir.Value) -> Reach:
    """The MatMul and Gemm nodes that could read ``value`` divided by factors, whatever else reads it."""
    readers: list[Reader] = []
    for node, index in value.uses():
        if index != 0 or node.graph is not value.graph or not is_op(node, "MatMul", "Gemm"):
            continue
        try:
            linear = linear_node(node)
            if linear is not None:
                axis = linear.in_axis
                readers.append(_reader(node, Channels(value, axis.from_end), axis.size))
        except CannotFold:
            continue
    same = [reader for reader in readers if reader.from_end == readers[0].from_end]
    return Reach(tuple(same), (), (), ())


def fitting(array: np.ndarray, dtype: np.dtype[np.generic], node: ir.Node, ndim: int) -> np.ndarray:
    """A vector in ``dtype``, of ``ndim`` dimensions, the last of size 1, for broadcasting along an axis from the end.

    Raises:
        CannotFold: it does not fit.
    """
    rounded = round_once(array, dtype)
    if rounded is None:
        raise CannotFold(f"the scaled constants of {label(node)} do not fit {dtype.name}")
    return rounded.reshape(-1, *[1] * (ndim - 1))


def require_own_weight(node: ir.Node) -> None:
    """Refuse a product or normalisation whose weight, input 1, is not a stored constant of its own.

    Raises:
        CannotFold: it is computed, or also read elsewhere: a copy would make the file larger.
    """
    weight = node.inputs[1]
    if weight is None or constant_tensor(weight) is None:
        raise CannotFold(f"the weight of {label(node)} is not a stored constant")
    others = {use.node for use in weight.uses()} - {node}
    if others or len(weight.uses()) > 1 or weight.is_graph_output():
        raise CannotFold(f"the weight of {label(node)} is also read elsewhere")


def clip_ends(node: ir.Node) -> tuple[float, float] | None:
    """The ends of a Clip, infinite where there are none; None when they are not constant."""
    ends = [-math.inf, math.inf]
    for index, name in enumerate(("min", "max")):
        attribute = node.attributes.get(name)
        value = node.inputs[index + 1] if len(node.inputs) > index + 1 else None
        if attribute is not None:
            end: float | None = attribute.as_float()
        elif value is not None:
            end = scalar_constant(value)
        else:
            continue
        if end is None or math.isnan(end):
            return None
        ends[index] = end if abs(end) < _LARGEST_FLOAT else math.copysign(math.inf, end)
    return ends[0], ends[1]


def observed_products(sites: Sequence[tuple[Reach, int]], model: ir.Model, context: Context) -> Iterator[list[Product]]:
    """The readers of each (reach, number of factors) as products with the ranges they read, one site at a time.

    A site of which some activation was not observed gets an empty list.
    """
    axes = {reader.activation: reader.from_end for site, _ in sites for reader in site.readers}
    statistics = observed_channels(axes, model, context)
    for site, size in sites:
        yield _products(site, size, statistics)


def observed_channels(
    axes: Mapping[ir.Value, int], model: ir.Model, context: Context
) -> Mapping[ir.Value, ActivationStatistics]:
    """Statistics of activations along axes that are counted from the end; those that cannot be had are left out."""
    ranks = {value: rank(value) for value in axes}
    known: dict[ir.Value, int | None] = {
        value: ndim + axes[value] for value, ndim in ranks.items() if ndim is not None and ndim + axes[value] >= 0
    }
    return context.statistics(model, known) if known else {}


def _products(site: Reach, size: int, statistics: Mapping[ir.Value, ActivationStatistics]) -> list[Product]:
    found = [seen_product(reader.linear, statistics.get(reader.activation), size) for reader in site.readers]
    known = [product for product in found if product is not None]
    return known if len(known) == len(found) else []


def seen_product(
    linear: LinearNode, seen: ActivationStatistics | None, size: int, factors: NDArray[np.intp] | None = None
) -> Product | None:
    """A product with the ranges it reads, None when they were not observed; ``factors``: see :class:`Product`."""
    ranges = channel_ranges(seen)
    return None if ranges is None else Product(product_table(linear.weight, linear.layout), ranges, size, factors)


def channel_ranges(seen: ActivationStatistics | None) -> ChannelRanges | None:
    """The ranges of an activation's channels; None when they were not observed."""
    if seen is None or seen.channel_low is None or seen.channel_high is None or seen.channel_mean is None:
        return None
    count = seen.count // len(seen.channel_low)
    return ChannelRanges.of(seen.channel_low, seen.channel_high, seen.channel_mean, count)


class ConstantStore:
    """Gives nodes of one model new constants. Build one for each application of a pass."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.names = Names(model)

    def write(self, new: Iterable[NewConstant]) -> None:
        """Let each node read its new constant; one that something else reads too keeps its value for that."""
        for constant in new:
            node, old = constant.node, constant.old
            if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
                old.const_value = ir.Tensor(np.ascontiguousarray(constant.array), name=old.name)
                old.shape = ir.Shape(constant.array.shape)
                continue
            assert node.graph is not None
            node.replace_input_with(constant.index, self.add(node.graph, constant.name, constant.array))
            release(old)

    def add(self, graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
        """Add a constant to ``graph`` under ``name``, or one like it that is free."""
        return add_constant(self._model, graph, self.names.fresh(name), array)


def arrive(node: ir.Node, index: int, place: Channels, size: int) -> Channels | Shift | Reader:
    """What reading ``place`` as input ``index`` makes of ``node``: a product that takes the factor in, or the way on.

    Raises:
        CannotFold: neither.
    """
    if node.graph is not place.value.graph:
        raise CannotFold(f"{label(node)} reads it inside a subgraph")
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        raise CannotFold(f"the attributes of {label(node)} are parameters of the function around it")
    if is_op(node, *AFFINE):
        return _affine(node, place, size)
    if index != 0:
        raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
    if is_op(node, *_PRODUCTS):
        return _reader(node, place, size)
    if is_op(node, *_RESHAPES):
        return _reshaped(node, place)
    return _moved(node, place)


def _moved(node: ir.Node, place: Channels) -> Channels:
    ndim = rank(place.value)
    axis = place.from_end
    if is_op(node, "Transpose") and ndim is not None:
        order = node.attributes.get_ints("perm", tuple(reversed(range(ndim))))
        axis = list(order).index(ndim + place.from_end) - ndim
    elif is_op(node, *_POOLS) and (ndim is None or ndim + place.from_end != 1):
        raise CannotFold(f"{label(node)} ({node.op_type}) pools its channels")
    elif not is_op(node, *_ELEMENTWISE, *_POOLS) or is_random(node):
        raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
    elif is_op(node, "Clip") and clip_ends(node) is None:
        raise CannotFold(f"the ends of {label(node)} (Clip) are not constant")
    return Channels(node.outputs[0], axis, place.repeat)


def _affine(node: ir.Node, place: Channels, size: int) -> Channels | Shift:
    affine = affine_node(node)
    if affine is None or affine.x is not place.value or not keeps_shape(affine):
        raise CannotFold(f"{label(node)} ({node.op_type}) reads it")
    index, constant = constant_operand(affine)
    if is_op(node, "Add", "Sub"):
        axis = ChannelAxis(size * place.repeat, place.from_end, rank(place.value))
        vector = vector_along(constant, axis)
        if vector is None or not is_float(vector):
            raise CannotFold(f"the constant of {label(node)} ({node.op_type}) varies along more than the channels")
        return Shift(node, index, vector, place.from_end, place.repeat)
    if index == 0 and is_op(node, "Div"):
        raise CannotFold(f"{label(node)} (Div) divides by it")
    return Channels(node.outputs[0], place.from_end, place.repeat)


def _reader(node: ir.Node, place: Channels, size: int) -> Reader:
    linear = linear_node(node)
    if linear is None or not is_float(linear.weight):
        raise CannotFold(f"{label(node)} ({node.op_type}) has no constant matrix of weights")
    require_own_weight(node)
    axis = linear.in_axis
    if axis.from_end != place.from_end or axis.size != size * place.repeat:
        raise CannotFold(f"{label(node)} ({node.op_type}) reads its channels along another axis")
    return Reader(linear, place.value, place.from_end, place.repeat)


def _reshaped(node: ir.Node, place: Channels) -> Channels:
    """Where the channels are after an operator that keeps the order of the elements.

    An element's channel is (position // stride) mod channels, so an axis of the same stride and size holds the same
    channels. An axis that also spans the elements of each channel repeats every factor.
    """
    before, after = place.value.shape, node.outputs[0].shape
    if before is not None and after is not None and -place.from_end <= len(before):
        channels, stride = before[place.from_end], _stride(before, place.from_end)
        for from_end in range(-1, -len(after) - 1, -1):
            step, count = _stride(after, from_end), after[from_end]
            if step is None or stride is None or not isinstance(channels, int) or not isinstance(count, int):
                break
            if step and stride % step == 0 and count == channels * (stride // step):
                return Channels(node.outputs[0], from_end, place.repeat * (stride // step))
    raise CannotFold(f"{label(node)} ({node.op_type}) may mix its channels")


def _stride(shape: ir.Shape, from_end: int) -> int | None:
    """How far apart neighbours along an axis are, when the axes behind it have known sizes."""
    behind = [shape[axis] for axis in range(from_end + 1, 0)]
    return math.prod(int(dim) for dim in behind if isinstance(dim, int)) if _all_known(behind) else None


def _all_known(dims: list[int | ir.SymbolicDim]) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def commutes_everywhere(clip: ir.Node) -> bool:
    ends = clip_ends(clip)
    return ends is not None and ends[0] in (0, -math.inf) and ends[1] in (0, math.inf)
