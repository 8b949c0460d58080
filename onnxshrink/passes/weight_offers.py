"""What quantize-weights may buy for each weight, priced in bytes and in squared error of the outputs.

The error of an encoding is its expected rounding noise times how much the weight matters. That gain is measured where
it can be: the error of the outputs with this weight alone in int8, squared, over the noise of int8. A weight that could
not be measured counts as the average of the others; when none could, all count the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.stored_weights import StoredWeight
from onnxshrink.numerics.rounding_noise import rounding_noise, squared_norm
from onnxshrink.passes.byte_budget import Encoding, Offer
from onnxshrink.storage.affine_int8 import channel_count, decoder_bytes
from onnxshrink.storage.float16 import float16_overhead_bytes

_SPARSE_FROM = 0.1


def weight_offers(weight: StoredWeight, axes: tuple[int, ...], *, symmetric: bool) -> list[Offer[Encoding]]:
    """int8 with one scale per index of ``axes`` first, then what may be better; errors are relative to the weight.

    ``symmetric`` False: every int8 encoding has zero points.
    """
    array = weight.array()
    energy = squared_norm(array) or 1.0
    # In a pruned weight zeros are stored as the integer 0, which compresses; a zero point would make it any integer.
    sparse = np.count_nonzero(array) < (1 - _SPARSE_FROM) * array.size
    offers: list[Offer[Encoding]] = []
    for group in (0, *_group_sizes(weight, axes)):
        noise = rounding_noise(array, axes, weight.input_axis, group)
        for zero_points, squared in ((False, noise.symmetric), (True, noise.asymmetric)):
            if zero_points == (not symmetric) or (zero_points and not sparse):
                encoding = Encoding(zero_points=zero_points, group=group)
                offers.append(Offer(encoding, int8_bytes(weight, axes, encoding), squared / energy))
    if weight.tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        offers.append(Offer(Encoding(half=True), 2 * weight.tensor.size + float16_overhead_bytes(), 0.0))
    return offers


def int8_bytes(weight: StoredWeight, axes: tuple[int, ...], encoding: Encoding) -> int:
    """About how many bytes ``weight`` takes as int8 in a file."""
    rank = len(weight.shape) if encoding.group else 0
    scales = scale_count(weight, axes, encoding)
    return weight.tensor.size + decoder_bytes(scales, symmetric=not encoding.zero_points, rank=rank)


def scale_count(weight: StoredWeight, axes: tuple[int, ...], encoding: Encoding) -> int:
    """How many scales ``weight`` has as int8."""
    channels = channel_count(weight.shape, axes)
    axis = weight.input_axis
    return channels * weight.shape[axis] // encoding.group if encoding.group and axis is not None else channels


def priced(
    offers: Mapping[ir.Value, Sequence[Offer[Encoding]]], measured: Mapping[ir.Value, float]
) -> dict[ir.Value, list[Offer[Encoding]]]:
    """The offers with squared errors of the outputs; ``measured``: relative output error of a weight's first offer."""
    noise = {value: choices[0].squared_error for value, choices in offers.items()}
    known = [value for value in offers if value in measured and 0 < noise[value] < np.inf]
    average = sum(measured[value] ** 2 for value in known) / sum(noise[value] for value in known) if known else 1.0
    gains = {value: measured[value] ** 2 / noise[value] for value in known}
    return {
        value: [
            replace(offer, squared_error=offer.squared_error * gains.get(value, average))
            for offer in choices
            if np.isfinite(offer.squared_error)
        ]
        or [choices[0]]
        for value, choices in offers.items()
    }


_LEAST_SHARING, _MOST_SHARING = 16, 160
"""Weights that may share a scale in a group: below, scales take too much; above, a group gains little."""


def _group_sizes(weight: StoredWeight, axes: tuple[int, ...]) -> Iterator[int]:
    axis = weight.input_axis
    if axis is None or not axes:
        return
    inputs = weight.shape[axis]
    for exponent in range(8):
        size = 2**exponent
        sharing = size * weight.kernel_size
        if inputs % size == 0 and inputs >= 2 * size and _LEAST_SHARING <= sharing <= _MOST_SHARING:
            yield size
