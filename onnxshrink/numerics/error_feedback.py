"""What passing rounding errors on from weight to weight needs: the damped moments, their factor, and blocks of columns.

With H = E[x xᵀ] of a layer's inputs, weights w replaced by ŵ cost the output (ŵ − w) H (ŵ − w)ᵀ per channel. Factor
H + λI = V Vᵀ with V upper triangular: the cost is ‖e V‖², and its term k holds eⱼ of j ≤ k only. Deciding weights in
order, each makes up for what the earlier ones left: its target is w_k − Σ_{j<k} eⱼ Vⱼₖ / Vₖₖ. This is GPTQ (Frantar et
al. 2022, https://arxiv.org/abs/2210.17323) in the form of LDLQ (Chee et al. 2023, https://arxiv.org/abs/2307.13304).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 128
"""Weights decided between two matrix products, as in GPTQ; even, so that no pair of neighbours is cut."""


def damp(moment: np.ndarray, damping: float) -> None:
    """Add λ, ``damping`` times the mean of the diagonal, to the diagonal in place; 1 where there is no input."""
    diagonal = np.einsum("...ii->...i", moment)
    mean = diagonal.mean(axis=-1, keepdims=True)
    diagonal += np.where(mean > 0, damping * mean, 1.0)


def upper_factor(moments: np.ndarray) -> np.ndarray:
    """V, upper triangular, with V Vᵀ = H, float64; (groups, columns, columns).

    Rounding can leave H with eigenvalues below zero: its diagonal is raised until it has none. What has them even then
    says nothing about the inputs, and counts as the identity: nearest rounding.
    """
    reverse = (slice(None), slice(None, None, -1), slice(None, None, -1))
    mean = np.abs(np.einsum("gii->gi", moments)).mean(axis=1)[:, None, None]
    factor: np.ndarray
    for more in (0.0, 0.01, 0.1, 1.0):
        try:
            raised = moments + more * mean * np.eye(moments.shape[1]) if more else moments
            factor = np.linalg.cholesky(raised[reverse])[reverse]
        except np.linalg.LinAlgError:
            continue
        return factor
    factor = np.broadcast_to(np.eye(moments.shape[1]), moments.shape)
    return factor


def column_blocks(width: int) -> Iterator[slice]:
    """Slices that cover ``width`` columns."""
    for start in range(0, width, _BLOCK):
        yield slice(start, min(start + _BLOCK, width))


def columns_first(array: np.ndarray) -> np.ndarray:
    """(groups, channels, columns) as (columns, groups, channels), contiguous."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def diagonal_block(matrices: np.ndarray, block: slice) -> np.ndarray:
    """A block on the diagonal of (groups, columns, columns) as (columns, columns, groups, 1), contiguous."""
    return np.ascontiguousarray(matrices[:, block, block].transpose(1, 2, 0))[..., None]
