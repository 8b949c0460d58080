"""Moves range from a layer's output channels to the layers that read them, so that both quantize with less error.

For s > 0 per channel, and f that commutes with positive factors (Relu, LeakyRelu, PRelu, pooling, moves of data, sums):

    W₂·f(W₁·x + b₁) = (W₂·S) · f(S⁻¹·W₁·x + S⁻¹·b₁)

W₁: Conv, ConvTranspose, Gemm, MatMul with its Add, and inference BatchNormalization; W₂: all products that read the
channels, grouped and depthwise ones included. Layers whose outputs meet, in the Add of a residual connection or in a
Concat, are scaled together: see ``passes/channel_groups.py``.

Scales: by the ``activations`` that were observed, s = max|x|^α / max|W₂|^(1−α) with the α of least estimated error; or
by the ``weights`` alone, s = √(r₁/r₂), r₁ and r₂ the largest weights of the channel, repeated along chains of layers
until the scales settle. With scales rounded to powers of two, outputs keep every bit.

A Clip, such as a Relu6, commutes only for channels that stay between its ends. With ``clips=proven`` those are the ones
that certainly do, by interval arithmetic over the weights, so that the function stays the same for every input. With
``clips=observed`` they are those that do on the data: quantization cuts activations off at the range that was observed
anyway. Such channels may grow as far as the Clip allows; all others keep s = 1.

Refusals: channels that anything else reads, or that reach an output of the graph; weights that several nodes share;
operators that do not commute; numbers that do not fit the weight's type.

Sources: Nagel et al. 2019, https://arxiv.org/abs/1906.04721; Meller et al. 2019, https://arxiv.org/abs/1902.01917;
Xiao et al. 2022, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.walk import all_graphs, is_op, label, opset_of
from onnxshrink.numerics.equalization import (
    COMPENSATED,
    Product,
    balancing_scales,
    product_bounds,
    product_table,
    quietest_scales,
    settled_scales,
)
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.channel_groups import ChannelGroup, ClippedLane, Producer, channel_groups
from onnxshrink.passes.equalization_pairs import (
    ConstantStore,
    channel_ranges,
    clip_ends,
    observed_channels,
    seen_product,
)
from onnxshrink.passes.refusal import CannotFold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxshrink.numerics.activation_statistics import ActivationStatistics

    Float64Array = NDArray[np.float64]
    Seen = Mapping[ir.Value, ActivationStatistics]

_PRESERVES_ENDS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose", "Identity")
_UNIT_INTERVAL = ("Sigmoid", "HardSigmoid", "Softmax")
_ROUNDING_ROOM = 1 + 1e-5
_OBSERVED_ROOM = 1.1
"""How much wider than it was seen to be a channel must fit between the ends of a Clip."""
_SWEEPS = 30
_SETTLED = 1e-3


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Even out channel ranges between layers, which keeps the function and helps quantization."""

    name: ClassVar[str] = "equalize-layers"
    effect: ClassVar[Effect] = Effect.ROUNDING
    uses_data: ClassVar[bool] = True

    strategy: Literal["auto", "activations", "weights"] = field(
        default="auto", metadata={"help": "by the activations observed, by the weights alone, or by what is known"}
    )
    scales: Literal["any", "powers-of-two"] = field(
        default="any", metadata={"help": "powers of two keep every bit of the outputs, and even out a little less"}
    )
    clips: Literal["proven", "observed"] = field(
        default="proven",
        metadata={"help": "which channels never reach a Clip's ends: for any input, or on the data that was observed"},
    )

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        groups, skips = _find_groups(model)
        seen: Seen = {} if self.strategy == "weights" else observed_channels(_axes(groups), model, context)
        least = [_least_scales(group, seen if self.clips == "observed" else {}) for group in groups]
        scales = self._scales(groups, least, seen)
        store = ConstantStore(model)
        changes: list[Change] = []
        for group, scale in zip(groups, scales, strict=True):
            name = label(group.producers[0].linear.node)
            if scale is None:
                skips.append(Skip(name, "what reads it was not observed on data"))
            elif (scale == 1).all():
                skips.append(Skip(name, _why_unchanged(group)))
            else:
                try:
                    changes.append(_rescale(group, scale, store))
                except CannotFold as refusal:
                    skips.append(Skip(name, str(refusal)))
        return PassResult(tuple(changes), tuple(skips))

    def _scales(
        self, groups: Sequence[ChannelGroup], least: Sequence[Float64Array], seen: Seen
    ) -> list[Float64Array | None]:
        """The scales of each group; None where they would need data that there is not."""
        powers = self.scales == "powers-of-two"
        observed = [_seen_products(group, seen) for group in groups]
        known = {
            index: quietest_scales(products, least[index], powers, weight_noise=COMPENSATED)
            for index, products in enumerate(observed)
            if products
        }
        if self.strategy == "activations":
            return [known.get(index) for index in range(len(groups))]
        found = _Chains(groups, least).settle(known)
        return [
            known[index] if index in known else settled_scales(scale, least[index], powers)
            for index, scale in enumerate(found)
        ]


