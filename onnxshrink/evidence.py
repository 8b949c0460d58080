"""What is measured of the original and the result, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.graph.walk import operator_counts
from onnxshrink.judging import Judges, Labelled
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.exclusive import exclusive
from onnxshrink.measure.latency import compare_latency
from onnxshrink.measure.own_process import run_in_own_process
from onnxshrink.measure.session import Session, SessionSettings, open_session
from onnxshrink.measure.size import measure_size
from onnxshrink.measured import Accuracy, Agreement, LatencyComparison
from onnxshrink.metrics.base import Metric
from onnxshrink.metrics.choice import NoMetricError
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.report.report import ModelFacts

_AGREEMENT_BATCH = 16


@dataclass(frozen=True)
class Runtime:
    """How long a model takes to load and what memory a run needs."""

    load_ms: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Judgement:
    """The result's outputs against the original's.

    Attributes:
        agreement: how closely they agree.
        accuracies: the metrics of both; empty without labels, unless a metric that needs none was asked for.
        reason: why these metrics, when the user named none; or why there is none for the labels.
    """

    agreement: Agreement
    accuracies: tuple[Accuracy, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """The result against the original, on the same data."""

    outputs: Judgement
    latency: LatencyComparison | None
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
    seed: int,
    metrics: Sequence[Metric],
    progress: Callable[[str], None],
    timed: bool = True,
) -> Comparison:
    """Run both files with ONNX Runtime's optimisations on, as users will, and compare them.

    Args:
        batch_size: samples per run when latency is measured; agreement is measured in larger batches.
        metrics: what the outputs are judged by; empty chooses by labels and outputs.
        timed: whether latency and load time are measured.
    """
    with open_session(original, settings) as first, open_session(result, settings) as second:
        progress("comparing outputs")
        outputs = measure_agreement(first, second, data, metrics, seed=seed)
        feed = next(data.batches(first.inputs, batch_size)).feed
    latency: LatencyComparison | None = None
    loads: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if timed:
        progress("timing")
        latency, loads = measure_latency((original, result), feed, settings, latency_seconds)
    progress("measuring memory")
    peaks = [run_in_own_process(path, [feed], settings).peak_memory_bytes for path in (original, result)]
    runtimes = [Runtime(times, peak) for times, peak in zip(loads, peaks, strict=True)]
    return Comparison(outputs, latency, feed, *runtimes)


def measure_agreement(
    original: Session, result: Session, data: Dataset, metrics: Sequence[Metric] = (), *, seed: int = 0
) -> Judgement:
    """How the outputs agree on all samples, and the metrics of both where there are labels, or metrics without any.

    Raises:
        DataError: a metric that was asked for does not fit, or a label that no class has.
    """
    samples = Labelled.of(data)
    agreement, judges = AgreementMeter(), Judges(metrics, samples, compared=True, seed=seed)
    judged, reason = bool(metrics) or samples.labels is not None, ""
    for batch in samples.batches(original.inputs, _AGREEMENT_BATCH):
        expected, actual = original.run(batch.feed), result.run(batch.feed)
        agreement.add(expected, actual, batch.samples)
        if judged:
            try:
                judges.add((expected, actual), batch)
            except NoMetricError as error:
                judged, reason = False, str(error)
    return Judgement(agreement.agreement(), judges.accuracies(), reason or judges.reason)


def measure_latency(
    paths: tuple[Path, Path], feed: Feed, settings: SessionSettings, seconds: float
) -> tuple[LatencyComparison, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Load both models many times, in turns, and time them. Also the load times, in ms."""
    original, result = (partial(open_session, path, settings) for path in paths)
    with exclusive():
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
