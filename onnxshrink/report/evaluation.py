"""What one run of ``evaluate`` found: a model's metrics, and against another model the differences and the agreement.

Frozen and made of plain values, as :class:`~onnxshrink.report.report.Report` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxshrink.measured import Accuracy, Agreement, Machine, MetricValue
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.report import SCHEMA_VERSION, DataFacts


@dataclass(frozen=True)
class EvaluatedModel:
    """One model.

    Attributes:
        name: the file's name, or the graph's name when it has no file.
        path: where it is, as the user wrote it; None for a model in memory.
        sha256: digest of the file and its external data, in hex.
    """

    name: str
    path: str | None
    sha256: str


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on data.

    Attributes:
        versions: version per component: onnxshrink, onnxruntime, onnx, onnx-ir, numpy, python.
        model: the model that is judged.
        data: what it was judged on.
        metrics: the model's metrics with their intervals, in the order in which they were asked for.
        reason: why these metrics, when the user named none; else empty.
        threads: intra-op threads; 0: ONNX Runtime decides.
        batch_size: samples per run, where the model's inputs leave that open.
        seed: seed of the bootstrap.
        against: the model that it is compared with, None without one.
        differences: the same metrics of both, ``original`` being ``against``; empty without one.
        agreement: outputs of the model against those of ``against``; None without one.
        notes: what a reader must know, one sentence each.
        gates: how the limits that were set were judged.
        metric_texts: the metrics as ``--metric`` spells them, with their options, in the same order.
        labels_digest: SHA-256 of the labels; empty without any.
    """

    versions: Mapping[str, str]
    machine: Machine
    model: EvaluatedModel
    data: DataFacts
    metrics: tuple[MetricValue, ...]
    reason: str = ""
    threads: int = 0
    batch_size: int = 1
    seed: int = 0
    against: EvaluatedModel | None = None
    differences: tuple[Accuracy, ...] = ()
    agreement: Agreement | None = None
    notes: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    metric_texts: tuple[str, ...] = ()
    labels_digest: str = ""
    kind: Literal["evaluation"] = field(default="evaluation", kw_only=True)
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
