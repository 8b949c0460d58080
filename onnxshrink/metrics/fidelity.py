"""How close a result's outputs are to the original's: metrics that need no labels.

    relative error = ‖f − f'‖ / ‖f‖        SQNR = 10 log10 (‖f‖² / ‖f − f'‖²) dB, both over all samples
    cosine = mean over samples of ⟨f, f'⟩ / (‖f‖ ‖f'‖)        top1-agreement = share of samples with the same best class

f and f' are the floating-point outputs of the original and of the result, all of them or the one called ``output``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Bound, Judged, Metric, mean_of_rows, per_sample, read_output, with_ones
from onnxshrink.numerics.agreement import class_scores
from onnxshrink.numerics.resampling import totals


@dataclass(frozen=True)
class Fidelity(Metric):
    needs_labels = False

    def bind(self, first: Judged) -> Bound:
        if first.reference is None:
            raise DataError(f"{self.name} compares two models: give the other one with --against")
        return super().bind(first)


@dataclass(frozen=True)
class _Distance(Fidelity):
    def _bind(self, first: Judged) -> Bound:
        names = [name for name in first.outputs if self.output in (None, name)]
        floating = [name for name in names if _is_floating(first.outputs[name], first.samples)]
        if not floating:
            raise DataError(f"{self.name} needs floating-point outputs with an axis of samples")

        def rows(batch: Judged) -> np.ndarray:
            assert batch.reference is not None
            reference = [_vectors(batch.reference, name, batch.samples) for name in floating]
            result = [_vectors(batch.outputs, name, batch.samples) for name in floating]
            if any(one.shape != other.shape for one, other in zip(reference, result, strict=True)):
                return self.row(np.full((batch.samples, 4), [0.0, 1.0, 1.0, np.inf]))
            f, g = np.concatenate(reference, axis=1), np.concatenate(result, axis=1)
            energies = [(f * g).sum(axis=1), (f * f).sum(axis=1), (g * g).sum(axis=1), ((f - g) ** 2).sum(axis=1)]
            return self.row(np.stack(energies, axis=1))

        return Bound(self.title, ", ".join(floating), rows, self.values, against_original=True)

    @property
    def title(self) -> str:
        return self.name

    @staticmethod
    def row(energies: np.ndarray) -> np.ndarray:
        """What is kept of ⟨f, f'⟩, ‖f‖², ‖f'‖², ‖f − f'‖² per sample."""
        return energies[:, [3, 1]]

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class RelativeError(_Distance):
    """Relative L2 error of the outputs."""

    name = "relative-error"
    unit = "value"
    higher_is_better = False

    @property
    def title(self) -> str:
        return "relative error"

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        roots: np.ndarray = np.sqrt(_error_share(rows, counts))
        return roots


@dataclass(frozen=True)
class Sqnr(_Distance):
    """Signal-to-quantization-noise ratio of the outputs in dB."""

    name = "sqnr"
    unit = "dB"

    @property
    def title(self) -> str:
        return "SQNR"

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            ratios: np.ndarray = -10 * np.log10(_error_share(rows, counts))
        return ratios


@dataclass(frozen=True)
class Cosine(_Distance):
    """Mean cosine similarity of the outputs."""

    name = "cosine"

    @staticmethod
    def row(energies: np.ndarray) -> np.ndarray:
        norms = np.sqrt(energies[:, 1]) * np.sqrt(energies[:, 2])
        equal = (energies[:, 3] == 0).astype(np.float64)
        cosines = np.divide(energies[:, 0], norms, out=equal, where=(norms > 0) & (energies[:, 3] > 0))
        return with_ones(np.clip(cosines, -1, 1))

    @staticmethod
    def values(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return mean_of_rows(rows, counts)


@dataclass(frozen=True)
class Top1Agreement(Fidelity):
    """Share of samples with the same best class as the original's."""

    name = "top1-agreement"

    def _bind(self, first: Judged) -> Bound:
        name = self.find_output(first, lambda array: class_scores(array) is not None, "class scores [samples, classes]")

        def rows(batch: Judged) -> np.ndarray:
            assert batch.reference is not None
            best = [
                read_output(outputs, name, batch.samples).reshape(batch.samples, -1).argmax(axis=1)
                for outputs in (batch.reference, batch.outputs)
            ]
            return with_ones(best[0] == best[1])

        return Bound("top-1 agreement", name, rows, mean_of_rows, against_original=True)


def _error_share(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """‖f − f'‖² / ‖f‖²: 0 for equal outputs, infinite when only ‖f‖ is 0."""
    sums = totals(rows, counts)
    shares: np.ndarray = np.divide(
        sums[:, 0], sums[:, 1], out=np.where(sums[:, 0] > 0, np.inf, 0.0), where=sums[:, 1] > 0
    )
    return shares


def _is_floating(output: Any, samples: int) -> bool:
    array = per_sample(output, samples)
    return array is not None and array.dtype.kind == "f"


def _vectors(outputs: Mapping[str, Any], name: str, samples: int) -> np.ndarray:
    """One vector per sample, (samples, elements), float64."""
    return read_output(outputs, name, samples).reshape(samples, -1).astype(np.float64)
