"""Whether timings were taken on a quiet machine, and what to do when they were not."""

from __future__ import annotations

import os

import numpy as np

from onnxshrink.measured import Timings

_BUSY_SHARE = 0.5
_DRIFT = 0.05
_OUTLIER, _OUTLIER_SHARE = 2.0, 0.05


def load_average() -> float | None:
    """Processes that were running or waiting to run during the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def busy_note(load: float | None, cores: int) -> str | None:
    """A warning when other programs used the machine before the timing began."""
    if load is None or load <= _BUSY_SHARE * cores:
        return None
    return (
        f"The machine was busy before the timing began (load average {load:.1f} on {cores} core{'s' * (cores != 1)}): "
        "milliseconds are too high, ratios less sure. Stop other programs, or give --seconds more time."
    )


def steadiness_notes(name: str, timings: Timings) -> list[str]:
    """Warnings about a model's timings: they drift, or many runs were interrupted."""
    notes, runs = [], timings.all_runs_ms
    halves = [float(np.median(half)) for half in np.array_split(runs, 2)] if len(runs) > 1 else [1.0, 1.0]
    change = halves[1] / halves[0] - 1
    if abs(change) > _DRIFT:
        notes.append(
            f"{name}: runs of the second half took {abs(change):.0%} {'longer' if change > 0 else 'less long'} than "
            "those of the first. The processor changes its clock, or other programs come and go; ratios are not "
            "affected, because the models run in turns."
        )
    slow = int((runs > _OUTLIER * np.median(runs)).sum())
    if slow > _OUTLIER_SHARE * len(runs):
        notes.append(
            f"{name}: {slow} of {len(runs)} runs took more than twice the median. Other programs interrupt them: "
            "the mean and high percentiles tell about the machine, not about the model."
        )
    return notes
