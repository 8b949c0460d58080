"""How closely a layer's output in one model follows that in another, as it is and up to one factor per channel.

With f_c the original's and g_c the result's values of channel c:

    relative error                 √(Σ_c ‖f_c − g_c‖² / Σ_c ‖f_c‖²)
    up to a factor per channel     √(Σ_c (‖g_c‖² − ⟨f_c, g_c⟩² / ‖f_c‖²) / Σ_c ‖g_c‖²)

The second is the smallest relative error against γ_c · f_c over all γ: what is left where a pass moved the range of
channels from one layer to the next (cross-layer equalization, https://arxiv.org/abs/1906.04721), which changes no
output of the model.
"""

from __future__ import annotations

import math

import numpy as np


class ChannelAgreement:
    """Accumulates sample by sample; memory is a few numbers per channel."""

    def __init__(self) -> None:
        self._sums: np.ndarray | None = None
        self._finite = True

    def add(self, original: np.ndarray, result: np.ndarray, axis: int) -> None:
        """Add both outputs of one run, of one shape, with channels along ``axis``."""
        if not (np.isfinite(original).all() and np.isfinite(result).all()):
            self._finite = False
            return
        f, g = (
            np.moveaxis(array.astype(np.float64), axis, 0).reshape(array.shape[axis], -1)
            for array in (original, result)
        )
        difference = f - g
        pairs = ((f, f), (g, g), (f, g), (difference, difference))
        sums = np.stack([np.einsum("ij,ij->i", a, b) for a, b in pairs])
        self._sums = sums if self._sums is None else self._sums + sums

    @property
    def relative_error(self) -> float | None:
        """None when nothing finite was added, or the original is zero while the result is not."""
        if self._sums is None or not self._finite:
            return None
        energy, _, _, error = self._sums.sum(axis=1)
        if error == 0:
            return 0.0
        return math.sqrt(error / energy) if energy > 0 else None

    @property
    def relative_error_up_to_factors(self) -> float | None:
        """At most 1; None as above."""
        if self._sums is None or not self._finite:
            return None
        energy, other, product, _ = self._sums
        if other.sum() == 0:
            return None if energy.sum() else 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            explained = np.where(energy > 0, product**2 / energy, 0.0)
        return math.sqrt(max(0.0, float((other - explained).sum())) / float(other.sum()))
