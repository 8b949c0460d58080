"""Store the matrices of products in 4 or 8 bits with a scale for every block of weights, and compute from the integers.

    Wq = clip(round(W / scale[block]) + zero_point[block])        blocks of 16 to 128 neighbours along the reduction
    y = x · DequantizeLinear(Wq, scale, zero_point, axis = 0, block_size)

for MatMul and plain Gemm with a constant float32 matrix. Activations stay float in the model. ONNX Runtime merges the
two nodes into one MatMulNBits, which quantizes activations to int8 per block inside (accuracy level 4). Needs opset 21,
to which older models are raised. Where data is at hand, integers and scales are chosen so that the product's error is
least (second moments of the inputs); else for the weights' own.

When it pays, measured on one thread, AVX2 without VNNI, 4 bits in blocks of 32, against float: with one row of
activations, where memory is the limit: 0.63 of the time for 1024×1024, 0.83 for 384×384, 1.09 for 128×128. From eight
rows on it is about even (1.0 to 1.2), with 64 rows slower (1.1 to 1.6); 8 bits 1.3 to 1.9 there: then only size pays.
A sentence encoder: relative output error 0.212 rounded to nearest, 0.136 with moments, at 0.145 of the matrices' bytes;
blocks of 16, 64 and 128 gave 0.84, 1.14 and 1.26 times the error of 32, no zero points 1.10 times. 8 bits: 0.022, far
less than int8 with one scale per activation, because activations get scales per row and block too.

Refusals: weights that other operators read too, or that are left operands, or no matrices, or read inside subgraphs
(ONNX Runtime does not merge there); float16 and double; a Gemm with transA, alpha or beta.

Sources: Frantar et al. 2022, https://arxiv.org/abs/2210.17323 (GPTQ);
https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.graph.walk import label
from onnxshrink.numerics.blockwise import BlockScheme, quantize_blocks
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.constant_products import (
    PRODUCTS,
    activation_sources,
    drop_unused_transposes,
    opset_obstacle,
    overridable_weights,
    product_matrix,
    product_obstacle,
    weight_moments,
)
from onnxshrink.passes.opset_floor import at_least_opset
from onnxshrink.passes.weight_selection import check_minimum, select_weights
from onnxshrink.storage.blockwise import BLOCKED_IR_VERSION, BLOCKED_OPSET, blocked_decoder
from onnxshrink.storage.decoders import DecoderBuilder


@dataclass(frozen=True)
class QuantizeBlocks(Pass):
    """Store matrices as 4- or 8-bit integers in blocks, compute from them."""

    name: ClassVar[str] = "quantize-blocks"
    effect: ClassVar[Effect] = Effect.LOSSY

    bits: Literal[4, 8] = field(default=4, metadata={"help": "bits per weight"})
    block_size: Literal[16, 32, 64, 128] = field(
        default=32, metadata={"help": "how many weights along the reduction share a scale"}
    )
    symmetric: bool = field(default=False, metadata={"help": "no zero points"})
    rounding: Literal["compensated", "nearest"] = field(
        default="compensated", metadata={"help": "round weights so that the product changes least, or to nearest"}
    )
    min_elements: int = field(default=1024, metadata={"help": "smaller weights stay float"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        weights, skips = self._select(model)
        if not weights:
            return PassResult(skips=tuple(skips))
        raised = at_least_opset(model, BLOCKED_OPSET, context)
        if raised.skips:
            return PassResult(skips=(*skips, *raised.skips))
        if raised.changes:
            weights, skips = self._select(model)
        model.ir_version = max(model.ir_version, BLOCKED_IR_VERSION)
        known = {} if self.rounding == "nearest" else weight_moments(model, activation_sources(weights), context)
        names = Names(model)
        changes = list(raised.changes)
        for weight in weights:
            try:
                changes.append(self._store(model, weight, names, known.get(weight.value)))
            except ValueError as refusal:
                skips.append(Skip(weight.name, str(refusal)))
        return PassResult(tuple(changes), tuple(skips))

    def _select(self, model: ir.Model) -> tuple[list[StoredWeight], list[Skip]]:
        weights, skips = [], overridable_weights(model, PRODUCTS)
        candidates = select_weights(self.name, stored_weights(model, PRODUCTS), self.include, self.exclude)
        for weight in candidates:
            if weight.tensor.size < self.min_elements:
                continue
            reason = opset_obstacle(model, weight, BLOCKED_OPSET) or product_obstacle(weight) or _merge_obstacle(weight)
            if reason is None:
                weights.append(weight)
            else:
                skips.append(Skip(weight.name, reason))
        return weights, skips

    def _store(self, model: ir.Model, weight: StoredWeight, names: Names, moment: np.ndarray | None) -> Change:
        scheme = BlockScheme(self.bits, self.block_size, self.symmetric, half_scale=True)
        matrix = product_matrix(weight)
        encoded = quantize_blocks(matrix, scheme, moment)
        (use,) = weight.uses
        use.node.replace_input_with(use.index, weight.value)  # without a Transpose in between: it is decoded as W
        use.node.attributes.pop("transB", None)
        drop_unused_transposes(weight.value)
        build = DecoderBuilder(model, weight.value, names)
        decoded = blocked_decoder(build, encoded, self.bits)
        build.replace(decoded)
        decoded.shape = ir.Shape(matrix.shape)
        return Change(weight.name, f"stored as {self.bits}-bit integers with {encoded.scale.size:,} scales")


def _merge_obstacle(weight: StoredWeight) -> str | None:
    """Why ONNX Runtime would not merge the decoder of a product's matrix with the product, or None."""
    if len(weight.uses) > 1:
        return f"{len(weight.uses)} nodes read it, and ONNX Runtime merges a decoder with a single one"
    node = weight.uses[0].node
    if node.graph is not weight.value.graph:
        return f"{label(node)} is in a subgraph, and ONNX Runtime does not merge it with a decoder outside"
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return f"alpha or beta of {label(node)} is not 1"
    return None
