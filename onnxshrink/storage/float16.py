"""A float32 or float64 weight stored as float16: ``w = Cast(h)``, folded by ONNX Runtime when it loads the model.

float16 has 11 significant bits (IEEE 754 binary16): |w − ŵ| ≤ 2⁻¹¹·|w| between 6.1e-5 and 65504. Below, weights lie
on a fixed grid of 2⁻²⁴; above, they overflow.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.storage.decoders import DecoderBuilder

_LARGEST_RELATIVE_ERROR = 2.0**-10
"""Refused beyond: twice what normal numbers allow, so it takes many weights in the subnormal range to get there."""


def encode_float16(weight: np.ndarray) -> np.ndarray:
    """``weight`` rounded to float16.

    Raises:
        ValueError: a weight is not finite or overflows, or so many are subnormal in float16 that the relative L2
            error of the tensor exceeds 2⁻¹⁰.
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    with np.errstate(over="ignore", under="ignore"):
        half = weight.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"magnitudes up to {np.abs(weight).max():.3g} overflow float16 (65504)")
    # Scaled to 1 so that squares of tiny weights do not vanish.
    largest = np.abs(weight).max(initial=0) or 1
    error = np.linalg.norm((weight - half) / largest) / (np.linalg.norm(weight / largest) or 1)
    if error > _LARGEST_RELATIVE_ERROR:
        raise ValueError(f"weights are too small for float16: relative error {error:.2g}")
    return half


def float16_decoder(build: DecoderBuilder, half: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """The node that decodes ``half`` to ``dtype``."""
    return build.cast(build.constant("h", half), dtype)


def float16_overhead_bytes() -> int:
    """About how many bytes the node, names and headers of the decoder take in a file, beside the numbers."""
    return 50
