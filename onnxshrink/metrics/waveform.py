"""Scale-invariant signal-to-distortion ratio of waveforms.

    SI-SDR = 10 log10 (‖α s‖² / ‖α s − ŝ‖²),   α = ⟨ŝ, s⟩ / ‖s‖²,   in dB, both signals without their mean

Le Roux et al., "SDR – half-baked or well done?", ICASSP 2019. The value is the mean over the samples' channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Bound, Judged, Metric, labels_of, mean_of_rows, read_output, with_ones

_EPSILON = 1e-30


@dataclass(frozen=True)
class SiSdr(Metric):
    """Scale-invariant signal-to-distortion ratio in dB."""

    name = "si-sdr"
    unit = "dB"

    def _bind(self, first: Judged) -> Bound:
        labels = labels_of(first)
        if labels.dtype.kind not in "fi" or labels.ndim < 2 or labels.shape[-1] < 2:
            raise DataError(f"{self.name} needs waveforms [samples, time] as labels, not {list(labels.shape)}")
        name = self.find_output(
            first,
            lambda array: array.dtype.kind == "f" and array.size == labels.size and array.shape[-1] == labels.shape[-1],
            f"a waveform of the labels' shape {list(labels.shape)}",
        )

        def rows(batch: Judged) -> np.ndarray:
            clean = labels_of(batch).astype(np.float64)
            estimate = read_output(batch.outputs, name, batch.samples).astype(np.float64)
            if estimate.size != clean.size:
                raise DataError(f"the output '{name}' is {list(estimate.shape)}, the labels are {list(clean.shape)}")
            ratios = si_sdr(estimate.reshape(clean.shape), clean)
            return with_ones(ratios.reshape(len(clean), -1).mean(axis=1))

        return Bound("SI-SDR", name, rows, mean_of_rows)


def si_sdr(estimate: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """SI-SDR in dB along the last axis."""
    estimate = estimate - estimate.mean(axis=-1, keepdims=True)
    clean = clean - clean.mean(axis=-1, keepdims=True)
    energy = (clean**2).sum(axis=-1, keepdims=True)
    target = clean * ((estimate * clean).sum(axis=-1, keepdims=True) / np.maximum(energy, _EPSILON))
    signal, noise = (target**2).sum(axis=-1), ((target - estimate) ** 2).sum(axis=-1)
    ratios: np.ndarray = 10 * np.log10(np.maximum(signal, _EPSILON) / np.maximum(noise, _EPSILON))
    return ratios
