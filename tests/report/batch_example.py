"""Batches with something in every field."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxshrink.measured import Machine
from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.gate_result import GateResult


def entry(name: str = "vision/a.onnx", **fields: object) -> BatchEntry:
    """A model that went from 412 kB to 108 kB."""
    measured = BatchEntry(
        name=name,
        source=f"models/{name}",
        status="compressed",
        key="11" * 32,
        output=f"out/{name}",
        report=f"out/{name.removesuffix('.onnx')}.report.json",
        source_sha256="aa" * 32,
        result_sha256="bb" * 32,
        preset="safe",
        recipe="fold-batchnorm,quantize-weights",
        seconds=3.4,
        original_bytes=412_000,
        result_bytes=108_000,
        original_gzip_bytes=380_000,
        result_gzip_bytes=97_000,
        latency_ratio=0.56,
        latency_low=0.54,
        latency_high=0.58,
        latency_significant=True,
        relative_error=0.0041,
        metric="top-1",
        metric_original=0.9817,
        metric_result=0.98,
        metric_low=-0.005,
        metric_high=0.0017,
        metric_significant=False,
        data_digest="dd" * 32,
        gates=(GateResult("size<=30%", "passed", "size", "ratio", 0.3, 0.262, reason="26.2 %"),),
    )
    return replace(measured, **fields)  # type: ignore[arg-type]


def failed_entry(name: str, reason: str) -> BatchEntry:
    return BatchEntry(name, f"models/{name}", "failed", "33" * 32, reason=reason, seconds=0.2, exit_code=3)


def example_batch(*entries: BatchEntry, **fields: object) -> Batch:
    """One of each kind: fine, a copy, slower, a failed and an uncertain gate, failed."""
    slower = {"latency_ratio": 1.3, "latency_low": 1.2, "latency_high": 1.4, "relative_error": math.inf}
    found = entries or (
        entry(),
        entry("vision/b.onnx", status="copied", reason="vision/a.onnx"),
        entry("text/slow.onnx", **slower, metric_result=0.9, metric_significant=True),
        entry(
            "text/big.onnx",
            result_bytes=400_000,
            gates=(GateResult("size<=30%", "failed", "size", "ratio", 0.3, 0.97, reason="97.1 %"),),
        ),
        entry(
            "audio/x|[y].onnx",
            latency_significant=False,
            gates=(
                GateResult("size<=30%", "passed", "size", "ratio", 0.3, 0.262, reason="26.2 %"),
                GateResult("latency<=100%", "uncertain", "latency", "ratio", 1.0, 1.0, 0.9, 1.1, "100 % [90 %, 110 %]"),
            ),
        ),
        failed_entry("broken/garbage.onnx", "models/broken/garbage.onnx is not an ONNX file: it holds no graph"),
    )
    batch = Batch(
        versions={"onnxshrink": "0.1.0", "onnxruntime": "1.31.1", "onnx": "1.23.2", "python": "3.12.0"},
        machine=Machine("Some CPU @ 2 GHz", 2, ("avx2", "avx_vnni"), 8 * 2**30, "Linux 6.1 x86_64"),
        command="onnxshrink batch --preset safe --gate 'size<=30%'",
        entries=found,
        seconds=83.0,
        resumed=2,
    )
    return replace(batch, **fields)  # type: ignore[arg-type]


def large_batch(models: int) -> Batch:
    """As of a registry with long names; one in ten failed."""
    found = [
        failed_entry(f"registry/{'x' * 60}/{place}.onnx", "reason " * 30)
        if place % 10 == 0
        else entry(f"registry/{'x' * 60}/{place}.onnx", result_bytes=50_000 + 37 * (place % 1000))
        for place in range(models)
    ]
    return example_batch(*found)
