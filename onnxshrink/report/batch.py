"""What became of every model of a batch: the plain values that its ledger and its summary keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnxshrink.measured import Machine, Unit
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.report import SCHEMA_VERSION

Status = Literal["compressed", "copied", "failed"]


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One model of a batch.

    Attributes:
        name: the output's path below the output folder, with forward slashes; unique in a batch.
        source: path or URL of the input.
        status: ``copied``: the input is equal to another one's, and so is the result.
        key: digest of all that decides the result: the input, the data, the recipe, the settings and the versions.
        reason: why it failed, one line; for copies, the name of the entry that was compressed.
        output: path or URL of the result; None when there is none.
        report: path or URL of the model's own report, as JSON; None when there is none.
        source_sha256: digest of the input with its external data; ``result_sha256`` of the result.
        preset: None when a recipe was given.
        recipe: the passes that were applied.
        seconds: wall time that the model took, waiting for its turn left out.
        original_bytes: size of the file with its external data; ``result_bytes`` likewise.
        original_gzip_bytes: likewise, after gzip; ``result_gzip_bytes`` likewise.
        latency_ratio: latency of the result over the original's; None when it was not measured. ``latency_low`` and
            ``latency_high`` are the ends of its 95 % interval.
        latency_significant: whether the difference is one.
        relative_error: of the outputs, against the original's.
        metric: name of the first metric; None without one. ``metric_original`` and ``metric_result`` are its values,
            ``metric_low`` and ``metric_high`` the ends of the interval of their difference.
        metric_name: how ``--metric`` spells it, without options: ``top1``.
        metric_unit: ``share``, ``dB`` or ``value``; ``metric_higher_is_better`` whether more is better.
        metric_significant: whether the difference is more than chance explains; None: too few samples to tell.
        data_digest: of the samples that error and metric were measured on; None when nothing was.
        gates: how they were judged.
        exit_code: what ``compress`` would have ended with.
    """

    name: str
    source: str
    status: Status
    key: str
    reason: str = ""
    output: str | None = None
    report: str | None = None
    source_sha256: str | None = None
    result_sha256: str | None = None
    preset: str | None = None
    recipe: str = ""
    seconds: float = 0.0
    original_bytes: int | None = None
    result_bytes: int | None = None
    original_gzip_bytes: int | None = None
    result_gzip_bytes: int | None = None
    latency_ratio: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_significant: bool = False
    relative_error: float | None = None
    metric: str | None = None
    metric_name: str = ""
    metric_unit: Unit = "share"
    metric_higher_is_better: bool = True
    metric_significant: bool | None = None
    metric_original: float | None = None
    metric_result: float | None = None
    metric_low: float | None = None
    metric_high: float | None = None
    data_digest: str | None = None
    gates: tuple[GateResult, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class Batch:
    """The summary of a batch.

    Attributes:
        versions: of onnxshrink and of what it ran on, by name.
        machine: where the summary was written; workers elsewhere may differ.
        command: what was asked of every model, as words of the command line, without the inputs.
        entries: every model, in the order of the inputs.
        seconds: wall time of the run that wrote the summary; what earlier runs took is in their entries.
        resumed: how many entries were taken from the ledger of an earlier run.
        schema_version: of the saved form.
    """

    versions: Mapping[str, str]
    machine: Machine
    command: str
    entries: tuple[BatchEntry, ...]
    seconds: float
    resumed: int = 0
    schema_version: int = SCHEMA_VERSION
