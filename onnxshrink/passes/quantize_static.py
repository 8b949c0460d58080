"""Compute in 8-bit integers: weights and activations on grids, with scale and zero point found on calibration data.

    x̂ = (clip(round(x / scale) + zero_point) − zero_point) · scale        for activations, one scale per tensor
    ŵ = q · scale[channel], q in −127…127                                 for weights, one scale per output channel
    bias = round(b / (scale_x · scale_w)) in int32

The model gets QuantizeLinear and DequantizeLinear nodes (QDQ), placed so that ONNX Runtime replaces each node between
them by its integer kernel. Integer weights are pair-safe: no u8·s8 kernel can saturate, on any CPU. Ranges, weights and
biases are then repaired layer by layer on the quantized model's own activations; see ``static_repair``.

The graph is cleaned up first where integer kernels need it: BatchNormalization and other affine nodes folded, the opset
raised to 13. Cross-layer equalization and SmoothQuant are applied when a draft shows that they may help, and kept when
the outputs of the finished model are closer with them.

Refusals: nodes without an integer kernel; weights or biases that are computed while the model runs; float16 and double;
tails behind the last layer and gates of squeeze-excite blocks, which cost little and need their precision; nodes in
subgraphs. Without calibration data nothing is changed.

Sources: Jacob et al. 2018, https://arxiv.org/abs/1712.05877 (integer arithmetic);
https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; Nagel et al. 2021, https://arxiv.org/abs/2106.08295.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.walk import is_op, label
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.numerics.activation_statistics import ActivationStatistics
from onnxshrink.numerics.layer_weights import IntegerWeight
from onnxshrink.numerics.ranges import Range, RangeEstimator, activation_parameters, careful_range, estimate_range
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.equalize_layers import EqualizeLayers
from onnxshrink.passes.integer_kernels import data_inputs
from onnxshrink.passes.layer_repair import add_biases
from onnxshrink.passes.opset_floor import at_least_opset
from onnxshrink.passes.placement import Placement, output_value, place
from onnxshrink.passes.qdq_nodes import QdqWriter, drop_absorbed
from onnxshrink.passes.registry import pass_class
from onnxshrink.passes.smooth_activations import SmoothActivations
from onnxshrink.passes.static_repair import RepairSettings, StaticRepair, input_scale
from onnxshrink.passes.weight_selection import select
from onnxshrink.passes.weighted_layers import WeightedLayer, weighted_layer

_PREPARATION = (
    "freeze-initializers",
    "fold-constants",
    "drop-identity",
    "fold-batchnorm",
    "fold-affine",
    "fold-pad",
    "fold-constants",
    "drop-identity",
    "drop-unused",
)
_PER_CHANNEL_OPSET = 13
_NEARLY_EQUAL = 1.05
"""Ranges that a Concat joins share one that is wider than each of them by this factor at most."""

_WORTH_TRYING = 0.98
"""Equalization and smoothing are tried where they bring the outputs' error in a draft below this share."""


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Compute in int8, with ranges from calibration data."""

    name: ClassVar[str] = "quantize-static"
    effect: ClassVar[Effect] = Effect.LOSSY
    needs_data: ClassVar[bool] = True

    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only nodes whose name or operator matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(
        default=(), metadata={"help": "not nodes whose name or operator matches one of these patterns"}
    )
    calibration: Literal["auto", "minmax", "mean-minmax", "percentile", "entropy", "mse"] = field(
        default="auto",
        metadata={"help": "how activation ranges are found; auto tries all on the layer that reads the activation"},
    )
    percentile: float = field(default=99.99, metadata={"help": "share of the values inside the range, in percent"})
    activation_type: Literal["uint8", "int8"] = field(
        default="uint8", metadata={"help": "integer type of activations; ONNX Runtime has kernels for int8 on ARM only"}
    )
    symmetric: bool = field(default=False, metadata={"help": "activations without zero points"})
    granularity: Literal["channel", "tensor"] = field(
        default="channel", metadata={"help": "one scale per output channel, or one per weight tensor"}
    )
    target: Literal["any", "avx2", "vnni", "arm"] = field(
        default="any",
        metadata={"help": "where the file must be right: any and avx2 keep sums of two products within 16 bits"},
    )
    rounding: Literal["compensated", "nearest"] = field(
        default="compensated", metadata={"help": "round weights so that the layer's output changes least, or nearest"}
    )
    correct_biases: bool = field(default=True, metadata={"help": "make up for the mean error of each output channel"})
    equalize: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "even out ranges of channels between layers; auto: where outputs gain"}
    )
    smooth: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "move outliers of activations into weights; auto: where outputs gain"}
    )

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        prepare(model, context)
        eased, certain = self._eased(model, context)
        if eased is None:
            return self._apply_prepared(model, context)
        reference = model.clone()
        result = self._apply_prepared(eased, context)
        if not certain:
            plain = self._apply_prepared(model, context)
            without, with_it = (context.output_error(reference, one) or 0.0 for one in (model, eased))
            if without < with_it:
                return plain
        model.graph = eased.graph
        return result

    def _apply_prepared(self, model: ir.Model, context: Context) -> PassResult:
        excluded = self._excluded(model)
        placement = place(model.graph, excluded)
        if not placement.layers:
            return PassResult(skips=placement.skips)
        statistics = context.statistics(model, dict.fromkeys(placement.roots.values()))
        if not statistics:
            reason = "there is no calibration data, or no activation could be observed"
            return PassResult(skips=(Skip("model", reason), *placement.skips))
        skips: list[Skip] = []
        while unobserved := _unobserved(placement, statistics):
            reason = "its activations could not be observed, or are not finite"
            skips += [Skip(label(node), reason) for node in unobserved]
            excluded.update(unobserved)
            placement = place(model.graph, excluded)
        # Outputs are renamed below, and nodes without a name are called by them.
        changes = tuple(Change(label(node), f"{node.op_type} computed in int8") for node in placement.nodes)
        if placement.layers:
            self._quantize(model, placement, statistics, context)
        return PassResult(changes, (*skips, *placement.skips))

    def _quantize(
        self,
        model: ir.Model,
        placement: Placement,
        statistics: Mapping[ir.Value, ActivationStatistics],
        context: Context,
    ) -> None:
        """Insert QuantizeLinear and DequantizeLinear, repair, and store weights and biases as integers."""
        add_biases(model, placement.layers)
        reference = model.clone()
        layers = [layer for layer in map(weighted_layer, placement.layers) if layer is not None]
        before = [_walked_names(layer) for layer in layers]
        names = Names(model)
        writer = QdqWriter(model, names)
        scales = writer.activations(placement, self._parameters(placement, statistics))
        walked = [
            WalkedLayer(output, _walked_names(layer)[0], layer.output_axis, (judged, _walked_names(layer)[1]))
            for (output, judged), layer in zip(before, layers, strict=True)
        ]
        repair = StaticRepair(model, self._repair_settings, scales, statistics, names, _cut(placement))
        repair.run(reference, list(zip(walked, layers, strict=True)), context)
        drop_absorbed(placement, scales)
        for layer in layers:
            store_layer(layer, repair.weights[layer.node], writer)
        writer.keep_products(placement)
        writer.keep_float(placement)

    def _eased(self, model: ir.Model, context: Context) -> tuple[ir.Model | None, bool]:
        """The same function with range moved to where it should quantize better, and whether it is wanted in any case.

        None when there is nothing to gain.
        """
        easing: tuple[tuple[str, Pass], ...] = (
            (self.equalize, EqualizeLayers(clips="observed")),
            (self.smooth, SmoothActivations()),
        )
        eased, certain = model, False
        for wanted, one_pass in easing:
            if wanted == "off" or (wanted == "auto" and not self._helps(one_pass, eased, context.draft or context)):
                continue
            changed = eased.clone()
            if one_pass.apply(changed, context).changed:
                infer_shapes(changed)
                eased, certain = changed, certain or wanted == "on"
        return (None if eased is model else eased), certain

    def _helps(self, one_pass: Pass, model: ir.Model, context: Context) -> bool:
        """Whether outputs are closer after a pass, with everything else as plain as it can be."""
        eased = model.clone()
        if not one_pass.apply(eased, context).changed:
            return False
        plain = replace(self, calibration="mse", rounding="nearest", correct_biases=False)
        errors = []
        for candidate in (model, eased):
            quantized = candidate.clone()
            infer_shapes(quantized)
            plain._apply_prepared(quantized, context)
            errors.append(context.output_error(model, quantized))
        before, after = errors
        return before is not None and after is not None and after < _WORTH_TRYING * before

    @property
    def _repair_settings(self) -> RepairSettings:
        return RepairSettings(
            choose_ranges=self.calibration == "auto",
            compensate=self.rounding == "compensated",
            correct_biases=self.correct_biases,
            paired=self.target in ("any", "avx2"),
            per_channel=self.granularity == "channel",
            dtype=self.activation_type,
            symmetric=self.symmetric,
        )

    def _parameters(
        self, placement: Placement, statistics: Mapping[ir.Value, ActivationStatistics]
    ) -> dict[ir.Value, tuple[np.ndarray, np.ndarray]]:
        """Scale and zero point of every root."""
        roots = dict.fromkeys(placement.roots.values())
        if self.calibration == "auto":
            cut = _cut(placement)
            spans = {root: careful_range(statistics[root], aligned=root not in cut) for root in roots}
        else:
            estimator: RangeEstimator = self.calibration
            spans = {root: estimate_range(statistics[root], estimator, percentile=self.percentile) for root in roots}
        _join_concats(spans, placement)
        return {root: activation_parameters(span, self.activation_type, self.symmetric) for root, span in spans.items()}

    def _excluded(self, model: ir.Model) -> set[ir.Node]:
        """The nodes that the user wants float.

        Raises:
            RecipeError: a pattern matches no node.
        """
        nodes: list[ir.Node] = list(model.graph)
        chosen: list[ir.Node] = select(self.name, "node", nodes, _names, self.include, self.exclude)
        return set(nodes).difference(chosen)


def prepare(model: ir.Model, context: Context) -> None:
    """Clean the graph up as integer kernels need it: affine nodes folded, and scales per channel allowed."""
    for name in _PREPARATION:
        pass_class(name)().apply(model, context)
        infer_shapes(model)
    at_least_opset(model, _PER_CHANNEL_OPSET, context)


def store_layer(layer: WeightedLayer, weight: IntegerWeight, writer: QdqWriter) -> None:
    """Let a layer read its integer weights, and its bias as int32 with scale = input scale · weight scale."""
    node = layer.node
    value = layer.weight_value
    scale = weight.scale.reshape(-1)
    shared = weight.shared_scale
    writer.constant(
        value,
        layer.from_rows(weight.quantized),
        scale[0] if shared else scale,
        None if shared else layer.axis,
        [node],
    )
    bias = layer.bias
    if bias is None or layer.bias_node is not node:
        return
    activation_scale = input_scale(node)
    assert activation_scale is not None
    bias_scale = scale * np.float32(activation_scale)
    limits = np.iinfo(np.int32)
    integers = np.clip(np.rint(bias.astype(np.float64) / bias_scale), limits.min, limits.max).astype(np.int32)
    bias_value = node.inputs[layer.bias_index]
    assert bias_value is not None
    writer.constant(bias_value, integers, bias_scale[0] if shared else bias_scale, None if shared else 0, [node])


def _walked_names(layer: WeightedLayer) -> tuple[str, str]:
    """Names of a layer's output, and of the value behind the activation that is absorbed."""
    output, judged = layer.node.outputs[0].name, output_value(layer.node).name
    assert output is not None and judged is not None
    return output, judged


