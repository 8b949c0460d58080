"""Folds Mul, Div, Add and Sub by constants into the weights and biases of their neighbours.

With s and t one number per channel, or one for all:

    behind a product       s·(W x + b) + t = (s W) x + (s b + t)
    in front of one        W (s x + t) + b = (W s) x + (b + Σ W t)
    behind a BatchNorm     γ' = s·γ, β' = s·β + t
    products in a row      (x·c)·d = x·(c·d), and so on for Div, Add and Sub
    neutral                x·1, x/1, x + 0 and x − 0 go

Products are Conv, ConvTranspose, Gemm and MatMul with constant weights. A MatMul of matrices followed by an Add of a
vector becomes one Gemm; a MatMul of more dimensions keeps its Add, and both take in what follows.

Refused: a product whose result is also read elsewhere, a shift in front of a Conv that pads with zeros or of a
ConvTranspose (whose borders sum fewer terms), scales in front of a sum that differ by more than a factor of 8 (they
would spread the weights), results that overflow or underflow the weight's type, numbers so large that adding them
rounds on purpose, whatever would make the file larger, and the last node of a LayerNormalization or Gelu spelled out in
simple operators, which ONNX Runtime replaces by one kernel as long as it is whole.

Source: the scaling and shift of linear maps, as in Jacob et al. 2018, §3.2, https://arxiv.org/abs/1712.05877;
broadcasting rules: https://onnx.ai/onnx/repo-docs/Broadcasting.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxshrink.passes.affine_folder import AffineFolder
from onnxshrink.passes.base import Context, Effect, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldAffine(Pass):
    """Fold Mul, Div, Add and Sub by constants into the weights and biases of their neighbours."""

    name: ClassVar[str] = "fold-affine"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        return AffineFolder(model).run(("Mul", "Div", "Add", "Sub"))
