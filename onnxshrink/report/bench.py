"""What one run of ``bench`` measured: frozen and made of plain values, like a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxshrink.measured import Machine, Profile, Timings, latency_verdict
from onnxshrink.report.report import SCHEMA_VERSION, DataFacts


@dataclass(frozen=True)
class BenchModel:
    """One of the models.

    Attributes:
        name: what tells it from the others: the file's name, or its path where names are equal.
        path: as the user wrote it; None for a model in memory.
        sha256: digest of the file and its external data, in hex.
        file_bytes: size on disk, external data included.
        data: the samples that it ran on.
    """

    name: str
    path: str | None
    sha256: str
    file_bytes: int
    data: DataFacts


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of a model over that of the first one.

    Attributes:
        low: lower end of the 95 % confidence interval of ``ratio``; ``high`` the upper end.
        p_value: of "they are equally fast", corrected for the number of comparisons in the whole bench.
        significant: see :func:`onnxshrink.measure.latency.significant`.
    """

    ratio: float
    low: float
    high: float
    p_value: float
    significant: bool

    @property
    def verdict(self) -> str:
        """``no significant difference``, ``1.12x slower`` or ``1.30x faster``."""
        return latency_verdict(self.ratio, self.significant)


@dataclass(frozen=True)
class ModelTimes:
    """What was measured of one model in one section.

    Attributes:
        timings: every load and every run.
        runs: how many runs the figures below are made from.
        fastest_ms: of all runs; ``mean_ms`` and ``slowest_ms`` likewise.
        spread_ms: interquartile range, the width of the middle half of the runs.
        percentiles_ms: ``p50``, ``p90``, ``p95``, ``p99``: the time that this share of the runs stayed below; None
            where too few runs lie above it.
        samples_per_second: at the median time; the mean would count what other programs took.
        peak_memory_bytes: resident memory that loading and one run need, in a process of its own; None when unknown.
        ratio: against the first model; None for that one.
        profile: where the time goes; None when not asked for.
    """

    timings: Timings
    runs: int
    fastest_ms: float
    mean_ms: float
    slowest_ms: float
    spread_ms: float
    percentiles_ms: Mapping[str, float | None]
    samples_per_second: float
    load_median_ms: float
    first_run_median_ms: float
    peak_memory_bytes: int | None = None
    ratio: LatencyRatio | None = None
    profile: Profile | None = None


@dataclass(frozen=True)
class Section:
    """All models at one batch size and one number of threads.

    Attributes:
        batch_size: samples per run.
        threads: intra-op threads; 0: ONNX Runtime decides.
        models: in the order of :attr:`Bench.models`.
        notes: what makes these timings less sure than they could be, and what to do about it.
    """

    batch_size: int
    threads: int
    models: tuple[ModelTimes, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What one run of ``bench`` measured.

    Attributes:
        models: the first is the base of the ratios.
        seconds: time per model and section that was asked for.
        seed: seeds made-up inputs.
        notes: warnings for the reader that concern all sections.
    """

    versions: Mapping[str, str]
    machine: Machine
    models: tuple[BenchModel, ...]
    sections: tuple[Section, ...]
    seconds: float
    seed: int
    notes: tuple[str, ...] = ()
    kind: Literal["bench"] = field(default="bench", kw_only=True)
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
