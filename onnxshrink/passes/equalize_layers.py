"""Moves range from a layer's output channels to the layers that read them, so that both quantize with less error.

For s > 0 per channel, and f that commutes with positive factors (Relu, LeakyRelu, PRelu, pooling, moves of data):

    W₂·f(W₁·x + b₁) = (W₂·S) · f(S⁻¹·W₁·x + S⁻¹·b₁)

W₁: Conv, ConvTranspose, Gemm, MatMul with its Add, and inference BatchNormalization; W₂: all products that read the
channels, grouped and depthwise ones included.

Scales: by the ``activations`` that were observed, s = max|x|^α / max|W₂|^(1−α) with the α of least estimated error; or
by the ``weights`` alone, s = √(r₁/r₂), r₁ and r₂ the largest weights of the channel, repeated along chains of layers
until the scales settle. With scales rounded to powers of two, outputs keep every bit.

A Clip, such as a Relu6, commutes only for channels that certainly stay between its ends: by interval arithmetic over
the weights, from the ends of the activation in front. Those channels may grow as far as the Clip allows. All others
keep s = 1, so that the function stays the same for every input, not only for those that were observed.

Refusals: channels that anything else reads, such as the Add of a residual connection or an output of the graph; weights
that several nodes share; operators that do not commute; numbers that do not fit the weight's type.

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
    balancing_scales,
    product_bounds,
    product_table,
    quietest_scales,
    settled_scales,
)
from onnxshrink.numerics.folding import Affine, is_float
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.equalization_pairs import (
    Channels,
    ConstantStore,
    Reach,
    clip_ends,
    observed_products,
    reach,
    require_own_weight,
)
from onnxshrink.passes.linear_nodes import LinearNode, linear_node
from onnxshrink.passes.refusal import CannotFold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

_PRODUCERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
_PRESERVES_ENDS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose", "Identity")
_UNIT_INTERVAL = ("Sigmoid", "HardSigmoid", "Softmax")
_ROUNDING_ROOM = 1 + 1e-5
_SWEEPS = 30
_SETTLED = 1e-3


@dataclass(frozen=True)
class _Site:
    """One layer and all that reads it.

    Attributes:
        layer: the layer whose output channels are divided.
        reach: the products that take the factors in.
        least: (channels,) the smallest scale for each channel; infinite where it must stay 1.
    """

    layer: LinearNode
    reach: Reach
    least: Float64Array

    @property
    def size(self) -> int:
        return self.layer.out_axis.size


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

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        sites, skips = _find_sites(model)
        scales = self._scales(model, sites, context)
        store = ConstantStore(model)
        changes: list[Change] = []
        for site, scale in zip(sites, scales, strict=True):
            name = label(site.layer.node)
            if scale is None:
                skips.append(Skip(name, "what reads it was not observed on data"))
            elif (scale == 1).all():
                skips.append(Skip(name, _why_unchanged(site)))
            else:
                try:
                    changes.append(_rescale(site, scale, store))
                except CannotFold as refusal:
                    skips.append(Skip(name, str(refusal)))
        return PassResult(tuple(changes), tuple(skips))

    def _scales(self, model: ir.Model, sites: Sequence[_Site], context: Context) -> list[Float64Array | None]:
        """The scales of each site; None where they would need data that there is not."""
        powers = self.scales == "powers-of-two"
        known: dict[int, Float64Array] = {}
        if self.strategy != "weights":
            observed = observed_products([(site.reach, site.size) for site in sites], model, context)
            known = {
                index: quietest_scales(products, sites[index].least, powers)
                for index, products in enumerate(observed)
                if products
            }
        if self.strategy == "activations":
            return [known.get(index) for index in range(len(sites))]
        found = _Chains(sites).settle(known) if len(known) < len(sites) else [known[index] for index in sorted(known)]
        return [
            known[index] if index in known else settled_scales(scale, site.least, powers)
            for index, (site, scale) in enumerate(zip(sites, found, strict=True))
        ]


def _find_sites(model: ir.Model) -> tuple[list[_Site], list[Skip]]:
    sites: list[_Site] = []
    skips: list[Skip] = []
    for graph in all_graphs(model):
        if opset_of(model, graph) < 7:  # older operators broadcast differently
            continue
        for node in graph:
            if not is_op(node, *_PRODUCERS):
                continue
            try:
                site = _site(node)
            except CannotFold as refusal:
                skips.append(Skip(label(node), str(refusal)))
                continue
            if site is not None:
                sites.append(site)
    return sites, skips


def _site(node: ir.Node) -> _Site | None:
    """The layer ``node`` with its readers, or None when it is no layer or ends the graph.

    Raises:
        CannotFold: its channels cannot be scaled.
    """
    layer = linear_node(node)
    if layer is None or not is_float(layer.weight):
        return None
    axis = layer.out_axis
    output = node.outputs[0] if layer.bias_node is None else layer.bias_node.outputs[0]
    found = reach(Channels(output, axis.from_end), axis.size)
    if output.is_graph_output() and not output.uses():
        return None
    if found.refusals:
        raise CannotFold(found.refusals[0])
    if not found.readers:
        return None
    require_own_weight(node)
    return _Site(layer, found, _least_scales(layer, output, found.clips))


def _least_scales(layer: LinearNode, output: ir.Value, clips: Sequence[ir.Node]) -> Float64Array:
    """How far each channel may grow, 1/s, below the Clips behind the layer; infinite where it must stay as it is."""
    channels = layer.out_axis.size
    least = np.zeros(channels)
    if not clips:
        return least
    low, high = _output_bounds(layer)
    for clip in clips:
        ends = clip_ends(clip)
        if ends is None or clip.inputs[0] is not output:
            return np.full(channels, np.inf)
        for end, reached in ((-ends[0], -low), (ends[1], high)):
            least = np.maximum(least, _growth_limit(reached, end))
    return least


def _growth_limit(reached: Float64Array, end: float) -> Float64Array:
    """The smallest scale that keeps ``reached`` (channels,) from an end of a Clip; infinite for those that reach it."""
    if end in (0, math.inf):
        return np.zeros_like(reached)
    share = np.maximum(reached, 0) * _ROUNDING_ROOM / end if end > 0 else np.full_like(reached, np.inf)
    return np.where(share <= 1, share, np.inf)


def _output_bounds(layer: LinearNode) -> tuple[Float64Array, Float64Array]:
    """The smallest and largest that each output channel can be for any input of the model, (out,)."""
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
    """Sites that share layers: the scales of one change the weights that its neighbours balance."""

    def __init__(self, sites: Sequence[_Site]) -> None:
        self._sites = sites
        self._layers = {site.layer.node: index for index, site in enumerate(sites)}
        self._readers = {
            reader.linear.node: (index, reader.repeat)
            for index, site in enumerate(sites)
            for reader in site.reach.readers
        }
        linears = [site.layer for site in sites]
        linears += [reader.linear for site in sites for reader in site.reach.readers]
        self._tables = {linear.node: product_table(linear.weight, linear.layout) for linear in linears}

    def settle(self, known: Mapping[int, Float64Array]) -> list[Float64Array]:
        """Scales that give the weights on both sides of each site equal ranges; those ``known`` are kept."""
        scales = [known.get(index, np.ones(site.size)) for index, site in enumerate(self._sites)]
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
        """The scales of one site, given those of all others."""
        site = self._sites[index]
        node = site.layer.node
        before, repeat = self._readers.get(node, (None, 1))
        first = self._tables[node].outputs(None if before is None else np.repeat(scales[before], repeat))
        second = np.zeros(site.size)
        for reader in site.reach.readers:
            behind = self._layers.get(reader.linear.node)
            inputs = self._tables[reader.linear.node].inputs(None if behind is None else 1 / scales[behind])
            second = np.maximum(second, inputs.reshape(site.size, -1).max(axis=1))
        return settled_scales(balancing_scales(first, second), site.least)


def _rescale(site: _Site, scale: Float64Array, store: ConstantStore) -> Change:
    """Divide the layer's channels by ``scale``; its readers multiply by it.

    Raises:
        CannotFold: a weight would not fit its type; nothing is changed then.
    """
    layer = linear_node(site.layer.node)  # its weight may have changed since the site was found
    assert layer is not None
    store.write([*layer.after(Affine(1 / scale, np.zeros(()))), *site.reach.absorb(scale)])
    if is_op(layer.node, "Gemm") and layer.bias is not None:
        layer.node.attributes.pop("beta", None)  # the new bias holds it
    targets = " and ".join(label(reader.linear.node) for reader in site.reach.readers)
    return Change(
        label(layer.node),
        f"{int((scale != 1).sum())} of {len(scale)} channels divided by {scale.min():.3g} to {scale.max():.3g}, "
        f"which {targets} take up",
    )


def _why_unchanged(site: _Site) -> str:
    if np.isinf(site.least).all():
        return "a Clip cuts every channel off, or may: scaled, it would cut elsewhere"
    return "its channels are even enough"
