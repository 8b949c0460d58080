"""What measurements give: frozen plain values, apart from the code that measures.

Saved reports are read, compared and judged with these alone. This module imports nothing heavy, and must not: a command
that only reads reports starts in a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Unit = Literal["share", "dB", "value"]
"""What a metric is measured in: a share of 1, decibels, or its own unit."""

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Machine:
    """Facts that decide how fast a model runs.

    Attributes:
        cpu: model name of the processor.
        cores: processors that this process may use.
        cpu_features: instruction sets that matter for int8 and fp16 kernels, sorted; empty when unknown.
        memory_bytes: physical memory; None when unknown.
        system: operating system and architecture.
    """

    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_bytes: int | None
    system: str


@dataclass(frozen=True)
class InitializerFacts:
    """One stored constant: an initializer, or the tensor of a Constant node under the name of its output.

    Attributes:
        size_bytes: bytes of its elements as stored.
        zeros: elements equal to zero; None for strings.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    size_bytes: int
    zeros: int | None

    @property
    def is_parameter(self) -> bool:
        """Whether its elements count as parameters: floating point, or integers of at most 8 bits (quantized)."""
        return self.dtype.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT2", "INT4", "INT8", "UINT2", "UINT4", "UINT8"))


@dataclass(frozen=True)
class ModelSize:
    """Bytes and parameters of a model.

    Attributes:
        files: bytes per file name: the model file first, then its external data files.
        gzip_bytes: size of all files together under gzip; None when not measured.
        zstd_bytes: the same under zstd; None when not measured or when zstandard is not installed.
        parameters: elements of all floating-point constants and of all integer constants of at most 8 bits.
        zeros: how many of them are stored as zero.
        bytes_by_op: bytes of the constants that nodes of each operator read, largest first; a constant that several
            nodes read counts once, for the first of them.
        initializers: every stored constant, in graph order.
    """

    files: Mapping[str, int]
    gzip_bytes: int | None
    zstd_bytes: int | None
    parameters: int
    zeros: int
    bytes_by_op: Mapping[str, int]
    initializers: tuple[InitializerFacts, ...]

    @property
    def file_bytes(self) -> int:
        """Size of the model file and its external data files."""
        return sum(self.files.values())


