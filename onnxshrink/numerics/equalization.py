"""Scales that move range from one layer's channels to the next layer's weights, so that both quantize well.

Dividing channel i of an activation x by sᵢ and multiplying the weights that read it by sᵢ leaves the product as it is:

    y_j = Σᵢ w_ji·x_i = Σᵢ (w_ji·sᵢ)·(x_i / sᵢ)

The scales that even out two ranges a and b per channel are sᵢ = aᵢ^α / bᵢ^(1−α). With α = ½, a the weights of the layer
in front and b those of the layer behind, this is the cross-layer equalization of Nagel et al. 2019
(https://arxiv.org/abs/1906.04721): both become √(aᵢ·bᵢ). With a the range of the activation it is SmoothQuant (Xiao et
al. 2022, https://arxiv.org/abs/2211.10438), where α says how much of the activation's spread the weights take over.

Which α is best follows from the noise of rounding. One step for the activation, Δ = (max xᵢ/sᵢ − min xᵢ/sᵢ) / 255,
and one per output channel for the weights, δ_j = maxᵢ |w_ji|·sᵢ / 127, each add a uniform error of variance step² / 12:

    E(s) = Σᵢ (sᵢ²·Δ²/12 + Cᵢ(s) − Cᵢ(1))·Σ_j w_ji²  +  Σ_j δ_j²/12 · Σᵢ E[xᵢ²] / sᵢ²

summed over the taps of a kernel, each of which sees the channel once. Where every output reads one channel (depthwise)
the last term does not depend on s.

C is what clipping will cost on inputs that were not observed; what it costs more than without scales counts. Of n + 1
numbers the last is the largest with probability 1 / (n + 1), and an exponential tail exceeds the largest seen, aᵢ, by
τᵢ = aᵢ / ln(n + 1) in the mean. So beyond the end of the range, Tᵢ >= aᵢ in units of x,

    Cᵢ = 2·τᵢ² / (n + 1) · exp(−(Tᵢ − aᵢ) / τᵢ)

Without scales only the widest channels reach the end. Scales that let every channel fill the range save rounding noise
and lose that room: where few numbers were observed, the clipping costs more than the rounding saves. So scales that
leave a channel a multiple of the range it was seen to need are tried too.

Powers of two as scales change exponents only: every product and sum keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxshrink.numerics.folding import WeightLayout, response_to_constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

LARGEST_EXPONENT = 8
"""Scales stay within 2⁻⁸ … 2⁸: beyond that a channel is as good as lost beside the others, or as good as alone."""

ALPHAS = tuple(step / 10 for step in range(2, 11))
"""What is tried where no alpha is given."""

HEADROOMS = (1.0, 1.5, 2.0, 3.0)
"""How much of the range it was seen to need a channel is given, up to the range of the widest channel."""

LEAST_GAIN = 0.1
"""An estimated error that falls by less is not worth new weights."""

COMPENSATED = 0.1
"""The share of the weights' squared error that is left, about, when rounding compensates for it."""

_SIGMAS_PER_RANGE = 8.0


