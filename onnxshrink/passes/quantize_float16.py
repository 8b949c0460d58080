"""Store weights as float16 and compute as float: half the file, and no calibration.

    w = Cast(h),  h = w rounded to float16,  |w − ŵ| ≤ 2⁻¹¹·|w| for weights that float16 holds as normal numbers

The Cast is folded when ONNX Runtime loads the model, so inference runs on the float kernels as before. Applies to the
weights of Conv, ConvTranspose, Gemm, MatMul, Gather (embeddings), LSTM, GRU and RNN; biases stay as they are.

Refusals: NaN and infinity; magnitudes beyond 65504; weights so small that float16 rounds them coarsely; tables that
decide by their exact values (decision trees written as tensors); constants that other operators read too.

Source: IEEE 754-2019, binary16; https://onnx.ai/onnx/operators/onnx__Cast.html.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxshrink.graph.edits import Names
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.weight_selection import check_minimum, select_weights
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.float16 import encode_float16, float16_decoder


@dataclass(frozen=True)
class QuantizeFloat16(Pass):
    """Store weights as float16, compute as float."""

    name: ClassVar[str] = "quantize-float16"
    effect: ClassVar[Effect] = Effect.LOSSY

    min_elements: int = field(default=64, metadata={"help": "smaller weights stay as they are"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        changes: list[Change] = []
        skips: list[Skip] = []
        names = Names(model)
        for weight in select_weights(self.name, stored_weights(model), self.include, self.exclude):
            if weight.tensor.size < self.min_elements or weight.tensor.dtype not in _wider_types():
                continue
            reason = weight.obstacle or _store(model, weight, names)
            if reason is None:
                changes.append(Change(weight.name, "stored as float16"))
            else:
                skips.append(Skip(weight.name, reason))
        return PassResult(tuple(changes), tuple(skips))


def _wider_types() -> tuple[ir.DataType, ...]:
    return ir.DataType.FLOAT, ir.DataType.DOUBLE


def _store(model: ir.Model, weight: StoredWeight, names: Names) -> str | None:
    """Replace the weight by its float16 form; the reason when that cannot be."""
    dtype = weight.tensor.dtype
    try:
        half = encode_float16(weight.array())
    except ValueError as refusal:
        return str(refusal)
    build = DecoderBuilder(model, weight.value, names)
    build.replace(float16_decoder(build, half, dtype))
    return None
