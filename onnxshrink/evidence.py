"""What is measured of the original and the result, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.graph.walk import operator_counts
from onnxshrink.measure.accuracy import Accuracy, AccuracyMeter
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.latency import LatencyComparison, compare_latency
from onnxshrink.measure.own_process import run_in_own_process
from onnxshrink.measure.session import Session, SessionSettings, open_session
from onnxshrink.measure.size import measure_size
from onnxshrink.numerics.agreement import Agreement, AgreementMeter
from onnxshrink.report.report import ModelFacts

_AGREEMENT_BATCH = 16


@dataclass(frozen=True)
class Runtime:
    """How long a model takes to load and what memory a run needs."""

    load_ms: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The result against the original, on the same data."""

    agreement: Agreement
    accuracy: Accuracy | None
    latency: LatencyComparison
    feed: Feed
    original: Runtime
    result: Runtime


def compare_models(
    original: Path,
    result: Path,
    data: Dataset,
    settings: SessionSettings,
    *,
    batch_size: int,
    latency_seconds: float,
    progress: Callable[[str], None],
) -> Comparison:
    """Run both files with ONNX Runtime's optimisations on, as users will, and compare them.

    Args:
        batch_size: samples per run when latency is measured; agreement is measured in larger batches.
    """
    with open_session(original, settings) as first, open_session(result, settings) as second:
        progress("comparing outputs")
        agreement, accuracy = measure_agreement(first, second, data)
        feed = next(data.batches(first.inputs, batch_size)).feed
    progress("timing")
    latency, loads = measure_latency((original, result), feed, settings, latency_seconds)
    progress("measuring memory")
    peaks = [run_in_own_process(path, [feed], settings).peak_memory_bytes for path in (original, result)]
    runtimes = [Runtime(times, peak) for times, peak in zip(loads, peaks, strict=True)]
    return Comparison(agreement, accuracy, latency, feed, *runtimes)


def measure_agreement(original: Session, result: Session, data: Dataset) -> tuple[Agreement, Accuracy | None]:
    """How the outputs agree on all samples, and the accuracy of both where there are labels."""
    agreement, accuracy = AgreementMeter(), AccuracyMeter()
    for batch in data.batches(original.inputs, _AGREEMENT_BATCH):
        expected, actual = original.run(batch.feed), result.run(batch.feed)
        agreement.add(expected, actual, batch.samples)
        if batch.labels is not None:
            accuracy.add(expected, actual, batch.labels)
    return agreement.agreement(), accuracy.accuracy()


def measure_latency(
    paths: tuple[Path, Path], feed: Feed, settings: SessionSettings, seconds: float
) -> tuple[LatencyComparison, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Load both models many times, in turns, and time them. Also the load times, in ms."""
    original, result = (partial(open_session, path, settings) for path in paths)
    comparison, timings = compare_latency(original, result, feed, budget_seconds=seconds)
    return comparison, (timings[0].load_ms, timings[1].load_ms)


def model_facts(
    model: ir.Model, file: Path, *, name: str, path: Path | None, sha256: str, runtime: Runtime, feed: Feed | None
) -> ModelFacts:
    """Everything about one model that is true without the other. Without ``feed`` it takes no long measurement."""
    return ModelFacts(
        name=name,
        path=None if path is None else str(path),
        sha256=sha256,
        size=measure_size(model, file, compressed=feed is not None),
        nodes=operator_counts(model),
        ir_version=model.ir_version,
        opset_imports=dict(sorted(model.opset_imports.items())),
        macs=measure_compute(model, feed).macs,
        load_ms=runtime.load_ms,
        peak_memory_bytes=runtime.peak_memory_bytes,
    )