@dataclass(frozen=True)
class OutputAgreement:
    """Agreement of one output, over all samples. ``None`` where the output has no floating-point numbers.

    Attributes:
        elements: compared elements.
        equal_share: share of elements that are equal.
        max_abs_difference: largest |f − f'|.
        relative_error: ‖f − f'‖ / ‖f‖; 0 for equal outputs, infinite when only ‖f‖ is 0.
        cosine: also None when a norm is 0 or the error is infinite.
        sqnr_db: also None when it is not finite (equal outputs, or a signal or error without bounds).
        top1: share of samples with the same best class; None unless every batch looked like class scores
            (see :func:`class_scores`).
        unexplained_variance: Σ (f − f')² / Σ (f − mean f)², the mean of each element being over the samples: the share
            of what changes from sample to sample that is lost. Outputs that are nearly constant, as the scores of a
            detector's many empty boxes are, hide it from ``relative_error``. None when nothing changes, or when the
            shape does.
    """

    name: str
    elements: int
    equal_share: float
    max_abs_difference: float | None
    relative_error: float | None
    cosine: float | None
    sqnr_db: float | None
    top1: float | None
    unexplained_variance: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of two models' outputs.

    Attributes:
        samples: samples compared.
        outputs: one entry per output, in the model's order.
        equal_share: share of equal elements over all outputs.
        max_abs_difference: largest of all floating-point outputs; None when there is none.
        relative_error: all floating-point outputs taken as one vector; ``cosine`` and ``sqnr_db`` likewise.
        top1: the smallest top-1 agreement of the outputs that look like class scores; None without one.
    """

    samples: int
    outputs: tuple[OutputAgreement, ...]
    equal_share: float
    max_abs_difference: float | None
    relative_error: float | None
    cosine: float | None
    sqnr_db: float | None
    top1: float | None

    @property
    def mean_relative_error(self) -> float | None:
        """Root mean square of the outputs' relative errors, each output counting the same; None when none has one."""
        known = [output.relative_error for output in self.outputs if output.relative_error is not None]
        return math.sqrt(sum(error**2 for error in known) / len(known)) if known else None

    @property
    def unexplained_variance(self) -> float | None:
        """That of the output that has most; None when none has any."""
        known = [output.unexplained_variance for output in self.outputs if output.unexplained_variance is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class LatencyComparison:
    """Timings of two models, interleaved.

    Attributes:
        original_ms: time of one run of the original, the median of one turn; one value per round. ``result_ms``
            likewise, same rounds.
        repeats: runs of the original in one turn.
        original_median_ms: median of ``original_ms``; ``result_median_ms`` likewise.
        ratio: latency of the result over that of the original, above 1 is slower. Estimated from the fastest runs of
            each time the models were loaded (see :mod:`onnxshrink.numerics.paired_loads`): on a busy machine it is
            nearer the truth than the ratio of the medians.
        ratio_low: lower end of the 95 % confidence interval of ``ratio``; ``ratio_high`` the upper end.
        significant: whether the p-value is below ``SIGNIFICANCE``, and ``ratio`` more than ``NEGLIGIBLE`` away from 1.
    """

    original_ms: tuple[float, ...]
    result_ms: tuple[float, ...]
    repeats: int
    original_median_ms: float
    result_median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    significant: bool

    @property
    def verdict(self) -> str:
        """``no significant difference``, ``1.12x slower`` or ``1.30x faster``."""
        return latency_verdict(self.ratio, self.significant)


@dataclass(frozen=True)
class Timings:
    """What was timed of one model.

    Attributes:
        load_ms: every load, the pilot (which comes first, perhaps from a cold disk) included.
        first_run_ms: the first run after each of them.
        runs_ms: (loads, rounds, runs per turn), every later run; the pilot's are left out.
    """

    load_ms: tuple[float, ...]
    first_run_ms: tuple[float, ...]
    runs_ms: tuple[tuple[tuple[float, ...], ...], ...]

    @property
    def all_runs_ms(self) -> np.ndarray:
        """(runs,) in the order they were taken."""
        import numpy as np

        return np.array([run for load in self.runs_ms for turn in load for run in turn])

    @property
    def fastest_ms(self) -> np.ndarray:
        """(loads,) the fastest run of each load."""
        import numpy as np

        return np.array([min(run for turn in load for run in turn) for load in self.runs_ms])


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator.

    Attributes:
        nodes: how many of them ran.
        ms: their time in one run.
        share: of the time of all kernels.
    """

    op_type: str
    nodes: int
    ms: float
    share: float


@dataclass(frozen=True)
class NodeTime:
    """One node of the optimised graph: its time in one run, and its share of the time of all kernels."""

    node: str
    op_type: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a run goes.

    Attributes:
        runs: how often the model ran under the profiler, after one run that is not counted.
        total_ms: time of all kernels in one run.
        operators: the slowest first; ``nodes`` likewise.
    """

    runs: int
    total_ms: float
    operators: tuple[OperatorTime, ...]
    nodes: tuple[NodeTime, ...]


@dataclass(frozen=True)
class MetricValue:
    """A metric of one model.

    Attributes:
        metric: name of the metric for people: ``top-1``.
        output: the outputs that were read.
        samples: rows that were judged: samples, or groups of samples that share a label.
        value: the metric.
        low: lower end of its 95 % bootstrap interval, ``high`` the upper one; None with fewer than 6 samples, or when
            the value is not finite.
        unit: ``share`` of 1, ``dB``, or ``value``.
        higher_is_better: whether more is better.
        name: how ``--metric`` spells it, without options: ``top1``.
    """

    metric: str
    output: str
    samples: int
    value: float
    low: float | None = None
    high: float | None = None
    unit: Unit = "share"
    higher_is_better: bool = True
    name: str = ""

    @property
    def key(self) -> str:
        """What gates call it: its name without signs, ``sisdr``."""
        return metric_key(self.name or self.metric)


@dataclass(frozen=True)
class Accuracy:
    """A metric of both models.

    Attributes:
        metric: name of the metric for people: ``top-1``.
        output: the outputs that were read.
        samples: rows that were judged: samples, or groups of samples that share a label.
        original: the metric of the original; ``result`` likewise.
        p_value: two-sided exact McNemar test of "both models are right equally often", from the samples that only
            one of them gets right; None for metrics that are not right or wrong for each sample.
        unit: ``share`` of 1, ``dB``, or ``value``.
        higher_is_better: whether more is better.
        difference_low: lower end of the 95 % interval of result − original, from a bootstrap in which both models are
            judged on the same resamples; ``difference_high`` the upper one. None with fewer than 6 samples.
        original_low: lower end of the 95 % interval of ``original``, and so on.
        against_original: whether the original's own outputs were what is right, so that it is perfect by definition.
        name: how ``--metric`` spells it, without options: ``top1``.
    """

    metric: str
    output: str
    samples: int
    original: float
    result: float
    p_value: float | None = None
    unit: Unit = "share"
    higher_is_better: bool = True
    difference_low: float | None = None
    difference_high: float | None = None
    original_low: float | None = None
    original_high: float | None = None
    result_low: float | None = None
    result_high: float | None = None
    against_original: bool = False
    name: str = ""

    @property
    def key(self) -> str:
        """What gates call it: its name without signs, ``sisdr``."""
        return metric_key(self.name or self.metric)

    @property
    def difference(self) -> float:
        """Result − original, in the metric's unit."""
        return 0.0 if self.result == self.original else self.result - self.original

    @property
    def drop(self) -> float:
        """What is lost, in the metric's unit; negative when the result is better."""
        return -self.difference if self.higher_is_better else self.difference

    @property
    def drop_points(self) -> float:
        """Percentage points lost of a share; negative when the result is better."""
        return 100 * self.drop

    @property
    def significant(self) -> bool | None:
        """Whether the models differ by more than chance explains; None when there are too few samples to tell.

        The interval must exclude 0, and where McNemar's test applies, that must agree.
        """
        if math.isinf(self.difference):
            return True
        if self.difference_low is None or self.difference_high is None:
            return None if self.p_value is None else self.p_value < _SIGNIFICANT
        excludes = not self.difference_low <= 0 <= self.difference_high
        return excludes and (self.p_value is None or self.p_value < _SIGNIFICANT)


def metric_key(name: str) -> str:
    """What gates call a metric: its name without signs, ``sisdr``."""
    return "".join(character for character in name.lower() if character.isalnum())


def latency_verdict(ratio: float, significant: bool) -> str:
    """A latency ratio in words."""
    if not significant:
        return "no significant difference"
    return f"{ratio:.2f}x slower" if ratio > 1 else f"{1 / ratio:.2f}x faster"
