"""Token arrays without the padding that no sample of a batch needs.

Encoders take arrays [samples, tokens] and an ``attention_mask`` that is 0 where a sample is padded. Where the model
leaves the axis of tokens open, a batch is cut to its longest sample, as tokenizers pad; the rest would only cost time,
and would enter into the ranges of dynamically quantized activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxshrink.measure.session import TensorSpec

MASK = "attention_mask"


def without_padding(feed: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]) -> Mapping[str, np.ndarray]:
    """The feed with its token arrays cut after the last token that some sample attends to.

    Only two-dimensional integer arrays of the mask's shape are cut, and none when one of them has a fixed axis of
    tokens, or when every sample is padded on the left.
    """
    mask = feed.get(MASK)
    if mask is None or mask.ndim != 2:
        return feed
    tokens = [spec for spec in inputs if _is_token_array(feed[spec.name], mask)]
    used = np.flatnonzero(mask.any(axis=0))
    if not len(used) or any(isinstance(spec.shape[1], int) for spec in tokens):
        return feed
    length = int(used[-1]) + 1
    return {**feed, **{spec.name: np.ascontiguousarray(feed[spec.name][:, :length]) for spec in tokens}}


def _is_token_array(array: np.ndarray, mask: np.ndarray) -> bool:
    return array.shape == mask.shape and array.dtype.kind in "iub"