def _find_groups(model: ir.Model) -> tuple[list[ChannelGroup], list[Skip]]:
    """The groups that can be scaled: something reads them, and not all of their factors are fixed."""
    found: list[ChannelGroup] = []
    skips: list[Skip] = []
    for graph in all_graphs(model):
        if opset_of(model, graph) < 7:  # older operators broadcast differently
            continue
        groups, refused = channel_groups(graph)
        skips += [Skip(label(node), reason) for node, reason in refused.items()]
        for group in groups:
            if group.fixed.all():
                skips += [Skip(label(producer.linear.node), group.obstacles[0]) for producer in group.producers]
            elif group.producers and group.consumers:
                found.append(group)
    return found, skips


def _axes(groups: Sequence[ChannelGroup]) -> Mapping[ir.Value, int]:
    """The activations whose ranges matter, with their axis counted from the end."""
    axes = {consumer.activation: consumer.from_end for group in groups for consumer in group.consumers}
    return axes | {clip.node.outputs[0]: clip.lane.from_end for group in groups for clip in group.clips}


def _seen_products(group: ChannelGroup, seen: Seen) -> list[Product]:
    """What reads a group with the ranges it reads; empty when some were not observed."""
    found = [
        seen_product(consumer.linear, seen.get(consumer.activation), group.size, consumer.factors)
        for consumer in group.consumers
    ]
    known = [product for product in found if product is not None]
    return known if len(known) == len(found) else []


def _least_scales(group: ChannelGroup, seen: Seen) -> Float64Array:
    """How far each channel may grow, 1/s, below the Clips behind it, (size,); infinite where it must stay as it is.

    ``seen``: ranges that can be trusted; for activations that are not in it, what is certain.
    """
    least = np.where(group.fixed, np.inf, 0.0)
    for clip in group.clips:
        ends, lane = clip_ends(clip.node), clip.lane
        bounds = _clipped_bounds(clip, group.producers, seen)
        if ends is None or bounds is None:
            least[lane.factors] = np.inf
            continue
        for end, reached in ((-ends[0], -bounds[0]), (ends[1], bounds[1])):
            np.maximum.at(least, lane.factors, _growth_limit(reached, end))
    return least


def _clipped_bounds(
    clip: ClippedLane, producers: Sequence[Producer], seen: Seen
) -> tuple[Float64Array, Float64Array] | None:
    """The smallest and largest that each channel in front of a Clip gets, (channels,); None when that is unknown."""
    ranges = channel_ranges(seen.get(clip.node.outputs[0]))
    if ranges is not None:
        return ranges.low * _OBSERVED_ROOM, ranges.high * _OBSERVED_ROOM
    return next((_output_bounds(one) for one in producers if one.output is clip.lane.value), None)


def _growth_limit(reached: Float64Array, end: float) -> Float64Array:
    """The smallest scale that keeps ``reached`` (channels,) from an end of a Clip; infinite for those that reach it."""
    if end in (0, math.inf):
        return np.zeros_like(reached)
    share = np.maximum(reached, 0) * _ROUNDING_ROOM / end if end > 0 else np.full_like(reached, np.inf)
    return np.where(share <= 1, share, np.inf)


