"""Which of a layer's weights to keep: the most important of all, of each row, or N of every M.

Importances are (groups, channels, reduction), as in :mod:`onnxshrink.numerics.sparse_fit`. Counts are exact.
"""

from __future__ import annotations

import numpy as np

from onnxshrink.numerics.sparse_fit import MaskRule, keep_all_but
from onnxshrink.numerics.sparsity import zero_count


def over_layer(zeros: int) -> MaskRule:
    """Zero the ``zeros`` least important weights of the layer."""
    return lambda importances: keep_all_but(importances, zeros)


def over_rows(sparsity: float) -> MaskRule:
    """Zero the same number of weights in every row (output channel), the least important of each."""

    def keep(importances: np.ndarray) -> np.ndarray:
        zeros = zero_count(importances.shape[-1], sparsity)
        order = np.argsort(importances, axis=-1, kind="stable")
        mask = np.ones(importances.shape, bool)
        np.put_along_axis(mask, order[..., :zeros], False, axis=-1)
        return mask

    return keep


def n_of_m(kept: int, group: int, kernel_size: int = 1) -> MaskRule:
    """Keep the ``kept`` most important of every ``group`` neighbouring input channels at the same kernel position.

    A group that the input channels do not fill stays whole.
    """

    def keep(importances: np.ndarray) -> np.ndarray:
        shape = importances.shape
        by_place = importances.reshape(*shape[:2], -1, kernel_size).swapaxes(2, 3)
        full = by_place.shape[-1] // group * group
        mask = np.ones(by_place.shape, bool)
        grouped = by_place[..., :full].reshape(*by_place.shape[:-1], -1, group)
        order = np.argsort(grouped, axis=-1, kind="stable")
        inside = np.ones(grouped.shape, bool)
        np.put_along_axis(inside, order[..., : group - kept], False, axis=-1)
        mask[..., :full] = inside.reshape(*by_place.shape[:-1], full)
        return np.ascontiguousarray(mask.swapaxes(2, 3)).reshape(shape)

    return keep
