"""What the weights of a layer are multiplied with: patches of its input, and their second moments.

A layer computes W x for many columns x: rows of a Gemm's or MatMul's input, or the patches that a Conv's kernel slides
over (im2col, Chellapilla et al. 2006). How its output changes with its weights depends on E[x xᵀ] alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_BATCH_COLUMNS = 2048


@dataclass(frozen=True)
class Window:
    """How a Conv slides over its input.

    Attributes:
        kernel: size of the kernel along each spatial axis; ``strides`` and ``dilations`` likewise.
        pads: zeros added before and after each spatial axis.
        groups: groups of input channels that meet weights of their own.
        same: padded so that the output has the size of the input divided by the stride, the odd zero at the
            ``upper`` or the ``lower`` end (ONNX's auto_pad); ``pads`` does not count then.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int = 1
    same: Literal["upper", "lower"] | None = None

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and after each spatial axis of an input with these sizes."""
        if self.same is None:
            return list(self.pads)
        padding = []
        for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if self.same == "upper" else (large, small))
        return padding


def patches(activation: np.ndarray, window: Window, positions: np.ndarray) -> np.ndarray:
    """Patches under the kernel at some of its positions.

    Args:
        activation: (samples, channels, *spatial).
        window: how the kernel slides.
        positions: indices into samples × output positions, flattened.

    Returns:
        (positions, groups, channels/groups × kernel), the reduction in the order of an ONNX Conv weight.
    """
    pads = window.padding(activation.shape[2:])
    padded = np.pad(activation, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else activation
    spatial = tuple(range(2, activation.ndim))
    extents = tuple((size - 1) * step + 1 for size, step in zip(window.kernel, window.dilations, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=spatial)
    every: Any = slice(None)
    views = views[(every, every, *(slice(None, None, step) for step in (*window.strides, *window.dilations)))]
    samples = activation.shape[0]
    places = np.unravel_index(positions, (samples, *views.shape[2 : 2 + len(spatial)]))
    taken = views[(places[0], every, *places[1:])]
    columns: np.ndarray = np.ascontiguousarray(taken).reshape(len(positions), window.groups, -1)
    return columns


def output_positions(shape: tuple[int, ...], window: Window) -> int:
    """How many positions the kernel takes over an input of ``shape``, all samples together."""
    sizes = [
        (size + low + high - (kernel - 1) * dilation - 1) // stride + 1
        for size, kernel, stride, dilation, (low, high) in zip(
            shape[2:], window.kernel, window.strides, window.dilations, window.padding(shape[2:]), strict=True
        )
    ]
    return shape[0] * math.prod(max(size, 0) for size in sizes)


def columns_of(activation: np.ndarray, window: Window | None, positions: np.ndarray) -> np.ndarray:
    """Columns that the weights are multiplied with, (positions, groups, reduction); without a window, rows."""
    if window is not None:
        return patches(activation, window, positions)
    rows: np.ndarray = activation.reshape(-1, activation.shape[-1])[positions][:, None, :]
    return rows


def input_moments(
    activations: Iterable[np.ndarray], window: Window | None, columns_per_sample: int, *, centred: bool, seed: int = 0
) -> np.ndarray | None:
    """Second moments E[x xᵀ] over a random choice of columns x.

    Args:
        activations: the layer's input, sample by sample, shapes as in the layer.
        window: how a Conv slides; None for the rows of a Gemm or MatMul.
        columns_per_sample: columns looked at in each sample, at most.
        centred: take the moments about the means, for a layer whose bias makes up for them.
        seed: seeds the choice.

    Returns:
        float32 (groups, reduction, reduction), or None when there are no columns.
    """
    generator = np.random.default_rng(seed)
    chosen = [
        columns_of(one, window, _positions(one.shape, window, columns_per_sample, generator)).astype(
            np.float32, copy=False
        )
        for one in activations
    ]
    columns = np.concatenate(chosen) if chosen else np.empty((0, 1, 1), np.float32)
    if not len(columns):
        return None
    if centred:
        columns -= columns.mean(axis=0)
    by_group = np.ascontiguousarray(columns.transpose(1, 0, 2))
    moments: np.ndarray = np.matmul(by_group.transpose(0, 2, 1), by_group) / np.float32(len(columns))
    return moments


@dataclass(frozen=True)
class PairedMoments:
    """Moments of a layer's inputs x in a model and x̂ in its changed copy, over the same columns.

    Attributes:
        changed: E[x̂ x̂ᵀ], (groups, reduction, reduction).
        cross: E[x x̂ᵀ], same shape; both about the means where a bias makes up for them.
        mean: E[x], (groups, reduction); ``mean_changed``: E[x̂]. Zero where the moments are not about them.
        columns: how many columns they are taken over.
    """

    changed: np.ndarray
    cross: np.ndarray
    mean: np.ndarray
    mean_changed: np.ndarray
    columns: int

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.changed).all() and np.isfinite(self.cross).all())

    @property
    def scarcity(self) -> float:
        """How many times more doubt to have than with plenty of columns: 1 from four columns per unknown on."""
        return float(max(1.0, 4 * self.changed.shape[-1] / self.columns) ** 2)


def paired_moments(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    window: Window | None,
    columns_per_sample: int,
    *,
    centred: bool,
    seed: int = 0,
) -> PairedMoments | None:
    """Moments over a random choice of columns, summed sample by sample; None when there are no columns.

    Args:
        pairs: the layer's input in both models, sample by sample.
        window: how a Conv slides; None for the rows of a Gemm or MatMul.
        columns_per_sample: columns looked at in each sample, at most.
        centred: take the moments about the means.
        seed: seeds the choice.
    """
    generator = np.random.default_rng(seed)
    count, changed, cross, mean, mean_changed = 0, *(np.zeros(()) for _ in range(4))
    for x, y in _column_batches(pairs, window, columns_per_sample, generator):
        count += x.shape[1]
        changed = changed + y.swapaxes(1, 2) @ y
        cross = cross + x.swapaxes(1, 2) @ y
        mean = mean + x.sum(axis=1, dtype=np.float64)
        mean_changed = mean_changed + y.sum(axis=1, dtype=np.float64)
    if not count:
        return None
    changed, cross, mean, mean_changed = (total / count for total in (changed, cross, mean, mean_changed))
    if not centred:
        nothing = np.zeros_like(mean)
        return PairedMoments(changed, cross, nothing, nothing, count)
    changed = changed - mean_changed[..., :, None] * mean_changed[..., None, :]
    cross = cross - mean[..., :, None] * mean_changed[..., None, :]
    return PairedMoments(changed, cross, mean, mean_changed, count)


def _column_batches(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    window: Window | None,
    columns_per_sample: int,
    generator: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chosen columns of both models, several samples together, float32 (groups, columns, reduction)."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in pairs:
        positions = _positions(pair[0].shape, window, columns_per_sample, generator)
        first, second = (columns_of(array, window, positions).astype(np.float32, copy=False) for array in pair)
        waiting.append((first, second))
        if sum(len(one) for one, _ in waiting) >= _BATCH_COLUMNS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.ascontiguousarray(np.concatenate(arrays).swapaxes(0, 1)) for arrays in zip(*parts, strict=True))
    return first, second


def _positions(shape: tuple[int, ...], window: Window | None, most: int, generator: np.random.Generator) -> np.ndarray:
    """At which positions of an activation columns are taken: all of them, or ``most`` at random."""
    total = output_positions(shape, window) if window else math.prod(shape[:-1])
    if total <= most:
        return np.arange(total)
    return np.sort(generator.choice(total, most, replace=False))
