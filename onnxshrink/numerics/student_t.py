"""Student's t distribution, without SciPy.

With x = ν / (ν + t²), the two-sided tail is the regularised incomplete beta function I_x(ν/2, 1/2), here as its
continued fraction (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.5.8 and 26.7.1; by Lentz's method).
"""

from __future__ import annotations

import math

_TERMS = 500
_TINY = 1e-300


def two_sided_p(t: float, degrees: float) -> float:
    """The chance that a t-distributed number with ``degrees`` of freedom is farther from 0 than ``t``."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def two_sided_t(p: float, degrees: float) -> float:
    """The inverse of :func:`two_sided_p`: how far from 0 only a share ``p`` of the distribution lies."""
    if not 0 < p < 1:
        raise ValueError(f"a share between 0 and 1 is needed, not {p}")
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > p else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _TERMS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _nonzero(1 + numerator * d)
            c = _nonzero(1 + numerator / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
