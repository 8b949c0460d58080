"""Choose ranges, round weights and correct biases of a quantized model, layer by layer, on its own activations.

The float model and the quantized one run side by side. At each layer, in graph order, with everything before it
already quantized and repaired:

1. ranges of the activations since the last layer: of the estimators' candidates, the one that moves the layer's output
   least;
2. weights: integers with error-compensating rounding for the quantized inputs (GPTQ, Frantar et al. 2022,
   https://arxiv.org/abs/2210.17323);
3. bias: the mean difference between the float and the quantized output, per channel (Nagel et al. 2019,
   https://arxiv.org/abs/1906.04721, from the quantized model's own activations).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names
from onnxshrink.graph.kernel_pairs import weight_pairs
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.numerics.activation_statistics import ActivationStatistics
from onnxshrink.numerics.layer_weights import IntegerWeight, quantize_rows
from onnxshrink.numerics.ranges import (
    ActivationType,
    activation_parameters,
    aligned_range,
    candidate_ranges,
    careful_range,
)
from onnxshrink.passes.base import Context, LayerStep
from onnxshrink.passes.layer_repair import correct_bias, input_moments_at, samples_for
from onnxshrink.passes.own_constants import give_own_constant
from onnxshrink.passes.qdq_nodes import ActivationScale
from onnxshrink.passes.weighted_layers import WeightedLayer

_CLEARLY = 0.9
"""A range is preferred to that of least squared error when the layer's squared error falls below this share."""

_LARGEST_BIAS = 2**30
"""Integer biases stay below this: the rest of the 32 bits is room for the products."""


@dataclass(frozen=True)
class RepairSettings:
    """What is repaired.

    Attributes:
        choose_ranges: try the candidates of each activation's range, else keep the ranges as they are.
        compensate: fit and round weights on the layer's inputs, else round to nearest.
        correct_biases: make up for the mean shift of each output channel.
        paired: keep integer weights safe from saturation.
        per_channel: one weight scale per output channel, else one for all.
        dtype: type of the activations; ``symmetric`` without zero points.
    """

    choose_ranges: bool
    compensate: bool
    correct_biases: bool
    paired: bool
    per_channel: bool
    dtype: ActivationType
    symmetric: bool

    @property
    def looks_at_activations(self) -> bool:
        return self.choose_ranges or self.compensate or self.correct_biases


@dataclass
class StaticRepair:
    """One repair of one model.

    Attributes:
        model: the model with QuantizeLinear and DequantizeLinear around activations, its weights still float.
        scales: the activation scales, by root.
        statistics: statistics of the roots.
        cut: roots that a Clip in front bounds. The kernel does the clipping: their ranges must not reach beyond.
        weights: the integers chosen so far, by layer.
    """

    model: ir.Model
    settings: RepairSettings
    scales: Mapping[ir.Value, ActivationScale]
    statistics: Mapping[ir.Value, ActivationStatistics]
    names: Names
    cut: Collection[ir.Value] = ()
    weights: dict[ir.Node, IntegerWeight] = field(default_factory=dict)

    def run(self, reference: ir.Model, layers: Sequence[tuple[WalkedLayer, WeightedLayer]], context: Context) -> None:
        """Repair ``layers``, in graph order; those that the walk does not reach are rounded to nearest."""
        by_output = {walked.changed: layer for walked, layer in layers}
        waiting = self._roots_by_layer(list(by_output))
        stops = [walked for walked, _ in layers] if self.settings.looks_at_activations else []
        for step in context.walk(reference, self.model, stops, samples_for(layer for _, layer in layers)):
            layer = by_output[step.layer.changed]
            if self.settings.choose_ranges:
                for root in waiting[step.layer.changed]:
                    if self._feeds_only(root, layer.node):
                        self._choose_range(step, root)
            self._quantize(layer, self._moments(step, layer, context.seed))
            if self.settings.correct_biases:
                correct_bias(self.model, self.names, step, layer)
        for _, layer in layers:
            if layer.node not in self.weights:
                self._quantize(layer, None)

    def _roots_by_layer(self, outputs: Sequence[str]) -> Mapping[str, list[ir.Value]]:
        """The roots whose QuantizeLinear stands in front of each layer, and behind the one before."""
        by_scale = {scale.scale: root for root, scale in self.scales.items()}
        found: defaultdict[str, list[ir.Value]] = defaultdict(list)
        waiting: list[ir.Value] = []
        for node in self.model.graph:
            if node.op_type == "QuantizeLinear" and node.inputs[1] in by_scale:
                root = by_scale.pop(node.inputs[1])
                waiting.append(root)
            name = node.outputs[0].name or ""
            if name in outputs:
                found[name] += waiting
                waiting = []
        return found

    def _feeds_only(self, root: ir.Value, layer: ir.Node) -> bool:
        """Whether one layer alone reads a quantized activation: then that layer's output is all it matters for."""
        value = root
        while True:
            readers = {use.node for use in value.uses()}
            if readers == {layer}:
                return True
            if len(readers) != 1:
                return False
            (reader,) = readers
            value = reader.outputs[0]

    def _choose_range(self, step: LayerStep, root: ir.Value) -> None:
        """Try the ranges of all estimators; one must move the layer's output clearly less than that of least error."""
        scale, statistics = self.scales[root], self.statistics[root]
        careful = careful_range(statistics, aligned=root not in self.cut)
        candidates = candidate_ranges(statistics)
        if root not in self.cut:
            candidates = [aligned_range(statistics, span) for span in candidates]
        ranges = list(dict.fromkeys([careful, *candidates]))
        if len(ranges) == 1:
            return
        parameters = [activation_parameters(span, self.settings.dtype, self.settings.symmetric) for span in ranges]
        errors = step.trial_errors([dict(zip(scale.names, found, strict=True)) for found in parameters])
        best = int(np.argmin(errors))
        if errors[best] < _CLEARLY * errors[0]:
            scale.set(*parameters[best])

    def _moments(self, step: LayerStep, layer: WeightedLayer, seed: int) -> np.ndarray | None:
        if not self.settings.compensate or layer.is_shared:
            return None
        return input_moments_at(step, layer, seed)

    def _quantize(self, layer: WeightedLayer, moments: np.ndarray | None) -> None:
        pairs = weight_pairs(layer.node, 1, layer.weight.shape)
        assert pairs is not None, "every layer with a constant weight has a layout"
        found = quantize_rows(
            layer.rows(layer.weight),
            moments,
            pairs.reduction_order(),
            paired=pairs.paired and self.settings.paired,
            per_channel=self.settings.per_channel,
            least_scale=_least_scale(layer),
        )
        self.weights[layer.node] = found
        give_own_constant(
            self.model, self.names, layer.node, 1, layer.from_rows(found.dequantized).astype(layer.weight.dtype)
        )


def _least_scale(layer: WeightedLayer) -> np.ndarray | None:
    """The weight scales, (groups, channels), below which the bias would not fit int32 at its scale."""
    scale = input_scale(layer.node)
    if layer.bias is None or layer.bias_node is not layer.node or scale is None:
        return None
    least: np.ndarray = (np.abs(layer.bias) / (scale * _LARGEST_BIAS)).astype(np.float32).reshape(layer.groups, -1)
    return least


def input_scale(node: ir.Node) -> float | None:
    """The scale of a layer's quantized input."""
    source = node.inputs[0]
    dequantize = None if source is None else source.producer()
    tensor = None if dequantize is None else constant_tensor(dequantize.inputs[1])
    return None if tensor is None else float(tensor.numpy())
