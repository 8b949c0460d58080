"""What became of each layer: bytes, weights, and how closely its output is followed."""

from __future__ import annotations

import math
from dataclasses import dataclass

HISTOGRAM_BINS = 41
"""An odd number, so that zero is in the middle of a bin."""


@dataclass(frozen=True)
class WeightHistogram:
    """Weights of a layer before and after, decoded to floats, in 41 equal bins over one range.

    Attributes:
        limit: the bins cover −limit to limit, which holds 99.9 % of the weights of either model; what lies outside is
            counted in the outermost bins.
        original: counts of the original's weights; None when it has none of this layer. ``result`` likewise.
    """

    limit: float
    original: tuple[int, ...] | None
    result: tuple[int, ...] | None


@dataclass(frozen=True)
class LayerFacts:
    """One node with weights, in the original, in the result, or in both; or several small ones summed up.

    A layer of the result belongs to that of the original with the same name and the same number of weights; where names
    are gone, to the next one in order that computes the same from as many weights.

    Attributes:
        name: name of the node, in the original when it is there.
        op_type: its operator there; ``result_op_type`` that in the result, None when the result has no such layer.
        original_bytes: bytes of the stored constants that its weights, biases and scales come from, shared ones divided
            among their readers; None when the original has no such layer. ``result_bytes`` likewise.
        parameters: its weights.
        original_dtype: the type that most of its bytes are stored in; ``result_dtype`` likewise.
        macs: multiply-accumulates of one run of the original; None when unknown.
        output_error: relative L2 error of its output on a few samples, everything in front of it included; None when
            not measured, or when no value of the result is comparable.
        rescaled: whether ``output_error`` is up to one factor per channel, because a pass moved the range of channels
            from layer to layer.
        histogram: None for all but the largest layers.
        layers: how many layers this entry stands for.
    """

    name: str
    op_type: str | None
    result_op_type: str | None
    original_bytes: int | None
    result_bytes: int | None
    parameters: int
    original_dtype: str | None = None
    result_dtype: str | None = None
    macs: int | None = None
    output_error: float | None = None
    rescaled: bool = False
    histogram: WeightHistogram | None = None
    layers: int = 1

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise of the output, 20·log10(1 / error); None when not measured, or when the error is 0."""
        return None if not self.output_error else -20 * math.log10(self.output_error)
