"""What became of a gate: the plain values that reports keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GateStatus = Literal["passed", "failed", "uncertain"]


@dataclass(frozen=True)
class GateResult:
    """One gate and how it was judged.

    Attributes:
        gate: the gate as it was written: ``size<=30%``.
        status: ``uncertain`` when the figure's interval holds the limit, and that was not asked to pass or fail.
        figure: what was judged: ``size``; ``reading`` says as what: ``ratio``, ``bytes``, ``ms``, ``points`` and so on.
        limit: the number that the figure was held against, in the unit of the reading (a ratio of 30 % is 0.3).
        value: the figure in the same unit; None when there is none.
        low: lower end of the figure's 95 % interval; ``high`` the upper end; None for figures without one.
        reason: the figure in words, or why there is none.
    """

    gate: str
    status: GateStatus
    figure: str
    reading: str
    limit: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