def _output_bounds(producer: Producer) -> tuple[Float64Array, Float64Array]:
    """The smallest and largest that each output channel can be for any input of the model, (out,)."""
    layer = producer.linear
    channels = layer.out_axis.size
    if is_op(layer.node, "BatchNormalization"):
        return np.full(channels, -np.inf), np.full(channels, np.inf)
    low, high = product_bounds(layer.weight, layer.layout, *_value_bounds(layer.node.inputs[0]))
    if layer.gain < 0:
        low, high = high, low
    bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
    return layer.gain * low + bias, layer.gain * high + bias


def _value_bounds(value: ir.Value | None) -> tuple[float, float]:
    """Ends that an activation certainly keeps to, zero included."""
    node = None if value is None else value.producer()
    while is_op(node, *_PRESERVES_ENDS):
        assert node is not None
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if is_op(node, "Relu"):
        return 0.0, math.inf
    if is_op(node, *_UNIT_INTERVAL):
        return 0.0, 1.0
    ends = clip_ends(node) if node is not None and is_op(node, "Clip") else None
    return (-math.inf, math.inf) if ends is None else (min(ends[0], 0.0), max(ends[1], 0.0))


class _Chains:
    """Groups that share layers: the scales of one change the weights that its neighbours balance."""

    def __init__(self, groups: Sequence[ChannelGroup], least: Sequence[Float64Array]) -> None:
        self._groups, self._least = groups, least
        linears = [producer.linear for group in groups for producer in group.producers]
        linears += [consumer.linear for group in groups for consumer in group.consumers]
        self._tables = {linear.node: product_table(linear.weight, linear.layout) for linear in linears}
        self._behind = {
            producer.linear.node: (index, producer.factors)
            for index, group in enumerate(groups)
            for producer in group.producers
        }
        self._before = {
            consumer.linear.node: (index, consumer.factors)
            for index, group in enumerate(groups)
            for consumer in group.consumers
        }

    def settle(self, known: Mapping[int, Float64Array]) -> list[Float64Array]:
        """Scales that give the weights on both sides of each group equal ranges; those ``known`` are kept."""
        scales = [known.get(index, np.ones(group.size)) for index, group in enumerate(self._groups)]
        for _ in range(_SWEEPS):
            moved = 0.0
            for index in range(len(scales)):
                if index not in known:
                    new = self._balanced(index, scales)
                    moved = max(moved, float(np.abs(np.log2(new / scales[index])).max()))
                    scales[index] = new
            if moved < _SETTLED:
                break
        return scales

    def _balanced(self, index: int, scales: Sequence[Float64Array]) -> Float64Array:
        """The scales of one group, given those of all others."""
        group = self._groups[index]
        first, second = np.zeros(group.size), np.zeros(group.size)
        for producer in group.producers:
            found = self._before.get(producer.linear.node)
            inputs = None if found is None or found[0] == index else scales[found[0]][found[1]]
            np.maximum.at(first, producer.factors, self._tables[producer.linear.node].outputs(inputs))
        for consumer in group.consumers:
            found = self._behind.get(consumer.linear.node)
            outputs = None if found is None or found[0] == index else 1 / scales[found[0]][found[1]]
            np.maximum.at(second, consumer.factors, self._tables[consumer.linear.node].inputs(outputs))
        return settled_scales(balancing_scales(first, second), self._least[index])


def _rescale(group: ChannelGroup, scale: Float64Array, store: ConstantStore) -> Change:
    """Divide the channels of a group's layers by ``scale``; its readers multiply by it.

    Raises:
        CannotFold: a weight would not fit its type; nothing is changed then.
    """
    new = group.rescaled(scale)
    store.write(new)
    for constant in new:
        if is_op(constant.node, "Gemm") and constant.index == 2:
            constant.node.attributes.pop("beta", None)  # the new bias holds it
    targets = " and ".join(label(consumer.linear.node) for consumer in group.consumers)
    return Change(
        " and ".join(label(producer.linear.node) for producer in group.producers),
        f"{int((scale != 1).sum())} of {len(scale)} channels divided by {scale.min():.3g} to {scale.max():.3g}, "
        f"which {targets} take up",
    )


def _why_unchanged(group: ChannelGroup) -> str:
    if group.clips and not group.fixed.all() and np.isinf(_least_scales(group, {})).all():
        return "a Clip cuts every channel off, or may: scaled, it would cut elsewhere"
    return "its channels are even enough"
