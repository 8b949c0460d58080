"""Folds inference BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul in front of it or behind it.

    behind a product    W' = W·γ/√(σ²+ε)    b' = (b − μ)·γ/√(σ²+ε) + β
    in front of one     W' = W·s per input channel, b' = b + Σ W·t,  s = γ/√(σ²+ε), t = β − μ·s

The parameters are combined in float64 and rounded once. A MatMul of matrices that gets a bias becomes a Gemm. Two
BatchNormalizations in a row become one.

Refused: training mode, parameters or weights that are not constant, σ²+ε not positive, a product whose result is
also read elsewhere, a shift in front of a Conv that pads with zeros (the padding would have to be shifted too), scales
in front of a sum that differ by more than a factor of 8 (they would spread the weights), and whatever would make the
file larger, such as a copy of a weight that another node shares.

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, §3.2, https://arxiv.org/abs/1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxshrink.passes.affine_folder import AffineFolder
from onnxshrink.passes.base import Context, Effect, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization into the weights of its neighbours."""

    name: ClassVar[str] = "fold-batchnorm"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        return AffineFolder(model).run(("BatchNormalization",))