@dataclass(frozen=True)
class ChannelRanges:
    """What an activation was seen to be, per channel. All arrays: (channels,), float64.

    Attributes:
        low: the smallest number, or 0 where all were positive.
        high: the largest number, or 0 where all were negative.
        mean: the mean.
        count: how many numbers were seen of each channel.
    """

    low: Float64Array
    high: Float64Array
    mean: Float64Array
    count: int

    @staticmethod
    def of(low: np.ndarray, high: np.ndarray, mean: np.ndarray, count: int) -> ChannelRanges:
        """From arrays (channels,) of any floating-point type."""
        low, high = np.minimum(low.astype(np.float64), 0.0), np.maximum(high.astype(np.float64), 0.0)
        return ChannelRanges(low, high, mean.astype(np.float64), count)

    @property
    def magnitude(self) -> Float64Array:
        return np.maximum(self.high, -self.low)

    @property
    def energy(self) -> Float64Array:
        """E[x²], about: the range of many samples is some eight standard deviations wide."""
        return np.square(self.mean) + np.square((self.high - self.low) / _SIGMAS_PER_RANGE)

    def rounding(self, scale: Float64Array) -> Float64Array:
        """Expected squared rounding error of each channel, (channels,), when they are divided by ``scale``.

        What rounds to zero loses its energy and no more: a channel that carries nothing has no error.
        """
        step = float((self.high / scale).max() - (self.low / scale).min()) / 255
        return np.minimum(np.square(scale * step) / 12, self.energy)

    def clipping(self, scale: Float64Array) -> Float64Array:
        """Expected squared clipping error of each channel, (channels,), on inputs that were not observed."""
        high, low = (self.high / scale).max() * scale, (self.low / scale).min() * scale
        return self._beyond(self.high, high) + self._beyond(-self.low, -low)

    def _beyond(self, seen: Float64Array, end: Float64Array) -> Float64Array:
        tail = seen / np.log(self.count + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = np.where(tail > 0, np.exp(-np.maximum(end - seen, 0) / tail), 0.0)
        return np.asarray(2 * np.square(tail) / (self.count + 1) * beyond)


@dataclass(frozen=True)
class ProductTable:
    """A weight seen as products of channels, its kernel taps taken together.

    Attributes:
        magnitude: (groups, out/groups, in/groups) max |w| over the taps, float32.
        energy: (in,) Σ w² over outputs and taps, per input channel.
        taps: the number of kernel taps.
    """

    magnitude: np.ndarray
    energy: Float64Array
    taps: int

    @property
    def in_channels(self) -> int:
        return int(self.magnitude.shape[0] * self.magnitude.shape[2])

    def inputs(self, scale: Float64Array | None = None) -> Float64Array:
        """max |w| per input channel, (in,); ``scale`` (out,) multiplies the outputs first."""
        table = self.magnitude if scale is None else self.magnitude * self._per_output(scale)
        return np.asarray(table.max(axis=1).reshape(-1), np.float64)

    def outputs(self, scale: Float64Array | None = None) -> Float64Array:
        """max |w| per output channel, (out,); ``scale`` (in,) multiplies the inputs first."""
        table = self.magnitude if scale is None else self.magnitude * self._per_input(scale)
        return np.asarray(table.max(axis=2).reshape(-1), np.float64)

    def noise(self, activation: ChannelRanges, scale: Float64Array, weight_noise: float = 1.0) -> float:
        """Expected squared error of the product, summed over its outputs, when both factors are rounded to 8 bits.

        Clipping counts as far as ``scale`` adds to it.

        Args:
            activation: the range of the input, (in,).
            scale: (in,) what its channels are divided by, and the weights multiplied with.
            weight_noise: the share of the weights' error that is left when their rounding compensates.
        """
        clipping = activation.clipping(scale) - activation.clipping(np.ones_like(scale))
        from_activation = float(activation.rounding(scale) @ self.energy) + max(float(clipping @ self.energy), 0.0)
        steps = np.square(self.outputs(scale) / 127).reshape(self.magnitude.shape[:2]).sum(axis=1)
        inputs = (activation.energy / np.square(scale)).reshape(len(steps), -1).sum(axis=1)
        return from_activation + weight_noise * self.taps * float(steps @ inputs) / 12

    def _per_output(self, scale: Float64Array) -> np.ndarray:
        groups, outputs, _ = self.magnitude.shape
        return scale.astype(np.float32).reshape(groups, outputs, 1)

    def _per_input(self, scale: Float64Array) -> np.ndarray:
        groups, _, inputs = self.magnitude.shape
        return scale.astype(np.float32).reshape(groups, 1, inputs)


@dataclass(frozen=True)
class Product:
    """One product that reads an activation.

    Attributes:
        table: its weight.
        ranges: what it reads, per input channel: (in,).
        channels: the number of channels that get a scale.
        index: (in,) which scale each input channel takes; None: in/channels neighbouring ones share one.
    """

    table: ProductTable
    ranges: ChannelRanges
    channels: int
    index: NDArray[np.intp] | None = None

    @property
    def activation_magnitude(self) -> Float64Array:
        return self._per_channel(self.ranges.magnitude)

    @property
    def weight_magnitude(self) -> Float64Array:
        return self._per_channel(self.table.inputs())

    def noise(self, scale: Float64Array, weight_noise: float = 1.0) -> float:
        """Expected squared error when both factors are rounded to 8 bits; ``scale``: (channels,)."""
        return self.table.noise(self.ranges, scale[self._index], weight_noise)

    @property
    def _index(self) -> NDArray[np.intp]:
        if self.index is not None:
            return self.index
        return np.repeat(np.arange(self.channels), self.table.in_channels // self.channels)

    def _per_channel(self, inputs: Float64Array) -> Float64Array:
        """The largest of the input channels that share a scale; 0 for scales that this product does not read."""
        found = np.zeros(self.channels)
        np.maximum.at(found, self._index, inputs)
        return found


def product_table(weight: np.ndarray, layout: WeightLayout) -> ProductTable:
    """The products of a weight of any floating-point type, laid out as ``layout`` says."""
    groups, second = layout.groups, weight.shape[1]
    grouped = weight.reshape(groups, weight.shape[0] // groups, second, -1).astype(np.float32, copy=False)
    magnitude = np.abs(grouped).max(axis=3)
    energy = np.einsum("goit,goit->gi" if layout.out_first else "giot,giot->gi", grouped, grouped)
    if not layout.out_first:
        magnitude = magnitude.swapaxes(1, 2)
    return ProductTable(magnitude, energy.reshape(-1).astype(np.float64), grouped.shape[3])


def balancing_scales(first: Float64Array, second: Float64Array, alpha: float = 0.5) -> Float64Array:
    """first^α / second^(1−α) per channel, (channels,); NaN where either is zero: such a channel carries nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((first > 0) & (second > 0), first**alpha / second ** (1 - alpha), np.nan))


def settled_scales(ideal: Float64Array, least: Float64Array, powers_of_two: bool = False) -> Float64Array:
    """``ideal`` within bounds; only its ratios matter, so it is divided by the median, or by that of the fixed ones.

    Args:
        ideal: (channels,) positive, or NaN for a channel that does not care; it gets 1.
        least: (channels,) the smallest scale that a channel may get, 0: any; infinite: it must keep 1.
        powers_of_two: whether scales are rounded to the nearest power of two.
    """
    exponents = np.log2(ideal)
    known, fixed = np.isfinite(exponents), np.isinf(least)
    reference = known & fixed if (known & fixed).any() else known
    if not (known & ~fixed).any():
        return np.ones_like(ideal)
    exponents -= np.median(exponents[reference])
    with np.errstate(divide="ignore"):
        lowest = np.maximum(np.log2(least), -LARGEST_EXPONENT)
    if powers_of_two:
        exponents, lowest = np.rint(exponents), np.ceil(lowest)
    return np.exp2(np.where(known & ~fixed, np.clip(exponents, lowest, LARGEST_EXPONENT), 0.0))


def smoothed_scales(products: Sequence[Product], alpha: float, headroom: float = 1.0) -> Float64Array:
    """The ideal scales of SmoothQuant for one activation that several products read, (channels,).

    ``headroom``: each channel counts as that many times as wide as it was seen to be, or as wide as the widest.
    """
    activation = np.max([product.activation_magnitude for product in products], axis=0)
    weight = np.max([product.weight_magnitude for product in products], axis=0)
    return balancing_scales(np.minimum(headroom * activation, activation.max()), weight, alpha)


def noise_ratio(products: Sequence[Product], scale: Float64Array, weight_noise: float = 1.0) -> float:
    """The root of the expected squared error with ``scale`` (channels,) over that without; 1 where there is none."""
    before = sum(product.noise(np.ones_like(scale), weight_noise) for product in products)
    after = sum(product.noise(scale, weight_noise) for product in products)
    return float(np.sqrt(after / before)) if before > 0 else 1.0


def quietest_scales(
    products: Sequence[Product],
    least: Float64Array,
    powers_of_two: bool,
    alpha: float | None = None,
    weight_noise: float = 1.0,
) -> Float64Array:
    """The settled scales, (channels,), of SmoothQuant with the ``alpha`` given, or those of least expected error.

    The latter are all 1 when none lowers the root of that error by 10 %.
    """
    if alpha is not None:
        return settled_scales(smoothed_scales(products, alpha), least, powers_of_two)
    candidates = [
        settled_scales(smoothed_scales(products, value, headroom), least, powers_of_two)
        for value in ALPHAS
        for headroom in HEADROOMS
    ]
    ratios = [noise_ratio(products, candidate, weight_noise) for candidate in candidates]
    best = int(np.argmin(ratios))
    return candidates[best] if ratios[best] <= 1 - LEAST_GAIN else np.ones_like(least)


def product_bounds(
    weight: np.ndarray, layout: WeightLayout, low: float, high: float
) -> tuple[Float64Array, Float64Array]:
    """The smallest and largest that each output channel can be, (out,), for inputs between ``low`` <= 0 <= ``high``.

    Zero padding and taps beyond the border are covered. Bounds may be infinite.
    """
    positive = response_to_constant(np.maximum(weight, 0), layout, np.ones(()))
    negative = response_to_constant(np.minimum(weight, 0), layout, np.ones(()))
    with np.errstate(invalid="ignore"):  # 0 · ∞: no weight of that sign, nothing to add
        terms = [
            np.nan_to_num(part * end, nan=0.0, posinf=np.inf, neginf=-np.inf)
            for part, end in ((positive, low), (negative, high), (positive, high), (negative, low))
        ]
    return terms[0] + terms[1], terms[2] + terms[3]
