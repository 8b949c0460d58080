"""Store weights as int8 with a scale per channel, and compute as float: a quarter of the file, without calibration.

    q = clip(round(w / scale) + zero_point),  ŵ = (q − zero_point) · scale

Applies to the weights of Conv, ConvTranspose, Gemm, MatMul, Gather (embeddings), LSTM, GRU and RNN; biases and small
weights stay float. The scale minimises the squared error, and rounding errors are made to cancel in the sums that the
weights take part in, by the mean inputs where they are known. ``spare``, a small share of the size, is spent where it
buys most accuracy: on float16 for weights that int8 hardly makes smaller, mostly depthwise kernels and first
layers, then on scales per group of inputs for matrices.

Forms: ``folded`` nodes become a float constant when ONNX Runtime loads the model, and inference costs what it did.
``fused`` (DequantizeLinear, opset 13) lets ONNX Runtime compute a MatMul from the integers. ``auto`` takes the fused
form only where the activation certainly has one row and the weight is large, and it is faster; elsewhere folded.

Refusals: NaN and infinity; tables that decide by their exact values (decision trees written as tensors); constants
that other operators read too.

Sources: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342 (per-channel weights); Guo et al. 2022,
https://arxiv.org/abs/2202.07471 (rounding errors that cancel);
https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.edits import Names
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.graph.weight_inputs import WeightInput, per_weight, weight_input
from onnxshrink.numerics.affine import AffineScheme, AffineWeight, InputMean, quantize_in_groups, quantize_weight
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.byte_budget import GROUP_SIZES, LEAST_GROUPED, StorageCost, plan_storage
from onnxshrink.passes.fused_form import can_fuse, fuse, fused_is_faster
from onnxshrink.passes.weight_selection import check_minimum, select_weights
from onnxshrink.storage.affine_int8 import channel_count, decoder_bytes, folded_decoder, half_scale_pays
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.float16 import encode_float16, float16_decoder, float16_overhead_bytes


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store weights as int8, compute as float."""

    name: ClassVar[str] = "quantize-weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    granularity: Literal["channel", "tensor"] = field(
        default="channel", metadata={"help": "one scale per output channel, or one per weight tensor"}
    )
    symmetric: bool = field(default=True, metadata={"help": "without a zero point; false fits lopsided weights closer"})
    scale: Literal["mse", "max"] = field(
        default="mse", metadata={"help": "scale of least squared error, or just large enough to clip nothing"}
    )
    rounding: Literal["balanced", "nearest"] = field(
        default="balanced", metadata={"help": "let rounding errors cancel in the sums, or round each weight by itself"}
    )
    form: Literal["auto", "folded", "fused"] = field(
        default="auto",
        metadata={"help": "decode when the model is loaded, compute from the integers, or what is faster"},
    )
    spare: float = field(
        default=0.03,
        metadata={"help": "share of the int8 size that float16 storage and finer scales may add for accuracy"},
    )
    min_elements: int = field(default=64, metadata={"help": "smaller weights stay float"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)
        if not 0 <= self.spare <= 1:
            raise RecipeError(f"{self.name}: spare must be between 0 and 1, got {self.spare}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        skips: list[Skip] = []
        weights: list[StoredWeight] = []
        for weight in select_weights(self.name, stored_weights(model), self.include, self.exclude):
            if not self._is_candidate(weight):
                continue
            if weight.obstacle is None:
                weights.append(weight)
            else:
                skips.append(Skip(weight.name, weight.obstacle))
        encoder = _Encoder(self, model, Names(model), _input_means(self, model, weights, context))
        plan = plan_storage(self._costs(weights), self.spare)
        changes: list[Change] = []
        for weight in weights:
            outcome = encoder.encode(weight, half=weight.value in plan.halves, group=plan.group)
            if isinstance(outcome, Change):
                changes.append(outcome)
            else:
                skips.append(outcome)
        return PassResult(tuple(changes), tuple(skips))

    def _is_candidate(self, weight: StoredWeight) -> bool:
        types = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
        tensor = weight.tensor
        return tensor.dtype in types and tensor.size >= self.min_elements and self._int8_bytes(weight) < tensor.nbytes

    def channel_axes(self, weight: StoredWeight) -> tuple[int, ...]:
        return weight.channel_axes if self.granularity == "channel" else ()

    def groups(self, weight: StoredWeight, size: int) -> bool:
        """Whether ``weight`` gets scales of its own for every ``size`` inputs, when there is room for that."""
        axis = weight.input_axis
        if not size or axis is None or weight.kernel_size > 1 or not self.channel_axes(weight):
            return False
        if weight.tensor.size < LEAST_GROUPED:
            return False
        return weight.shape[axis] >= 2 * size and weight.shape[axis] % size == 0

    def _costs(self, weights: Sequence[StoredWeight]) -> list[StorageCost]:
        return [self._cost(weight) for weight in weights]

    def _cost(self, weight: StoredWeight) -> StorageCost:
        wide = weight.tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        channels = channel_count(weight.shape, self.channel_axes(weight))
        inputs = weight.shape[weight.input_axis] if weight.input_axis is not None else 0
        return StorageCost(
            weight.value,
            self._int8_bytes(weight),
            2 * weight.tensor.size + float16_overhead_bytes() if wide else None,
            {size: 2 * channels * (inputs // size) for size in GROUP_SIZES if self.groups(weight, size)},
        )

    def _int8_bytes(self, weight: StoredWeight) -> int:
        channels = channel_count(weight.shape, self.channel_axes(weight))
        return weight.tensor.size + decoder_bytes(channels, symmetric=self.symmetric)


@dataclass(frozen=True)
class _Encoder:
    """Replaces weights by their encoded form, one by one."""

    settings: QuantizeWeights
    model: ir.Model
    names: Names
    means: Mapping[ir.Value, InputMean]

    def encode(self, weight: StoredWeight, *, half: bool, group: int) -> Change | Skip:
        try:
            if half:
                return self._store_half(weight)
        except ValueError:
            pass  # float16 does not hold these weights; int8 has a scale of its own and does
        try:
            return self._store_int8(weight, group)
        except ValueError as refusal:
            return Skip(weight.name, str(refusal))

    def _store_half(self, weight: StoredWeight) -> Change:
        encoded = encode_float16(weight.array())
        build = DecoderBuilder(self.model, weight.value, self.names)
        build.replace(float16_decoder(build, encoded, weight.tensor.dtype))
        return Change(weight.name, "stored as float16, which costs little more than int8 here")

    def _store_int8(self, weight: StoredWeight, group: int) -> Change:
        fused = self._wants_fused(weight)
        group = 0 if fused or not self.settings.groups(weight, group) else group
        encoded = self._quantized(weight, group, fused)
        build = DecoderBuilder(self.model, weight.value, self.names)
        if fused:
            fuse(build, weight, encoded)
        else:
            build.replace(folded_decoder(build, encoded, weight.tensor.dtype, weight.shape))
        zero_points = "" if encoded.zero_point is None else " and zero points"
        form = "fused into the operator" if fused else "folded when loaded"
        return Change(weight.name, f"stored as int8 with {encoded.scale.size:,} scales{zero_points}, {form}")

    def _quantized(self, weight: StoredWeight, group: int, fused: bool) -> AffineWeight:
        settings, axes = self.settings, self.settings.channel_axes(weight)
        half_scale = not fused and half_scale_pays(channel_count(weight.shape, axes))
        scheme = AffineScheme(settings.symmetric, settings.scale, half_scale)
        inputs = self.means.get(weight.value)
        axis = weight.input_axis
        if group and axis is not None:
            return quantize_in_groups(weight.array(), axes, axis, group, scheme, inputs)
        return quantize_weight(weight.array(), axes, scheme, inputs)

    def _wants_fused(self, weight: StoredWeight) -> bool:
        if self.settings.form == "folded" or not can_fuse(self.model, weight):
            return False
        return self.settings.form == "fused" or fused_is_faster(weight)


def _input_means(
    settings: QuantizeWeights, model: ir.Model, weights: Sequence[StoredWeight], context: Context
) -> dict[ir.Value, InputMean]:
    """What rounding may know of the inputs of each weight: their means where the context measures them."""
    if settings.rounding == "nearest":
        return {}
    sources: dict[ir.Value, WeightInput] = {}
    for weight in weights:
        found = (weight_input(use) for use in weight.uses if use.node.inputs[use.index] is weight.value)
        source = next((source for source in found if source is not None), None)
        if source is not None:
            sources[weight.value] = source
    means = context.channel_means(model, {source.value: source.axis for source in sources.values()})
    known: dict[ir.Value, InputMean] = {}
    for weight in weights:
        source = sources.get(weight.value)
        if source is None:
            continue
        mean = means.get(source.value)
        # Every output of a Conv sums whole kernels; an output of a strided ConvTranspose sums a part of each.
        kernel_size = weight.kernel_size if weight.uses[0].node.op_type == "Conv" else 1
        known[weight.value] = InputMean(
            None if mean is None else per_weight(mean, source, weight.shape),
            kernel_size,
        )
    return known
