"""What one run of onnxshrink did and what that cost: the one type behind every report format.

Everything is frozen and made of plain values, so that a report can be compared, stored and read back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxshrink.measured import Accuracy, Agreement, LatencyComparison, Machine, ModelSize
from onnxshrink.passes.base import Change, Skip
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.layers import LayerFacts

SCHEMA_VERSION = 1
"""Version of the report's JSON form; raised when a field changes its meaning or disappears."""

PassStatus = Literal["applied", "unchanged", "undone"]


@dataclass(frozen=True)
class ModelFacts:
    """One of the two models.

    Attributes:
        name: what people call it: the file's name, or the graph's name when it has no file.
        path: where it is, as the user wrote it; None for a model in memory.
        sha256: digest of the model file (of the serialized model when it has no file), in hex.
        size: bytes on disk, compressed bytes, parameters, zeros, initializers.
        nodes: nodes per operator (``domain::op`` outside the default domain), subgraphs and functions included.
        macs: multiply-accumulates of one run on the measured input shapes; None when some node's count is unknown.
        load_ms: every measured load time; empty when not measured.
        peak_memory_bytes: resident memory that loading and one run need; None when not measured.
        ir_version: version of the ONNX file format.
        opset_imports: version per operator domain (``""`` is the default domain).
    """

    name: str
    path: str | None
    sha256: str
    size: ModelSize
    nodes: Mapping[str, int]
    ir_version: int
    opset_imports: Mapping[str, int]
    macs: int | None = None
    load_ms: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None

    @property
    def node_count(self) -> int:
        """Nodes of all operators but Constant."""
        return sum(count for op_type, count in self.nodes.items() if op_type != "Constant")


@dataclass(frozen=True)
class DataFacts:
    """The data that agreement, accuracy and latency were measured on.

    Attributes:
        description: where it comes from, for people: ``eval.npz (600 samples)``.
        digest: SHA-256 of the arrays, in hex.
        samples: number of samples used.
        synthetic: whether the values were made up by onnxshrink.
        seed: the seed of synthetic values, else None.
        preprocessing: what was done to the samples before the model saw them, in one line; empty when nothing was.
    """

    description: str
    digest: str
    samples: int
    synthetic: bool
    seed: int | None = None
    preprocessing: str = ""


@dataclass(frozen=True)
class PassRecord:
    """One step of the recipe.

    Attributes:
        text: the pass as the recipe spells it: ``quantize-weights{scheme=asymmetric}``.
        effect: ``exact``, ``rounding`` or ``lossy``.
        status: ``applied``, ``unchanged`` (nothing to do), or ``undone`` (a check failed and it was rolled back).
        reason: why it was undone, else None.
        seconds: time of the pass and its checks.
        bytes_before: serialized size of the model before the pass, with its weights; ``bytes_after`` likewise.
        nodes_before: nodes before the pass, Constants not counted; ``nodes_after`` likewise.
    """

    text: str
    effect: Literal["exact", "rounding", "lossy"]
    status: PassStatus
    reason: str | None
    seconds: float
    bytes_before: int
    bytes_after: int
    nodes_before: int
    nodes_after: int
    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """One of several recipes that were tried on the cleaned-up model, measured against it.

    Attributes:
        text: the recipe.
        size_bytes: of the model file.
        relative_error: relative L2 error of the outputs.
        drop: share lost of the metric, or of the outputs' variance where there are no labels.
        latency_ratio: latency over that of the cleaned-up model; ``latency_low`` and ``latency_high``: 95 % interval.
        significant: whether the latencies differ significantly.
        kept: whether this is the result.
        verdict: why it was kept or not, in a clause.
        failure: why it could not be measured, else None.
    """

    text: str
    size_bytes: int | None = None
    relative_error: float | None = None
    drop: float | None = None
    latency_ratio: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    significant: bool = False
    kept: bool = False
    verdict: str = ""
    failure: str | None = None


@dataclass(frozen=True)
class Report:
    """What one run did and what it cost.

    Attributes:
        versions: version per component: onnxshrink, onnxruntime, onnx, onnx-ir, numpy, python.
        preset: name of the preset, None when a recipe was given.
        recipe: the recipe's one line of text.
        seed: seed of every random choice.
        threads: intra-op threads of latency measurements; 0: ONNX Runtime decides.
        batch_size: samples per run in latency measurements; None when not measured.
        data: None when nothing was measured.
        agreement: outputs of the result against the original's; None when not measured.
        latency: None when not measured.
        accuracy: the metric of both models that decides; None without labelled data.
        other_metrics: further metrics that were asked for, or that belong to the first.
        metric_reason: why these metrics, when the user named none.
        notes: warnings for the reader, one sentence each.
        alternatives: recipes that were tried to choose one; empty when there was no choice.
        integer_kernels: how many kernels compute from integers, per operator; None when not measured.
        integer_mac_share: share of the multiply-accumulates in them; None when unknown.
        missed_kernels: layers with quantized inputs and weights that ONNX Runtime computes in float all the same.
        gates: the limits that the result was held against, and how it did.
        layers: what became of each layer; empty when not measured.
    """

    versions: Mapping[str, str]
    machine: Machine
    preset: str | None
    recipe: str
    seed: int
    original: ModelFacts
    result: ModelFacts
    passes: tuple[PassRecord, ...]
    threads: int = 0
    batch_size: int | None = None
    data: DataFacts | None = None
    agreement: Agreement | None = None
    latency: LatencyComparison | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    integer_kernels: Mapping[str, int] | None = None
    integer_mac_share: float | None = None
    missed_kernels: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    other_metrics: tuple[Accuracy, ...] = ()
    metric_reason: str = ""
    layers: tuple[LayerFacts, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)

    @property
    def size_ratio(self) -> float:
        """File size of the result over that of the original, external data included."""
        return self.result.size.file_bytes / max(self.original.size.file_bytes, 1)
