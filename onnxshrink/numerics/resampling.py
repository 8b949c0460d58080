"""Bootstrap intervals of any figure that follows from one row of numbers per sample, paired for two models.

A metric turns samples into rows, and rows with the number of times each is taken into its value. A resample of n
samples is a vector of n such counts that sum to n; several models are judged on the same resamples, so that what is
hard for all of them cancels out of a difference.

The interval is the percentile interval, widened for small samples (Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 69, 2015, section 4.2: expanded percentile interval): the quantile α/2 becomes
Φ(−t(α/2, n − 1)·√(n / (n − 1))), because resampling sees a variance (n − 1)/n too small, and a known one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows (n, k), counts (resamples, n)) → the metric of every resample, (resamples,)."""

MIN_SAMPLES = 6
"""With fewer samples even "every sample agrees" happens by chance more often than 1 time in 20: 2 · 0.5⁵ = 0.06."""

RESAMPLES = 2000

_FEWEST_RESAMPLES = 500
_MOST_DRAWS = 25_000_000
"""Draws that one call makes at most, by making fewer resamples of many samples: about half a second."""

_NARROW = 16
_FEW_ROWS = 1000
_FEW_ROWS_SHARE = 8
"""Rows of a few numbers (right or wrong) repeat: the counts of the different ones are drawn at once, from a multinomial
distribution."""

_CHUNK_COUNTS = 250_000


def totals(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Σ of each column of ``rows`` (n, k), every row taken as often as ``counts`` (resamples, n) says: (resamples, k).

    einsum, unlike the matrix product, adds up on one thread: in one order, and no slower on a busy machine.
    """
    sums: np.ndarray = np.einsum("rn,kn->rk", counts, np.ascontiguousarray(rows.T))
    return sums


def value_of(rows: np.ndarray, values: Values) -> float:
    """The metric over all rows, each taken once."""
    return float(values(rows, np.ones((1, len(rows))))[0])


def resampled_values(rows: Sequence[np.ndarray], values: Values, *, seed: int = 0) -> np.ndarray:
    """The metric of every model on the same resamples.

    Args:
        rows: one array (n, k) per model, the same samples in the same order.
        values: see :data:`Values`.
        seed: seeds the resampling.

    Returns:
        (models, resamples)
    """
    samples = len(rows[0])
    resamples = max(_FEWEST_RESAMPLES, min(RESAMPLES, _MOST_DRAWS // samples))
    different, repeats = _collapsed(np.concatenate(rows, axis=1))
    width = rows[0].shape[1]
    parts = [different[:, index * width : (index + 1) * width] for index in range(len(rows))]
    chunks = _counts(repeats, samples, resamples, np.random.default_rng(seed))
    return np.concatenate([np.stack([values(part, counts) for part in parts]) for counts in chunks], axis=1)


def interval(resampled: np.ndarray, samples: int) -> tuple[float, float] | None:
    """The 95 % interval from the values of resamples, (resamples,); None when they cannot tell."""
    if samples < MIN_SAMPLES or not np.isfinite(resampled).all():
        return None
    tail = NormalDist().cdf(-_t_quantile(samples - 1) * math.sqrt(samples / (samples - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _collapsed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The different rows and how often each occurs, where they are few; else the rows themselves and None."""
    if rows.shape[1] <= _NARROW:
        different, repeats = np.unique(rows, axis=0, return_counts=True)
        if len(different) <= min(_FEW_ROWS, len(rows) // _FEW_ROWS_SHARE):
            return different, repeats
    return rows, None


def _counts(repeats: np.ndarray | None, samples: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each row is taken by each resample, in chunks of resamples, as float64."""
    width = samples if repeats is None else len(repeats)
    step = max(1, _CHUNK_COUNTS // width)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if repeats is not None:
            yield rng.multinomial(samples, repeats / samples, size=size).astype(np.float64)
            continue
        picks = rng.integers(samples, size=(size, samples)) + samples * np.arange(size)[:, None]
        yield np.bincount(picks.reshape(-1), minlength=size * samples).reshape(size, samples).astype(np.float64)


def _t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t (Abramowitz and Stegun 26.7.5): within 0.2 % from 5 degrees of freedom on."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** (power + 1) for power, term in enumerate(terms))
