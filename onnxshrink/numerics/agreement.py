"""How closely the outputs of two models agree, accumulated batch by batch.

With f the original's output and f' the result's, over all samples:

    relative error = ‖f − f'‖ / ‖f‖        cosine = ⟨f, f'⟩ / (‖f‖ ‖f'‖)        SQNR = 10·log10(‖f‖² / ‖f − f'‖²) dB

    unexplained variance = Σ (f − f')² / Σ (f − f̄)²,   f̄ the mean of each element over the samples

Elements that are the same infinity, or NaN on both sides, agree; any other difference that involves one is an
infinite error. Shapes that differ are an infinite error too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxshrink.measured import Agreement, OutputAgreement

_LEAST_VARIANCE = 1e-9
"""Share of an output's energy: what changes less is rounding."""


def class_scores(output: Any) -> np.ndarray | None:
    """The output as class scores (samples, classes), or None when it does not look like a classifier's.

    Class scores are floating point with two or more classes on axis 1 and nothing but 1s behind it. Rows of length 1
    in the L2 norm with negative elements are not: those are normalised embeddings.
    """
    if not isinstance(output, np.ndarray) or not np.issubdtype(output.dtype, np.floating) or output.ndim < 2:
        return None
    if output.shape[0] < 1 or output.shape[1] < 2 or math.prod(output.shape[2:]) != 1:
        return None
    scores = output.reshape(output.shape[:2])
    if (scores < 0).any() and np.allclose(np.linalg.norm(scores.astype(np.float64), axis=1), 1, atol=1e-3):
        return None
    return scores


class AgreementMeter:
    """Accumulates the outputs of both models; memory stays at one batch.

    ``variance``: whether the unexplained variance is measured, which keeps a sum of the outputs of one sample's size.
    """

    def __init__(self, *, variance: bool = True) -> None:
        self._variance = variance
        self._samples = 0
        self._outputs: dict[str, _OutputMeter] = {}

    def add(self, original: Mapping[str, Any], result: Mapping[str, Any], samples: int = 1) -> None:
        """Add the outputs of both models for one batch of ``samples`` samples.

        Values are arrays, or lists and dicts of them for sequences and maps. ``result`` must hold every output of
        ``original``.
        """
        self._samples += samples
        for name, output in original.items():
            self._outputs.setdefault(name, _OutputMeter(self._variance)).add(output, result[name], samples)

    def agreement(self) -> Agreement:
        """The agreement over everything added so far."""
        outputs = tuple(meter.agreement(name) for name, meter in self._outputs.items())
        total = _Energies()
        for meter in self._outputs.values():
            total.merge(meter.energies)
        top1 = [output.top1 for output in outputs if output.top1 is not None]
        elements = sum(meter.elements for meter in self._outputs.values())
        return Agreement(
            samples=self._samples,
            outputs=outputs,
            equal_share=_share(sum(meter.equal for meter in self._outputs.values()), elements),
            max_abs_difference=total.max_abs_difference,
            relative_error=total.relative_error,
            cosine=total.cosine,
            sqnr_db=total.sqnr_db,
            top1=min(top1, default=None),
        )


class _Energies:
    """Sums over floating-point elements from which every distance follows."""

    def __init__(self) -> None:
        self.seen = False
        self._largest = 0.0
        self._reference = 0.0
        self._result = 0.0
        self._product = 0.0
        self._error = 0.0

    def add(self, reference: np.ndarray, result: np.ndarray, equal: np.ndarray) -> None:
        """``reference`` and ``result`` are of one shape; ``equal`` says which elements agree."""
        self.seen = True
        finite = np.isfinite(reference) & np.isfinite(result)
        if not (finite | equal).all():
            self.add_infinite_error()
        f = np.where(finite, reference, 0).astype(np.float64).reshape(-1)
        g = np.where(finite, result, 0).astype(np.float64).reshape(-1)
        difference = f - g
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))
        self._reference += float(f @ f)
        self._result += float(g @ g)
        self._product += float(f @ g)
        self._error += float(difference @ difference)

    def add_infinite_error(self) -> None:
        self.seen = True
        self._largest = self._error = math.inf

    def merge(self, other: _Energies) -> None:
        self.seen |= other.seen
        self._largest = max(self._largest, other._largest)
        self._reference += other._reference
        self._result += other._result
        self._product += other._product
        self._error += other._error

    @property
    def max_abs_difference(self) -> float | None:
        return self._largest if self.seen else None

    @property
    def relative_error(self) -> float | None:
        if not self.seen:
            return None
        if self._error == 0:
            return 0.0
        return math.sqrt(self._error / self._reference) if self._reference else math.inf

    def unexplained(self, means: _Means) -> float | None:
        """Share of the reference's variance over the samples that is lost; None when that is unknown."""
        variance = means.variance(self._reference)
        return None if variance is None else self._error / variance

    @property
    def cosine(self) -> float | None:
        norms = math.sqrt(self._reference) * math.sqrt(self._result)
        if norms == 0 or math.isinf(self._error):
            return None
        return max(-1.0, min(1.0, self._product / norms))

    @property
    def sqnr_db(self) -> float | None:
        error = self.relative_error
        return None if error is None or error == 0 or math.isinf(error) else -20 * math.log10(error)


