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
    chosen = [
        columns_of(activation, window, positions).astype(np.float32, copy=False)
        for activation, positions in _chosen_positions(activations, window, columns_per_sample, seed)
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
    """Second moments of a layer's inputs x in one model and x̂ in a changed one, float32 (groups, reduction, reduction).

    Attributes:
        changed: E[x̂ x̂ᵀ].
        cross: E[x x̂ᵀ].
        columns: how many columns they are taken over.
    """

    changed: np.ndarray
    cross: np.ndarray
    columns: int

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.changed).all() and np.isfinite(self.cross).all())

    @property
    def scarcity(self) -> float:
        """How many times more doubt to have than with plenty of columns: 1 from four columns per unknown on."""
        return float(max(1.0, 4 * self.changed.shape[-1] / self.columns) ** 2)


def paired_moments(
    activations: Iterable[tuple[np.ndarray, np.ndarray]],
    window: Window | None,
    columns_per_sample: int,
    *,
    centred: bool,
    seed: int = 0,
) -> PairedMoments | None:
    """Moments of a layer's inputs x in one model and x̂ in a changed one; see :func:`input_moments`.

    Args:
        activations: the input in both models, sample by sample.
    """
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    generator = np.random.default_rng(seed)
    for reference, changed in activations:
        positions = _positions(changed.shape, window, columns_per_sample, generator)
        first.append(columns_of(reference, window, positions).astype(np.float32, copy=False))
        second.append(columns_of(changed, window, positions).astype(np.float32, copy=False))
    if not sum(map(len, second)):
        return None
    expected, actual = (np.concatenate(columns) for columns in (first, second))
    if centred:
        expected -= expected.mean(axis=0)
        actual -= actual.mean(axis=0)
    expected, actual = (np.ascontiguousarray(columns.transpose(1, 0, 2)) for columns in (expected, actual))
    count = np.float32(actual.shape[1])
    return PairedMoments(
        np.matmul(actual.transpose(0, 2, 1), actual) / count,
        np.matmul(expected.transpose(0, 2, 1), actual) / count,
        actual.shape[1],
    )


def _chosen_positions(
    activations: Iterable[np.ndarray], window: Window | None, columns_per_sample: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each activation, and at which positions its columns are taken."""
    generator = np.random.default_rng(seed)
    for activation in activations:
        yield activation, _positions(activation.shape, window, columns_per_sample, generator)


def _positions(shape: tuple[int, ...], window: Window | None, most: int, generator: np.random.Generator) -> np.ndarray:
    total = output_positions(shape, window) if window else math.prod(shape[:-1])
    if total <= most:
        return np.arange(total)
    return np.sort(generator.choice(total, most, replace=False))
