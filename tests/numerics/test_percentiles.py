from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.numerics.percentiles import percentiles


@pytest.mark.parametrize(
    ("count", "supported"),
    [
        (9, []),
        (10, ["p50"]),
        (49, ["p50"]),
        (50, ["p50", "p90"]),
        (99, ["p50", "p90"]),
        (100, ["p50", "p90", "p95"]),
        (499, ["p50", "p90", "p95"]),
        (500, ["p50", "p90", "p95", "p99"]),
    ],
)
def test_five_timings_must_lie_above_a_percentile(count: int, supported: list[str]) -> None:
    found = percentiles(np.arange(count, dtype=float))
    assert [label for label, value in found.items() if value is not None] == supported


def test_values() -> None:
    assert percentiles(np.arange(1001, dtype=float)) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990}
