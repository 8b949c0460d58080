"""Store weights as int8 with a scale per channel, and compute as float: a quarter of the file, without calibration.

    q = clip(round(w / scale) + zero_point),  ŵ = (q − zero_point) · scale

Applies to the weights of Conv, ConvTranspose, Gemm, MatMul, Gather (embeddings), LSTM, GRU and RNN; small weights stay
float, and biases go to float16, which rounds them far finer than int8 does the weights beside them. The scale minimises
the squared error, and rounding errors are made to cancel in the sums that the weights take part in, by the mean inputs
where they are known. ``spare``, a small share of the size, is spent where it buys most accuracy, on zero points,
scales per group of inputs, or float16: the outputs' error with one weight in int8 is measured for each weight in turn,
where that is quick.

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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.edits import Names
from onnxshrink.graph.stored_weights import StoredWeight, stored_biases, stored_weights
from onnxshrink.graph.weight_inputs import WeightInput, per_weight, weight_input
from onnxshrink.numerics.affine import (
    AffineScheme,
    AffineWeight,
    InputMean,
    dequantize_weight,
    quantize_in_groups,
    quantize_weight,
)
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.byte_budget import Encoding, spend
from onnxshrink.passes.fused_form import can_fuse, fuse, fused_is_faster
from onnxshrink.passes.weight_offers import int8_bytes, priced, scale_count, weight_offers
from onnxshrink.passes.weight_selection import check_minimum, select_weights
from onnxshrink.storage.affine_int8 import folded_decoder, half_scale_pays
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.float16 import encode_float16, float16_decoder


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store weights as int8, compute as float."""

    name: ClassVar[str] = "quantize-weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    granularity: Literal["channel", "tensor"] = field(
        default="channel", metadata={"help": "one scale per output channel, or one per weight tensor"}
    )
    symmetric: bool = field(
        default=True, metadata={"help": "zero points only where spare bytes pay for them; false: for every weight"}
    )
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
    biases: Literal["float16", "float32"] = field(
        default="float16", metadata={"help": "how biases are stored; float16 rounds far finer than int8 does weights"}
    )
    spare: float = field(
        default=0.04,
        metadata={"help": "share of the int8 size that zero points, finer scales and float16 may add for accuracy"},
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
        encodings = self._encodings(model, weights, encoder, context)
        biases = self._biases(model, weights)
        outcomes = [encoder.encode(weight, encodings[weight.value]) for weight in weights]
        outcomes += [encoder.encode_bias(bias) for bias in biases]
        skips += [outcome for outcome in outcomes if isinstance(outcome, Skip)]
        return PassResult(tuple(outcome for outcome in outcomes if isinstance(outcome, Change)), tuple(skips))

    def channel_axes(self, weight: StoredWeight) -> tuple[int, ...]:
        return weight.channel_axes if self.granularity == "channel" else ()

    @property
    def plain(self) -> Encoding:
        """How weights are stored that get nothing of the spare bytes."""
        return Encoding(zero_points=not self.symmetric)

    def _is_candidate(self, weight: StoredWeight) -> bool:
        types = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
        tensor = weight.tensor
        if tensor.dtype not in types or tensor.size < self.min_elements:
            return False
        return int8_bytes(weight, self.channel_axes(weight), self.plain) < tensor.nbytes

    def _biases(self, model: ir.Model, weights: Sequence[StoredWeight]) -> list[StoredWeight]:
        """The biases beside ``weights`` that go to float16."""
        if self.biases == "float32":
            return []
        wide = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        nodes = {use.node for weight in weights for use in weight.uses}
        return [
            bias
            for bias in stored_biases(model)
            if bias.obstacle is None
            and bias.tensor.dtype in wide
            and bias.tensor.size >= self.min_elements
            and any(_adds_to(use.node, nodes) for use in bias.uses)
        ]

    def _encodings(
        self, model: ir.Model, weights: Sequence[StoredWeight], encoder: _Encoder, context: Context
    ) -> dict[ir.Value, Encoding]:
        """What each weight is stored as: plain int8, and better where the spare bytes pay for it."""
        plain = {weight.value: self.plain for weight in weights}
        eligible = [weight for weight in weights if not encoder.wants_fused(weight)]
        if self.spare == 0 or not eligible:
            return plain
        offers = {
            weight.value: weight_offers(weight, self.channel_axes(weight), symmetric=self.symmetric)
            for weight in eligible
        }
        trials = {weight.value: partial(encoder.decoded, weight, self.plain) for weight in eligible}
        budget = self.spare * sum(choices[0].size_bytes for choices in offers.values())
        return plain | spend(priced(offers, context.output_errors(model, trials)), budget)


@dataclass(frozen=True)
class _Encoder:
    """Replaces weights by their encoded form, one by one."""

    settings: QuantizeWeights
    model: ir.Model
    names: Names
    means: Mapping[ir.Value, InputMean]

    def encode(self, weight: StoredWeight, encoding: Encoding) -> Change | Skip:
        try:
            if encoding.half:
                return self._store_half(weight)
        except ValueError:
            pass  # float16 does not hold these weights; int8 has a scale of its own and does
        try:
            return self._store_int8(weight, self.settings.plain if encoding.half else encoding)
        except ValueError as refusal:
            return Skip(weight.name, str(refusal))

    def encode_bias(self, bias: StoredWeight) -> Change | Skip:
        """A bias goes to float16 or stays: it is added to sums as it is, and int8 is too coarse for that."""
        try:
            return self._store_half(bias)
        except ValueError as refusal:
            return Skip(bias.name, str(refusal))

    def decoded(self, weight: StoredWeight, encoding: Encoding) -> np.ndarray:
        """The values that int8 ``encoding`` leaves of ``weight``, of its shape and type."""
        values = dequantize_weight(self._quantized(weight, encoding, fused=False))
        return values.reshape(weight.shape).astype(weight.tensor.dtype.numpy())

    def wants_fused(self, weight: StoredWeight) -> bool:
        if self.settings.form == "folded" or not can_fuse(self.model, weight):
            return False
        return self.settings.form == "fused" or fused_is_faster(weight)

    def _store_half(self, weight: StoredWeight) -> Change:
        encoded = encode_float16(weight.array())
        build = DecoderBuilder(self.model, weight.value, self.names)
        build.replace(float16_decoder(build, encoded, weight.tensor.dtype))
        return Change(weight.name, "stored as float16")

    def _store_int8(self, weight: StoredWeight, encoding: Encoding) -> Change:
        fused = self.wants_fused(weight)
        encoded = self._quantized(weight, encoding, fused)
        build = DecoderBuilder(self.model, weight.value, self.names)
        if fused:
            fuse(build, weight, encoded)
        else:
            build.replace(folded_decoder(build, encoded, weight.tensor.dtype, weight.shape))
        zero_points = "" if encoded.zero_point is None else " and zero points"
        form = "fused into the operator" if fused else "folded when loaded"
        return Change(weight.name, f"stored as int8 with {encoded.scale.size:,} scales{zero_points}, {form}")

    def _quantized(self, weight: StoredWeight, encoding: Encoding, fused: bool) -> AffineWeight:
        axes, axis = self.settings.channel_axes(weight), weight.input_axis
        half_scale = not fused and half_scale_pays(scale_count(weight, axes, encoding))
        scheme = AffineScheme(not encoding.zero_points, self.settings.scale, half_scale)
        inputs = self.means.get(weight.value)
        if encoding.group and axis is not None:
            return quantize_in_groups(weight.array(), axes, axis, encoding.group, scheme, inputs)
        return quantize_weight(weight.array(), axes, scheme, inputs)


def _adds_to(node: ir.Node, nodes: Collection[ir.Node]) -> bool:
    """Whether ``node`` is one of ``nodes``, or an Add behind one."""
    return node in nodes or any(value is not None and value.producer() in nodes for value in node.inputs)


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