class _Means:
    """Means of each element over the samples, and from them the energy of what changes."""

    def __init__(self, usable: bool) -> None:
        self._total: np.ndarray | None = None
        self._samples = 0
        self._usable = usable

    def add(self, output: Any, samples: int) -> None:
        if not self._usable:
            return
        if not isinstance(output, np.ndarray) or not np.issubdtype(output.dtype, np.floating):
            self._usable = False
            return
        batched = output.ndim > 0 and output.shape[0] == samples
        added = output.sum(axis=0, dtype=np.float64) if batched else output.astype(np.float64)
        if (self._total is not None and self._total.shape != added.shape) or not (batched or samples == 1):
            self._usable = False
            return
        self._total = added if self._total is None else self._total + added
        self._samples += samples

    def variance(self, energy: float) -> float | None:
        """Σ (f − f̄)² of outputs whose Σ f² is ``energy``, without bias; None when it drowns in rounding."""
        if not self._usable or self._total is None or self._samples < 2:
            return None
        constant = float(np.square(self._total).sum()) / self._samples
        found = (energy - constant) * self._samples / (self._samples - 1)
        return found if found > _LEAST_VARIANCE * energy else None


class _OutputMeter:
    def __init__(self, variance: bool) -> None:
        self.energies = _Energies()
        self._means = _Means(variance)
        self.elements = 0
        self.equal = 0
        self._rows = 0
        self._same_class = 0
        self._classifier = True

    def add(self, original: Any, result: Any, samples: int) -> None:
        self._means.add(original, samples)
        for reference, other in _leaves(original, result):
            self._compare(reference, other)
        scores, other_scores = class_scores(original), class_scores(result)
        if scores is None or other_scores is None or scores.shape != other_scores.shape:
            self._classifier = False
            return
        self._rows += len(scores)
        self._same_class += int((scores.argmax(axis=1) == other_scores.argmax(axis=1)).sum())

    def _compare(self, reference: np.ndarray, result: np.ndarray) -> None:
        floating = np.issubdtype(reference.dtype, np.floating)
        if reference.shape != result.shape:
            self.elements += max(reference.size, result.size)
            if floating:
                self.energies.add_infinite_error()
            return
        equal = np.asarray(reference == result)
        if floating:
            equal |= np.isnan(reference) & np.isnan(result)
            self.energies.add(reference, result, equal)
        self.elements += reference.size
        self.equal += int(equal.sum())

    def agreement(self, name: str) -> OutputAgreement:
        return OutputAgreement(
            name=name,
            elements=self.elements,
            equal_share=_share(self.equal, self.elements),
            max_abs_difference=self.energies.max_abs_difference,
            relative_error=self.energies.relative_error,
            cosine=self.energies.cosine,
            sqnr_db=self.energies.sqnr_db,
            top1=_share(self._same_class, self._rows) if self._classifier and self._rows else None,
            unexplained_variance=self.energies.unexplained(self._means),
        )


def _leaves(original: Any, result: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The arrays of two outputs, paired; what one side lacks is paired with an empty array."""
    parts, others = _parts(original), _parts(result)
    if parts is None:
        yield np.asarray(original), np.asarray(result) if others is None else np.empty(0)
        return
    for key in list(parts) + [key for key in others or {} if key not in parts]:
        yield from _leaves(parts.get(key, np.empty(0)), (others or {}).get(key, np.empty(0)))


def _parts(output: Any) -> Mapping[Any, Any] | None:
    """The parts of a map or a sequence by key or position; None for a tensor."""
    if isinstance(output, Mapping):
        return output
    return dict(enumerate(output)) if isinstance(output, list | tuple) else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
