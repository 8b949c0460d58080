"""How sure one can be that one program is slower than another, from timings that are paired at two levels.

Both models are loaded anew L times, in turns. While load l of both is in memory they run in turn, often. With a and b
the times of all runs (ms), the log ratio of load l is

    d_l = log(min b_l / min a_l)

Other programs can only make a run slower, so the minimum is the time that a run takes undisturbed. Where a session's
memory happens to lie makes it faster or slower as long as it lives: the runs of one load are no independent evidence,
however many they are; the loads are. The ratio is exp of the trimmed mean of d, without the lowest and the highest
quarter: where other programs kept the machine busy during a whole load, d is off by a multiple of what it is usually.
Its interval and p-value are those of Yuen (The Two-Sample Trimmed t for Unequal Population Variances, 1974; here for
one sample): with g trimmed at each end, h = L − 2g and s_w² the winsorized variance, the standard error is
√((L − 1) s_w² / (h (h − 1))), on Student's t with h − 1 degrees of freedom.

Repeating what is random from start to start, and not only the runs within, is the advice of Georges, Buytaert and
Eeckhout (Statistically Rigorous Java Performance Evaluation, 2007) and of Kalibera and Jones (Rigorous Benchmarking in
Reasonable Time, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxshrink.numerics.student_t import two_sided_p, two_sided_t

MIN_LOADS = 8
"""With fewer, too little is left after trimming to tell a difference of a few percent."""

_TRIMMED = 0.25
_COVERAGE = 0.95


@dataclass(frozen=True)
class RatioInterval:
    """An estimated ratio with its 95 % confidence interval, and the p-value of "the ratio is 1"."""

    ratio: float
    low: float
    high: float
    p_value: float


def ratio_over_loads(log_ratios: Sequence[float] | np.ndarray) -> RatioInterval:
    """The ratio from the log ratios of the loads, (loads,).

    Raises:
        ValueError: fewer than four loads.
    """
    logs = np.sort(np.asarray(log_ratios, float))
    if logs.ndim != 1 or len(logs) < 4:
        raise ValueError(f"four loads are the fewest that can be judged, got log ratios of shape {logs.shape}")
    count = len(logs)
    trimmed = int(_TRIMMED * count)
    kept = count - 2 * trimmed
    mean = float(logs[trimmed : count - trimmed].mean())
    spread = float(np.clip(logs, logs[trimmed], logs[count - trimmed - 1]).std(ddof=1))
    error = spread * math.sqrt((count - 1) / (kept * (kept - 1)))
    reach = two_sided_t(1 - _COVERAGE, kept - 1) * error
    statistic = mean / error if error else math.inf if mean else 0.0
    p_value = two_sided_p(statistic, kept - 1)
    return RatioInterval(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), p_value)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for being several, so that the chance of even one false alarm stays below the level.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979: the smallest of m is multiplied by m, the next
    by m − 1, and so on, and none comes out below one before it. No independence is assumed.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return tuple(corrected)
