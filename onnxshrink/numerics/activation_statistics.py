"""What is known of an activation after calibration: extremes, means of extremes, a histogram, extremes per channel.

Samples stream through :meth:`ActivationStatistics.add`; memory does not grow with their number. Sums are float64 and
are taken sample by sample, so the result does not depend on how the samples were cut into batches, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from onnxshrink.numerics.histogram import Histogram


class ActivationStatistics:
    """Statistics of one activation.

    Attributes:
        channel_axis: the axis along which channels are told apart, counted with the sample axis; None: no channels.
        finite: False once a NaN or infinity came by; what else is known is then of no use.
        count: number of elements.
        samples: number of samples that have elements.
        low: the smallest element; infinity before the first.
        high: the largest element; minus infinity before the first.
        histogram: of all elements.
        channel_low: float64 (channels,), the smallest element of each channel; None without channels, or without data.
        channel_high: float64 (channels,), the largest.
    """

    def __init__(self, channel_axis: int | None = None) -> None:
        self.channel_axis = channel_axis
        self.finite = True
        self.count = self.samples = 0
        self.low, self.high = np.inf, -np.inf
        self.histogram = Histogram()
        self.channel_low: np.ndarray | None = None
        self.channel_high: np.ndarray | None = None
        self._low_sum = self._high_sum = 0.0
        self._channel_sum: np.ndarray | None = None
        self._channel_count = 0

    @property
    def mean_low(self) -> float:
        """The mean over samples of their smallest elements; infinity before the first."""
        return self._low_sum / self.samples if self.samples else np.inf

    @property
    def mean_high(self) -> float:
        """The mean over samples of their largest elements; minus infinity before the first."""
        return self._high_sum / self.samples if self.samples else -np.inf

    @property
    def channel_mean(self) -> np.ndarray | None:
        """float64 (channels,): the mean element of each channel; None without channels, or without data."""
        return None if self._channel_sum is None else self._channel_sum / self._channel_count

    def add(self, array: np.ndarray, *, batched: bool = False) -> None:
        """Take in one sample, or with ``batched`` as many as the first axis is long. Shapes may vary but for channels.

        Raises:
            ValueError: not a float array; the channel axis does not exist, is the sample axis of a batch, or is not as
                long as before.
        """
        self._check(array, batched)
        if not array.size or not self.finite:
            return
        array = np.ascontiguousarray(array).reshape(array.shape)
        samples = _by_channel(array, self.channel_axis, batched)
        with np.errstate(invalid="ignore"):
            lows, highs = (
                np.stack([_reduced(function, sample) for sample in samples]).astype(np.float64) + 0.0  # no −0.0
                for function in (np.minimum, np.maximum)
            )
        low, high = float(lows.min()), float(highs.max())
        self.finite = bool(np.isfinite(low) and np.isfinite(high))
        if not self.finite:
            return
        self.count += array.size
        self.samples += len(samples)
        self.low, self.high = min(self.low, low), max(self.high, high)
        for sample_low, sample_high in zip(lows.min(axis=1).tolist(), highs.max(axis=1).tolist(), strict=True):
            self._low_sum += sample_low
            self._high_sum += sample_high
        self.histogram.add(array, max(-low, high))
        if self.channel_axis is not None:
            self._add_channels(samples, lows.min(axis=0), highs.max(axis=0))

    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for :meth:`from_state`."""
        axis = [] if self.channel_axis is None else [self.channel_axis]
        histogram = self.histogram
        state = {
            "counters": np.array([self.count, self.samples, self._channel_count, int(self.finite)], np.int64),
            "bounds": np.array([self.low, self.high, self._low_sum, self._high_sum], np.float64),
            "axis": np.array(axis, np.int64),
            "bins": histogram.counts,
            "zeros_and_exponent": np.array([histogram.zeros, histogram.exponent], np.int64),
        }
        if self.channel_low is not None and self.channel_high is not None and self._channel_sum is not None:
            state["channels"] = np.stack([self.channel_low, self.channel_high, self._channel_sum])
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The statistics that :meth:`state` was called on.

        Raises:
            ValueError: these arrays are not such a state.
        """
        _check_state(state)
        axis = state["axis"].tolist()
        found = cls(axis[0] if axis else None)
        found.count, found.samples, found._channel_count, finite = state["counters"].tolist()
        found.low, found.high, found._low_sum, found._high_sum = state["bounds"].tolist()
        found.finite = bool(finite)
        found.histogram.counts = state["bins"]
        found.histogram.zeros, found.histogram.exponent = state["zeros_and_exponent"].tolist()
        if "channels" in state:
            found.channel_low, found.channel_high, found._channel_sum = state["channels"]
        return found

    def _check(self, array: np.ndarray, batched: bool) -> None:
        if array.dtype.kind != "f":
            raise ValueError(f"statistics are of float activations, not of {array.dtype}")
        if self.channel_axis is None:
            return
        if not -array.ndim <= self.channel_axis < array.ndim:
            raise ValueError(f"an array of shape {array.shape} has no channel axis {self.channel_axis}")
        if batched and self.channel_axis % array.ndim == 0:
            raise ValueError("the channel axis is the sample axis")
        channels = array.shape[self.channel_axis]
        if self.channel_low is not None and channels != len(self.channel_low):
            raise ValueError(f"{channels} channels after {len(self.channel_low)}")

    def _add_channels(self, samples: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray) -> None:
        for sample in samples:
            with np.errstate(over="ignore"):
                total = sample.sum(axis=(0, 2), dtype=np.float64) + 0.0
                self._channel_sum = total if self._channel_sum is None else self._channel_sum + total
            self._channel_count += sample.shape[0] * sample.shape[2]
        self.channel_low = low if self.channel_low is None else np.minimum(self.channel_low, low)
        self.channel_high = high if self.channel_high is None else np.maximum(self.channel_high, high)


def _by_channel(array: np.ndarray, channel_axis: int | None, batched: bool) -> list[np.ndarray]:
    """Each sample as (before, channels, after); without a channel axis all is one channel."""
    parts = [array[index : index + 1] for index in range(len(array))] if batched else [array]
    if channel_axis is None:
        return [part.reshape(1, 1, -1) for part in parts]
    axis = channel_axis % array.ndim
    after = int(np.prod(array.shape[axis + 1 :], dtype=np.int64))
    return [part.reshape(-1, array.shape[axis], after) for part in parts]


def _reduced(function: np.ufunc, sample: np.ndarray) -> np.ndarray:
    """One number per channel; numpy reduces one axis after the other faster than both at once."""
    rows: np.ndarray = sample[:, :, 0] if sample.shape[2] == 1 else function.reduce(sample, axis=2)
    return np.asarray(function.reduce(rows, axis=0))


def _check_state(state: Mapping[str, np.ndarray]) -> None:
    expected = {
        "counters": ("i", (4,)),
        "bounds": ("f", (4,)),
        "bins": ("i", Histogram().counts.shape),
        "zeros_and_exponent": ("i", (2,)),
    }
    for name, (kind, shape) in expected.items():
        if name not in state or state[name].dtype.kind != kind or state[name].shape != shape:
            raise ValueError(f"the state has no sound '{name}'")
    if "axis" not in state or state["axis"].shape not in ((0,), (1,)):
        raise ValueError("the state has no sound 'axis'")
    channels = state.get("channels")
    if channels is not None and (channels.dtype.kind != "f" or channels.ndim != 2 or len(channels) != 3):
        raise ValueError("the state has no sound 'channels'")
    if int(state["bins"].sum()) != int(state["counters"][0]):
        raise ValueError("the state's histogram does not hold its elements")