def _join_concats(spans: dict[ir.Value, Range], placement: Placement) -> None:
    """Give what a Concat joins one range where theirs are nearly equal: the kernel then copies, and rounds nothing."""
    cut = _cut(placement)
    for node in placement.nodes:
        if not is_op(node, "Concat"):
            continue
        roots = {placement.roots.get(value) for value in (*data_inputs(node), output_value(node))}
        joined = [spans[root] for root in roots if root is not None and root in spans]
        if len(joined) < len(roots) or roots & cut:
            continue
        union = Range(min(span.low for span in joined), max(span.high for span in joined))
        if all(union.high - union.low <= _NEARLY_EQUAL * (span.high - span.low) for span in joined):
            spans.update((root, union) for root in roots if root is not None)


def _cut(placement: Placement) -> set[ir.Value]:
    """The values whose range bounds what a kernel gives in place of a Clip."""
    return {node.outputs[0] for node in placement.absorbed if is_op(node, "Clip")}


def _unobserved(placement: Placement, statistics: Mapping[ir.Value, ActivationStatistics]) -> list[ir.Node]:
    """Nodes that read or give a value without statistics."""
    missing = {value for value, root in placement.roots.items() if root not in statistics}
    return [node for node in placement.nodes if missing & {*data_inputs(node), *node.outputs, output_value(node)}]


def _names(node: ir.Node) -> tuple[str, str]:
    return label(node), node.op_type
