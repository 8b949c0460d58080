"""Composing linear operators with y = scale·x + shift, one pair of numbers per channel.

For a linear operator y = W x + b (a convolution or a matrix product; W sums over input channels and kernel taps):

    after it    s·(W x + b) + t = (s W) x + (s b + t)            s, t per output channel
    before it   W (s x + t) + b = (W s) x + (b + Σ W t)          s, t per input channel

All arithmetic is float64 and each result is rounded once, to the type it is stored in. An array in which one number
is repeated through zero strides (``np.broadcast_to``) stays one, so that huge uniform weights cost no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift. Both float64 and finite, of shape (channels,), or () when all channels share one number."""

    scale: Float64Array
    shift: Float64Array

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    @property
    def scales(self) -> bool:
        """Whether any channel is multiplied by something other than 1."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether anything other than 0 is added to any channel."""
        return bool((self.shift != 0).any())

    @property
    def spread(self) -> float:
        """The largest scale over the smallest that is not zero, in magnitude; 1 when all are alike."""
        magnitudes = np.abs(self.scale[self.scale != 0])
        return float(magnitudes.max() / magnitudes.min()) if magnitudes.size else 1.0


@dataclass(frozen=True)
class WeightLayout:
    """Where a weight keeps its channels.

    Attributes:
        groups: the number of channel groups that do not see each other.
        out_first: True for (out, in/groups, *kernel): Conv, Gemm with transB. False for (in, out/groups, *kernel):
            ConvTranspose, Gemm, MatMul.
    """

    groups: int = 1
    out_first: bool = True

    def out_channels(self, shape: tuple[int, ...]) -> int:
        return shape[0] if self.out_first else shape[1] * self.groups

    def in_channels(self, shape: tuple[int, ...]) -> int:
        return shape[1] * self.groups if self.out_first else shape[0]


def batchnorm_affine(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> Affine:
    """Inference batch normalisation as scale γ/√(σ²+ε) and shift β − μ·scale. All arrays: (channels,).

    Where σ²+ε is not positive the result is not finite.
    """
    with np.errstate(all="ignore"):
        scale = _float64(gamma) / np.sqrt(_float64(variance) + epsilon)
        return Affine(scale, _float64(beta) - _float64(mean) * scale)


def scale_outputs(weight: np.ndarray, layout: WeightLayout, scale: Float64Array) -> Float64Array:
    """The weight in float64 with each output channel multiplied by ``scale``: (out,) or ()."""
    return _scale(weight, layout, scale, layout.out_first)


def scale_inputs(weight: np.ndarray, layout: WeightLayout, scale: Float64Array) -> Float64Array:
    """The weight in float64 with each input channel multiplied by ``scale``: (in,) or ()."""
    return _scale(weight, layout, scale, not layout.out_first)


def response_to_constant(weight: np.ndarray, layout: WeightLayout, value: Float64Array) -> Float64Array:
    """What the operator answers, per output channel, to inputs that are ``value`` ((in,) or ()) everywhere: (out,)."""
    grouped = weight.reshape(layout.groups, weight.shape[0] // layout.groups, weight.shape[1], -1)
    taps_summed = grouped.sum(axis=3, dtype=np.float64)
    groups, first, second = taps_summed.shape
    if layout.out_first:
        inputs = np.broadcast_to(value, (groups * second,)).reshape(groups, second)
        return np.asarray((taps_summed * inputs[:, np.newaxis, :]).sum(axis=2)).reshape(-1)
    inputs = np.broadcast_to(value, (groups * first,)).reshape(groups, first)
    return np.asarray((taps_summed * inputs[:, :, np.newaxis]).sum(axis=1)).reshape(-1)


def affine_bias(bias: np.ndarray | None, affine: Affine, channels: int) -> Float64Array:
    """scale·bias + shift as (channels,); ``bias``: (channels,), (), or None for 0."""
    start = np.float64(0) if bias is None else _float64(bias)
    return as_uniform(np.broadcast_to(affine.scale * start + affine.shift, (channels,)))


def round_once(array: Float64Array, dtype: np.dtype[np.generic]) -> np.ndarray | None:
    """``array`` in ``dtype``, or None when that overflows, or underflows so far that the largest element suffers."""
    core = array[(slice(0, 1),) * array.ndim] if is_uniform(array) else array
    with np.errstate(all="ignore"):
        rounded = core.astype(dtype)
        error = np.abs(rounded.astype(np.float64) - core)
    if not np.isfinite(error).all():
        return None
    one = np.ones((), dtype)
    epsilon = float(np.nextafter(one, one + one)) - 1.0
    if float(error.max(initial=0.0)) > epsilon * float(np.abs(core).max(initial=0.0)):
        return None
    return rounded if core is array else np.broadcast_to(rounded, array.shape)


def is_float(array: np.ndarray) -> bool:
    """Whether the array holds floating-point numbers, bfloat16 included."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def is_uniform(array: np.ndarray) -> bool:
    """Whether the array repeats one number through zero strides (or has one element)."""
    return array.size == 1 or (array.size > 1 and not any(array.strides))


def as_uniform(array: np.ndarray) -> np.ndarray:
    """The array itself, or a zero-stride view of its one number when all elements are equal."""
    if array.size <= 1 or is_uniform(array):
        return array
    first = array.reshape(-1)[0]
    return np.broadcast_to(first, array.shape) if bool((array == first).all()) else array


def _scale(weight: np.ndarray, layout: WeightLayout, scale: Float64Array, first_axis: bool) -> Float64Array:
    groups, second = layout.groups, weight.shape[1]
    first = weight.shape[0] // groups
    grouped = weight.reshape(groups, first, second, -1)
    scale = as_uniform(scale)
    if is_uniform(weight) and is_uniform(scale):
        return np.broadcast_to(_float64(weight.reshape(-1)[0]) * scale.reshape(-1)[0], weight.shape)
    per_channel = np.broadcast_to(scale, (groups * (first if first_axis else second),))
    factor = per_channel.reshape((groups, first, 1, 1) if first_axis else (groups, 1, second, 1))
    return (_float64(grouped) * factor).reshape(weight.shape)


def _float64(array: np.ndarray) -> Float64Array:
    return np.asarray(array).astype(np.float64)
