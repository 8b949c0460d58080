"""A bench with something in every field, for the tests of all formats."""

from __future__ import annotations

from onnxshrink.measured import Machine, NodeTime, OperatorTime, Profile, Timings
from onnxshrink.report.bench import Bench, BenchModel, LatencyRatio, ModelTimes, Section
from onnxshrink.report.report import DataFacts

_DATA = DataFacts("synthetic inputs, seed 0", "ab" * 32, 1, synthetic=True, seed=0)


def _times(factor: float, ratio: LatencyRatio | None, p99: float | None = None) -> ModelTimes:
    return ModelTimes(
        timings=Timings((3.0, 2.5), (0.4, 0.5), (((0.05 * factor, 0.051 * factor), (0.06 * factor, 0.05 * factor)),)),
        runs=480,
        fastest_ms=0.05 * factor,
        mean_ms=0.055 * factor,
        slowest_ms=2.5,
        spread_ms=0.004,
        percentiles_ms={"p50": 0.052 * factor, "p90": 0.07, "p95": 1.25, "p99": p99},
        samples_per_second=19_231 / factor,
        load_median_ms=2.75,
        first_run_median_ms=0.45,
        peak_memory_bytes=12_700_000,
        ratio=ratio,
        profile=Profile(
            50,
            0.1,
            (OperatorTime("Conv", 7, 0.08, 0.8), OperatorTime("Relu", 1, 0.02, 0.2)),
            (NodeTime("/stem|1/Conv", "Conv", 0.05, 0.5), NodeTime("/head/Relu", "Relu", 0.02, 0.2)),
        ),
    )


def example_bench() -> Bench:
    """Two models in two sections: clearly slower in one, no significant difference in the other."""
    slower = LatencyRatio(1.12, 1.1, 1.14, 1e-6, significant=True)
    equal = LatencyRatio(1.004, 0.99, 1.02, 0.6, significant=False)
    return Bench(
        versions={"onnxshrink": "0.1.0", "onnxruntime": "1.31.1", "onnx": "1.19.0", "python": "3.11.7"},
        machine=Machine("Some CPU", 2, ("avx2",), 8 * 10**9, "Linux x86_64"),
        models=(
            BenchModel("a/model.onnx", "runs/a/model.onnx", "cd" * 32, 440_000, _DATA),
            BenchModel("b/model.onnx", "runs/b/model.onnx", "ef" * 32, 98_000, _DATA),
        ),
        sections=(
            Section(1, 0, (_times(1.0, None), _times(1.12, slower))),
            Section(8, 2, (_times(6.0, None, 4.5), _times(6.02, equal, 4.6)), ("b/model.onnx: 60 of 480 runs …",)),
        ),
        seconds=2.0,
        seed=0,
        notes=("Inputs are made up (seed 0).",),
    )
