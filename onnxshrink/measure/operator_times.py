"""Where the time of a run goes: by operator and by node of the graph as ONNX Runtime executes it.

From ONNX Runtime's profiler, which counts in whole µs and slows short kernels down: shares are a guide, and the sum of
all kernels is not the latency.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxshrink.measure.session import KernelCall, SessionSettings, kernel_calls
from onnxshrink.measured import NodeTime, OperatorTime, Profile

_CONTROL_FLOW = ("If", "Loop", "Scan")


def profile_model(path: Path, feed: Mapping[str, np.ndarray], settings: SessionSettings, runs: int) -> Profile:
    """Run a model under the profiler.

    Raises:
        ModelError: ONNX Runtime does not load or run it.
    """
    return profile_of(kernel_calls(path, feed, runs, settings), runs)


def profile_of(calls: Sequence[KernelCall], runs: int) -> Profile:
    """A node's time is its median call times its calls per run. Time inside control flow counts for the nodes there."""
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for call, own_us in zip(calls, _own_times(calls), strict=True):
        durations[call.node, call.op_type].append(own_us)
    times = {key: float(np.median(found)) * len(found) / runs / 1000 for key, found in durations.items()}
    total = sum(times.values())
    by_operator: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for (_, op_type), milliseconds in times.items():
        by_operator[op_type] += milliseconds  # type: ignore[assignment]  # counters of floats work as well
        counts[op_type] += 1
    return Profile(
        runs,
        total,
        tuple(
            OperatorTime(op_type, counts[op_type], milliseconds, milliseconds / (total or 1))
            for op_type, milliseconds in sorted(by_operator.items(), key=lambda item: -item[1])
        ),
        tuple(
            NodeTime(node, op_type, milliseconds, milliseconds / (total or 1))
            for (node, op_type), milliseconds in sorted(times.items(), key=lambda item: -item[1])
        ),
    )


def _own_times(calls: Sequence[KernelCall]) -> list[float]:
    """µs of each call without the calls that ran inside it; ``calls`` in any order."""
    own = [call.duration_us for call in calls]
    open_calls: list[int] = []
    for index in sorted(range(len(calls)), key=lambda i: (calls[i].start_us, -calls[i].duration_us)):
        call = calls[index]
        while open_calls and calls[open_calls[-1]].start_us + calls[open_calls[-1]].duration_us <= call.start_us:
            open_calls.pop()
        if open_calls:
            own[open_calls[-1]] = max(0.0, own[open_calls[-1]] - call.duration_us)
        if call.op_type in _CONTROL_FLOW:
            open_calls.append(index)
    return own
